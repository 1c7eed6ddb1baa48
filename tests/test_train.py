"""train.py as a user runs it: results, resuming, interruption, several processes."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from conftest import CHARACTERS, ROOT, SMALL, STILL, call_script, fork, write_tree

import checkpoint
import train as script
from config import Config
from jobs.devices import Processes
from train import Run, State, learning_rate, loss_function, main, open_run, train_step, validate
from training.log import Log
from training.samples import View

PLAIN = [part for name in STILL for part in (f"--{name}", "0")]
ALONE = Processes(0, 1, 0)


def train(data, out, *more) -> None:
    arguments = ["--data", str(data / "train"), "--out", str(out), *SMALL, *map(str, more)]
    assert main(arguments) == 0


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def small_run(data, **settings) -> tuple[Run, State]:
    """Return a run on the small data before its first step."""
    small = {"size": 32, "width": 0.25, "head": 16, "batch_size": 8, "workers": 1, "device": "cpu"}
    config = Config(data=(str(data / "train"),), **small | settings)
    run = open_run(config, ALONE, None)
    return run, State(run)


def one_step(run: Run, state: State) -> None:
    view = next(run.samples.views(0, state.step, state.step + 1))
    train_step(run, state, state.model.train(), view)


# --- what a run leaves and says


def test_run_learns_and_leaves_its_files(trained):
    log = rows(trained)
    assert [row["epoch"] for row in log] == list(range(1, 17))
    assert log[-1]["loss"] < log[0]["loss"] and max(row["top1"] for row in log) > 0.3
    stdout = (trained / "stdout.txt").read_text(encoding="utf-8").splitlines()
    assert len(stdout) == 17  # a heading and one line per epoch
    assert list(trained.glob("events.out.tfevents.*"))
    best = checkpoint.load(trained / "best.pt")
    assert "".join(best["classes"]) == "".join(sorted(CHARACTERS, key=lambda c: c.encode("gbk")))
    assert best["metrics"]["top1"] == max(row["top1"] for row in log)
    assert "resume" not in best and best["config"]["size"] == 32
    assert not any(key.startswith(("module.", "_orig_mod.")) for key in best["model"])


def test_run_says_what_it_trains_and_what_comes_next(trained):
    message = (trained / "stderr.txt").read_text(encoding="utf-8")
    assert "training on 108 samples of 6 classes by 9 writers" in message
    assert "validating on 12 samples of 6 classes by 1 writer" in message
    assert "network: small, 6 classes, " in message
    assert " parameters, on cpu, float32" in message
    assert "16 epochs of 6 steps of 16 samples" in message
    assert re.search(r"\d s per step: about 0 h 1 min left for 45 steps\n", message)
    best = max(rows(trained), key=lambda row: row["top1"])
    file = trained / "best.pt"
    assert f"best: epoch {best['epoch']}, validation top-1 {best['top1']:.2%}, {file}\n" in message
    assert f"next: python test.py --checkpoint {file}\n" in message
    assert f"curves: tensorboard --logdir {trained}\n" in message


def test_few_steps_from_scratch_lead_to_fine_tuning(trained, data, tmp_path, capsys):
    hint = "few steps to train from scratch (96); fine-tuning needs fewer: --init-from checkpo"
    assert hint in (trained / "stderr.txt").read_text(encoding="utf-8")
    train(data, tmp_path, "--epochs", 1, "--init-from", trained / "best.pt")
    assert "from scratch" not in capsys.readouterr().err


def test_an_epoch_is_validated_before_its_end_is_saved(data, monkeypatch):
    run, state = small_run(data)
    saved = []
    monkeypatch.setattr(script, "SAVE_MINUTES", -1)
    monkeypatch.setattr(State, "save", lambda state, run: saved.append(state.step))
    assert script.train_one_epoch(run, state, state.model, 0, threading.Event())
    assert saved == list(range(1, run.steps_per_epoch))


def test_a_folder_with_a_run_is_not_overwritten(trained, data, tmp_path, capsys):
    before = (trained / "best.pt").read_bytes()
    arguments = ["--data", str(data / "train"), "--out", str(trained), *SMALL]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "--resume" in message and "another --out" in message
    assert (trained / "best.pt").read_bytes() == before


def test_log_writes_the_same_to_stdout_file_and_tensorboard(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    log = Log(tmp_path, Config(width=0.5), 2)
    row = {"epoch": 3, "loss": 1.5, "top1": 0.25, "top5": 0.75, "val_loss": 2.5, "lr": 0.125,
           "samples_per_second": 1000.0, "seconds": 61.0}  # fmt: skip
    log.inputs(torch.full((9, 1, 4, 4), 0.25), 2)
    log.epoch(row, np.full((6, 7), 9, np.uint8))
    log.board.close()
    assert rows(tmp_path) == [{"epoch": 1}, {"epoch": 2}, row]
    heading, line = capsys.readouterr().out.splitlines()
    assert len(heading) == len(line)  # columns are aligned
    assert line.split() == ["3", "1.5000", "25.00%", "75.00%", "2.5000", "1.25e-01", "1000", "61s"]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, key in {"accuracy/top1": "top1", "loss/validation": "val_loss",
                     "pace/images_per_second": "samples_per_second"}.items():  # fmt: skip
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(3, row[key])]
    (shown,) = events.Images("pictures/inputs")
    picture = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), 0)
    assert picture[4, 4] == 191 and picture[0, 0] == 127  # ink is dark
    (settings,) = events.Tensors("settings/text_summary")
    assert "| width | `0.5` |" in settings.tensor_proto.string_val[0].decode()


# --- interruption and resuming


def test_resumed_run_repeats_the_unbroken_one_bit_for_bit(data, tmp_path, capsys, monkeypatch):
    train(data, tmp_path / "whole", "--epochs", 4)
    step = script.train_step

    def step_and_signal(run, state, *batch):
        step(run, state, *batch)
        if state.step == 9:  # in the middle of an epoch, as by Ctrl-C
            signal.raise_signal(signal.SIGINT)

    arguments = ["--data", data / "train", "--out", tmp_path / "broken", *SMALL, "--epochs", 4]
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(script, "train_step", step_and_signal)
        assert main(list(map(str, arguments))) == 130
    assert signal.getsignal(signal.SIGINT) is before
    message = capsys.readouterr().err
    assert "interrupted at step 9 of 24" in message and "--resume" in message
    assert checkpoint.load(tmp_path / "broken" / "last.pt")["resume"]["step"] == 9
    assert main(["--resume", "--out", str(tmp_path / "broken")]) == 0
    whole, broken = (checkpoint.load(tmp_path / n / "last.pt") for n in ("whole", "broken"))
    assert whole["epoch"] == broken["epoch"] == 4
    assert same(whole["model"], broken["model"])
    assert same(whole["resume"]["model"], broken["resume"]["model"])
    for mine, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "broken"), strict=True):
        assert mine["loss"] == other["loss"] and mine["top1"] == other["top1"]


@pytest.mark.parametrize(("owner", "name", "call"), [(State, "save", 3), (Log, "epoch", 2)])
def test_a_run_that_ends_between_logging_and_saving_keeps_every_line(
    data, tmp_path, monkeypatch, owner, name, call
):
    calls, original = [], getattr(owner, name)

    def interrupted(*given):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*given)

    arguments = ["--data", str(data / "train"), "--out", str(tmp_path), *SMALL, "--epochs", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        assert main(arguments) == 130
    assert main(["--resume", "--out", str(tmp_path)]) == 0
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]


def test_kill_leaves_a_loadable_checkpoint(data, tmp_path):
    given = ["--data", data / "train", "--out", tmp_path, *SMALL, "--epochs", 500]
    command = [sys.executable, ROOT / "train.py", *given]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while not (tmp_path / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = checkpoint.load(tmp_path / "last.pt")["resume"]["step"]
    assert main(["--resume", "--out", str(tmp_path), "--epochs", str(before // 6 + 1)]) == 0
    assert checkpoint.load(tmp_path / "last.pt")["resume"]["step"] > before


def test_resume_keeps_settings_but_those_that_are_free(data, tmp_path, capsys):
    train(data, tmp_path, "--epochs", 1)
    capsys.readouterr()
    for key, value in (("--lr", "0.4"), ("--batch-size", "9"), ("--seed", "1")):
        assert main(["--resume", "--out", str(tmp_path), key, value]) == 2
        message = capsys.readouterr().err
        assert f"--resume continues with {key} " in message and f"not {value}" in message
    assert main(["--resume", "--out", str(tmp_path)]) == 0
    message = capsys.readouterr().err
    assert "schedule: 1 epoch of 6 steps" in message and "1 epoch done; for more" in message
    assert main(["--resume", "--out", str(tmp_path), "--epochs", "2", "--lr", "0.004"]) == 0
    assert len(rows(tmp_path)) == 2
    (tmp_path / "best.pt").replace(tmp_path / "last.pt")
    assert main(["--resume", "--out", str(tmp_path)]) == 2
    assert "no training state" in capsys.readouterr().err
    assert main(["--resume", "--out", str(tmp_path / "nowhere")]) == 2
    assert "no run to resume; start one without --resume" in capsys.readouterr().err


def test_a_resumed_run_has_the_same_data_wherever_they_lie(tmp_path, capsys):
    for name, text in (("train", "一十"), ("validation", "一"), ("none", "口")):
        write_tree(tmp_path / "a" / name, range(1001, 1005), text)
    given = ["--val-data", tmp_path / "a" / "validation", "--outliers", tmp_path / "a" / "none"]
    train(tmp_path / "a", tmp_path / "run", *given, "--epochs", 1)
    (tmp_path / "a").rename(tmp_path / "b")
    resume = ["--resume", "--out", tmp_path / "run", "--epochs", 2, "--val-data"]
    resume += [tmp_path / "b" / "validation", "--outliers", tmp_path / "b" / "none", "--data"]
    write_tree(tmp_path / "other", range(1005, 1007), "一十")
    for other in ([tmp_path / "other"], [f"{tmp_path / 'b' / 'train'}@2"]):
        assert main(list(map(str, resume + other))) == 2
        assert "the data are not those" in capsys.readouterr().err
    assert main(list(map(str, [*resume, tmp_path / "b" / "train"]))) == 0
    assert checkpoint.load(tmp_path / "run" / "last.pt")["epoch"] == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer", {}), ("step", "x"), ("model", {}), ("totals", torch.zeros(3))],
)
def test_damaged_training_state_is_one_sentence(trained, tmp_path, capsys, key, value):
    loaded = torch.load(trained / "last.pt", weights_only=True)
    loaded["resume"][key] = value
    torch.save(loaded, tmp_path / "last.pt")
    assert main(["--resume", "--out", str(tmp_path), "--epochs", "17"]) == 2
    message = capsys.readouterr().err
    assert "its training state is damaged" in message and "Traceback" not in message


def test_loss_that_is_not_finite_stops_the_run(data, tmp_path, capsys):
    arguments = ["--data", str(data / "train"), "--out", str(tmp_path), *SMALL]
    assert main([*arguments, "--lr", "1e30", "--warmup", "0"]) == 2
    message = capsys.readouterr().err
    assert "not finite" in message and "--lr" in message
    if (tmp_path / "last.pt").exists():
        loaded = checkpoint.load(tmp_path / "last.pt")
        assert all(t.isfinite().all() for t in loaded["model"].values())


def test_synthetic_stream_trains_and_resumes(tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text(CHARACTERS, encoding="utf-8")
    options = ["--synthetic", "--synthetic-epoch", "128", "--workers", "1", "--out", str(tmp_path)]
    assert main([*options, "--classes", str(classes), *SMALL, "--epochs", "1"]) == 0
    assert main(["--resume", "--out", str(tmp_path), "--epochs", "2"]) == 0
    assert len(rows(tmp_path)) == 2


# --- other weights


def test_init_from_keeps_rows_of_shared_characters(trained, tmp_path, capsys):
    write_tree(tmp_path / "train", range(1001, 1006), "大永小")
    out, best = tmp_path / "fine", trained / "best.pt"
    train(tmp_path, out, "--init-from", best, "--epochs", 1, "--lr", "1e-9")
    assert "2 of 3 classes known" in capsys.readouterr().err
    old, new = checkpoint.load(best), checkpoint.load(out / "best.pt")
    weight = "classifier.3.weight"
    for character in "大小":
        here, there = new["classes"].index(character), old["classes"].index(character)
        now, before = new["model"][weight][here], old["model"][weight][there]
        torch.testing.assert_close(now, before, atol=1e-5, rtol=1e-4)
    arguments = ["--data", tmp_path / "train", "--init-from", best, "--out", tmp_path / "other"]
    wide = ["--size", "32", "--head", "999", "--threads", "1"]
    assert main([*map(str, arguments), *wide]) == 2
    assert "--width and --head as the" in capsys.readouterr().err


def test_init_from_says_what_differs(trained, data, tmp_path, capsys):
    best = str(tmp_path / "best.pt")
    content = torch.load(trained / "best.pt", weights_only=True)
    content["preprocessing"]["picture.glyph.OLD"] = 1
    torch.save(content, best)
    small_run(data, init_from=best, size=48, width=0.5, head=64, last_stride=1)
    notices = capsys.readouterr().err
    for change in ("size 32, not 48", "last-stride 2, not 1"):
        assert f"{best} was trained with --{change}" in notices
    assert f"{best} was trained with another preprocessing: picture.glyph.OLD" in notices


def test_a_class_is_added_and_the_old_ones_are_kept(trained, data, tmp_path):
    """A few samples of the new class, and unlabelled ones that the old weights teach."""
    write_tree(tmp_path / "train", range(1001, 1011), "永", samples=4)
    before = trained / "best.pt"
    train(tmp_path, tmp_path / "run", "--init-from", before, "--keep-classes", "--teacher", before,
          "--unlabelled", data / "train", "--epochs", 12, "--lr", 0.003, *PLAIN)  # fmt: skip
    after = tmp_path / "run" / "last.pt"  # best.pt is any epoch: four images are validated on
    assert set(checkpoint.load(after)["classes"]) == {*CHARACTERS, "永"}
    write_tree(tmp_path / "new", range(1241, 1245), "永")
    top1 = []
    for tree, path in ((data / "test", before), (data / "test", after), (tmp_path / "new", after)):
        done = call_script("test.py", tree, "--checkpoint", path, "--json", "-")
        assert done.returncode == 0, done.stderr
        top1.append(json.loads(done.stdout)["top1"])
    assert top1[1] > top1[0] - 0.15 and top1[2] > 0.7, top1


# --- a step


def view_of(labels, confidence=None, target=None) -> View:
    labels = torch.tensor(labels)
    confidence = torch.ones(len(labels)) if confidence is None else torch.tensor(confidence)
    return View(torch.empty(0), labels, confidence, target)


def test_targets_are_mixed_with_the_uniform_distribution():
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    view = view_of([0, 1, 2, -100], [1.0, 0.4, 1.0, 0.0])  # with leftovers, without a character
    for smoothing in (0.0, 0.2):
        loss = loss_function(logits, view, Config(label_smoothing=smoothing))
        sure = view.confidence[:, None] * (1 - smoothing)
        label = torch.nn.functional.one_hot(view.labels.clamp(min=0), 5)
        target = sure * label + (1 - sure) / 5
        torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1).mean())
    half = loss_function(logits.bfloat16(), view, Config())
    assert half.dtype == torch.float32


def test_norms_and_biases_do_not_decay(data):
    _, state = small_run(data, weight_decay=0.3)
    modules = dict(state.model.named_modules())
    decay = {id(p): group["weight_decay"] for group in state.optimizer.param_groups
             for p in group["params"]}  # fmt: skip
    for name, parameter in state.model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        matrix = name.endswith("weight") and not isinstance(module, torch.nn.BatchNorm2d)
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("auto", torch.float32)])
def test_a_step_has_its_precision_and_validation_float32(data, amp, dtype):
    run, state = small_run(data, amp=amp)
    seen = []
    state.model.features[1].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    one_step(run, state)
    assert seen == [dtype] and {t.dtype for t in state.model.parameters()} == {torch.float32}
    state.averaged.features[1].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    validate(run, state)
    assert set(seen[1:]) == {torch.float32}


def test_a_step_counts_averages_and_sets_the_rate(data):
    run, state = small_run(data, ema=0.5, lr=1e-2, epochs=2)
    name = "classifier.3.weight"
    for step in range(3):
        before = state.averaged.state_dict()[name].clone()
        one_step(run, state)
        rate = learning_rate(step, 2 * run.steps_per_epoch, run.config)
        assert [group["lr"] for group in state.optimizer.param_groups] == [rate, rate]
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * before + (1 - decay) * state.model.state_dict()[name]
        torch.testing.assert_close(state.averaged.state_dict()[name], expected)
    assert state.step == 3 and state.totals[1] == 24
    assert state.totals[0].item() / 24 == pytest.approx(1.8, abs=0.5)  # of six classes: 1.79
    run, state = small_run(data, ema=0.0)
    one_step(run, state)
    assert same(state.averaged.state_dict(), state.model.state_dict())


def test_validation_follows_training_from_the_first_epochs(data, tmp_path):
    """BatchNorm's running statistics are of no use yet; with them validation is at chance."""
    train(data, tmp_path, "--epochs", 5, *PLAIN)
    log = rows(tmp_path)
    assert log[2]["loss"] < 1.4 and log[2]["top1"] > 0.4, log  # by chance: 1.79 and 0.17
    assert all(row["val_loss"] < row["loss"] + 0.5 for row in log[1:]), log


def test_learning_rate_is_a_function_of_the_step():
    config = Config(lr=1.0, warmup=0.1)
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 0.505, 100: 0.01, 150: 0.01}
    for step, rate in expected.items():
        assert learning_rate(step, 100, config) == pytest.approx(rate)
    assert learning_rate(0, 1, config) == 1.0


# --- several processes


class SampleNorm(torch.nn.BatchNorm2d):
    """Normalizes each sample by itself, so that it does not depend on its batch."""

    def forward(self, x):
        return torch.nn.functional.group_norm(x, 1, self.weight, self.bias, self.eps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_nodes_equal_one_process_also_resumed_and_have_the_same_weights(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.nn, "BatchNorm2d", SampleNorm)
    # Where gradients are almost zero, AdamW would make whole steps of rounding errors.
    monkeypatch.setattr(torch.optim, "AdamW", functools.partial(torch.optim.AdamW, eps=0.01))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def train_and_keep(out, rank, world, status, *given):
        if world > 1:  # as torchrun does
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        kept, loop = [], script.train
        monkeypatch.setattr(script, "train", lambda *given: kept.append(given[1]) or loop(*given))
        monkeypatch.setattr(script, "tell_duration", lambda run, state:
                            state.step == 10 and os.kill(os.getpid(), signal.SIGINT))  # fmt: skip
        assert main([*map(str, given), "--out", str(out)]) == status
        weights = kept[0].model.state_dict(), kept[0].averaged.state_dict()
        torch.save(weights, out / f"rank{rank}.pt")

    one, two = tmp_path / "one", tmp_path / "two"
    given = ["--data", data / "train", *SMALL, *PLAIN, "--epochs", 2, "--lr", 0.01]
    for part in ((130, *given), (0, "--resume")):
        assert os.waitpid(fork(train_and_keep, one, 0, 1, *part), 0)[1] == 0
        nodes = [fork(train_and_keep, two, rank, 2, *part) for rank in (0, 1)]
        assert [os.waitpid(node, 0)[1] for node in nodes] == [0, 0]
    (raw, averaged), (other, others) = (torch.load(two / f"rank{rank}.pt") for rank in (0, 1))
    assert same(raw, other) and same(averaged, others)
    for mine, theirs in zip(rows(one), rows(two), strict=True):
        assert mine["val_samples"] == theirs["val_samples"] == 12  # one writer of ten, each once
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    for name, tensor in torch.load(one / "rank0.pt")[0].items():
        torch.testing.assert_close(raw[name], tensor, rtol=0, atol=1e-4)  # a step is up to 0.01


def test_torchrun_starts_two_processes_that_train_together(tmp_path):
    write_tree(tmp_path / "train", range(1001, 1004), "一十", 1)
    options = ["--data", tmp_path / "train", "--out", tmp_path / "run", *SMALL, "--epochs", 1]
    options += ["--size", 32, "--width", 0.25, "--head", 8, "--batch-size", 4, "--workers", 1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += [ROOT / "train.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "run")
    assert row["val_samples"] == 2 and row["loss"] > 0
    assert done.stdout.count("epoch") == 1  # the first process prints
    assert checkpoint.load(tmp_path / "run" / "last.pt")["resume"]["step"] == 1


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no such folder"),
        (["--lr", "-1"], "--lr is -1.0, expected above 0"),
        (["--device", "toaster"], "toaster"),
        (["--classes", "9999"], "--classes"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx"),
        (["--init-from", "nowhere.pt"], "nowhere.pt"),
        (["--batch-size", "1"], "over 1 process: expected 2 or more"),
        (["--unlabelled", "x"], "--unlabelled needs --teacher"),
        (["--keep-classes"], "--keep-classes needs --init-from"),
        (["--data", "data/train", "--synthetic", "--teacher", "x.onnx"], "cannot be combined"),
        (["--synthetic", "--data", "x", "--outliers", "y"], "--data cannot be combined"),
    ],
)
def test_bad_input_is_one_sentence(data, tmp_path, capsys, arguments, message):
    given = [] if "--data" in arguments else ["--data", str(data / "train")]
    given += ["--out", str(tmp_path), "--size", "32", *arguments]
    assert main(given) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
