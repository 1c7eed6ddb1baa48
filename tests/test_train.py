"""train.py as a user runs it: results, resuming, interruption, several processes, distillation."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, ROOT, SMALL, call_script, fork, write_tree
from test_teacher import write_checkpoint, write_onnx

import calibration
import checkpoint
import train as script
import training.samples
from config import Config
from evaluation.score import Result
from jobs.devices import Processes
from model import mobilenet_v3
from train import (
    Run,
    State,
    finish_epoch,
    learning_rate,
    loss_function,
    main,
    open_run,
    prepare,
    train_step,
    validate,
    wrap,
)
from training.augment import Augmentation
from training.log import Log
from training.samples import NO_CHARACTER

PLAIN = [part for name in Augmentation._fields for part in (f"--{name}", "0")]


def train(data, out, *more) -> None:
    arguments = ["--data", str(data / "train"), "--out", str(out), *SMALL, *map(str, more)]
    assert main(arguments) == 0


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def wait_for(path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_run_learns_and_leaves_its_files(trained):
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == list(range(1, 17))
    assert log[-1]["loss"] < log[0]["loss"] and max(row["top1"] for row in log) > 0.3
    stdout = (trained / "stdout.txt").read_text(encoding="utf-8").splitlines()
    assert len(stdout) == 17  # a heading and a line an epoch
    best = checkpoint.load(trained / "best.pt")
    assert "".join(best["classes"]) == "".join(sorted(CHARACTERS, key=lambda c: c.encode("gbk")))
    assert best["metrics"]["top1"] == max(row["top1"] for row in log)
    assert "resume" not in best and best["config"]["size"] == 32
    assert not any(key.startswith(("module.", "_orig_mod.")) for key in best["model"])
    assert list(trained.glob("events.out.tfevents.*"))
    assert "1 held-out writer" in (trained / "stderr.txt").read_text(encoding="utf-8")


def test_tensorboard_holds_curves_and_pictures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained))
    events.Reload()
    tags = events.Tags()
    assert {"loss/train", "pace/learning_rate", "accuracy/top1"} <= set(tags["scalars"])
    assert "pictures/inputs" in tags["images"]
    assert len(events.Scalars("accuracy/top5")) == 16


def test_a_log_tells_its_lines_files_and_board_the_same(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    log = Log(tmp_path, Config(width=0.5, lr=0.25), 2)
    row = {"epoch": 3, "loss": 1.5, "top1": 0.25, "top5": 0.75, "val_loss": 2.5, "lr": 0.125,
           "samples_per_second": 1000.0, "seconds": 61.0}  # fmt: skip
    log.inputs(torch.full((9, 1, 4, 4), 0.25), 2)
    log.epoch(row, np.array([0.25, 0.5, 0.75]), np.full((6, 7), 9, np.uint8), "| worst |")
    log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 1}, {"epoch": 2}, row]
    heading, line = capsys.readouterr().out.splitlines()
    assert len(heading) == len(line)  # columns stand under their names
    assert line.split() == ["3", "1.5000", "25.00%", "75.00%", "2.5000", "1.25e-01", "1000", "61s"]
    assert heading.index("top-1") + 5 == line.index("25.00%") + 6
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, key in {"accuracy/top1": "top1", "accuracy/top5": "top5", "loss/train": "loss",
                     "loss/validation": "val_loss", "pace/learning_rate": "lr",
                     "pace/images_per_second": "samples_per_second"}.items():  # fmt: skip
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(3, row[key])]
    (shown,), (mistakes,) = (events.Images(f"pictures/{n}") for n in ("inputs", "mistakes"))
    assert (shown.step, shown.height, shown.width) == (2, 2 * 6 + 2, 8 * 6 + 2)  # rows of eight
    picture = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), 0)
    assert picture[4, 4] == 191 and picture[0, 0] == picture[-3, -3] == 127  # ink is dark
    assert (mistakes.step, mistakes.height, mistakes.width) == (3, 6, 7)
    (histogram,) = events.Histograms("confidence")
    assert (histogram.step, histogram.histogram_value.num) == (3, 3)
    texts = {tag: events.Tensors(f"{tag}/text_summary") for tag in ("settings", "mistakes")}
    (settings,), (names,) = (
        [(event.step, event.tensor_proto.string_val[0].decode()) for event in texts[tag]]
        for tag in ("settings", "mistakes")
    )
    assert names == (3, "| worst |")
    table = settings[1].splitlines()
    assert table[1] == "|---|---|---|" and len(table) == 2 + len(Config.__dataclass_fields__)
    assert "| width | `0.5` | `1.0` |" in table and "| dropout | `0.1` |  |" in table
    plugins = (
        events.SummaryMetadata("_hparams_/experiment"),
        events.SummaryMetadata("_hparams_/session_start_info"),
    )
    assert b"accuracy/top1" in plugins[0].plugin_data.content
    assert b"pace" not in plugins[0].plugin_data.content
    for name in (b"variant", b"width", b"size", b"lr"):
        assert all(name in plugin.plugin_data.content for plugin in plugins)
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"curves" in layout and b"loss/validation" in layout and b"pace" not in layout


def test_state_goes_through_the_file(data, tmp_path):
    run, state = small_run(data, out=str(tmp_path), amp="fp32")
    one_step(run, state)
    state.seconds, state.best, state.metrics = 2.5, 0.5, {"top1": 0.25}
    state.save(run)
    state.save(run, "best.pt")
    loaded = checkpoint.load(run.last_checkpoint)
    assert loaded["epoch"] == 1 // run.steps_per_epoch and loaded["metrics"] == {"top1": 0.25}
    assert loaded["classes"] == run.samples.classes and loaded["config"] == run.config.to_dict()
    assert same(loaded["model"], state.ema.state)
    assert "resume" not in checkpoint.load(tmp_path / "best.pt")
    other = State(run)
    other.restore(run, loaded)
    assert same(other.model.state_dict(), state.model.state_dict())
    assert same(other.ema.state, state.ema.state) and torch.equal(other.totals, state.totals)
    assert (other.step, other.best, other.seconds) == (1, 0.5, 2.5)
    assert other.metrics == {"top1": 0.25}
    one_step(run, state)
    one_step(run, other)  # with the moments of the optimizer
    assert same(other.model.state_dict(), state.model.state_dict())
    late = State(run)
    late.step = 2 * run.steps_per_epoch
    late.save(run._replace(processes=Processes(1, 2, 1)), "none.pt")
    assert not (tmp_path / "none.pt").exists()  # the first process writes
    late.save(run)
    assert checkpoint.load(run.last_checkpoint)["epoch"] == 2
    loaded["resume"]["data"] = "others"
    with pytest.raises(ValueError, match="the data are not those"):
        other.restore(run, loaded)
    del loaded["resume"]["data"]  # as older versions wrote it
    other.restore(run, loaded)


def test_an_epoch_is_finished_with_its_figures(data, tmp_path):
    run, state = small_run(data, out=str(tmp_path), epochs=2)
    state.step, state.seconds = run.steps_per_epoch, 4.0
    state.totals += torch.tensor([30.0, 20.0])
    top = np.array([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
    result = Result(top, np.ones((3, 6)), np.array([0, 0, 0]), np.array([1, 2, 6]), np.arange(3))
    row = finish_epoch(run, state, 0, result)
    rate = learning_rate(state.step - 1, 2 * run.steps_per_epoch, run.config)
    assert row == {
        "epoch": 1, "loss": 1.5, "lr": rate, "top1": 1 / 3, "top5": 2 / 3, "val_loss": 3.0,
        "val_samples": 3, "samples_per_second": 5.0, "seconds": 4.0,
    }  # fmt: skip
    assert state.totals.tolist() == [0, 0] and state.seconds == 0 and state.best == 1 / 3
    best = checkpoint.load(tmp_path / "best.pt")
    assert best["metrics"] == {"top1": 1 / 3, "top5": 2 / 3, "val_loss": 3.0}
    assert best["epoch"] == 1
    (tmp_path / "best.pt").unlink()
    (tmp_path / "last.pt").unlink()
    row = finish_epoch(run, state, 1, result)  # no better: best.pt stays; no sample, no time
    assert not (tmp_path / "best.pt").exists() and (tmp_path / "last.pt").exists()
    assert (row["epoch"], row["loss"], row["samples_per_second"]) == (2, 0.0, 0.0)


def test_a_run_goes_through_its_epochs(data, tmp_path, capsys, monkeypatch):
    steps = []

    def step(run, state, network, x, labels, soft):
        assert network is state.model and network.training and len(x) == len(labels)
        steps.append(state.step)
        state.step += 1
        state.totals += torch.tensor([2.0, 1.0])

    monkeypatch.setattr(script, "train_step", step)
    saved, save = [], State.save
    monkeypatch.setattr(State, "save", lambda *given: saved.append(given[2:]) or save(*given))
    run, state = small_run(data, out=str(tmp_path), epochs=3, batch_size=32)
    state.step = run.steps_per_epoch + 1  # an epoch and a step are done
    assert script.train(run, state) == 0
    assert steps == list(range(run.steps_per_epoch + 1, 3 * run.steps_per_epoch))
    assert saved == [("best.pt",), (), ()]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [2, 3] and {row["loss"] for row in rows} == {2.0}
    assert all(0 < row["seconds"] < 60 for row in rows)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    dry, state = small_run(data, out=str(tmp_path / "dry"), dry_run=True, batch_size=8)
    steps.clear()
    assert script.train(dry, state) == 0 and steps == [0, 1]
    assert not (tmp_path / "dry").exists() and len(validate(dry, state).labels) == 8
    often, state = small_run(data, out=str(tmp_path), save_minutes=1e-9, epochs=1, batch_size=32)
    saved.clear()
    assert script.train(often, state) == 0
    assert len(saved) == often.steps_per_epoch + 2
    state.totals[0] = float("nan")
    with pytest.raises(FloatingPointError, match="--lr"):
        script.check_finite(often, state)


def test_resumed_run_repeats_the_unbroken_one_bit_for_bit(data, tmp_path, capsys, monkeypatch):
    train(data, tmp_path / "whole", "--epochs", 4)
    # Interrupted in the middle of an epoch, by a signal as Ctrl-C sends it.
    step = script.train_step

    def step_and_signal(run, state, *batch):
        step(run, state, *batch)
        if state.step == 9:
            signal.raise_signal(signal.SIGINT)

    arguments = ["--data", data / "train", "--out", tmp_path / "broken", *SMALL, "--epochs", 4]
    with monkeypatch.context() as patch:
        patch.setattr(script, "train_step", step_and_signal)
        assert main(list(map(str, arguments))) == 130
    said = capsys.readouterr().err
    assert "--resume" in said and "Traceback" not in said
    assert checkpoint.load(tmp_path / "broken" / "last.pt")["resume"]["step"] == 9
    assert main(["--resume", "--out", str(tmp_path / "broken")]) == 0
    whole, broken = (checkpoint.load(tmp_path / n / "last.pt") for n in ("whole", "broken"))
    assert whole["epoch"] == broken["epoch"] == 4
    assert same(whole["model"], broken["model"])
    assert same(whole["resume"]["model"], broken["resume"]["model"])
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("whole", "broken")]
    for mine, other in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert mine["loss"] == other["loss"] and mine["top1"] == other["top1"]


def test_kill_leaves_a_loadable_checkpoint(data, tmp_path):
    process = fork(train, data, tmp_path, "--epochs", 500, "--save-minutes", "0.0001")
    wait_for(tmp_path / "last.pt")
    time.sleep(0.5)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    before = checkpoint.load(tmp_path / "last.pt")["resume"]["step"]
    assert before > 0
    assert main(["--resume", "--out", str(tmp_path), "--epochs", str(before // 6 + 1)]) == 0
    assert checkpoint.load(tmp_path / "last.pt")["resume"]["step"] > before


def test_resume_keeps_the_settings_it_began_with(trained, capsys):
    assert main(["--resume", "--out", str(trained), "--lr", "0.1"]) == 2
    assert "--lr" in capsys.readouterr().err
    assert main(["--resume", "--out", str(trained / "nowhere")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err


def test_resume_notices_other_data(tmp_path, capsys):
    write_tree(tmp_path / "train", range(1001, 1005), "一十")
    train(tmp_path, tmp_path / "run", "--epochs", 1)
    assert main(["--resume", "--out", str(tmp_path / "run")]) == 0
    assert "all 1 epochs are done" in capsys.readouterr().err
    write_tree(tmp_path / "train", range(1005, 1007), "一十")
    assert main(["--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 2
    assert "the data are not those" in capsys.readouterr().err


def test_second_signal_does_not_wait_and_saves_nothing(data, tmp_path, capsys, monkeypatch):
    def step_that_hangs(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(script, "train_step", step_that_hangs)
    before = signal.getsignal(signal.SIGINT)
    assert main(["--data", str(data / "train"), "--out", str(tmp_path), *SMALL]) == 130
    assert "interrupted" in capsys.readouterr().err and not (tmp_path / "last.pt").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_loss_that_is_not_finite_stops_the_run(data, tmp_path, capsys):
    arguments = ["--data", str(data / "train"), "--out", str(tmp_path), *SMALL]
    assert main([*arguments, "--lr", "1e30", "--clip", "0", "--warmup", "0"]) == 2
    said = capsys.readouterr().err
    assert "not finite" in said and "--lr" in said
    if (tmp_path / "last.pt").exists():
        loaded = checkpoint.load(tmp_path / "last.pt")
        assert all(t.isfinite().all() for t in loaded["model"].values())


def test_init_from_keeps_rows_of_shared_characters(trained, tmp_path, capsys):
    write_tree(tmp_path / "train", range(1001, 1006), "大永小")
    out = tmp_path / "fine"
    train(tmp_path, out, "--init-from", trained / "best.pt", "--epochs", 1, "--lr", "1e-9")
    assert "2 of 3 classes known" in capsys.readouterr().err
    old, new = checkpoint.load(trained / "best.pt"), checkpoint.load(out / "best.pt")
    for character in "大小":
        torch.testing.assert_close(
            new["model"]["classifier.3.weight"][new["classes"].index(character)],
            old["model"]["classifier.3.weight"][old["classes"].index(character)],
            atol=1e-5, rtol=1e-4,
        )  # fmt: skip
    arguments = ["--data", tmp_path / "train", "--init-from", trained / "best.pt", "--out", out]
    assert main([*map(str, arguments), "--size", "32", "--head", "999", "--threads", "1"]) == 2
    assert "no larger --head" in capsys.readouterr().err


def test_a_start_from_other_weights_says_what_differs(data, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "t.pt")  # of 32 px and a head of 16
    old = checkpoint.load(path)["model"]
    _, state = small_run(data, init_from=str(path))
    said = capsys.readouterr().err
    assert f"{path}: 4 of 6 classes known" in said and "was trained with" not in said
    new = state.model.state_dict()
    assert all(torch.equal(new[name], t) for name, t in old.items() if "classifier.3" not in name)
    assert same(state.ema.state, new)
    small_run(data, init_from=str(path), size=48, stem_stride=1, last_stride=1, head=8)
    said = capsys.readouterr().err
    for change in (
        "size 32, not 48",
        "stem-stride 2, not 1",
        "last-stride 2, not 1",
        "head 16, not 8",
    ):
        assert f"{path} was trained with --{change}" in said


def test_a_narrower_head_keeps_the_units_that_weigh_most():
    classes = "大小永"
    wide, narrow = (mobilenet_v3(num_classes=3, head=head).eval() for head in (8, 5))
    loaded = {"model": wide.state_dict(), "classes": classes}
    loaded["model"]["classifier.3.weight"][:, [0, 3, 6]] *= 1e-6
    assert calibration.transfer(narrow, classes, loaded) == 3
    x = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(narrow(x), wide(x))


def test_teacher_labels_are_computed_once_and_help(trained, data, tmp_path, capsys):
    options = ("--teacher", trained / "best.pt", "--teacher-weight", 1, "--temperature", 2)
    options += (*PLAIN,)
    train(data, tmp_path, *options)
    pack = data / "train.pack32"
    labels = next(pack.glob("teacher-*/labels.bin"))
    stamp = labels.stat().st_mtime_ns
    train(data, tmp_path / "again", *options, "--epochs", 1)
    assert labels.stat().st_mtime_ns == stamp
    # Labels cut off as by a kill are finished, to the same bytes.
    whole = labels.read_bytes()
    labels.write_bytes(whole[: len(whole) // 3])
    train(data, tmp_path / "third", *options, "--epochs", 1)
    assert labels.read_bytes() == whole
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["top1"] for line in log) > 0.3  # by chance: 0.17


def test_teacher_loss_is_the_cross_entropy_to_its_probabilities():
    logits = torch.randn(3, 5)
    labels = torch.tensor([0, 1, 2])
    config = Config(teacher_weight=1.0, temperature=2.0, label_smoothing=0.0)
    teacher, known = torch.randn(3, 5), torch.arange(5)
    loss = loss_function(logits, labels, (teacher, known), config)
    expected = -(torch.softmax(teacher / 2, 1) * torch.log_softmax(logits / 2, 1)).sum(1).mean() * 4
    torch.testing.assert_close(loss, expected)
    plain = loss_function(logits, labels, None, config)
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels))
    # Samples of a class that the teacher does not know learn from their labels alone.
    known = torch.tensor([3, 4])
    none = loss_function(logits, labels, (teacher[:, 3:], known), config)
    torch.testing.assert_close(none, plain)
    # Classes that the teacher does not know get no probability on samples of those that it knows.
    known, three = torch.arange(3), teacher[:, :3]
    loss = loss_function(logits, labels, (three, known), config)
    logprob = torch.log_softmax(logits / 2, 1)[:, :3]
    expected_three = -(torch.softmax(three / 2, 1) * logprob).sum(1).mean() * 4
    torch.testing.assert_close(loss, expected_three)
    # Samples without a label learn from the teacher alone, whatever its share.
    known, share = torch.arange(5), replace(config, teacher_weight=0.1)
    loss = loss_function(logits, torch.full((3,), -1), (teacher, known), share)
    torch.testing.assert_close(loss, expected)


def test_logits_of_what_is_no_character_are_to_be_alike():
    labels, known = torch.full((2,), NO_CHARACTER), torch.arange(5)
    config = Config(logit_weight=1.0)
    teacher = torch.randn(2, 5)
    flat, peaked = torch.full((2, 5), 3.0), 10 * torch.eye(5)[:2]
    # Beside a character, whose logits are the measure of the error.
    soft = torch.cat([teacher, torch.randn(1, 5)]), known
    labels = torch.cat([labels, torch.tensor([1])])

    def loss_of(logits):
        return loss_function(torch.cat([logits, soft[0][2:]]), labels, soft, config)

    assert loss_of(flat) < loss_of(teacher) < loss_of(peaked)
    flat.requires_grad_()
    loss_of(flat).backward()
    assert flat.grad.abs().max() < 1e-6  # nothing is better


def test_logit_loss_is_the_share_of_the_centred_logits_that_is_missed():
    teacher, known = torch.randn(4, 6), torch.arange(6)
    labels = torch.arange(4)
    config = Config(logit_weight=3.0, teacher_weight=0.0)

    def loss_of(logits):
        with_, without = (
            loss_function(logits, labels, (teacher, known), c)
            for c in (config, replace(config, logit_weight=0.0))
        )
        return (with_ - without).item()

    assert loss_of(teacher + 7) == pytest.approx(0.0, abs=1e-5)
    assert loss_of(torch.zeros(4, 6)) == pytest.approx(3.0, rel=1e-5)


LABELS = torch.arange(8) % 6


def small_run(data, **settings) -> tuple[Run, State]:
    """Return a run on the small data at its first step."""
    small = {"size": 32, "width": 0.25, "head": 16, "batch_size": 8, "workers": 1, "device": "cpu"}
    settings = small | settings
    run = open_run(Config(data=(str(data / "train"),), **settings), Processes(0, 1, 0), None)
    return run, State(run)


def one_step(run: Run, state: State, network=None) -> None:
    """Take the next step of the first epoch."""
    batches = run.samples.batches(run.config, 0, state.step, state.step + 1, run.processes)
    glyphs, labels, soft = next(batches)
    x, _, seen = prepare(run, state.step, glyphs, LABELS)
    train_step(run, state, network or state.model.train(), x, labels, seen or soft)


def test_norms_and_biases_do_not_decay(data):
    _, state = small_run(data, weight_decay=0.3)
    modules = {name: module for name, module in state.model.named_modules()}
    decay = {id(p): group["weight_decay"] for group in state.optimizer.param_groups
             for p in group["params"]}  # fmt: skip
    for name, parameter in state.model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        matrix = name.endswith("weight") and not isinstance(module, torch.nn.BatchNorm2d)
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name


@pytest.mark.parametrize("clip", [0.01, 0.0])
def test_gradients_are_clipped(data, clip):
    run, state = small_run(data, clip=clip)
    norms, step = [], state.optimizer.step

    def measure(*given, **named):
        gradients = [p.grad.flatten() for p in state.model.parameters()]
        norms.append(float(torch.cat(gradients).norm()))
        return step(*given, **named)

    state.optimizer.step = measure
    one_step(run, state)
    assert norms[0] == pytest.approx(0.01, rel=1e-3) if clip else norms[0] > 0.1


def test_labels_are_smoothed():
    logits, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    for smoothing in (0.0, 0.2):
        loss = loss_function(logits, labels, None, Config(label_smoothing=smoothing))
        truth = torch.nn.functional.one_hot(labels, 5) * (1 - smoothing) + smoothing / 5
        torch.testing.assert_close(loss, -(truth * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("auto", torch.float32)])
def test_precision_of_a_step(data, amp, dtype):
    run, state = small_run(data, amp=amp)
    seen = []
    state.model.features[1].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    one_step(run, state)
    assert seen == [dtype]
    assert {t.dtype for t in state.model.parameters()} == {torch.float32}


def test_dropout_and_its_share(data):
    run, state = small_run(data, dropout=0.4)
    assert [m.p for m in state.model.modules() if isinstance(m, torch.nn.Dropout)] == [0.4]
    state.model.train()
    x = torch.ones(2000, 16)
    dropped = (state.model.classifier[2](x) == 0).float().mean()
    assert dropped.item() == pytest.approx(0.4, abs=0.03)


def test_compiled_network_is_the_one_that_trains(data, monkeypatch):
    calls = []

    def compile_(model):
        def call(x):
            calls.append(len(x))
            return model(x)

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    run, state = small_run(data, compile=True)
    one_step(run, state, wrap(run, state.model.train()))
    assert calls == [8]
    run, state = small_run(data)
    assert wrap(run, state.model) is state.model


def test_a_step_counts_averages_and_sets_the_rate(data):
    run, state = small_run(data, ema=0.5, lr=1e-2, epochs=2)
    before = {name: tensor.clone() for name, tensor in state.ema.state.items()}
    for step in range(3):
        one_step(run, state)
        rate = learning_rate(step, 2 * run.steps_per_epoch, run.config)
        assert [group["lr"] for group in state.optimizer.param_groups] == [rate, rate]
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                expected = decay * before[name] + (1 - decay) * tensor
                torch.testing.assert_close(state.ema.state[name], expected)
                before[name] = state.ema.state[name].clone()
            else:
                assert torch.equal(state.ema.state[name], tensor)
    assert state.step == 3 and state.totals[1] == 24
    assert state.totals[0].item() / 24 == pytest.approx(1.8, abs=0.5)  # of six classes: 1.79
    assert state.weights() is state.ema.state
    assert all(p.grad is None for p in state.model.parameters())


def test_no_average_ships_the_raw_weights(data):
    run, state = small_run(data, ema=0.0)
    one_step(run, state)
    for name, tensor in state.weights().items():
        assert torch.equal(tensor, state.model.state_dict()[name])


def test_inputs_depend_on_seed_and_step(data):
    run, _ = small_run(data)
    glyphs = next(run.samples.batches(run.config, 0, 0, 1, run.processes))[0]
    first, _, seen = prepare(run, 0, glyphs, LABELS)
    assert seen is None
    drawn = torch.rand(3)
    assert torch.equal(first, prepare(run, 0, glyphs, LABELS)[0]) and torch.equal(
        drawn, torch.rand(3)
    )
    assert not torch.equal(first, prepare(run, 1, glyphs, LABELS)[0])
    other = run._replace(processes=Processes(1, 2, 1))
    assert not torch.equal(first, prepare(other, 0, glyphs, LABELS)[0])
    plain = run._replace(config=replace(run.config, **dict.fromkeys(Augmentation._fields, 0.0)))
    expected = glyphs[:, None] / 255
    torch.testing.assert_close(prepare(plain, 0, glyphs, LABELS)[0], expected, atol=1e-4, rtol=0)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_validation_scores_the_average_and_leaves_the_weights(data):
    run, state = small_run(data, ema=0.9)
    one_step(run, state)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    result = validate(run, state)
    assert same(before, state.model.state_dict()) and state.model.training
    assert len(result.labels) == len(run.samples.validation) == 12
    state.model.load_state_dict(state.ema.state)
    mine = validate(run, state)
    assert mine.loss == pytest.approx(result.loss)
    for tensor in state.ema.state.values():
        tensor.zero_()
    assert validate(run, state).loss == pytest.approx(float(np.log(6)), rel=1e-4)


def test_what_cannot_be_shared_is_said(data, capsys):
    for settings, processes, said in [
        ({"batch_size": 7}, Processes(0, 2, 0), "does not divide among 2"),
        ({"sync_bn": True}, Processes(0, 1, 0), "between GPUs alone"),
    ]:
        config = Config(data=(str(data / "train"),), size=32, device="cpu", **settings)
        with pytest.raises(ValueError, match=said):
            open_run(config, processes, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer", {}), ("optimizer", None), ("step", "x"), ("totals", None), ("model", {}),
     ("best", None), ("seconds", [1]), ("totals", torch.zeros(3))],
)  # fmt: skip
def test_damaged_training_state_is_one_sentence(trained, tmp_path, capsys, key, value):
    loaded = torch.load(trained / "last.pt", weights_only=True)
    loaded["resume"][key] = value
    torch.save(loaded, tmp_path / "last.pt")
    assert main(["--resume", "--out", str(tmp_path), "--epochs", "17"]) == 2
    said = capsys.readouterr().err
    assert "its training state is damaged" in said and "Traceback" not in said


def test_onnx_teacher_is_learned_from(data, tmp_path):
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    train(data, tmp_path / "run", "--teacher", tmp_path / "t.onnx", "--teacher-input",
          "scale=3", "--logit-weight", 1, "--dry-run")  # fmt: skip
    run, state = small_run(data, teacher=str(tmp_path / "t.onnx"), teacher_input="scale=3")
    soft, known = next(run.samples.batches(run.config, 0, 0, 1, run.processes))[2]
    assert soft.shape == (8, 6) and known.tolist() == list(range(6)) and soft.std() > 0.1
    one_step(run, state)


def test_a_live_teacher_sees_the_warped_glyph_before_it_is_spoilt(data, tmp_path):
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    live = {"teacher": str(tmp_path / "t.onnx"), "teacher_live": True, "teacher_input": "scale=3"}
    run, state = small_run(data, **live, coarse=1.0, blur=1.0)
    glyphs, _, soft = next(run.samples.batches(run.config, 0, 0, 1, run.processes))
    assert soft is None and run.samples.soft is None
    x, _, seen = prepare(run, 0, glyphs, LABELS)
    clean = run._replace(config=replace(run.config, coarse=0.0, blur=0.0))
    y, _, same_seen = prepare(clean, 0, glyphs, LABELS)
    assert not torch.equal(x, y) and torch.equal(seen.logits, same_seen.logits)
    still = run._replace(config=replace(run.config, **dict.fromkeys(Augmentation._fields, 0.0)))
    assert not torch.equal(seen.logits, prepare(still, 0, glyphs, LABELS)[2].logits)
    assert seen.logits.shape == (8, 6) and seen.columns.tolist() == list(range(6))
    one_step(run, state)


def test_a_live_teacher_stays_as_it_is_and_changes_no_input(data, tmp_path, monkeypatch):
    path, load = write_checkpoint(tmp_path / "t.pt"), training.samples.load_teacher
    loaded = []
    monkeypatch.setattr(
        training.samples, "load_teacher", lambda *given: loaded.append(load(*given)) or loaded[0]
    )
    run, state = small_run(data, teacher=str(path), teacher_live=True)
    network = loaded[0].network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    glyphs = next(run.samples.batches(run.config, 0, 0, 1, run.processes))[0]
    alone = run._replace(samples=replace(run.samples, live=None))
    assert torch.equal(prepare(run, 0, glyphs, LABELS)[0], prepare(alone, 0, glyphs, LABELS)[0])
    given, step = [], script.train_step

    def keep(run, state, network, x, labels, soft):
        given.append(soft)
        step(run, state, network, x, labels, soft)

    monkeypatch.setattr(script, "train_step", keep)
    dry = run._replace(config=replace(run.config, dry_run=True))
    assert script.train_one_epoch(dry, state, state.model, 0, script.threading.Event())
    assert [soft.logits.shape for soft in given] == [(8, 4), (8, 4)]  # of six it knows four
    assert torch.equal(given[0].logits, prepare(run, 0, glyphs, LABELS)[2].logits)
    assert same(network.state_dict(), before)


def test_halves_put_together_are_what_the_live_teacher_says(data, tmp_path):
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    run, state = small_run(data, teacher=str(tmp_path / "t.onnx"), teacher_live=True, join=0.5)
    glyphs, labels, _ = next(run.samples.batches(run.config, 0, 0, 1, run.processes))
    x, now, seen = prepare(run, 3, glyphs, labels)
    alone = run._replace(config=replace(run.config, join=0.0))
    y, same_labels, others_seen = prepare(alone, 3, glyphs, labels)
    joined = now == -1
    assert 0 < joined.sum() < 8 and torch.equal(now[~joined], labels[~joined])
    assert torch.equal(same_labels, labels)
    changed = (seen.logits != others_seen.logits).any(1)
    assert torch.equal(changed, joined)
    assert script.train_one_epoch(
        run._replace(config=replace(run.config, dry_run=True)),
        state, state.model, 0, script.threading.Event(),
    )  # fmt: skip


def test_a_live_teacher_has_the_margin_that_it_expects(data, tmp_path):
    write_onnx(tmp_path / "t.onnx", 6, {"classes": json.dumps(CHARACTERS)})
    still = dict.fromkeys(Augmentation._fields, 0.0)
    run, _ = small_run(data, teacher=str(tmp_path / "t.onnx"), teacher_live=True,
                       teacher_input="margin=4", **still)  # fmt: skip
    glyphs = next(run.samples.batches(run.config, 0, 0, 1, run.processes))[0]
    views, live = [], run.samples.live
    live.look = views.append
    prepare(run, 0, glyphs, LABELS)
    assert views[0].shape == (8, 1, 16, 16) and views[0][..., 4:12, 4:12].amax() > 0.9
    assert views[0][..., :3].amax() == views[0][..., 13:, :].amax() == 0


def test_a_live_teacher_is_compiled_if_that_is_asked_for(data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    live = {"teacher": str(write_checkpoint(tmp_path / "t.pt")), "teacher_live": True}
    small_run(data, **live)
    assert not compiled
    small_run(data, **live, compile=True)
    assert len(compiled) == 1


def test_a_teacher_that_misreads_a_picture_counts_less():
    logits, labels = torch.randn(3, 5), torch.tensor([0, 1, -1])
    teacher = torch.eye(5)[[0, 3, 2]] * 4  # right, wrong, and nobody knows
    config = Config(teacher_weight=1.0, label_smoothing=0.0, logit_weight=2.0)

    def loss_of(weight, rows):
        changed = replace(config, misread_weight=weight)
        return loss_function(logits[rows], labels[rows], (teacher[rows], torch.arange(5)), changed)

    plain = loss_function(logits[1:2], labels[1:2], None, config)
    torch.testing.assert_close(loss_of(0.0, [1]), plain)
    middle = (loss_of(0.0, [1]) + loss_of(1.0, [1])) / 2
    torch.testing.assert_close(loss_of(0.5, [1]), middle)
    for row in (0, 2):
        torch.testing.assert_close(loss_of(0.0, [row]), loss_of(1.0, [row]))


def test_what_is_misread_is_told_in_the_order_of_the_teachers_classes():
    logits, labels = torch.randn(3, 5), torch.tensor([3, 3, 1])
    columns = torch.tensor([0, 3, 4])  # it knows nothing of 1 and 2
    teacher = torch.tensor([[0.0, 5.0, 1.0], [0.0, 1.0, 5.0], [0.0, 5.0, 1.0]])
    config = Config(teacher_weight=1.0, label_smoothing=0.0)

    def loss_of(weight, row):
        changed, rows = replace(config, misread_weight=weight), slice(row, row + 1)
        return loss_function(logits[rows], labels[rows], (teacher[rows], columns), changed)

    plain = [loss_function(logits[i : i + 1], labels[i : i + 1], None, config) for i in range(3)]
    assert loss_of(0.0, 0) == loss_of(1.0, 0) != plain[0]  # it reads this one
    assert loss_of(0.0, 1) == plain[1] != loss_of(1.0, 1)
    assert loss_of(0.0, 2) == loss_of(1.0, 2) == plain[2]  # and cannot know that


def test_learning_rate_is_a_function_of_the_step():
    config = Config(lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    for step in range(10):
        assert rates[step] == pytest.approx((step + 1) / 10)
    for step in range(10, 101):
        cosine = np.cos(np.pi * (step - 10) / 90)
        assert rates[step] == pytest.approx(0.01 + 0.99 * (1 + cosine) / 2)
    assert learning_rate(150, 100, config) == pytest.approx(0.01)  # it does not rise again
    twice = replace(config, lr=2.0, warmup=0.0)
    assert learning_rate(0, 100, twice) == learning_rate(1, 100, twice) == 2.0  # a step at least
    assert learning_rate(0, 1, twice) == 2.0
    assert learning_rate(5, 100, replace(twice, warmup=1.0)) == pytest.approx(0.12)
    assert learning_rate(100, 100, replace(twice, warmup=1.0)) == 2.0


def test_losses_are_mixed_sample_by_sample():
    """With all there is at once: labels, none, no character, classes that the teacher lacks."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 4)).astype(np.float32)
    labels, known = np.array([0, 3, -1, NO_CHARACTER, 1]), np.array([True, True, True, False])
    target = rng.normal(size=(5, 3)).astype(np.float32)
    config = Config(teacher_weight=0.3, temperature=2.0, logit_weight=0.5, label_smoothing=0.2)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    aim = target.copy()
    aim[3] = 0
    centred = aim - aim.mean(1, keepdims=True)
    energy = (centred**2).mean()
    losses = []
    for row, label, t, c in zip(logits, labels, aim, centred, strict=True):
        logprob = np.log(softmax(row))
        hard = 0.0
        if label >= 0:
            hard = -(0.8 * logprob[label] + 0.2 * logprob.mean())
        soft = -4 * (softmax(t / 2) * np.log(softmax(row / 2))[known]).sum()
        error = ((row[known] - row[known].mean() - c) ** 2).mean() / energy
        weight = 1.0 if label < 0 else 0.3 if known[label] else 0.0
        loss = (1 - weight) * hard + weight * soft
        losses.append(loss + 0.5 * error * (label < 0 or known[label]))
    columns = np.flatnonzero(known)
    tensors = (torch.from_numpy(part) for part in (logits, labels, target, columns))
    logits, labels, *soft = tensors
    found = loss_function(logits, labels, tuple(soft), config)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)
    half = loss_function(logits.bfloat16(), labels, tuple(soft), config)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(found.item(), rel=0.02)
    one = torch.zeros(2, 1), torch.tensor([0])  # the energy is 0
    assert torch.isfinite(loss_function(logits[:2], labels[:2], one, config))


def test_a_stop_is_asked_for_by_signals_and_heard_at_every_tenth_step(data, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with script.stop_signals() as asked:
            assert not asked.is_set()
            signal.raise_signal(number)
            assert asked.is_set()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    run, state = small_run(data)
    assert script.must_stop(run, state, asked)
    two, others = run._replace(processes=Processes(0, 2, 0)), [0.0]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: t.add_(others[0]))
    for step, other, mine, stops in (
        (9, 1, True, False), (10, 0, True, True), (10, 1, False, True), (20, 0, False, False),
    ):  # fmt: skip
        state.step, others[0] = step, float(other)
        (asked.set if mine else asked.clear)()
        assert script.must_stop(two, state, asked) == stops
    assert not script.must_stop(run, state, asked)


def test_what_is_asked_is_answered_with_a_checkpoint(data, tmp_path, capsys):
    run, state = small_run(data, out=str(tmp_path), epochs=2)
    state.step = 5
    assert script.stopped(run, state) == 130
    said = capsys.readouterr().err
    assert f"step 5 of {2 * run.steps_per_epoch}" in said and f"--out {tmp_path}" in said
    assert checkpoint.load(run.last_checkpoint)["resume"]["step"] == 5
    run.last_checkpoint.unlink()
    dry = run._replace(config=replace(run.config, dry_run=True))
    assert script.stopped(dry, state) == 130 and not run.last_checkpoint.exists()
    other = run._replace(processes=Processes(1, 2, 1))
    capsys.readouterr()
    other.notice("x")
    assert not capsys.readouterr().err


def test_a_stop_in_an_epoch_ends_it_behind_the_step(data, tmp_path, monkeypatch):
    run, state = small_run(data, out=str(tmp_path), epochs=2, batch_size=32)
    soft, seen = object(), []

    def batches(config, epoch, first, last, processes):
        for step in range(first, last):
            yield torch.zeros(2, 32, 32, dtype=torch.uint8), torch.tensor([step, epoch]), soft

    def step(run, state, network, x, labels, soft):
        seen.append((labels.tolist(), soft))
        state.step += 1
        if state.step == 5:
            asked.set()

    monkeypatch.setattr(type(run.samples), "batches", lambda self, *given: batches(*given))
    monkeypatch.setattr(script, "train_step", step)
    state.step, asked = (
        4,
        script.threading.Event(),
    )  # an epoch of three steps, and a step of the next
    assert not script.train_one_epoch(run, state, state.model, 1, asked)
    assert seen == [([1, 1], soft)] and state.step == 5
    assert script.train_one_epoch(run, state, state.model, 1, script.threading.Event())
    assert seen[1:] == [([2, 1], soft)] and state.step == 6
    monkeypatch.setattr(script, "train_one_epoch", lambda *given: False)
    state.step = 3
    assert script.train(run, state) == 130 and run.last_checkpoint.exists()


def test_a_resumed_run_keeps_its_settings_but_those_that_are_free(data, tmp_path, capsys):
    run, state = small_run(data, out=str(tmp_path), epochs=3, lr=0.5, workers=1)
    state.save(run)
    parser = script.argparse.ArgumentParser()
    script.add_arguments(parser)

    def resumed(*given):
        return script.resumed_config(parser.parse_args(["--out", str(tmp_path), *given]))

    config, loaded = resumed()
    assert not config.resume and loaded is None and config.lr == Config.lr
    capsys.readouterr()
    config, loaded = resumed("--resume")
    assert config == replace(run.config, resume=True) and loaded["resume"]["step"] == 0
    assert not capsys.readouterr().err
    config, _ = resumed(
        "--resume", "--epochs", "9", "--amp", "bf16", "--lr", "0.5", "--threads", "1"
    )
    assert (config.epochs, config.amp, config.lr, config.threads) == (9, "bf16", 0.5, 1)
    assert "--epochs 9 instead of 3" in capsys.readouterr().err
    assert resumed("--resume", "--epochs", "3")[0].epochs == 3 and not capsys.readouterr().err
    for key, value in (("--lr", "0.4"), ("--batch-size", "9"), ("--seed", "1")):
        with pytest.raises(ValueError, match=f"--resume goes on with {key} .*, not {value}"):
            resumed("--resume", key, value)
    state.save(run, "best.pt")
    (tmp_path / "best.pt").rename(tmp_path / "last.pt")
    with pytest.raises(ValueError, match="holds no training state"):
        resumed("--resume")


def test_an_epoch_is_the_whole_batches_of_it(data, monkeypatch):
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    run, _ = small_run(data)  # 108 samples, 8 a batch
    assert len(run.samples.train) == 108 and run.steps_per_epoch == 13
    assert small_run(data, batch_size=108)[0].steps_per_epoch == 1
    assert small_run(data, batch_size=999)[0].steps_per_epoch == 1
    config = replace(run.config, batch_size=110, workers=1)
    with pytest.raises(ValueError, match="108 training samples do not fill a batch of 110"):
        open_run(config, Processes(0, 2, 0), None)


def test_all_processes_sum_up_an_epoch_and_validate_alike(data, tmp_path, monkeypatch):
    run, state = small_run(data, out=str(tmp_path))
    two = run._replace(processes=Processes(0, 2, 0))
    reduced, sent = [], []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: reduced.append(t.mul_(2)))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda t, rank: sent.append((t, rank)))
    state.step, state.seconds = 1, 2.0
    state.totals += torch.tensor([6.0, 4.0])
    top = np.tile(np.arange(6), (2, 1))
    result = Result(top, np.ones((2, 6)), np.zeros(2, int), *np.ones((2, 2)), np.arange(2))
    row = finish_epoch(two, state, 0, result)
    assert (row["loss"], row["samples_per_second"], row["top1"]) == (1.5, 4.0, 1.0)
    assert len(reduced) == 1
    seen = []
    monkeypatch.setattr(script, "evaluate", lambda *given: seen.append(given) or result)
    validate(two, state)
    assert {rank for _, rank in sent} == {0} and len(sent) == len(state.ema.state)
    assert all(a is b for (a, _), b in zip(sent, state.ema.state.values(), strict=True))
    ((model, glyphs, indices, device, size, processes),) = seen
    assert model is state.model and glyphs is run.samples.val_source and size == 8
    assert indices is run.samples.validation and processes is two.processes
    assert device == torch.device("cpu")


def test_a_network_over_several_processes_is_wrapped(data, monkeypatch):
    given = []
    monkeypatch.setattr(script, "DistributedDataParallel", lambda *a: given.append(a) or "wrapped")
    run, state = small_run(data)
    two = run._replace(processes=Processes(0, 2, 0))
    assert wrap(two, state.model) == "wrapped"
    assert wrap(two._replace(device=torch.device("cuda", 1)), state.model) == "wrapped"
    assert given == [(state.model, None), (state.model, [1])]


def test_a_state_begins_as_its_seed_says(data):
    run, state = small_run(data, seed=3)
    for seed, alike in ((3, True), (4, False)):
        other = State(run._replace(config=replace(run.config, seed=seed)))
        assert same(other.model.state_dict(), state.model.state_dict()) == alike
    assert same(state.ema.state, state.model.state_dict())
    own = {tensor.data_ptr() for tensor in state.model.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in state.ema.state.values()}
    assert (state.step, state.best, state.metrics, state.seconds) == (0, -1.0, {}, 0.0)
    assert state.totals.tolist() == [0, 0] and not state.scaler.is_enabled()
    assert isinstance(state.optimizer, torch.optim.AdamW)
    assert State(run._replace(dtype=torch.float16)).scaler.is_enabled()
    assert state.model.features[1].block[0][0].weight.is_contiguous(
        memory_format=torch.channels_last)  # fmt: skip


class SampleNorm(torch.nn.BatchNorm2d):
    """A norm of each sample by itself: what one comes to does not depend on its batch."""

    def forward(self, x):
        return torch.nn.functional.group_norm(x, 1, self.weight, self.bias, self.eps)


def test_two_nodes_equal_one_process_and_hold_the_same_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn, "BatchNorm2d", SampleNorm)
    # Where gradients are all but zero, AdamW would make whole steps of their rounding.
    monkeypatch.setattr(torch.optim, "AdamW", functools.partial(torch.optim.AdamW, eps=0.01))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def train_and_keep(out, rank, world):
        if world > 1:  # as torchrun says it
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        kept, loop = [], script.train
        monkeypatch.setattr(script, "train", lambda *given: kept.append(given[1]) or loop(*given))
        train(data, out, *PLAIN, "--epochs", 2, "--lr", 0.01, "--clip", 0)
        torch.save((kept[0].model.state_dict(), kept[0].ema.state), out / f"rank{rank}.pt")

    one, two = tmp_path / "one", tmp_path / "two"
    assert os.waitpid(fork(train_and_keep, one, 0, 1), 0)[1] == 0
    nodes = [fork(train_and_keep, two, rank, 2) for rank in (0, 1)]
    assert [os.waitpid(node, 0)[1] for node in nodes] == [0, 0]
    (raw, ema), (other, other_ema) = (torch.load(two / f"rank{rank}.pt") for rank in (0, 1))
    assert same(raw, other) and same(ema, other_ema)
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (one, two)]
    for mine, theirs in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert mine["val_samples"] == theirs["val_samples"] == 12  # a writer of ten, each once
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    alone, _ = torch.load(one / "rank0.pt")
    for name, tensor in alone.items():
        torch.testing.assert_close(raw[name], tensor, rtol=1e-5, atol=1e-5)


def test_synthetic_stream_trains_and_resumes(tmp_path):
    options = ["--synthetic", "--synthetic-epoch", "128", "--workers", "1", "--out", str(tmp_path)]
    classes = tmp_path / "classes.txt"
    classes.write_text(CHARACTERS, encoding="utf-8")
    arguments = [*options, "--classes", str(classes), *SMALL, "--epochs", "1"]
    assert main(arguments) == 0
    assert main(["--resume", "--out", str(tmp_path), "--epochs", "2"]) == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_dry_run_keeps_nothing(data, tmp_path):
    train(data, tmp_path / "dry", "--dry-run")
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "no such folder"),
        (["--lr", "-1"], "--lr is -1.0, expected above 0"),
        (["--device", "cuda:7"], "--device cuda:7"),
        (["--device", "toaster"], "toaster"),
        (["--classes", "9999"], "--classes"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx"),
        (["--init-from", "nowhere.pt"], "nowhere.pt"),
        (["--fonts", "nowhere"], "--synthetic alone"),
        (["--data", "data/train", "--synthetic", "--teacher", "x.onnx"], "does not go with"),
    ],
)
def test_bad_input_is_one_sentence(data, tmp_path, capsys, arguments, said):
    given = [] if "--data" in arguments else ["--data", str(data / "train")]
    given += ["--out", str(tmp_path), "--size", "32", *arguments]
    assert main(given) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error


def test_help_lists_every_setting():
    done = call_script("train.py", "--help")
    assert done.returncode == 0
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_torchrun_starts_two_processes_that_train_together(tmp_path):
    write_tree(tmp_path / "train", range(1001, 1004), "一十", 1)
    options = ["--data", tmp_path / "train", "--out", tmp_path / "run", *SMALL, "--epochs", 1]
    options += ["--size", 16, "--width", 0.25, "--head", 8, "--batch-size", 4, "--workers", 1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += [ROOT / "train.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert row["val_samples"] == 2 and row["loss"] > 0
    assert done.stdout.count("epoch") == 1  # the first process speaks
    assert checkpoint.load(tmp_path / "run" / "last.pt")["resume"]["step"] == 1
