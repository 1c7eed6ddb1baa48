"""Every setting in one place: a frozen dataclass -> command line -> dict in the checkpoint.

    python train.py --epochs 5 --lr 0.001        # any field, with dashes
    python train.py --help                       # all fields, with defaults

Each field carries its default, its help and its check. A script shows its part of the fields
(`add_arguments`) and gets a `Config` back (`from_arguments`). Imports nothing of ours.
"""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

# The weights that are shipped.
DEFAULT_CHECKPOINT = os.path.join(os.path.dirname(__file__), "checkpoints", "small80.pt")


class Check(NamedTuple):
    """What a value has to be, and that in words."""

    holds: Callable[[Any], bool]
    words: str
    choices: tuple = ()


AMP = ("auto", "fp32", "bf16", "fp16")
POSITIVE = Check(lambda v: v > 0, "above 0")
NOT_NEGATIVE = Check(lambda v: v >= 0, "0 or more")
BELOW_ONE = Check(lambda v: 0 <= v < 1, "0 up to below 1")
ANYTHING = Check(lambda v: True, "")


def one_of(*choices: str | int) -> Check:
    return Check(lambda v: v in choices, " or ".join(map(str, choices)), choices)


def between(low: float, high: float) -> Check:
    return Check(lambda v: low <= v <= high, f"{low} to {high}")


SHARE = between(0, 1)


def setting(default: Any, help: str, check: Check = ANYTHING) -> Any:
    """Declare a field."""
    return field(default=default, metadata={"help": help, "check": check})


# The help's headings, each above the field named.
HEADINGS = {
    "data": "data",
    "variant": "model",
    "epochs": "optimization",
    "rotation": "augmentation",
    "teacher": "distillation",
    "out": "run",
    "device": "device",
}
TEXTS = tuple[str, ...]
# The types of fields in words.
KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    TEXTS: "texts",
}


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field; a whole number is a float, no bool is a number."""
    if kind == TEXTS:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


@dataclass(frozen=True)
class Config:
    """All settings of a training run; stored in its checkpoints as a dict."""

    data: TEXTS = setting(
        ("data/train",),
        "training sources: trees of class folders, .gnt files or folders of them; DIR@N is seen N "
        "times an epoch",
    )
    val_data: str = setting("", "validation source; default: held-out writers of --data")
    val_fraction: float = setting(0.1, "share of the writers held out for validation", BELOW_ONE)
    classes: str = setting(
        "all",
        "train on: level1, symbols, all (--synthetic: level1), a number N (first N in GB order) or "
        "a file",
    )
    size: int = setting(80, "side of a glyph, pixels", between(16, 512))
    workers: int = setting(0, "processes that decode pictures, 0: one a core", NOT_NEGATIVE)
    synthetic: bool = setting(False, "train on endless synthetic handwriting instead of --data")
    synthetic_epoch: int = setting(100_000, "glyphs in an epoch of --synthetic", POSITIVE)
    fonts: str = setting("", "folder of font files for --synthetic")

    variant: str = setting("small", "MobileNetV3 variant", one_of("small", "large"))
    width: float = setting(1.0, "width multiplier", between(0.01, 8))
    stem_stride: int = setting(2, "stride of the stem", one_of(1, 2))
    last_stride: int = setting(2, "stride of the last stage", one_of(1, 2))
    head: int = setting(256, "width of the last hidden layer, 0: the paper's", between(0, 8192))
    dropout: float = setting(0.1, "dropout before the classifier", BELOW_ONE)

    epochs: int = setting(30, "epochs", NOT_NEGATIVE)
    batch_size: int = setting(256, "samples a step, over all processes", POSITIVE)
    lr: float = setting(3e-3, "peak learning rate of AdamW", POSITIVE)
    final_lr: float = setting(0.01, "learning rate at the end, as a share of --lr", SHARE)
    warmup: float = setting(0.02, "share of all steps with a growing learning rate", SHARE)
    weight_decay: float = setting(0.05, "weight decay; not on norms and biases", NOT_NEGATIVE)
    label_smoothing: float = setting(0.1, "label smoothing", BELOW_ONE)
    clip: float = setting(5.0, "largest gradient norm, 0: no clipping", NOT_NEGATIVE)
    ema: float = setting(0.999, "decay of the averaged weights a step, 0: none", BELOW_ONE)
    sync_bn: bool = setting(False, "BatchNorm statistics over all processes (GPUs)")

    rotation: float = setting(10.0, "degrees", NOT_NEGATIVE)
    shear: float = setting(0.2, "share of the side", NOT_NEGATIVE)
    scale: float = setting(0.15, "log-range of the scale", NOT_NEGATIVE)
    shift: float = setting(0.04, "share of the side", NOT_NEGATIVE)
    elastic: float = setting(1.5, "deviation of the bending, pixels at 64 px", NOT_NEGATIVE)
    stroke: float = setting(0.5, "probability of thicker or thinner strokes", SHARE)
    blur: float = setting(0.3, "probability of a soft picture", SHARE)
    coarse: float = setting(0.0, "probability of a drawing of few pixels, black or white", SHARE)
    erase: float = setting(0.1, "probability of an erased rectangle", SHARE)
    remains: float = setting(0.1, "probability of remains of lines and neighbours", SHARE)

    teacher: str = setting("", "checkpoint or ONNX file to learn from")
    unlabelled: TEXTS = setting(
        (),
        "more pictures (DIR@N as --data), whose labels do not count: the teacher alone says what "
        "they are",
    )
    outliers: TEXTS = setting((), "pictures of no character: all logits are to be alike")
    teacher_weight: float = setting(0.7, "share of the loss that is the teacher's", SHARE)
    logit_weight: float = setting(0.0, "weight of the error in the teacher's logits", NOT_NEGATIVE)
    misread_weight: float = setting(
        1.0, "share of the teacher's part that counts where it misreads a labelled picture", SHARE
    )
    temperature: float = setting(1.0, "softens teacher and student", POSITIVE)
    teacher_live: bool = setting(
        False, "the teacher looks at every augmented view, not once at every glyph (for GPUs)"
    )
    join: float = setting(
        0.0, "probability of halves of two pictures put together, for --teacher-live to read", SHARE
    )
    teacher_input: str = setting(
        "",
        "what an ONNX teacher expects and its metadata do not say: scale=V (value of full ink, "
        "default 1), margin=P (pixels of paper around the ink, default a 32nd of its side), "
        "classes=C (order of its logits: level1, symbols, all or a file); with commas between",
    )

    out: str = setting("runs/train", "folder of checkpoints, log and TensorBoard files")
    resume: bool = setting(False, "go on with OUT/last.pt")
    init_from: str = setting("", "checkpoint to start from; other classes, smaller --head allowed")
    seed: int = setting(0, "seed of everything random", NOT_NEGATIVE)
    save_minutes: float = setting(10.0, "minutes between checkpoints within an epoch", POSITIVE)
    dry_run: bool = setting(False, "two steps and one validation batch, nothing kept")

    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    amp: str = setting("auto", "precision; auto: bf16 or fp16 on GPUs, fp32 on CPUs", one_of(*AMP))
    compile: bool = setting(False, "torch.compile the model")
    threads: int = setting(0, "CPU threads, 0: PyTorch's choice", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        for item in fields(self):
            value, check = getattr(self, item.name), item.metadata["check"]
            if not _is_a(value, item.type):
                raise ValueError(f"{flag(item.name)} is {value!r}, expected {KINDS[item.type]}")
            if not check.holds(value):
                raise ValueError(f"{flag(item.name)} is {value!r}, expected {check.words}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in checkpoints."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def default_checkpoint() -> str:
    """Return what is read where no checkpoint is named: best.pt of `train.py` here, else ours."""
    own = os.path.join(Config.out, "best.pt")
    return own if os.path.isfile(own) else DEFAULT_CHECKPOINT


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a config; ignore settings that this version does not know.

    Raises ValueError if a value is of another type than its setting, or fails its check.
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
    heading, groups = "", {}
    for item in fields(Config):
        heading = HEADINGS.get(item.name, heading)
        if item.name not in chosen:
            continue
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        text, default = item.metadata["help"], item.default
        options: dict[str, Any] = {"metavar": item.name.split("_")[-1].upper()}
        if choices := item.metadata["check"].choices:
            options = {"choices": choices}
        if item.type is bool:
            options = {"action": "store_true"}
        elif item.type == TEXTS:
            options = {"nargs": "+", "metavar": "DIR"}
            default = " ".join(default)
        else:
            options["type"] = type(default)
        if default != "" and item.type is not bool:
            text += f" (default: {default})"
        name = flag(item.name)
        groups[heading].add_argument(name, default=argparse.SUPPRESS, help=text, **options)


def add_checkpoint(parser: Any, what: str = "checkpoint (.pt) or exported network (.onnx)") -> None:
    """Add --checkpoint to a parser or group; `default_checkpoint` is the default."""
    default = "runs/train/best.pt if there is one, else the shipped weights"
    parser.add_argument("--checkpoint", metavar="FILE", help=f"{what} (default: {default})")


def add_reading(parser: Any) -> None:
    """Add --checkpoint and --classes, what to read with and what."""
    add_checkpoint(parser)
    parser.add_argument("--classes", default="all", metavar="WHICH",
        help="read these alone: level1, symbols, all, a number N (the first N in GB order) or a "
        "file of characters (default: all that the checkpoint knows)")  # fmt: skip


def from_arguments(arguments: argparse.Namespace) -> Config:
    """Build the config from parsed arguments; fields that a script does not show keep defaults."""
    return from_dict(vars(arguments))
