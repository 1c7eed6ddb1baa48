"""All settings: a frozen dataclass -> command line -> dict in the checkpoint.

    python train.py --epochs 5 --lr 0.001        # every field is an option
    python train.py --help                       # all fields, with defaults

A script adds the fields it uses to its parser (`add_arguments`) and gets a `Config` back
(`from_arguments`).
"""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

# The shipped weights.
DEFAULT_CHECKPOINT = os.path.join(os.path.dirname(__file__), "checkpoints", "small80.pt")
# The fields that determine the network; the others do not change its shape.
ARCHITECTURE = ("variant", "width", "stem_stride", "last_stride", "head", "dropout")


class Check(NamedTuple):
    """A condition on a value, and the same in words."""

    holds: Callable[[Any], bool]
    words: str
    choices: tuple = ()


POSITIVE = Check(lambda v: v > 0, "above 0")
NOT_NEGATIVE = Check(lambda v: v >= 0, "0 or more")
BELOW_ONE = Check(lambda v: 0 <= v < 1, "0 up to below 1")
ANYTHING = Check(lambda v: True, "")


def one_of(*choices: str | int) -> Check:
    return Check(lambda v: v in choices, " or ".join(map(str, choices)), choices)


def between(low: float, high: float) -> Check:
    return Check(lambda v: low <= v <= high, f"{low} to {high}")


FRACTION = between(0, 1)


def setting(default: Any, help: str, check: Check = ANYTHING, metavar: str = "") -> Any:
    """Declare a field of Config; `metavar` is by default N or the last word of its name."""
    return field(default=default, metadata={"help": help, "check": check, "metavar": metavar})


# Headings of --help, each above the field named.
HEADINGS = {
    "data": "data",
    "variant": "model",
    "epochs": "optimization",
    "rotation": "augmentation",
    "teacher": "distillation",
    "out": "run",
}
TEXTS = tuple[str, ...]
# Types of fields: whether a value has one, and the same in words. A bool is not a number.
TYPES = {
    str: Check(lambda v: type(v) is str, "a text"),
    bool: Check(lambda v: type(v) is bool, "true or false"),
    int: Check(lambda v: type(v) is int, "a whole number"),
    float: Check(lambda v: type(v) in (int, float) and math.isfinite(v), "a number"),
    TEXTS: Check(lambda v: type(v) is tuple and all(type(text) is str for text in v), "texts"),
}


@dataclass(frozen=True)
class Config:
    """All settings of a training run, stored in its checkpoints as a dict."""

    data: TEXTS = setting(
        ("data/train",),
        "training sources: trees of class folders, .gnt files or folders of .gnt files; DIR@N is "
        "repeated N times per epoch",
    )
    val_data: str = setting("", "validation source; default: held-out writers", metavar="DIR")
    val_fraction: float = setting(0.1, "fraction of writers held out for validation", BELOW_ONE)
    classes: str = setting(
        "all",
        "classes to train on: level1, symbols, digits, letters, punctuation, all (with "
        "--synthetic: level1), a number N (the first N in GB order) or a file of characters",
        metavar="SPEC",
    )
    size: int = setting(80, "side length of the input in pixels", between(16, 512))
    workers: int = setting(0, "processes that decode images; 0: one per core", NOT_NEGATIVE)
    synthetic: bool = setting(False, "train on endless synthetic handwriting instead of --data")
    synthetic_epoch: int = setting(100_000, "samples per epoch with --synthetic", POSITIVE)

    variant: str = setting("small", "MobileNetV3 variant", one_of("small", "large"))
    width: float = setting(1.0, "width multiplier", between(0.01, 8))
    stem_stride: int = setting(2, "stride of the stem", one_of(1, 2))
    last_stride: int = setting(2, "stride of the last stage", one_of(1, 2))
    head: int = setting(256, "width of the last hidden layer; 0: as in the paper", between(0, 8192))
    dropout: float = setting(0.1, "dropout before the classifier", BELOW_ONE)

    epochs: int = setting(30, "number of epochs", POSITIVE)
    batch_size: int = setting(256, "batch size, summed over all processes", POSITIVE)
    lr: float = setting(3e-3, "peak learning rate of AdamW", POSITIVE)
    warmup: float = setting(0.02, "fraction of steps used for linear warm-up", FRACTION)
    weight_decay: float = setting(0.05, "weight decay, except of norms and biases", NOT_NEGATIVE)
    label_smoothing: float = setting(0.1, "label smoothing", BELOW_ONE)
    ema: float = setting(0.999, "EMA decay per step; 0: no EMA", BELOW_ONE)

    rotation: float = setting(10.0, "maximum rotation in degrees", NOT_NEGATIVE)
    shear: float = setting(0.2, "maximum shear as a fraction of the side", NOT_NEGATIVE)
    scale: float = setting(0.15, "maximum |log(scale)|; 0.15 is about ±16 %%", NOT_NEGATIVE)
    shift: float = setting(0.04, "maximum shift as a fraction of the side", NOT_NEGATIVE)
    elastic: float = setting(1.5, "std of elastic displacements in px, at 64 px", NOT_NEGATIVE)
    stroke: float = setting(0.5, "probability of thicker or thinner strokes", FRACTION)
    blur: float = setting(0.3, "probability of blur", FRACTION)
    coarse: float = setting(0.0, "probability of a low-resolution binary image", FRACTION)
    leftovers: float = setting(
        0.1, "probability of lines, frames or a neighbour beside the character", FRACTION
    )

    teacher: str = setting("", "checkpoint or ONNX file to distil from", metavar="FILE")
    teacher_scale: float = setting(1.0, "value of full ink in the teacher's input", POSITIVE)
    teacher_margin: int = setting(
        -1, "margin of the teacher's input in pixels; -1: 1/32 of the side", between(-1, 64)
    )
    unlabelled: TEXTS = setting((), "more sources, used without labels (needs --teacher)")
    outliers: TEXTS = setting(
        (), "sources of images without a character; their target is the uniform distribution"
    )
    teacher_weight: float = setting(0.7, "weight of the teacher's probabilities", FRACTION)
    logit_weight: float = setting(
        0.0, "weight of the squared error to the teacher's logits", NOT_NEGATIVE
    )

    out: str = setting("runs/train", "folder for checkpoints and logs", metavar="DIR")
    resume: bool = setting(False, "resume from last.pt in --out; give --data if it has moved")
    init_from: str = setting("", "checkpoint to start from; its classes may differ", metavar="FILE")
    keep_classes: bool = setting(False, "keep the classes of --init-from that --data lacks")
    seed: int = setting(0, "random seed", between(0, 2**63 - 1))
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    amp: str = setting(
        "auto", "precision; auto: 16-bit with CUDA", one_of("auto", "fp32", "bf16", "fp16")
    )
    compile: bool = setting(False, "torch.compile network and teacher (needs a C++ compiler)")
    threads: int = setting(0, "CPU threads; 0: PyTorch's default", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for check in (TYPES[item.type], item.metadata["check"]):
                if not check.holds(value):
                    raise ValueError(f"{flag(item.name)} is {value!r}, expected {check.words}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values (lists for tuples), as stored in checkpoints."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def default_checkpoint() -> str:
    """Return the default checkpoint: runs/train/best.pt if it exists, else the shipped one."""
    own = os.path.join(Config.out, "best.pt")
    return own if os.path.isfile(own) else DEFAULT_CHECKPOINT


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a config; unknown settings are ignored.

    Raises ValueError if a value has the wrong type or fails its check.
    """
    known = Config.__dataclass_fields__
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return Config(**kept)


def flag(name: str) -> str:
    """Return the command-line name of a field."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add fields (all, or those named) to a parser, grouped, with defaults in the help.

    The parsed namespace holds only what was given, so that a resumed run can tell.
    """
    chosen = set(names or Config.__dataclass_fields__)
    for item in fields(Config):
        if item.name in HEADINGS:
            group = parser.add_argument_group(HEADINGS[item.name])
        if item.name not in chosen:
            continue
        word = "N" if item.type is int else item.name.split("_")[-1].upper()
        metavar = item.metadata["metavar"] or word
        options: dict[str, Any] = {"type": item.type, "metavar": metavar}
        default = item.default
        if choices := item.metadata["check"].choices:
            options = {"type": item.type, "choices": choices}
        elif item.type is bool:
            options, default = {"action": "store_true"}, ""
        elif item.type == TEXTS:
            options, default = {"nargs": "+", "metavar": "DIR"}, " ".join(default)
        text = item.metadata["help"] + (f" (default: {default})" if default != "" else "")
        group.add_argument(flag(item.name), default=argparse.SUPPRESS, help=text, **options)


def add_checkpoint(parser: Any, what: str = "checkpoint (.pt) or exported network (.onnx)") -> None:
    """Add --checkpoint to a parser or group; `default_checkpoint` is the default."""
    default = "runs/train/best.pt if it exists, else the shipped weights"
    parser.add_argument("--checkpoint", metavar="FILE", help=f"{what} (default: {default})")


def add_reading(parser: Any) -> None:
    """Add --checkpoint and --classes."""
    add_checkpoint(parser)
    parser.add_argument("--classes", default="all", metavar="SPEC",
        help="restrict predictions to level1, symbols, digits, letters, punctuation, a number N "
        "(the first N in GB order) or a file of characters (default: all classes of the "
        "checkpoint)")  # fmt: skip


def from_arguments(arguments: argparse.Namespace) -> Config:
    """Build the config from parsed arguments; fields that a script does not show keep defaults."""
    return from_dict(vars(arguments))
