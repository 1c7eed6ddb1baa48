"""A checkpoint: weights, classes, config and metrics in one file; the one place that reads one.

    python checkpoint.py checkpoints/small80.pt               # say what is in it
    python checkpoint.py runs/train/best.pt small.pt          # half the size, to share
    python checkpoint.py runs/train/best.pt small.pt --temperature 0.6   # test.py says it

    from checkpoint import load, build_model
    loaded = load("checkpoints/small80.pt")                   # plain dict, weights_only
    model = build_model(loaded).eval()

    key        content
    format     1
    model      state dict of the bare module (EMA weights), float32 or float16
    config     dict of config.Config
    classes    str (index = label), or a list of str where a label is not one character
    metrics    dict of numbers: top1, top5, val_loss, and what else was measured
    epoch      epochs that were finished
    made_with  versions
    resume     last.pt only: raw weights, optimizer, scaler, position in the schedule

What is loaded was checked first: the file's checksums, each entry by name, type and range, then
that the weights are those of the network that config and classes describe. Files are written to a
temporary name and renamed, so a killed run leaves the file of before.
Left out: ONNX files (see recognizer.py and export.py), old formats.
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

from config import from_dict
from jobs.command import command, sentence
from jobs.files import write_file
from model import mobilenet_v3

FORMAT = 1
# What a model is built from; the rest of the config does not change its shape.
ARCHITECTURE = ("variant", "width", "stem_stride", "last_stride", "head", "dropout")
CLASSES = 100_000  # at most
FLOATS = torch.float16, torch.bfloat16, torch.float32
SCHEMA = {"format": int, "model": dict, "config": dict, "classes": (str, list), "metrics": dict,
          "epoch": int}  # fmt: skip
REJECT = ("scale", "offset", "threshold")  # of metrics["reject"]
LARGEST = 1e30  # number of the metrics


def join_classes(classes: Sequence[str]) -> str | list[str]:
    """Return one str where every label is one character, else the list; index = label in both."""
    return "".join(classes) if all(len(label) == 1 for label in classes) else list(classes)


def save(
    path: str | Path,
    model: Mapping[str, Tensor],
    config: Mapping,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    epoch: int,
    resume: Mapping | None = None,
) -> None:
    """Write a checkpoint; see the module's table."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {name: tensor.detach().cpu() for name, tensor in model.items()},
        "config": dict(config),
        "classes": join_classes(classes),
        "metrics": dict(metrics),
        "epoch": epoch,
        "made_with": {
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    }
    if resume is not None:
        content["resume"] = dict(resume)
    data = io.BytesIO()  # torch.save raises a RuntimeError of its own where the disk is full
    torch.save(content, data)
    write_file(path, data.getbuffer())


def load(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU.

    Raises FileNotFoundError, or ValueError for what is none of this repository, or newer.
    """
    path = Path(path)
    if not path.is_file():
        mend = "train one (python train.py) or name another (--checkpoint FILE)"
        raise FileNotFoundError(f"{path}: no such checkpoint; {mend}")
    data = path.read_bytes()
    check_file(path, data)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make it raise almost anything
        raise ValueError(f"{path}: not a readable checkpoint ({sentence(error)[:120]})") from None
    try:
        check(loaded)
        if sum(tensor.nbytes for tensor in loaded["model"].values()) > len(data):
            raise ValueError("its weights share memory")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a checkpoint of this repository: {error}") from None
    loaded = {key: loaded[key] for key in (*SCHEMA, "made_with", "resume") if key in loaded}
    loaded["model"] = cast(loaded["model"], torch.float32)  # shipped files hold float16
    loaded["classes"] = list(loaded["classes"])
    return loaded


def cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights with all floats in one precision."""
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}


def check_file(path: Path, data: bytes) -> None:
    """Raise ValueError for a file that torch.save has not written, or that has changed since.

    PyTorch itself compares no checksums: a flipped bit of a weight would be loaded as it is.
    """
    reason = "not a file of torch.save, or cut off"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                reason = "a compressed archive"
            elif any(info.external_attr & 0x10 for info in infos):  # PyTorch reads nothing of them
                reason = "damaged: parts of it are marked as folders"
            elif sum(info.file_size for info in infos) > len(data):
                reason = "its parts are larger than the file"
            elif (name := archive.testzip()) is None:
                return
            else:
                reason = f"damaged: the checksum of {name} is wrong; copy or download it again"
    except Exception:  # a damaged directory makes zipfile raise almost anything
        pass
    expected = "expected a .pt file of train.py"
    raise ValueError(f"{path}: not a readable checkpoint ({reason}); {expected}")


def check(loaded: object) -> None:
    """Raise ValueError for the first entry that is missing, of another type, or out of range."""
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, expected a dict")
    if missing := SCHEMA.keys() - loaded.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    loaded = {"made_with": {}, "resume": {}} | loaded
    for key, kind in (SCHEMA | {"made_with": dict, "resume": dict}).items():
        if not isinstance(loaded[key], kind) or isinstance(loaded[key], bool):
            raise ValueError(f"{key} is a {type(loaded[key]).__name__}")
    if not 1 <= loaded["format"] <= FORMAT:
        raise ValueError(f"format is {loaded['format']}, this code reads up to {FORMAT}; update")
    if loaded["epoch"] < 0:
        raise ValueError(f"epoch is {loaded['epoch']}, expected 0 or more")
    if not all(isinstance(version, str) for version in loaded["made_with"].values()):
        raise ValueError("made_with is no table of versions")
    check_classes(loaded["classes"])
    check_metrics(loaded["metrics"])
    config = loaded["config"]
    if missing := {"size", *ARCHITECTURE} - config.keys():
        raise ValueError(f"its config lacks {', '.join(sorted(missing))}")
    try:
        from_dict(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its config: {error}") from None
    check_weights(loaded["model"], skeleton(loaded).state_dict())


def check_metrics(metrics: dict) -> None:
    """Check that metrics are numbers, and `reject` (see recognizer.character_score) three."""
    reject = metrics.get("reject", dict.fromkeys(REJECT, 0.0))
    if not isinstance(reject, dict) or set(reject) != set(REJECT):
        raise ValueError(f"metrics: reject is {reject!r}, expected {', '.join(REJECT)}")
    numbers = {key: value for key, value in metrics.items() if key != "reject"}
    for key, value in [*numbers.items(), *reject.items()]:
        if not isinstance(key, str) or type(value) not in (int, float):
            raise ValueError(f"metrics: {key!r} is a {type(value).__name__}, expected a number")
        if abs(value) > LARGEST or (key in reject and value != value):
            raise ValueError(f"metrics: {key} is out of range")


def check_classes(classes: str | list) -> None:
    """Check that labels are different texts, one or more."""
    if not 1 <= len(classes) <= CLASSES:
        raise ValueError(f"classes are {len(classes)}, expected 1 to {CLASSES:,}")
    if not all(isinstance(label, str) and label for label in classes):
        raise ValueError("classes are not all texts")
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
        if tensor.shape != expected[name].shape:
            wanted = tuple(expected[name].shape)
            said = f"{name} is {tuple(tensor.shape)}, its config and classes want {wanted}"
            raise ValueError(said)
        if tensor.dtype not in (FLOATS if expected[name].is_floating_point() else [torch.int64]):
            raise ValueError(f"{name} is of type {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not finite")
        if name.endswith("running_var") and tensor.min() < 0:
            raise ValueError(f"{name} holds variances below 0")


def skeleton(loaded: Mapping) -> nn.Module:
    """Return the network of a checkpoint without memory for its weights."""
    architecture = {key: loaded["config"][key] for key in ARCHITECTURE}
    with torch.device("meta"):
        return mobilenet_v3(num_classes=len(loaded["classes"]), **architecture)


def build_model(loaded: Mapping) -> nn.Module:
    """Rebuild the network of a loaded checkpoint, with its weights."""
    model = skeleton(loaded)
    own = {name: tensor.clone() for name, tensor in loaded["model"].items()}
    model.load_state_dict(own, assign=True)
    return model


def transfer(model: nn.Module, classes: Sequence[str], loaded: Mapping) -> int:
    """Copy a checkpoint's weights into a model with other classes, or with a narrower head.

    Rows of the classifier are copied for shared labels; rows of new labels stay as they are.
    Returns the number of shared labels; ValueError if the networks differ in more than that.
    """
    target = model.state_dict()
    source = narrow_head(loaded["model"], len(target["classifier.0.weight"]))
    row = {label: i for i, label in enumerate(loaded["classes"])}
    shared = [(i, row[label]) for i, label in enumerate(classes) if label in row]
    for name in ("classifier.3.weight", "classifier.3.bias"):
        old = source.pop(name)
        if shared and old.shape[1:] == target[name].shape[1:]:
            here, there = map(list, zip(*shared, strict=True))
            target[name][here] = old[there]
    for name, tensor in source.items():
        if name not in target or target[name].shape != tensor.shape:
            here = tuple(target[name].shape) if name in target else "absent"
            said = f"{name} is {tuple(tensor.shape)} in the checkpoint and {here} in this model"
            mend = "give the same --variant and --width as the checkpoint, and no larger --head"
            raise ValueError(f"--init-from: {said}; {mend}")
        target[name] = tensor
    model.load_state_dict(target)
    return len(shared)


def narrow_head(weights: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Return a state dict with at most `width` units before the classifier, those that weigh most.

    A unit weighs as much as the norms of its rows in and out, multiplied (magnitude pruning).
    """
    narrow = dict(weights)
    inward, outward = narrow["classifier.0.weight"], narrow["classifier.3.weight"]
    kept = (inward.norm(dim=1) * outward.norm(dim=0)).topk(min(width, len(inward))).indices
    kept = kept.sort().values  # all of them: the same tensors
    for name in ("classifier.0.weight", "classifier.0.bias"):
        narrow[name] = narrow[name][kept]
    narrow["classifier.3.weight"] = outward[:, kept]
    return narrow


def soften(loaded: dict, temperature: float) -> None:
    """Divide a loaded checkpoint's logits by a temperature, in its last layer, in place.

    Readings and their order stay; probabilities become higher below 1 and lower above.
    """
    for name in ("classifier.3.weight", "classifier.3.bias"):
        loaded["model"][name] = loaded["model"][name] / temperature
    loaded["metrics"] = {**loaded["metrics"], "temperature": temperature}
    loaded["metrics"].pop("reject", None)  # was of the logits before


def favour(loaded: dict, spec: str, amount: float) -> None:
    """Add an amount to the logits of some classes of a loaded checkpoint, in place: a prior."""
    from hwdb.characters import select_classes

    chosen = set(select_classes(spec, "--favour") or loaded["classes"])
    rows = torch.tensor([label in chosen for label in loaded["classes"]])
    loaded["model"]["classifier.3.bias"] = loaded["model"]["classifier.3.bias"] + amount * rows


def average(loaded: dict, other: Mapping, share: float) -> None:
    """Move a loaded checkpoint's weights by a share towards those of another, in place.

    Both should come from the same weights, or the mean reads nothing (Wortsman et al. 2022, "Model
    soups"). Rows of classes that the other does not know stay. ValueError for another network.
    """
    for key in ARCHITECTURE:
        if (mine := loaded["config"][key]) != (theirs := other["config"][key]):
            raise ValueError(f"--average: {key} is {theirs} there, and {mine} here")
    model = build_model(loaded)
    transfer(model, loaded["classes"], other)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            loaded["model"][name] = loaded["model"][name].float().lerp(tensor.float(), share)
    kept = loaded["metrics"].items()
    loaded["metrics"] = {key: value for key, value in kept if key not in ("temperature", "reject")}


def without_folders(config: Mapping) -> dict:
    """Return a config to share: of each path only the last part, which says what it was."""
    short = dict(config)
    for key in ("val_data", "teacher", "init_from", "fonts", "out"):
        short[key] = Path(config.get(key, "")).name
    for key in ("data", "unlabelled", "outliers"):
        short[key] = tuple(Path(source).name for source in config.get(key, ()))
    return short


def describe(loaded: Mapping) -> str:
    """Return what a checkpoint holds, but for the weights, as JSON."""
    content = {key: value for key, value in loaded.items() if key not in ("model", "resume")}
    content["classes"] = join_classes(loaded["classes"])
    content["number_of_classes"] = len(loaded["classes"])
    content["parameters"] = sum(p.numel() for p in skeleton(loaded).parameters())
    return json.dumps(content, ensure_ascii=False, indent=1, default=str, skipkeys=True)


@command
def main(argv: list[str] | None = None) -> int:
    """Say what is in a checkpoint, or write it with float16 weights."""
    parser = argparse.ArgumentParser(
        description="Say what is in a checkpoint; with a second file, write it there to share: "
        "weights in float16, no training state, no folders of this machine."
    )
    add = parser.add_argument
    add("checkpoint", metavar="FILE")
    add("shared", nargs="?", metavar="NEW", help="file to write")
    add("--average", nargs=2, metavar=("OTHER", "SHARE"),
        help="move the weights by a share in 0...1 towards those of another checkpoint, of a run "
        "from the same weights")  # fmt: skip
    add("--temperature", type=float, metavar="T",
        help="divide the logits by T, which test.py --temperature finds: readings stay, "
        "probabilities can be taken at their word")  # fmt: skip
    add("--favour", nargs=2, metavar=("CLASSES", "V"),
        help="add V to the logits of some classes (level1, symbols, N or a file), after the "
        "temperature: a prior, V < 0 for classes that are rare")  # fmt: skip
    add("--reject", type=float, nargs=len(REJECT), metavar=tuple(key.upper() for key in REJECT),
        help="tell characters from what is none by these, which test.py --no-characters finds for "
        "a file whose temperature is set")  # fmt: skip
    given = parser.parse_args(argv)
    for option in ("average", "temperature", "favour", "reject"):
        if getattr(given, option) is not None and not given.shared:
            parser.error(f"--{option} goes with the name of a file to write")
    if given.reject is not None and not 0 < given.reject[-1] < 1:
        parser.error("--reject has a threshold in 0...1")
    if given.temperature is not None and not 0 < given.temperature < 100:
        parser.error("--temperature is above 0")
    if given.average is not None and not 0 < float(given.average[1]) < 1:
        parser.error("--average has a share in 0...1")
    loaded = load(given.checkpoint)
    if given.shared is None:
        print(describe(loaded))
        return 0
    if given.average is not None:
        average(loaded, load(given.average[0]), float(given.average[1]))
    if given.temperature is not None:
        soften(loaded, given.temperature)
    if given.favour is not None:
        favour(loaded, given.favour[0], float(given.favour[1]))
    if given.reject is not None:
        loaded["metrics"]["reject"] = dict(zip(REJECT, given.reject, strict=True))
    loaded["config"] = without_folders(loaded["config"])
    loaded["model"] = cast(loaded["model"], torch.float16)
    check(loaded)  # half precision ends at 65504
    save(given.shared, **{key: loaded[key] for key in SCHEMA if key != "format"})
    print(f"{given.shared}: {os.path.getsize(given.shared) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
