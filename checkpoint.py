"""A checkpoint: weights, classes, config and metrics in one file.

    python checkpoint.py runs/train/best.pt                   # summary
    python checkpoint.py runs/train/best.pt small.pt          # float16, half the size, to share
    python checkpoint.py runs/train/best.pt small.pt --temperature 0.6   # see calibration.py

    from checkpoint import load, build_model
    loaded = load("checkpoints/small80.pt")                   # plain dict, weights_only
    model = build_model(loaded).eval()

    key        content
    format     1
    model      state dict of the bare module (EMA weights), float32 or float16
    config     dict of config.Config
    classes    str (index = label), or a list of str where a label is not one character
    metrics    dict of numbers: top1, top5, val_loss of the validation, temperature, reject
    epoch      finished epochs
    made_with  versions, and the time of writing
    preprocessing  picture.SETTINGS that it was trained with
    resume     last.pt only: raw weights, optimizer, scaler, position in the schedule

Before a file is loaded, its checksums are checked; after that each entry by name, type and range,
and the weights against the network that config and classes describe.
Left out: ONNX files (recognizer.py, export.py), older formats.
"""

import argparse
import io
import json
import os
import platform
import sys
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor, nn

import calibration
from config import from_dict
from jobs.command import command, printable, sentence, shorten
from jobs.files import write_file
from model import mobilenet_v3
from picture import SETTINGS, changed_settings

FORMAT = 1
# The fields of config that determine the network; the others do not change its shape.
ARCHITECTURE = ("variant", "width", "stem_stride", "last_stride", "head", "dropout")
CLASSES = 100_000  # at most
FLOATS = torch.float16, torch.bfloat16, torch.float32
SCHEMA = {"format": int, "model": dict, "config": dict, "classes": (str, list), "metrics": dict,
          "epoch": int}  # fmt: skip
OPTIONAL = {"made_with": dict, "preprocessing": dict, "resume": dict}
LARGEST = 1e30  # absolute value of a metric


def join_classes(classes: Sequence[str]) -> str | list[str]:
    """Return one str if every label is one character, else a list; index = label in both."""
    return "".join(classes) if all(len(label) == 1 for label in classes) else list(classes)


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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {name: tensor.detach().cpu() for name, tensor in model.items()},
        "config": dict(config),
        "classes": join_classes(classes),
        "metrics": dict(metrics),
        "epoch": epoch,
        "preprocessing": dict(preprocessing),
        "made_with": {
            "torch": str(torch.__version__),
            "python": platform.python_version(),
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
    data = path.read_bytes()
    check_file(path, data)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost anything on bytes that are no pickle
        raise ValueError(f"{path}: not a readable checkpoint ({sentence(error)[:120]})") from None
    try:
        check(loaded)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a checkpoint of this repository: {error}") from None
    loaded = {key: loaded[key] for key in (*SCHEMA, *OPTIONAL) if key in loaded}
    loaded["model"] = cast(loaded["model"], torch.float32)
    loaded["classes"] = list(loaded["classes"])
    return loaded


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
    own = {name: tensor.clone() for name, tensor in loaded["model"].items()}
    model.load_state_dict(own, assign=True)
    return model


# --- checks


def check_file(path: Path, data: bytes) -> None:
    """Raise ValueError for a file that torch.save did not write, or that is damaged.

    torch.load does not compare checksums: a flipped bit of a weight would go unnoticed.
    """
    reason = "not a file of torch.save, or cut off"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                reason = "a compressed archive"
            elif any(info.external_attr & 0x10 for info in infos):  # torch.load does not read these
                reason = "damaged: parts of it are marked as folders"
            elif sum(info.file_size for info in infos) > len(data):
                reason = "its parts are larger than the file"
            elif (name := archive.testzip()) is None:
                return
            else:
                reason = f"damaged: the checksum of {name} is wrong; copy or download it again"
    except Exception:  # zipfile raises almost anything on a damaged directory
        pass
    expected = "expected a .pt file of train.py"
    raise ValueError(f"{path}: not a readable checkpoint ({reason}); {expected}")


def check(loaded: object) -> None:
    """Raise ValueError for the first entry that is missing, of another type, or out of range."""
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, expected a dict")
    if missing := SCHEMA.keys() - loaded.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    loaded = {key: {} for key in OPTIONAL} | loaded
    for key, kind in (SCHEMA | OPTIONAL).items():
        if not isinstance(loaded[key], kind) or isinstance(loaded[key], bool):
            raise ValueError(f"{key} is a {type(loaded[key]).__name__}")
    if not 1 <= loaded["format"] <= FORMAT:
        raise ValueError(f"format is {loaded['format']}, this code reads up to {FORMAT}; update")
    if loaded["epoch"] < 0:
        raise ValueError(f"epoch is {loaded['epoch']}, expected 0 or more")
    check_classes(loaded["classes"])
    metrics = dict(loaded["metrics"])
    if "reject" in metrics:
        calibration.check_rejection(metrics.pop("reject"))
    for key, value in [*metrics.items(), *loaded["preprocessing"].items()]:
        if not isinstance(key, str) or type(value) not in (int, float):
            raise ValueError(f"{key!r} is a {type(value).__name__}, expected a number")
        if abs(value) > LARGEST:
            raise ValueError(f"{key} is out of range")
    config = loaded["config"]
    if missing := {"size", *ARCHITECTURE} - config.keys():
        raise ValueError(f"its config lacks {', '.join(sorted(missing))}")
    try:
        from_dict(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its config: {error}") from None
    check_weights(loaded["model"], skeleton(loaded).state_dict())


def check_classes(classes: str | list) -> None:
    """Raise ValueError if labels are not one or more different non-empty strings."""
    if not 1 <= len(classes) <= CLASSES:
        raise ValueError(f"classes are {len(classes)}, expected 1 to {CLASSES:,}")
    if not all(isinstance(label, str) and label for label in classes):
        raise ValueError("classes are not all strings")
    if len(set(classes)) < len(classes):
        raise ValueError(f"of its {len(classes)} classes only {len(set(classes))} are different")


def check_weights(weights: dict, expected: Mapping[str, Tensor]) -> None:
    """Check that weights are plain finite tensors with the names and shapes of a network's."""
    if missing := expected.keys() - weights.keys():
        raise ValueError(f"model lacks {min(missing)}: its config describes another network")
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor) or name not in expected:
            raise ValueError(f"model holds {name!r}, which is no weight of its network")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or not tensor.is_contiguous():
            raise ValueError(f"{name} is not a plain tensor")
        found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if found != wanted:
            raise ValueError(f"{name} is {found}, its config and classes want {wanted}")
        if tensor.dtype not in (FLOATS if expected[name].is_floating_point() else [torch.int64]):
            raise ValueError(f"{name} is of type {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not finite")


# --- the command


def without_folders(config: Mapping) -> dict:
    """Return a config to share: paths are cut to their last part."""
    short = dict(config)
    for key in ("val_data", "teacher", "init_from", "fonts", "out"):
        short[key] = Path(config.get(key, "")).name
    for key in ("data", "unlabelled", "outliers"):
        short[key] = tuple(Path(source).name for source in config.get(key, ()))
    return short


def summarize(path: str, loaded: Mapping) -> str:
    """Return ten lines for people."""
    settings, metrics = from_dict(loaded["config"]), loaded["metrics"]
    size, made = f"{settings.size} x {settings.size} px", loaded.get("made_with", {})
    changed = changed_settings(loaded.get("preprocessing"))
    parameters = sum(p.numel() for p in skeleton(loaded).parameters())
    kind = f"MobileNetV3-{settings.variant.capitalize()}, width {settings.width:g}"
    held_out = f"{settings.val_fraction:.0%} of the training writers, held out"
    top1 = f"top-1 {metrics.get('top1', 0):.2%} on {settings.val_data or held_out}"
    numbers = ", ".join(f"{k} {v:g}" for k, v in metrics.get("reject", {}).items())
    lines = {
        "file": f"{path}, {os.path.getsize(path) / 1e6:.2f} MB",
        "network": f"{kind}, head {settings.head}, {parameters:,} parameters",
        "input": f"glyphs of {size}; preprocessing changed since: {shorten(changed) or 'nothing'}",
        "classes": f"{len(loaded['classes']):,}: {shorten(loaded['classes'], 12)}",
        "trained on": "synthetic" if settings.synthetic else shorten(settings.data, 8),
        "epochs": f"{loaded['epoch']} of {settings.epochs}",
        "validation": top1 if "top1" in metrics else "unknown",
        "calibration": f"temperature {metrics.get('temperature', 1):g}; reject {numbers or '-'}",
        "written": f"{made.get('time', 'unknown')} with PyTorch {made.get('torch', '?')}",
        "resumable": "yes, by train.py --resume" if "resume" in loaded else "no, weights only",
    }
    return "\n".join(f"{key:<12}{printable(value)}" for key, value in lines.items())


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Summarize a checkpoint; with a second file name, write it there to share: "
        "float16 weights, no training state, no folder names of this machine."
    )
    add = parser.add_argument
    add("checkpoint", metavar="FILE")
    add("new", nargs="?", metavar="NEW", help="file to write")
    add("--json", action="store_true", help="print everything but the weights, as JSON")
    add("--average", nargs=2, metavar=("OTHER", "SHARE"),
        help="move the weights by a share in 0...1 towards those of another checkpoint that was "
        "trained from the same weights")  # fmt: skip
    add("--temperature", type=float, metavar="T",
        help="divide the logits by T, as found by test.py --temperature: calibrates the "
        "probabilities, predictions do not change")  # fmt: skip
    add("--class-prior", nargs=2, metavar=("CLASSES", "V"),
        help="add V to the logits of CLASSES (level1, symbols, N or a file), after the "
        "temperature; V < 0 for classes that are rare")  # fmt: skip
    add("--reject", type=float, nargs=3, metavar=("SCALE", "OFFSET", "THRESHOLD"),
        help="numbers of the score that tells characters from other images, as found by "
        "test.py --no-characters after the temperature was set")  # fmt: skip
    return parser


def number(text: str, option: str) -> float:
    """Return the number that follows an option; raise ValueError if it is none."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option}: {text!r} is not a number") from None


@command
def main(argv: list[str] | None = None) -> int:
    """Summarize a checkpoint, or write it with float16 weights."""
    given = arguments().parse_args(argv)
    loaded = load(given.checkpoint)
    if given.average:
        other, share = given.average
        calibration.average(loaded, load(other), number(share, "--average"))
    if given.temperature is not None:
        calibration.scale_logits(loaded, given.temperature)
    if given.class_prior:
        classes, amount = given.class_prior
        calibration.add_prior(loaded, classes, number(amount, "--class-prior"))
    if given.reject:
        calibration.set_rejection(loaded, *given.reject)
    if given.new is None:
        if any((given.average, given.temperature, given.class_prior, given.reject)):
            raise ValueError("options that change the weights need a second file name, NEW")
        rest = {key: loaded[key] for key in loaded if key not in ("model", "resume")}
        print(json.dumps(rest) if given.json else summarize(given.checkpoint, loaded))
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
