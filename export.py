"""Write a checkpoint as an ONNX file, for use without PyTorch and fast on one CPU thread.

    python export.py                                         # checkpoints/small80.onnx
    python export.py --precision int8 --out small80-int8.onnx
    python export.py --checkpoint runs/train/best.pt --precision int8 --calibration data/train
    python export.py --precision int8 --input picture        # takes a drawing or scan as it is
    python export.py --page site                             # a page that reads in the browser
    python test.py --checkpoint small80-int8.onnx            # measured by the same code

    --input   takes                                  returns
    glyph     `glyphs` (N,1,S,S) float32 in 0...1,   `logits` (N,K) float32
              prepared by picture/
    picture   `picture` (N,1,H,W) uint8, grey, of    `logits`; `glyph` (N,S,S) uint8, all 0 for a
              any size, dark on light or not         blank picture; `labels` (N,10) int64 and
                                                     `probabilities` (N,10) float32, best first;
                                                     `character_score` (N,) if the weights have one

N is free. The metadata hold `classes` (JSON: a str, or a list where a label is not one character),
`config` (JSON: settings of the training), `precision`, `input`, and `reject` (JSON, see
recognizer.character_score). A file that takes pictures prepares them as picture/ does drawings,
scans and even photos (onnx_graph/preparation.py); rough paper, lines and neighbours need picture/.

    precision   weights in the file
    fp32        float32
    fp16        float16
    int8        int8, a scale for every output channel; small kernels float16

Computed is in float32, but for the head of int8: it is reading its weights that costs time. int8
throughout is slower on maps this small, and cost 0.7 points on 6,191 real look-alikes; this way one
reading in a thousand differs. Many hidden units of squeeze-and-excitation die in training; int8
leaves those out that no calibration glyph fires. The file is checked against PyTorch before it
takes its name.

Left out: other runtimes than onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

import checkpoint
import page
from config import add_checkpoint, default_checkpoint
from jobs.command import check_range, command, needs, printable
from jobs.files import replacing
from model import MobileNetV3, to_input
from packing import scan, stream_glyphs
from picture import is_clean, to_glyph
from recognizer import open_session

try:
    import onnx
    import onnxruntime  # noqa: F401  (runs the check)
    from onnx import TensorProto, helper

    from onnx_graph.graph import Value
    from onnx_graph.network import Calibration, NetworkGraph, calibrate
    from onnx_graph.preparation import prepare
except ImportError as error:
    missing: ImportError | None = error
else:
    missing = None

# HardSwish came with opset 14; a file of opset 17 and IR version 8 loads in onnxruntime >= 1.12.
OPSET, IR_VERSION = 17, 8
READINGS = 10
LARGEST_DIFFERENCE = 1e-3  # of an fp32 export's logits
LEAST_AGREEMENT = 0.98  # of the readings, without a warning
TRAINING_DATA = Path("data/train")
SOME_FILES = 8  # .gnt files that calibration glyphs come from, thousands in each


@torch.no_grad()
def to_onnx(
    model: MobileNetV3,
    loaded: Mapping,
    precision: str,
    calibration: Calibration | None = None,
    takes: str = "glyph",
) -> onnx.ModelProto:
    """Return the ONNX model of a network in eval mode, with the metadata of its checkpoint.

    `calibration` is for int8 alone, which needs it; `takes` is glyph or picture.
    """
    size, classes = loaded["config"]["size"], loaded["classes"]
    reject = loaded.get("metrics", {}).get("reject")
    graph = NetworkGraph(model, precision, calibration, size)
    outputs = {"logits": (TensorProto.FLOAT, ["N", len(classes)])}
    tensor, glyphs = helper.make_tensor_value_info, (TensorProto.FLOAT, ["N", 1, size, size])
    if takes == "glyph":
        entry = tensor("glyphs", *glyphs)
        graph.rename(graph.add("glyphs", model), "logits")
    else:
        entry = tensor("picture", TensorProto.UINT8, ["N", 1, "H", "W"])
        glyph = prepare(Value(graph, "picture"), size)
        graph.rename(glyph.name, "glyph")
        x = (glyph.float() / 255).node("Unsqueeze", np.array([1]))
        graph.shapes.append(tensor(x.name, *glyphs))
        graph.rename(graph.add(x.name, model), "logits")
        outputs["glyph"] = (TensorProto.UINT8, ["N", size, size])
        outputs |= add_readings(graph, min(READINGS, len(classes)), reject)
    results = [tensor(name, *kind) for name, kind in outputs.items()]
    parts = graph.nodes, "mobilenet_v3", [entry], results, graph.constants
    proto = helper.make_model(
        helper.make_graph(*parts, value_info=graph.shapes),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="export.py",
    )
    metadata = {
        "classes": json.dumps(checkpoint.join_classes(classes), ensure_ascii=False),
        "config": json.dumps(loaded["config"]),
        "precision": precision,
        "input": takes,
        "reject": json.dumps(reject),
        "metrics": json.dumps(loaded["metrics"]),
        "made": loaded.get("made_with", {}).get("time", ""),
    }
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def add_readings(graph: NetworkGraph, count: int, reject: Mapping | None) -> dict[str, tuple]:
    """Add what programs would compute from the logits; return the outputs, as in `to_onnx`."""
    logits = Value(graph, "logits")
    shares, most = logits.node("Softmax", axis=1), logits.lift(np.array([count]))
    best = graph.node("TopK", shares.name, most.name, outputs=2)
    graph.rename(best, "labels")
    graph.rename(best.removesuffix("_"), "probabilities")
    outputs = {
        "labels": (TensorProto.INT64, ["N", count]),
        "probabilities": (TensorProto.FLOAT, ["N", count]),
    }
    if reject is not None:
        highest, share = (v.node("ReduceMax", axes=[1], keepdims=0) for v in (logits, shares))
        # highest - log(share) is ReduceLogSumExp, which takes ten times as long.
        energy = highest - share.node("Log") - logits.node("ReduceMean", axes=[1], keepdims=0)
        score = (energy * reject["scale"] + reject["offset"]).node("Sigmoid")
        graph.rename(score.name, "character_score")
        outputs["character_score"] = (TensorProto.FLOAT, ["N"])
    return outputs


def some_glyphs(source: str, size: int, classes: list[str], count: int) -> tuple[np.ndarray, str]:
    """Return up to `count` glyphs (n,S,S) uint8 of a source, or else drawn ones, and their origin.

    Raises as `packing.scan`, and ValueError where no class can be drawn.
    """
    if not source and TRAINING_DATA.is_dir():
        source = str(TRAINING_DATA)
    rng = np.random.default_rng(0)
    if source:
        entries = scan(source)[0]
        entries = [entries[i] for i in rng.permutation(len(entries))]
        some = [e for e in entries if e.folder][:count]
        some += [e for e in entries if not e.folder][:SOME_FILES]
        chunks = list(stream_glyphs(source, some, size, workers=1))
        for problem in sum((chunk.problems for chunk in chunks), []):
            print(f"unreadable: {printable(problem)}", file=sys.stderr)
        glyphs = np.stack([each[0] for chunk in chunks for each in chunk.glyphs])
        if len(glyphs) < 2:
            raise ValueError(f"{source}: {len(glyphs)} readable pictures, expected 2 or more")
        chosen = rng.permutation(len(glyphs))[:count]
        return glyphs[chosen], f"{len(chosen)} glyphs of {source}"
    from synthesis.stream import Handwriting
    from synthesis.templates import stroke_data, symbols

    known = [label for label in classes if label in stroke_data() or label in symbols()]
    if not known:
        raise ValueError("none of the classes can be drawn: give glyphs with --calibration PATH")
    glyph = Handwriting(known, seed=0).glyph
    return np.stack([glyph(i, size)[0] for i in range(count)]), f"{count} synthetic glyphs"


@torch.inference_mode()
def compare(path: Path, model: nn.Module, glyphs: np.ndarray) -> tuple[float, float, int]:
    """Return the largest difference of logits, the share of equal top-1, and of how many glyphs.

    A file that takes pictures gets the glyphs as dark ink on light paper, clean scans alone.
    """
    session = open_session(path)
    entry = session.get_inputs()[0].name
    if entry == "picture":
        pictures = np.stack([255 - glyph for glyph in glyphs if is_clean(255 - glyph)])
        glyphs = np.stack([to_glyph(picture, picture.shape[0]) for picture in pictures])
    largest, equal = torch.zeros(()), 0
    for start in range(0, len(glyphs), 64):
        x = to_input(glyphs[start : start + 64])
        given = pictures[start : start + 64, None] if entry == "picture" else x.numpy()
        ours, theirs = torch.from_numpy(session.run(["logits"], {entry: given})[0]), model(x)
        largest = torch.maximum(largest, (ours - theirs).abs().max())  # NaN stays NaN
        equal += int((ours.argmax(1) == theirs.argmax(1)).sum())
    return float(largest), equal / len(glyphs), len(glyphs)


def export(given: argparse.Namespace, source: Path, out: Path) -> dict:
    """Write the file, check it and say the figures; return the checkpoint's contents."""
    loaded = checkpoint.load(source)
    model = checkpoint.build_model(loaded).eval()
    classes, size = loaded["classes"], loaded["config"]["size"]
    glyphs, origin = some_glyphs(given.calibration, size, classes, given.samples)
    # int8 is calibrated on one half, the check is on the other.
    half = len(glyphs) // 2
    calibration = calibrate(model, glyphs[:half]) if given.precision == "int8" else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        onnx.save(to_onnx(model, loaded, given.precision, calibration, given.input), temporary)
        difference, agreement, count = compare(temporary, model, glyphs[half:])
        exact = given.precision == "fp32" and given.input == "glyph"
        if not math.isfinite(difference) or (exact and difference > LARGEST_DIFFERENCE):
            said = f"logits of {out} differ from PyTorch's by {difference:.2g}"
            raise ValueError(f"{said}, more than rounding explains; nothing was written")
    megabytes = f"{out.stat().st_size / 1e6:.2f} MB"
    print(f"{out}: {given.precision}, {len(classes)} classes, takes a {given.input}, {megabytes}")
    said = f"largest difference of a logit {difference:.2g}, top-1 equal {agreement:.2%}"
    print(f"against PyTorch on {count} of {origin}: {said}")
    if agreement < LEAST_AGREEMENT:
        said = f"{out} reads {1 - agreement:.0%} of them otherwise than the checkpoint"
        mend = "calibrate it with glyphs like yours (--calibration) or take another --precision"
        print(f"warning: {said}; {mend}", file=sys.stderr)
    return loaded


def publish(given: argparse.Namespace, source: Path) -> None:
    """Make a folder with the network and a page that reads with it."""
    page.check_runtime()
    folder = Path(given.page)
    loaded = export(given, source, folder / "network.onnx")
    if any(len(label) != 1 for label in loaded["classes"]):
        raise ValueError(f"{source}: some labels are not one character; the page reads characters")
    threshold = loaded["metrics"].get("reject", {}).get("threshold")
    page.publish(folder, source.name, loaded["classes"], loaded["config"]["size"], threshold)
    print(f"{folder}: a page for any static host; try it: python -m http.server -d {folder}")


@command
def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as an ONNX file and check it against PyTorch.",
        epilog="Needs the packages of requirements-optional.txt: onnx, onnxruntime.",
    )
    group = parser.add_argument_group("what to write")
    add_checkpoint(group, "checkpoint to export")
    add = group.add_argument
    add("--precision", choices=("fp32", "fp16", "int8"),
        help="of the weights in the file (default: fp32; int8 with --page)")  # fmt: skip
    add("--input", choices=("glyph", "picture"),
        help="what the file takes (default: glyph; picture with --page)")  # fmt: skip
    add("--out", metavar="FILE.onnx",
        help="file (default: the checkpoint's name with -picture, -fp16 or -int8)")  # fmt: skip
    add("--page", metavar="DIR",
        help="make a folder for a static host instead: a page that reads in the browser (once "
        "before: npm ci --prefix page)")  # fmt: skip
    add = parser.add_argument_group("calibration and check").add_argument
    add("--calibration", default="", metavar="PATH",
        help="training glyphs for int8 and for the check: tree of class folders or .gnt (default: "
        f"{TRAINING_DATA} if it is there, else synthetic handwriting)")  # fmt: skip
    add("--samples", type=int, default=2048, metavar="N",
        help="glyphs, half to calibrate and half to check (default: %(default)s)")  # fmt: skip
    given = parser.parse_args(argv)
    if missing:
        raise needs("exporting", missing)
    check_range(given, 64, math.inf, "samples")
    source = Path(given.checkpoint or default_checkpoint())
    given.precision = given.precision or ("int8" if given.page else "fp32")
    given.input = given.input or ("picture" if given.page else "glyph")
    if given.page:
        if given.out or given.input != "picture":
            raise ValueError("--page writes network.onnx for pictures; leave --out and --input out")
        publish(given, source)
        return 0
    parts = [part for part in (given.input, given.precision) if part not in ("glyph", "fp32")]
    out = Path(given.out or source.with_name("-".join([source.stem, *parts]) + ".onnx"))
    if out.suffix != ".onnx":
        raise ValueError(f"--out is {out}, expected a name that ends in .onnx")
    export(given, source, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
