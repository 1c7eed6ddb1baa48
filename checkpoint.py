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
    metrics    dict of float
    epoch      epochs that were finished
    made_with  versions
    resume     last.pt only: raw weights, optimizer, scaler, position in the schedule

Files are written to a temporary name and renamed, so a killed run leaves the file of before.
Left out: ONNX files (see recognizer.py and export.py), old formats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from model import mobilenet_v3

FORMAT = 1
# What a model is built from; the rest of the config does not change its shape.
ARCHITECTURE = ("variant", "width", "stem_stride", "last_stride", "head", "dropout")


def join_classes(classes: Sequence[str]) -> str | list[str]:
    """Return one str where every label is one character, else the list; index = label in both."""
    return "".join(classes) if all(len(label) == 1 for label in classes) else list(classes)


def save(
    path: str | Path,
    model: Mapping[str, torch.Tensor],
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
        "made_with": {"torch": str(torch.__version__), "python": platform.python_version()},
    }
    if resume is not None:
        content["resume"] = dict(resume)
    temporary = path.with_name(path.name + ".part")
    torch.save(content, temporary)
    os.replace(temporary, path)


def load(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this repository, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; train one (python train.py) or name another "
            "(--checkpoint FILE)"
        )
    if not zipfile.is_zipfile(path):  # PyTorch's own words on it are long and lead astray
        raise ValueError(
            f"{path}: not a readable checkpoint (not a file of torch.save, or cut off); expected a "
            ".pt file of train.py"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no pickle make it raise almost anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable checkpoint ({reason})") from None
    missing = {"format", "model", "config", "classes"} - set(
        loaded if isinstance(loaded, dict) else ()
    )
    if missing:
        raise ValueError(
            f"{path}: not a checkpoint of this repository, it lacks {', '.join(sorted(missing))}"
        )
    if loaded["format"] > FORMAT:
        raise ValueError(
            f"{path}: checkpoint format {loaded['format']}, this code reads up to {FORMAT}; update"
        )
    loaded["model"] = {name: widen(tensor) for name, tensor in loaded["model"].items()}
    loaded["classes"] = list(loaded["classes"])
    return loaded


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return floating point weights as float32 (shipped files hold float16)."""
    return tensor.float() if tensor.is_floating_point() else tensor


def build_model(loaded: Mapping) -> nn.Module:
    """Rebuild the network of a loaded checkpoint, with its weights."""
    config = loaded["config"]
    model = mobilenet_v3(
        num_classes=len(loaded["classes"]), **{key: config[key] for key in ARCHITECTURE}
    )
    model.load_state_dict(loaded["model"])
    return model


def transfer(model: nn.Module, classes: Sequence[str], loaded: Mapping) -> int:
    """Copy a checkpoint's weights into a model with other classes, or with a narrower head.

    Rows of the classifier are copied for shared labels; rows of new labels stay as they are.

    Returns:
        Number of shared labels.

    Raises:
        ValueError: the networks differ in more than that.
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
            raise ValueError(
                f"--init-from: {name} is {tuple(tensor.shape)} in the checkpoint and "
                f"{tuple(target[name].shape) if name in target else 'absent'} in this model; "
                "give the same --variant and --width as the checkpoint, and no larger --head"
            )
        target[name] = tensor
    model.load_state_dict(target)
    return len(shared)


def narrow_head(weights: Mapping[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
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


def without_folders(config: Mapping) -> dict:
    """Return a config to share: of each path only the last part, which says what it was."""
    short = dict(config)
    for key in ("val_data", "teacher", "init_from", "fonts", "out"):
        short[key] = Path(config[key]).name
    short["data"] = tuple(Path(source).name for source in config["data"])
    return short


def describe(loaded: Mapping) -> str:
    """Return what a checkpoint holds, but for the weights, as JSON."""
    content = {key: value for key, value in loaded.items() if key not in ("model", "resume")}
    content["classes"] = join_classes(loaded["classes"])
    content["parameters"] = sum(p.numel() for p in build_model(loaded).parameters())
    return json.dumps(content, ensure_ascii=False, indent=1)


def main(argv: list[str] | None = None) -> int:
    """Say what is in a checkpoint, or write it with float16 weights."""
    parser = argparse.ArgumentParser(
        description="Say what is in a checkpoint; with a second file, write it there to share: "
        "weights in float16, no training state, no folders of this machine.",
    )
    parser.add_argument("checkpoint", metavar="FILE")
    parser.add_argument("shared", nargs="?", metavar="NEW", help="file to write")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="divide the logits by T, which test.py --temperature finds: readings stay, "
        "probabilities can be taken at their word",
    )
    given = parser.parse_args(argv)
    if given.temperature is not None and not (given.shared and 0 < given.temperature < 100):
        parser.error("--temperature is above 0, and goes with the name of a file to write")
    try:
        loaded = load(given.checkpoint)
        if given.shared is None:
            print(describe(loaded))
            return 0
        if given.temperature is not None:
            soften(loaded, given.temperature)
        loaded["config"] = without_folders(loaded["config"])
        half = {k: v.half() if v.is_floating_point() else v for k, v in loaded["model"].items()}
        rest = (loaded[key] for key in ("config", "classes", "metrics", "epoch"))
        save(given.shared, half, *rest)
        print(f"{given.shared}: {os.path.getsize(given.shared) / 1e6:.2f} MB")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
