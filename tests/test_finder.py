"""The finder: numpy runs what torch has trained; its training writes, resumes and draws scenes."""

import numpy as np
import pytest
import torch

import training.finder as training
from picture import finder
from synthesis.scenes import characters, scene


@pytest.fixture
def hands() -> list[np.ndarray]:
    return characters(6, 1)


def test_numpy_runs_what_was_trained(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = training.Finder()
    x = torch.rand(8, 2, finder.SIDE, finder.SIDE)
    model.train()(x)  # batch norm has seen something
    expected = model.eval()(x[:1])[0, 0].detach().numpy()
    np.savez(tmp_path / "other.npz", **training.weights(model))
    monkeypatch.setattr(finder, "WEIGHTS", tmp_path / "other.npz")
    finder.weights.cache_clear()
    found = finder.run(x[0].permute(1, 2, 0).contiguous().numpy())
    finder.weights.cache_clear()
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (64, 64), (320, 200)])
def test_evidence_for_every_pixel(shape):
    ink = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = finder.evidence(ink)
    assert found.shape == shape and np.isfinite(found).all()


def test_scenes_show_a_character_and_more(hands):
    alone = 0
    for seed in range(60):
        picture, written, others = scene(hands, np.random.default_rng(seed))
        again, _, _ = scene(hands, np.random.default_rng(seed))
        assert picture.dtype == np.uint8 and picture.shape == written.shape == others.shape
        assert written.any() and np.array_equal(picture, again)
        x, y = training.sample(hands, np.random.default_rng(seed))
        ink = x[..., 0] > 0.12
        alone += y[..., 0][ink].mean() > 0.9
        assert y[..., 0][ink].any() and y[..., 1].sum() == pytest.approx(1, abs=1e-3)
    assert 10 < alone < 50


def test_training_writes_weights_and_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "HANDS", 8)
    monkeypatch.setattr(training, "HELD", 4)
    out = ["--out", str(tmp_path / "finder.npz"), "--state", str(tmp_path / "runs" / "state.pt")]
    assert training.main([*out, "--steps", "2"]) == 0
    first = dict(np.load(tmp_path / "finder.npz"))
    assert training.main([*out, "--steps", "3", "--resume"]) == 0
    second = dict(np.load(tmp_path / "finder.npz"))
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["2", "3"]
    assert set(first) == set(second) and any((first[k] != second[k]).any() for k in first)
    shapes = {name: array.shape for name, array in np.load(finder.WEIGHTS).items()}
    assert {name: array.shape for name, array in first.items()} == shapes
