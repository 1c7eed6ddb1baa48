"""The finder: numpy runs what torch has trained; its training writes, resumes and draws scenes."""

import cv2
import numpy as np
import pytest
import torch

import training.finder as training
from picture import finder
from synthesis.scenes import characters, scene

SIDE = finder.SIDE


@pytest.fixture
def hands() -> list[np.ndarray]:
    return characters(6, 1)


def test_numpy_runs_what_was_trained(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = training.Finder()
    x = torch.rand(8, 2, finder.SIDE, finder.SIDE)
    model.train()(x)  # batch norm has seen something
    expected = [part[0].detach().numpy() for part in model.eval()(x[:1])]
    np.savez(tmp_path / "other.npz", **training.weights(model))
    monkeypatch.setattr(finder, "WEIGHTS", tmp_path / "other.npz")
    finder.weights.cache_clear()
    written, middle = finder.run(x[0].numpy())
    finder.weights.cache_clear()
    found = written, cv2.resize(middle, (finder.SIDE, finder.SIDE))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 0.01 * np.abs(other).max()


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (64, 64), (320, 200)])
def test_evidence_for_every_pixel(shape):
    ink = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for found in finder.evidence(ink):
        assert found.shape == shape and np.isfinite(found).all()


def test_scenes_show_a_character_and_more(hands):
    alone = beside = 0
    for seed in range(60):
        picture, written, others, lines = scene(hands, np.random.default_rng(seed))
        again, *_ = scene(hands, np.random.default_rng(seed))
        assert picture.dtype == np.uint8
        assert picture.shape == written.shape == others.shape == lines.shape
        assert written.any() and np.array_equal(picture, again)
        x, y = training.sample(hands, np.random.default_rng(seed))
        ink = x[0] > 0.12
        alone += y[:2, ink].min(0).mean() > 0.9
        beside += (y[0] > y[1])[ink].mean() > 0.1
        assert y[:2, ink].any() and y[2:].sum((1, 2)) == pytest.approx(1, abs=1e-3)
    assert 10 < alone < 50 and beside > 5


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


@pytest.mark.parametrize("shape", [(64, 128), (300, 200), (5, 3), (SIDE, SIDE)])
def test_ink_stands_in_the_middle_of_a_square(shape):
    ink = np.full(shape, 255, np.uint8)
    page = finder.to_finder(ink)
    assert page.shape == (2, SIDE, SIDE) and page.dtype == np.float32
    assert np.array_equal(page[0], page[1]) and set(np.unique(page)) <= {0, 1}
    h, w = (round(side * SIDE / max(shape)) for side in shape)
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    assert page[:, top : top + h, left : left + w].all() and page[0].sum() == h * w
    assert (finder.to_finder(ink // 5)[0].max() - 0.2) < 1e-6


def test_a_strip_keeps_a_pixel_for_the_finder():
    assert finder.shrink(np.zeros((1, 900), np.uint8)).shape == (1, SIDE)
    assert finder.shrink(np.zeros((900, 1), np.uint8)).shape == (SIDE, 1)
    few = np.uint8([[0, 255]])  # enlarged, it is smooth in between
    assert len(np.unique(finder.shrink(few))) > 10


def test_evidence_lies_where_its_ink_does(monkeypatch):
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE * 8 - 4
    for plane, axis in ((y, 0), (x, 1)):
        monkeypatch.setattr(finder, "run", lambda page, plane=plane: (plane, plane))
        for shape in ((64, 32), (200, 256), (SIDE, SIDE)):
            found, _ = finder.evidence(np.zeros(shape, np.uint8))
            assert found.shape == shape
            side, longest = shape[axis], max(shape)
            at = ((np.arange(side) + 0.5) / longest + (1 - side / longest) / 2) * 8 - 4 - 4 / SIDE
            inner = slice(side // 8, -side // 8)  # at the rim nothing lies in between
            mean = found.mean(1 - axis)
            assert np.abs(mean - at)[inner].max() < 0.04, (shape, axis)
    monkeypatch.setattr(finder, "run", lambda page: (3 * y, y))
    found, _ = finder.evidence(np.zeros((SIDE, SIDE), np.uint8))
    assert found.min() == -finder.CERTAIN and found.max() == finder.CERTAIN


class Fixed(torch.nn.Module):
    """A network with one answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


def test_loss_and_check_by_hand():
    logits = torch.tensor([[[[2.0, -1.0]]], [[[0.5, 3.0]]]])  # (2,1,1,2)
    own, weight = (
        torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
        torch.tensor([[[0.25, 0.75]], [[1, 0]]]),
    )
    y = torch.stack([own, own, weight, weight], 1)
    x = torch.ones(2, 2, 1, 2)
    both = [logits[:, 0]] * 2
    sigmoid = torch.sigmoid(logits[:, 0])
    each = -(own * sigmoid.log() + (1 - own) * (1 - sigmoid).log())
    expected = (each * weight).sum((1, 2)).mean()
    torch.testing.assert_close(training.loss_of(Fixed(both), x, y), 2 * expected)
    assert training.check(Fixed(both), x, y).startswith("25.00 % of the ink, 50.0 % bad; middle: ")
    x[1, 0, 0, 0] = 0.12  # no ink there
    assert training.check(Fixed(both), x, y).startswith("0.00 % of the ink, 0.0 % bad; ")
    logits = torch.ones(1, 1, 10, 10)
    y = torch.ones(1, 4, 10, 10)
    for wrong, said in ((3, "3.00 % of the ink, 0.0 % bad"), (4, "4.00 % of the ink, 100.0 % bad")):
        logits[0, 0, 0, :wrong] = -1
        both = [logits[:, 0]] * 2
        expected = f"{said}; middle: {said}"
        assert training.check(Fixed(both), torch.ones(1, 2, 10, 10), y) == expected


def test_a_step_of_training_the_finder(tmp_path):
    torch.manual_seed(0)
    learner = training.Learner(0.5, 1000)
    x = torch.rand(2, 2, SIDE, SIDE)
    y = torch.full((2, 4, SIDE, SIDE), 1 / SIDE**2)
    for step, rate in ((0, 0.5 / 200), (99, 0.25), (199, 0.5), (500, 0.5)):
        learner.step = step
        before = {
            name: tensor.clone() for name, tensor in learner.average.module.state_dict().items()
        }
        assert learner.learn(x, y, False) > 0 and learner.step == step + 1
        expected = rate * (1 + np.cos(np.pi * step / 1000)) / 2
        assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        total = torch.cat([p.grad.flatten() for p in learner.model.parameters()]).norm()
        assert total <= 1.001 and learner.model.training
    assert learner.optimizer.param_groups[0]["weight_decay"] == 0.01
    for name, tensor in learner.average.module.state_dict().items():
        if tensor.is_floating_point():
            mine = learner.model.state_dict()[name]
            torch.testing.assert_close(tensor, 0.997 * before[name] + 0.003 * mine)
    learner.save(tmp_path / "new" / "state.pt")
    other = training.Learner(0.1, 10)
    other.resume(tmp_path / "new" / "state.pt")
    assert other.step == 501
    for name in training.PARTS:
        assert str(getattr(other, name).state_dict()) == str(getattr(learner, name).state_dict())


def test_scenes_are_kept_and_drawn_anew(monkeypatch):
    drawn, written = [], []
    monkeypatch.setattr(training, "HANDS", 5)
    monkeypatch.setattr(training, "STORE", 4)

    def characters(count, rng):
        written.append(count)
        return [len(written)] * count

    def sample(hands, rng):
        drawn.append(list(hands))
        return tuple(np.full((2, 3, 2), sign * len(drawn), np.float32) for sign in (1, -1))

    monkeypatch.setattr(training, "characters", characters)
    monkeypatch.setattr(training, "sample", sample)
    scenes = training.Scenes((0, 1))
    x, y = scenes.batch(16, 3)
    assert written == [5] and len(drawn) == 3 == len(scenes.store) and drawn[0] == [1] * 5
    assert x.shape == y.shape == (16, 2, 3, 2) and torch.equal(x, -y)
    assert set(x[:, 0, 0, 0].tolist()) == {1, 2, 3}
    scenes.batch(1, 3)
    assert written == [5, 1] and len(scenes.hands) == 6 and len(scenes.store) == 6
    scenes.batch(1, 2)
    assert len(scenes.hands) == 6 and scenes.hands[-1] == 3
    assert [int(a[0, 0, 0]) for a, _ in scenes.store] == [3, 4, 5, 6, 7, 8]
    same = [training.Scenes((0, 1)).batch(4, 4)[0] % 4 for _ in range(2)]
    assert torch.equal(*same)


def test_a_sample_weighs_ink_of_others_twice(monkeypatch, hands):
    picture = np.full((SIDE, SIDE), 255, np.uint8)
    written, others = np.zeros_like(picture), np.zeros_like(picture)
    written[30:90, 40:60] = 200
    others[30:90, 100:110] = 200
    ink = np.maximum(written, others)
    scenes = [(picture, written, np.zeros_like(picture), others)] * 3
    monkeypatch.setattr(training, "scene", lambda hands, rng: scenes.pop())
    lifted = iter([ValueError("blank"), 255 - others, 255 - ink])

    def lift(_):
        found = next(lifted)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(training, "lift", lift)
    x, y = training.sample(hands, np.random.default_rng(0))
    assert not scenes  # the blank one, and the one without the character, are drawn again
    assert np.allclose(x[0], ink / 255) and (x[1] == 1).all()
    own, weight = y[0], y[2] / y[2, 0, 0] * 0.02
    assert own[30:90, 40:60].all() and not own[:, 98:112].any() and not own[:20].any()
    assert np.allclose(weight[40:80, 45:55], 1) and np.allclose(weight[40:80, 102:108], 2)
    assert y[2].sum() == pytest.approx(1, abs=1e-4) and y.dtype == np.float32
