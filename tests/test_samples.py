"""What a run trains and validates on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import STILL, write_tree
from test_teacher import write_checkpoint

import checkpoint
from config import Config
from dataset import NO_LABEL
from jobs.devices import Processes
from training.samples import open_samples, split_repeat

CPU = torch.device("cpu")
ALONE = Processes(0, 1, 0)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write_tree(root / "a", range(1001, 1011), "一十", 1)
    write_tree(root / "b", range(1011, 1013), "口", 1)
    write_tree(root / "c", range(1021, 1022), "口", 1)
    write_tree(root / "d", range(1031, 1041), "一十", 1)
    return root


def config(*sources, **settings) -> Config:
    return Config(data=tuple(map(str, sources)), size=32, batch_size=4, workers=1, **settings)


def samples_of(*sources, **settings):
    return open_samples(config(*sources, **settings), CPU, ALONE)


def test_a_source_is_repeated_as_often_as_given(trees):
    samples = samples_of(trees / "a", f"{trees / 'b'}@3", val_fraction=0.1)
    times = dict(zip(*np.unique(samples.train, return_counts=True), strict=True))
    sources = samples.source.sources
    assert {times[i] for i in times if sources[i] == 0} == {1}
    assert {times[i] for i in times if sources[i] == 1} == {3}
    assert not set(samples.train) & set(samples.validation)
    assert len(set(samples.train)) + len(samples.validation) == 22


@pytest.mark.parametrize(
    ("source", "folder", "times"),
    [("a", "a", 1), ("a@3", "a", 3), ("a@b@2", "a@b", 2), ("a@b", "a@b", 1), ("a@2/b", "a@2/b", 1)],
)
def test_repetitions_are_a_number_behind_the_last_at(source, folder, times, tmp_path, monkeypatch):
    assert split_repeat(source) == (folder, times)
    monkeypatch.chdir(tmp_path)
    (tmp_path / source).mkdir(parents=True)
    assert split_repeat(source) == (source, 1)
    with pytest.raises(ValueError, match="other@0: expected 1 repetition or more"):
        split_repeat("other@0")


def test_validation_source(trees, tmp_path):
    with pytest.raises(ValueError, match="口"):
        samples_of(trees / "a", val_data=str(trees / "b"))
    own = samples_of(trees / "a", trees / "b", val_data=str(trees / "c"))
    assert len(own.train) == 22 and "validating on 1 sample of 1 class" in own.description
    glyphs, labels = own.val_source.fetch(own.validation)
    assert {own.classes[i] for i in labels} == {"口"} and glyphs.shape[1:] == (32, 32)
    other = samples_of(trees / "a", trees / "b", val_data=str(trees / "d"))
    assert own.digest != other.digest and "test writer" not in other.description
    tested = samples_of(write_tree(tmp_path / "t", range(1241, 1251), "一十", 1))
    assert "10 test writers among" in tested.description


@pytest.mark.parametrize("key", ["val_data", "unlabelled", "outliers"])
def test_a_source_is_not_both_trained_and_validated_on(trees, tmp_path, key):
    same = str(trees / "a")
    settings = {key: same if key == "val_data" else (same,)}
    if key == "unlabelled":
        settings["teacher"] = str(write_checkpoint(tmp_path / "teacher.pt"))
    with pytest.raises(ValueError, match="hold the same samples"):
        samples_of(trees / "a", **settings)


def test_unlabelled_and_outliers_have_no_labels(trees, tmp_path):
    teacher = str(write_checkpoint(tmp_path / "teacher.pt"))
    a, b, c = (str(trees / name) for name in "abc")
    settings = {"unlabelled": (f"{b}@2",), "outliers": (c,), "teacher": teacher, **STILL}
    samples = samples_of(a, val_fraction=0.1, **settings)
    assert samples.classes == ["十", "一"]  # 口 is not one: its folder has no labels
    assert samples.train[-5:].tolist() == [20, 20, 21, 21, 22]
    assert not (samples.source.targets[samples.validation] == NO_LABEL).any()
    views = list(samples.views(0, 0, samples.steps_per_epoch))
    labels = torch.cat([view.labels for view in views])
    confidence = torch.cat([view.confidence for view in views])
    assert (confidence == 0).sum() <= 1 and (labels[confidence == 0] == NO_LABEL).all()
    assert 2 <= (labels == NO_LABEL).sum() <= 5  # the last samples may not fill a batch
    without = samples_of(a, val_fraction=0.1, outliers=(c,))  # needs no teacher
    assert without.source.no_character[without.train].sum() == 1


def test_classes_narrow_both_parts(trees, tmp_path):
    (tmp_path / "c.txt").write_text("十口", encoding="utf-8")
    settings = config(trees / "a", trees / "b", classes=str(tmp_path / "c.txt"))
    samples = open_samples(settings, CPU, ALONE)
    assert samples.classes == ["口", "十"]
    assert len(samples.train) + len(samples.validation) == 12
    samples = open_samples(replace(settings, val_data=str(trees / "d")), CPU, ALONE)
    assert len(samples.train) == 12 and len(samples.validation) == 10
    # A resumed run keeps its label order.
    assert open_samples(settings, CPU, ALONE, ["十", "口"]).classes == ["十", "口"]


def test_classes_of_the_checkpoint_are_kept(trees, tmp_path):
    path = str(write_checkpoint(tmp_path / "t.pt"))
    half = {"init_from": path, "val_fraction": 0.5}
    tree = write_tree(tmp_path / "t", range(1001, 1005), "口", 1)
    assert samples_of(tree, **half).classes == ["口"]
    kept = samples_of(tree, **half, keep_classes=True)
    assert set(kept.classes) == {*checkpoint.load(path)["classes"]} and len(kept.classes) == 4
    assert {kept.classes[i] for i in kept.source.targets} == {"口"}


def test_too_few_samples_and_parts_of_batches_are_refused(trees):
    with pytest.raises(ValueError, match="0 validation samples; give more --data"):
        samples_of(trees / "a", val_fraction=0.0)
    with pytest.raises(ValueError, match="--batch-size 4 over 3 processes"):
        open_samples(config(trees / "a"), CPU, Processes(0, 3, 0))


def test_processes_share_a_batch_and_epochs_differ(trees):
    settings = config(trees / "a", seed=3, **STILL)
    whole = list(open_samples(settings, CPU, ALONE).views(1, 0, 4))
    parts = [list(open_samples(settings, CPU, Processes(rank, 2, rank)).views(1, 0, 4))
             for rank in (0, 1)]  # fmt: skip
    for step in range(4):
        for column in (0, 1):
            both = torch.cat([part[step][column] for part in parts])
            torch.testing.assert_close(both, whole[step][column])
    samples = open_samples(settings, CPU, ALONE)
    assert torch.equal(next(samples.views(1, 2, 3)).x, whole[2].x)  # as when resumed
    assert not torch.equal(next(samples.views(2, 2, 3)).x, whole[2].x)
    glyphs = samples.source.fetch(samples.train)[0][:, None] / 255
    assert all((glyphs - x).abs().amax((1, 2, 3)).min() < 1e-4 for x in whole[0].x)


def test_augmentation_depends_on_seed_step_and_process(trees):
    samples = samples_of(trees / "a")
    view = next(samples.views(0, 0, 1))
    drawn = torch.rand(3)  # as dropout draws
    assert torch.equal(view.x, next(samples.views(0, 0, 1)).x)
    assert torch.equal(drawn, torch.rand(3))
    assert view.x.is_contiguous(memory_format=torch.channels_last)
    glyphs = samples.source.fetch(samples.train[:4])[0]
    other = replace(samples, processes=Processes(1, 2, 1))
    seeded = replace(samples, config=replace(samples.config, seed=1))
    views = [s.augment(number, glyphs, None)[0]
             for s, number in ((samples, 0), (samples, 1), (other, 0), (seeded, 0))]  # fmt: skip
    assert all(not torch.equal(views[0], x) for x in views[1:])


def test_a_stream_is_endless_and_validates_on_another(tmp_path):
    (tmp_path / "c.txt").write_text("口一十", encoding="utf-8")
    settings = Config(synthetic=True, synthetic_epoch=120, classes=str(tmp_path / "c.txt"),
                      size=32, batch_size=4, workers=1, **STILL)  # fmt: skip
    samples = open_samples(settings, CPU, ALONE)
    assert samples.classes == ["口", "十", "一"]
    assert len(samples.train) == 120 and len(samples.validation) == 100
    first, again, later = (next(samples.views(epoch, 0, 1)).x for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, later)
    mine, other = (s.fetch(np.arange(4))[0] for s in (samples.source, samples.val_source))
    assert not torch.equal(mine, other)
    large = open_samples(replace(settings, synthetic_epoch=5000, classes="all"), CPU, ALONE)
    assert len(large.validation) == 500 and len(large.classes) == 3755
