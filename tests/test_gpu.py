"""What a GPU alone can show; skipped where there is none."""

import json

import pytest
import torch
from conftest import CHARACTERS, SMALL, call_script, write_tree
from test_teacher import write_onnx

from config import Config
from dataset import CharacterDataset
from jobs.devices import Processes
from train import State, check_finite, open_run, train_step, wrap
from training.augment import augment, draw_maps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
EVERYTHING = Config(stroke=1.0, blur=1.0, leftovers=1.0)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("gpu") / "train", range(1001, 1007), samples=8)


def start(tree, **settings):
    small = {"size": 32, "width": 0.25, "head": 16, "batch_size": 16, "workers": 1}
    run = open_run(Config(data=(str(tree),), **small | settings), Processes(0, 1, 0), None)
    return run, State(run)


def test_augmentation_is_that_of_the_cpu():
    x = torch.rand(16, 1, 64, 64)
    maps = draw_maps(16, EVERYTHING, torch.Generator().manual_seed(0))
    here, there = (
        augment(x.to(device), maps, EVERYTHING, torch.Generator().manual_seed(1))[0].cpu()
        for device in (CPU, CUDA)
    )
    torch.testing.assert_close(here, there, atol=2e-3, rtol=0)


def test_what_was_trained_there_is_resumed_there_and_tested_here(tree, tmp_path):
    given = ["--data", tree, "--out", tmp_path, *SMALL, "--device", "cuda"]
    assert call_script("train.py", *given, "--epochs", 4).returncode == 0
    assert call_script("train.py", "--resume", "--out", tmp_path, "--epochs", 6).returncode == 0
    read = [
        call_script("test.py", tree, "--checkpoint", tmp_path / "best.pt", "--device", device)
        for device in ("cuda", "cpu")
    ]
    assert all(result.returncode == 0 for result in read)
    top1 = [float(result.stdout.split("top-1")[1].split("%")[0]) for result in read]
    assert top1[0] > 50 and top1[0] == pytest.approx(top1[1], abs=2)  # by chance: 17


def test_a_step_waits_for_nothing(tree, tmp_path):
    """Glyphs, teacher, augmentation, loss, optimizer, average: all is queued, none is read back."""
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    teacher = {"teacher": str(tmp_path / "t.onnx"), "logit_weight": 1.0}
    run, state = start(tree, device="cuda", coarse=0.5, leftovers=0.5, **teacher)
    views = run.samples.views(0, 0, 3, run.teacher)
    for number in range(3):
        if number:  # the first one warms up
            torch.cuda.set_sync_debug_mode("error")
        try:
            train_step(run, state, state.model.train(), next(views))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    check_finite(run, state)


def test_compiled_steps_are_those_of_the_network(tree):
    plain = {"amp": "fp32", "dropout": 0.0, "device": "cuda"}
    losses = []
    for compile in (False, True):
        run, state = start(tree, **plain, compile=compile)
        network = wrap(run, state.model.train())
        for view in run.samples.views(0, 0, 3):
            train_step(run, state, network, view)
        losses.append(float(state.totals[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_glyphs_that_do_not_fit_stay_on_the_host(tree):
    run, _ = start(tree, device="cuda")
    assert run.samples.source.fetch(run.samples.train[:4])[0].is_cuda
    source = CharacterDataset(tree, size=32)
    source.to(CUDA, free=100)
    assert not source.fetch(run.samples.train[:4])[0].is_cuda
