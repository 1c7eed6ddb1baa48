"""What a run trains and validates on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_tree
from test_teacher import write_checkpoint

from config import Config
from dataset import CharacterDataset
from jobs.devices import Processes
from packing import open_pack
from training import samples
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


def test_a_source_is_seen_as_often_as_it_says(trees):
    samples = open_samples(config(trees / "a", f"{trees / 'b'}@3", val_fraction=0.1), CPU)
    times = dict(zip(*np.unique(samples.train, return_counts=True), strict=True))
    sources = samples.source.sources
    assert {times[i] for i in times if sources[i] == 0} == {1}
    assert {times[i] for i in times if sources[i] == 1} == {3}
    assert not set(samples.train) & set(samples.validation)
    assert len(set(samples.train)) + len(samples.validation) == 22


def test_validation_source(trees):
    with pytest.raises(ValueError, match="口"):
        open_samples(config(trees / "a", val_data=str(trees / "b")), CPU)
    own = config(trees / "a", trees / "b", val_data=str(trees / "c"))
    samples = open_samples(own, CPU)
    assert len(samples.train) == 22 and "validating on 1 sample of 1 class" in samples.said
    glyphs, labels = samples.val_source.fetch(samples.validation)
    assert {samples.classes[i] for i in labels} == {"口"} and glyphs.shape[1:] == (32, 32)
    assert samples.digest != open_samples(replace(own, val_data=str(trees / "d")), CPU).digest


def test_unlabelled_pictures_are_trained_on_without_their_labels(trees, tmp_path):
    with pytest.raises(ValueError, match="--teacher"):
        open_samples(config(trees / "a", unlabelled=(str(trees / "b"),)), CPU)
    settings = config(
        trees / "a",
        val_fraction=0.1,
        unlabelled=(str(trees / "b"),),
        teacher=str(write_checkpoint(tmp_path / "teacher.pt")),
    )
    samples = open_samples(settings, CPU)
    assert samples.classes == ["十", "一"]  # 口 is none: its folder says nothing
    batches = samples.batches(settings, 0, 0, len(samples.train) // 4, ALONE)
    labels = torch.cat([batch[1] for batch in batches])
    assert (labels == -1).sum() == 2
    assert not (samples.source.targets[samples.validation] < 0).any()


def test_pictures_of_no_character_are_marked(trees, trained):
    none = (str(trees / "b"),)
    with pytest.raises(ValueError, match="--outliers"):
        open_samples(config(trees / "a", outliers=none), CPU)
    teacher = str(trained / "best.pt")
    settings = config(
        trees / "a",
        val_fraction=0.1,
        unlabelled=(str(trees / "c"),),
        outliers=none,
        teacher=teacher,
    )
    samples = open_samples(settings, CPU)
    assert samples.source.unlabelled[samples.train].sum() == 1
    assert samples.source.no_character[samples.train].sum() == 2


def test_classes_narrow_both_parts(trees, tmp_path):
    (tmp_path / "c.txt").write_text("十口", encoding="utf-8")
    settings = config(trees / "a", trees / "b", classes=str(tmp_path / "c.txt"))
    samples = open_samples(settings, CPU)
    assert samples.classes == ["口", "十"]
    assert len(samples.train) + len(samples.validation) == 12
    samples = open_samples(replace(settings, val_data=str(trees / "d")), CPU)
    assert len(samples.train) == 12 and len(samples.validation) == 10
    # A resumed run keeps its order of labels.
    assert open_samples(settings, CPU, ["十", "口"]).classes == ["十", "口"]


def test_too_little_is_said(trees):
    with pytest.raises(ValueError, match="0 validation samples; give more --data"):
        open_samples(config(trees / "a", val_fraction=0.0), CPU)
    with pytest.raises(ValueError, match="there is none"):
        open_samples(config(trees / "a", teacher_input="scale=2"), CPU)


def test_processes_share_a_batch_and_epochs_differ(trees):
    settings = config(trees / "a", seed=3)
    samples = open_samples(settings, CPU)
    whole = [
        list(zip(*batch[:2], strict=True)) for batch in samples.batches(settings, 1, 0, 4, ALONE)
    ]
    parts = [
        [list(zip(*batch[:2], strict=True))
         for batch in samples.batches(settings, 1, 0, 4, Processes(rank, 2, rank))]
        for rank in (0, 1)
    ]  # fmt: skip
    for step in range(4):
        both = parts[0][step] + parts[1][step]
        assert len(both) == 4
        for (glyph, label), (other, its) in zip(both, whole[step], strict=True):
            assert torch.equal(glyph, other) and label == its
    resumed = next(samples.batches(settings, 1, 2, 3, ALONE))
    assert torch.equal(resumed[0], torch.stack([glyph for glyph, _ in whole[2]]))
    other = next(samples.batches(settings, 2, 2, 3, ALONE))
    assert not torch.equal(resumed[0], other[0])
    assert resumed[2] is None


def test_glyphs_go_to_the_gpu(trees, monkeypatch):
    asked = []
    free = {torch.device("cuda", 1): (12345, 99999)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", free.get)
    monkeypatch.setattr(CharacterDataset, "to", lambda self, *given: asked.append((self, *given)))
    samples = open_samples(config(trees / "a"), torch.device("cuda", 1))
    assert asked == [(samples.source, torch.device("cuda", 1), 12345)]
    open_samples(config(trees / "a"), CPU)
    assert len(asked) == 1


def test_synthetic_samples(tmp_path):
    (tmp_path / "c.txt").write_text("口一十", encoding="utf-8")
    settings = Config(synthetic=True, synthetic_epoch=120, classes=str(tmp_path / "c.txt"),
                      size=32, batch_size=4, workers=1)  # fmt: skip
    samples = open_samples(settings, CPU)
    assert samples.classes == ["口", "十", "一"]
    assert len(samples.train) == 120 and len(samples.validation) == 100
    first, again, later = (
        next(samples.batches(settings, epoch, 0, 1, ALONE))[0] for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, later)
    mine, other = (s.fetch(np.arange(4))[0] for s in (samples.source, samples.val_source))
    assert not torch.equal(mine, other)
    assert len(open_samples(replace(settings, synthetic_epoch=5000), CPU).validation) == 500


def test_pack_is_shared_between_runs(trees):
    stamp = open_pack(trees / "a", 32).folder.stat().st_mtime_ns
    open_samples(config(trees / "a"), CPU)
    assert open_pack(trees / "a", 32).folder.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("source", "folder", "times"),
    [("a", "a", 1), ("a@3", "a", 3), ("a@0", "a", 0), ("a@b@2", "a@b", 2), ("a@b", "a@b", 1),
     ("a@", "a@", 1), ("@2", "", 2), ("a@2/b", "a@2/b", 1), ("a@-1", "a@-1", 1)],
)  # fmt: skip
def test_repetitions_are_a_number_behind_the_last_at(source, folder, times):
    assert split_repeat(source) == (folder, times)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"synthetic": True, "data": ("x",)}, "--data does not go with"),
        ({"synthetic": True, "val_data": "x"}, "--val-data does not"),
        ({"synthetic": True, "teacher": "x"}, "--teacher does not"),
        ({"synthetic": True, "unlabelled": ("x",)}, "--unlabelled does not"),
        ({"synthetic": True, "outliers": ("x",)}, "--outliers does not"),
        ({"fonts": "x"}, "--fonts is for --synthetic alone"),
        ({"unlabelled": ("x",)}, "--unlabelled is learned beside"),
        ({"outliers": ("x",)}, "--outliers is learned beside"),
        ({"teacher_input": "margin=1"}, "--teacher-input says what"),
        ({"teacher_live": True}, "--teacher-live says how"),
        ({"join": 0.3}, "--teacher-live alone can read"),
    ],
)
def test_sources_that_exclude_each_other(settings, said):
    with pytest.raises(ValueError, match=said):
        open_samples(Config(**settings), CPU)


@pytest.mark.parametrize(
    ("epoch", "held"), [(10, 100), (1000, 100), (1010, 101), (200_000, 10_000)]
)
def test_a_stream_validates_on_a_tenth(epoch, held, tmp_path):
    (tmp_path / "c.txt").write_text("十一", encoding="utf-8")
    settings = Config(synthetic=True, synthetic_epoch=epoch, classes=str(tmp_path / "c.txt"))
    samples = open_samples(settings, CPU)
    assert (len(samples.train), len(samples.validation)) == (epoch, held)
    assert samples.digest == str(epoch) and f"{held:,} validation glyphs" in samples.said
    assert samples.train.tolist() == list(range(epoch)) and samples.soft is None
    assert open_samples(settings, CPU, ["一", "十"]).classes == ["一", "十"]
    assert len(open_samples(replace(settings, classes="all"), CPU).classes) == 3755


def test_the_digest_is_of_packs_and_of_how_often_they_are_seen(trees):
    a, b = trees / "a", trees / "b"
    prints = [open_pack(tree, 32).fingerprint[:12] for tree in (a, b)]
    for sources, settings, packs in (
        ([a], {}, prints[:1]), ([a, b], {}, prints), ([a, f"{b}@2"], {}, prints),
    ):  # fmt: skip
        samples = open_samples(config(*sources, **settings), CPU)
        assert samples.digest.split() == [*packs, str(len(samples.train))]


def test_outliers_and_unlabelled_come_behind_what_is_labelled(trees, tmp_path):
    teacher = str(write_checkpoint(tmp_path / "teacher.pt"))
    a, b, c = (str(trees / name) for name in "abc")
    both = config(a, unlabelled=(b,), outliers=(c,), teacher=teacher, val_fraction=0.1)
    samples = open_samples(both, CPU)
    source = samples.source
    assert (source.targets[:20] >= 0).all() and source.unlabelled[20:22].all()
    assert source.no_character[22:].tolist() == [True]
    assert samples.train[-3:].tolist() == [20, 21, 22]
    twice = open_samples(replace(both, unlabelled=(f"{b}@2",)), CPU)
    assert twice.train[-5:].tolist() == [20, 20, 21, 21, 22]
    soft, known = next(samples.batches(both, 0, 0, 1, ALONE))[2]
    assert soft.shape == (4, 2) and known.tolist() == [0, 1]


def test_all_packs_are_labelled_where_and_by_as_many_as_is_asked(trees, tmp_path, monkeypatch):
    given, label = [], samples.label_pack

    def recorded(pack, teacher, device, **options):
        given.append((pack.source.name, device, options))
        return label(pack, teacher, device, **options)

    monkeypatch.setattr(samples, "label_pack", recorded)
    teacher = str(write_checkpoint(tmp_path / "teacher.pt"))
    open_samples(config(trees / "a", trees / "b", teacher=teacher, classes="level1"), CPU)
    assert given == [(name, CPU, {"workers": 1}) for name in "ab"]
