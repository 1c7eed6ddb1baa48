"""Every setting in one place: a frozen dataclass -> command line -> dict in the checkpoint.

    python train.py --epochs 5 --lr 0.001        # any field, with dashes
    python train.py --help                       # all fields, with defaults

Each field carries its default, its help and its check. A script shows its part of the fields
(`add_arguments`) and gets a `Config` back (`from_arguments`). Imports nothing of ours.
"""

from __future__ import annotations

import argparse
import math
import os
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

# The weights that are shipped.
DEFAULT_CHECKPOINT = os.path.join(os.path.dirname(__file__), "checkpoints", "small80.pt")


def setting(
    default: Any,
    help: str,
    group: str,
    check: Callable[[Any], bool] | None = None,
    expected: str = "",
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a field; `expected` says in words what `check` wants."""
    metadata = {
        "help": help,
        "group": group,
        "check": check,
        "expected": expected,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


def positive(value: float) -> bool:
    return value > 0


def not_negative(value: float) -> bool:
    return value >= 0


def share(value: float) -> bool:
    return 0 <= value <= 1


def below_one(value: float) -> bool:
    return 0 <= value < 1


# The types of fields, as annotations are written, in words.
KINDS = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "tuple[str, ...]": "texts",
}


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value has the type of a field; a whole number is a float, no bool is a number."""
    if kind == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value).__name__ == kind


@dataclass(frozen=True)
class Config:
    """All settings of a training run; stored in its checkpoints as a dict."""

    # --- data
    data: tuple[str, ...] = setting(
        ("data/train",),
        "training sources: trees of class folders, .gnt files or folders of them; DIR@N is seen N "
        "times an epoch",
        "data",
    )
    val_data: str = setting(
        "", "validation source; default: held-out writers of the training sources", "data"
    )
    val_fraction: float = setting(
        0.1, "share of the writers held out for validation", "data", below_one, "0 up to below 1"
    )
    classes: str = setting(
        "all",
        "train on: level1, symbols, all (--synthetic: level1), a number N (first N in GB order) or "
        "a file",
        "data",
    )
    size: int = setting(
        80, "side of a glyph, pixels", "data", lambda v: 16 <= v <= 512, "16 to 512"
    )
    workers: int = setting(
        0, "processes that decode pictures, 0: one a core", "data", not_negative, "0 or more"
    )
    synthetic: bool = setting(
        False, "train on an endless stream of synthetic handwriting instead of --data", "data"
    )
    synthetic_epoch: int = setting(
        100_000, "glyphs that count as an epoch of --synthetic", "data", positive, "1 or more"
    )
    fonts: str = setting("", "folder of font files for --synthetic", "data")
    # --- model
    variant: str = setting("small", "MobileNetV3 variant", "model", choices=("small", "large"))
    width: float = setting(
        1.0, "width multiplier", "model", lambda v: 0 < v <= 8, "above 0 and up to 8"
    )
    stem_stride: int = setting(2, "stride of the stem", "model", lambda v: v in (1, 2), "1 or 2")
    last_stride: int = setting(
        2, "stride of the last stage", "model", lambda v: v in (1, 2), "1 or 2"
    )
    head: int = setting(
        256,
        "width of the layer before the classifier, 0: the paper's",
        "model",
        lambda v: 0 <= v <= 8192,
        "0 to 8192",
    )
    dropout: float = setting(
        0.1, "dropout before the classifier", "model", below_one, "0 up to below 1"
    )
    # --- optimisation
    epochs: int = setting(30, "epochs", "optimisation", not_negative, "0 or more")
    batch_size: int = setting(
        256, "samples a step, over all processes", "optimisation", positive, "1 or more"
    )
    lr: float = setting(3e-3, "peak learning rate of AdamW", "optimisation", positive, "above 0")
    final_lr: float = setting(
        0.01, "learning rate at the end, as a share of --lr", "optimisation", share, "0 to 1"
    )
    warmup: float = setting(
        0.02, "share of all steps with a growing learning rate", "optimisation", share, "0 to 1"
    )
    weight_decay: float = setting(
        0.05, "weight decay; not on norms and biases", "optimisation", not_negative, "0 or more"
    )
    label_smoothing: float = setting(
        0.1, "label smoothing", "optimisation", below_one, "0 up to below 1"
    )
    clip: float = setting(
        5.0, "largest gradient norm, 0: no clipping", "optimisation", not_negative, "0 or more"
    )
    ema: float = setting(
        0.999,
        "decay of the averaged weights a step, 0: none",
        "optimisation",
        below_one,
        "0 to < 1",
    )
    sync_bn: bool = setting(False, "BatchNorm statistics over all processes (GPUs)", "optimisation")
    # --- augmentation
    rotation: float = setting(10.0, "degrees", "augmentation", not_negative, "0 or more")
    shear: float = setting(0.2, "share of the side", "augmentation", not_negative, "0 or more")
    scale: float = setting(0.15, "log-range of the scale", "augmentation", not_negative, ">= 0")
    shift: float = setting(0.04, "share of the side", "augmentation", not_negative, "0 or more")
    elastic: float = setting(
        1.5,
        "standard deviation of the bending, pixels at 64 px",
        "augmentation",
        not_negative,
        ">= 0",
    )
    stroke: float = setting(
        0.5, "probability of thicker or thinner strokes", "augmentation", share, "0 to 1"
    )
    blur: float = setting(0.3, "probability of a soft picture", "augmentation", share, "0 to 1")
    erase: float = setting(
        0.1, "probability of an erased rectangle", "augmentation", share, "0 to 1"
    )
    remains: float = setting(
        0.1, "probability of remains of lines and neighbours", "augmentation", share, "0 to 1"
    )
    # --- distillation
    teacher: str = setting("", "checkpoint or ONNX file to learn from", "distillation")
    unlabelled: tuple[str, ...] = setting(
        (),
        "more pictures, whose labels do not count: the teacher alone says what they are",
        "distillation",
    )
    outliers: tuple[str, ...] = setting(
        (),
        "pictures of no character, for which all logits are to be alike",
        "distillation",
    )
    teacher_weight: float = setting(
        0.7, "share of the loss that is the teacher's", "distillation", share, "0 to 1"
    )
    logit_weight: float = setting(
        0.0,
        "weight of the error in the teacher's logits",
        "distillation",
        not_negative,
        "0 or more",
    )
    temperature: float = setting(
        1.0, "softens teacher and student", "distillation", positive, "above 0"
    )
    teacher_input: str = setting(
        "",
        "what an ONNX teacher expects and its metadata do not say: scale=V (value of full ink, "
        "default 1), margin=P (pixels of paper around the ink, default a 32nd of its side), "
        "classes=C (order of its logits: level1, symbols, all or a file); with commas between",
        "distillation",
    )
    # --- run
    out: str = setting("runs/train", "folder of checkpoints, log and TensorBoard files", "run")
    resume: bool = setting(False, "go on with OUT/last.pt", "run")
    init_from: str = setting(
        "", "checkpoint to start from; other classes and a smaller --head allowed", "run"
    )
    seed: int = setting(0, "seed of everything random", "run", not_negative, "0 or more")
    save_minutes: float = setting(
        10.0, "minutes between checkpoints within an epoch", "run", positive, "above 0"
    )
    dry_run: bool = setting(False, "two steps and one validation batch, nothing kept", "run")
    # --- device
    device: str = setting(
        "auto",
        "auto, cpu, cuda, cuda:N or mps",
        "device",
    )
    amp: str = setting(
        "auto",
        "precision: auto is bf16 or fp16 on a GPU and fp32 on a CPU",
        "device",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: bool = setting(False, "torch.compile the model", "device")
    threads: int = setting(0, "CPU threads, 0: PyTorch's choice", "device", not_negative, ">= 0")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, meta = getattr(self, item.name), item.metadata
            if not _is_a(value, item.type):
                raise ValueError(f"{flag(item)} is {value!r}, expected {KINDS[item.type]}")
            bad = meta["check"] is not None and not meta["check"](value)
            if bad or (meta["choices"] and value not in meta["choices"]):
                expected = meta["expected"] or " or ".join(meta["choices"])
                raise ValueError(f"{flag(item)} is {value!r}, expected {expected}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in checkpoints."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def default_checkpoint() -> str:
    """Return what is read where no checkpoint is named: best.pt of `train.py` here, else ours."""
    own = os.path.join(Config.out, "best.pt")
    return own if os.path.isfile(own) else DEFAULT_CHECKPOINT


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a config; settings that this version does not know are ignored.

    Raises:
        ValueError: a value is of another type than its setting, or fails its check.
    """
    known = {item.name for item in fields(Config)}
    once = {"scale": 1.0, "margin": -1, "classes": "level1"}  # settings of their own
    parts = [
        f"{key}={str(values[f'teacher_{key}']).removesuffix('.0')}"
        for key, default in once.items()
        if values.get(f"teacher_{key}", default) != default
    ]
    values = {"teacher_input": ",".join(parts), **values}
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return Config(**kept)


def flag(item: Field) -> str:
    """Return the command-line name of a field."""
    return "--" + item.name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add fields (all, or those named) to a parser, grouped, with defaults in the help.

    The parsed namespace holds only what was given, so that a resumed run can tell.
    """
    chosen = set(names) if names is not None else {item.name for item in fields(Config)}
    hints = typing.get_type_hints(Config)
    groups: dict[str, Any] = {}
    for item in fields(Config):
        if item.name not in chosen:
            continue
        title = item.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        default, kind = item.default, hints[item.name]
        if kind is bool:
            group.add_argument(
                flag(item),
                action="store_true",
                default=argparse.SUPPRESS,
                help=item.metadata["help"],
            )
            continue
        if isinstance(kind, types.GenericAlias):
            options: dict[str, Any] = {"nargs": "+", "type": str, "metavar": "DIR"}
            shown = " ".join(default)
        else:
            options = {"type": kind, "metavar": item.name.split("_")[-1].upper()}
            shown = str(default)
        if item.metadata["choices"]:
            options |= {"choices": item.metadata["choices"], "metavar": None}
        text = item.metadata["help"] + (f" (default: {shown})" if shown else "")
        group.add_argument(flag(item), default=argparse.SUPPRESS, help=text, **options)


def from_arguments(arguments: argparse.Namespace) -> Config:
    """Build the config from parsed arguments; fields that a script does not show keep defaults.

    Raises:
        ValueError: a value fails its check.
    """
    known = {item.name for item in fields(Config)}
    values = {k: v for k, v in vars(arguments).items() if k in known}
    return from_dict(values)
