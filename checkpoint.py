"""A checkpoint: weights, classes, config and metrics in one file.

    python checkpoint.py runs/train/best.pt                   # summary
    python checkpoint.py runs/train/best.pt small.pt          # float16, half the size, to share
    python checkpoint.py runs/train/best.pt small.pt --temperature 0.6   # see calibration.py

    from checkpoint import load, build_model
    model = build_model(load("checkpoints/small80.pt")).eval()

The file is a dict written by torch.save:

    key            content
    format         1
    model          state dict of the bare module (EMA weights), float32 or float16
    config         dict of config.Config
    classes        list of str, index = label
    metrics        dict of numbers: validation top1, top5 and val_loss; temperature, reject
    epoch          number of finished epochs
    made_with      PyTorch version and time of writing
    preprocessing  picture.SETTINGS used in training
    resume         last.pt only: raw weights, optimizer, scaler, position in the schedule
"""

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor, nn

import calibration
from config import ARCHITECTURE, from_dict
from jobs.command import command, printable, sentence, shorten
from jobs.files import write_file
from model import mobilenet_v3
from picture import SETTINGS, changed_settings

FORMAT = 1
FLOATS = torch.float16, torch.bfloat16, torch.float32
SCHEMA = {"format": int, "model": dict, "config": dict, "classes": (str, list), "metrics": dict,
          "epoch": int}  # fmt: skip
OPTIONAL = {"made_with": dict, "preprocessing": dict, "resume": dict}


def save(
    path: str | Path,
    model: Mapping[str, Tensor],
    config: Mapping,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    epoch: int,
    resume: Mapping | None = None,
    preprocessing: Mapping[str, float] = SETTINGS,
) -> None:
    """Write a checkpoint (atomically); see the module's table."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {name: tensor.detach().cpu() for name, tensor in model.items()},
        "config": dict(config),
        "classes": list(classes),
        "metrics": dict(metrics),
        "epoch": epoch,
        "preprocessing": dict(preprocessing),
        "made_with": {
            "torch": str(torch.__version__),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    }
    if resume is not None:
        content["resume"] = dict(resume)
    data = io.BytesIO()  # torch.save to a file on a full disk raises a RuntimeError of its own
    torch.save(content, data)
    write_file(path, data.getbuffer())


def load(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU, all floats as float32, classes as a list.

    Raises FileNotFoundError, or ValueError if it is no checkpoint, a damaged or a newer one.
    """
    path = Path(path)
    if not path.is_file():
        mend = "python train.py writes runs/train/best.pt; checkpoints/small80.pt is shipped"
        raise FileNotFoundError(f"{path}: no such checkpoint; {mend}")
    data = io.BytesIO(path.read_bytes())
    try:
        check_archive(data)
        loaded = torch.load(data, map_location="cpu", weights_only=True)
        check(loaded)
    except Exception as error:  # zipfile and torch.load raise almost anything on damaged bytes
        reason = f"not a readable checkpoint of train.py: {sentence(error)[:200]}"
        raise ValueError(f"{path}: {reason}") from None
    weights = cast(loaded["model"], torch.float32)
    return loaded | {"model": weights, "classes": list(loaded["classes"])}


def cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights with all floats in one precision."""
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}


def skeleton(loaded: Mapping) -> nn.Module:
    """Return the network of a checkpoint without memory for its weights."""
    architecture = {key: loaded["config"][key] for key in ARCHITECTURE}
    with torch.device("meta"):
        return mobilenet_v3(num_classes=len(loaded["classes"]), **architecture)


def build_model(loaded: Mapping) -> nn.Module:
    """Build the network of a loaded checkpoint, with a copy of its weights."""
    model = skeleton(loaded)
    model.load_state_dict({k: v.clone() for k, v in loaded["model"].items()}, assign=True)
    return model


def check_archive(data: io.BytesIO) -> None:
    """Raise an error for a file that torch.save did not write, or that is damaged.

    torch.load does not compare checksums, reads parts marked as folders from memory that was never
    written, and unpacks compressed or overlapping parts to any size.
    """
    with zipfile.ZipFile(data) as archive:
        infos = archive.infolist()
        plain = all(i.compress_type == zipfile.ZIP_STORED for i in infos)
        if not plain or any(i.external_attr & 0x10 for i in infos):
            raise ValueError("its parts are compressed or marked as folders")
        if sum(i.file_size for i in infos) > len(data.getbuffer()):
            raise ValueError("its parts are larger than the file")
        if name := archive.testzip():
            raise ValueError(f"damaged: the checksum of {name} is wrong; copy or download it again")
    data.seek(0)


def check(loaded: object) -> None:
    """Raise ValueError for the first entry that is missing, of another type, or out of range."""
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, expected a dict")
    if missing := SCHEMA.keys() - loaded.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    for key, kind in (SCHEMA | OPTIONAL).items():
        if key in loaded and not isinstance(loaded[key], kind):
            raise ValueError(f"{key} is a {type(loaded[key]).__name__}")
    if not 1 <= loaded["format"] <= FORMAT:
        raise ValueError(f"format is {loaded['format']}, this code reads up to {FORMAT}; update")
    check_classes(loaded["classes"])
    metrics = dict(loaded["metrics"])
    if "reject" in metrics:
        calibration.check_rejection(metrics.pop("reject"))
    for key, value in [*metrics.items(), *loaded.get("preprocessing", {}).items()]:
        if not isinstance(key, str) or type(value) not in (int, float) or abs(value) > 1e30:
            raise ValueError(f"{key!r} is not the name of a number in range")
    if missing := {"size", *ARCHITECTURE} - loaded["config"].keys():
        raise ValueError(f"its config lacks {', '.join(sorted(missing))}")
    from_dict(loaded["config"])
    check_weights(loaded["model"], skeleton(loaded).state_dict())


def check_classes(classes: str | list) -> None:
    """Raise ValueError if labels are not one or more different non-empty strings."""
    if not classes or not all(isinstance(label, str) and label for label in classes):
        raise ValueError("classes are not one or more non-empty strings")
    if len(set(classes)) < len(classes):
        raise ValueError(f"of its {len(classes)} classes only {len(set(classes))} are different")


def check_weights(weights: dict, expected: Mapping[str, Tensor]) -> None:
    """Check that weights are plain finite tensors with the names and shapes of a network's."""
    if differing := sorted(map(str, weights.keys() ^ expected.keys())):
        raise ValueError(f"its config describes another network, which differs in {differing[0]!r}")
    for name, tensor in weights.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not plain or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"{name} is not a plain tensor")
        found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if found != wanted:
            raise ValueError(f"{name} is {found}, its config and classes want {wanted}")
        if tensor.dtype not in (FLOATS if expected[name].is_floating_point() else [torch.int64]):
            raise ValueError(f"{name} is of type {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not finite")


def without_folders(config: dict) -> dict:
    """Return a config to share: paths are cut to their last part."""
    short = from_dict(config).to_dict()
    for key, value in short.items():
        if isinstance(value, str):
            short[key] = Path(value).name
        elif isinstance(value, list):
            short[key] = [Path(part).name for part in value]
    return short


def summarize(path: str, loaded: Mapping) -> str:
    """Return some lines for people."""
    settings, metrics = from_dict(loaded["config"]), loaded["metrics"]
    made, changed = loaded.get("made_with", {}), changed_settings(loaded.get("preprocessing"))
    parameters = sum(p.numel() for p in skeleton(loaded).parameters())
    kind = f"MobileNetV3-{settings.variant.capitalize()}, width {settings.width:g}"
    numbers = " ".join(f"{value:g}" for value in metrics.get("reject", {}).values())
    lines = {
        "file": f"{path}, {os.path.getsize(path) / 1e6:.2f} MB",
        "network": f"{kind}, head {settings.head}, {parameters:,} parameters",
        "input": f"glyphs of {settings.size} x {settings.size} px",
        "classes": f"{len(loaded['classes']):,}: {shorten(loaded['classes'], 12)}",
        "calibration": f"temperature {metrics.get('temperature', 1):g}, reject {numbers or '-'}",
        "written": f"{made.get('time', 'unknown')} with PyTorch {made.get('torch', '?')}",
    }
    if changed:
        lines["input"] += f"; the preprocessing has changed since: {shorten(changed)}"
    if "top1" in metrics:  # without it the weights are a mean, and config is of the last run alone
        data = "synthetic handwriting" if settings.synthetic else shorten(settings.data, 8)
        epochs = f"{loaded['epoch']} of {settings.epochs} epochs"
        held_out = data if settings.synthetic else "held-out writers"
        lines["training"] = f"{epochs} on {data}"
        lines["validation"] = f"top-1 {metrics['top1']:.2%} on {settings.val_data or held_out}"
    lines["resumable"] = "yes, by train.py --resume" if "resume" in loaded else "no, weights only"
    return "\n".join(f"{key:<12}{printable(value)}" for key, value in lines.items())


@command
def main(argv: list[str] | None = None) -> int:
    """Summarize a checkpoint, or write it with float16 weights."""
    parser = argparse.ArgumentParser(description="Summarize a checkpoint, or write a new one.")
    add = parser.add_argument
    add("checkpoint", metavar="FILE", help="checkpoint to read")
    add("new", nargs="?", metavar="NEW", help="file to write: float16, no training state, no paths")
    add("--json", action="store_true", help="print everything but the weights as JSON")
    add("--average", nargs=2, metavar=("OTHER", "SHARE"),
        help="average the weights: SHARE (0...1) of OTHER, the rest of FILE")  # fmt: skip
    add("--temperature", type=float, metavar="T",
        help="divide the logits by T, as fitted by test.py --temperature")  # fmt: skip
    add("--class-prior", nargs=2, metavar=("CLASSES", "V"),
        help="add V to the logits of CLASSES (level1, symbols, digits, letters, punctuation, "
        "all, a number N or a file of characters)")  # fmt: skip
    add("--reject", type=float, nargs=3, metavar=("SCALE", "OFFSET", "THRESHOLD"),
        help="set the rejection score, as fitted by test.py --no-characters")  # fmt: skip
    given = parser.parse_args(argv)
    loaded = load(given.checkpoint)
    if given.average:
        other, share = given.average
        calibration.average(loaded, load(other), float(share))
    if given.temperature is not None:
        calibration.scale_logits(loaded, given.temperature)
    if given.class_prior:
        classes, amount = given.class_prior
        calibration.add_prior(loaded, classes, float(amount))
    if given.reject:
        calibration.set_rejection(loaded, *given.reject)
    if given.new is None:
        if any((given.average, given.temperature, given.class_prior, given.reject)):
            raise ValueError("options that change the weights need a second file name, NEW")
        rest = {key: loaded[key] for key in loaded if key not in ("model", "resume")}
        print(json.dumps(rest, default=str) if given.json else summarize(given.checkpoint, loaded))
        return 0
    loaded["config"] = without_folders(loaded["config"])
    loaded["model"] = cast(loaded["model"], torch.float16)
    check(loaded)  # values above 65504 are infinite in float16
    content = {key: loaded[key] for key in SCHEMA if key != "format"}
    save(given.new, **content, preprocessing=loaded.get("preprocessing", {}))
    print(f"{given.new}: {os.path.getsize(given.new) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
