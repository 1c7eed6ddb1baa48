"""Export a checkpoint to ONNX, for fast inference on one CPU thread without PyTorch.

    python export.py --checkpoint checkpoints/small80.pt         # writes checkpoints/small80.onnx
    python export.py --checkpoint runs/train/best.pt --precision int8    # runs/train/best-int8.onnx
    python export.py --checkpoint checkpoints/small80.pt --input picture --out reader.onnx
    python export.py --checkpoint checkpoints/small80.pt --page site     # a page that works offline

    --input   input                                  outputs
    glyph     `glyphs` (N,1,S,S) float32 in 0...1,   `logits` (N,K) float32
              prepared by picture/
    picture   `picture` (N,1,H,W) uint8, grey        `logits`; `glyph` (N,S,S) uint8, all 0 for a
                                                     blank picture; `labels` (N,10) int64 and
                                                     `probabilities` (N,10) float32, best first;
                                                     `character_score` (N,), where the checkpoint
                                                     has rejection parameters

N, H and W are dynamic. With --input picture, the file prepares drawings and clean scans itself
(picture/module.py); photos need picture/.

    --precision   weights in the file
    fp32          float32
    fp16          float16
    int8          large kernels int8 with a scale per output channel, small ones float16

Weights are expanded to float32 when the file is loaded. Only the head of int8 is computed in
integers, because it is bound by memory bandwidth. Activations are quantized per sample: no
calibration data is needed, and a prediction does not depend on the rest of the batch.

All metadata is JSON, except `precision` and `input`. The logits are compared with PyTorch's before
the file replaces an older one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
import page
from config import add_checkpoint, default_checkpoint
from jobs.command import command, needs, printable
from jobs.files import replacing
from model import to_input
from picture import to_glyph
from picture.module import ToGlyph
from recognizer import Network, Recognizer, load_network, open_session
from synthesis.stream import Handwriting
from synthesis.templates import stroke_data

missing: ImportError | None = None
try:
    import onnx
    import onnxruntime  # noqa: F401  (runs the check)
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    missing = error

OPSET = 17  # ONNX Runtime 1.12 and later
READINGS = 10
LARGE = 10_000  # weights; smaller kernels stay in float16: few bytes, half the error
HSWISH_LEAST = 0.375  # the smallest value of h-swish is the negative of this, at -1.5
CHECKED = 256  # glyphs
TOLERANCE = 1e-4  # of the logits of fp32, relative to their range


class PictureReader(nn.Module):
    """Preprocessing, network and ranking in one: (N,1,H,W) uint8 -> the outputs of `names`."""

    def __init__(self, model: nn.Module, loaded: Mapping, twins: list) -> None:
        super().__init__()
        self.to_glyph, self.model = ToGlyph(loaded["config"]["size"]), model
        self.count = min(READINGS, len(loaded["classes"]))
        self.reject = loaded["metrics"].get("reject")
        self.names = ["logits", "glyph", "labels", "probabilities"]
        self.names += ["character_score"] if self.reject else []
        pairs = [(symbol, chinese) for chinese, symbols in twins for symbol in symbols]
        symbols, chinese = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
        kept = torch.ones(len(loaded["classes"])).index_fill(0, symbols, 0)
        for name, value in (("symbols", symbols), ("chinese", chinese), ("kept", kept)):
            self.register_buffer(name, value.contiguous())

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        glyph = self.to_glyph(pictures)
        logits = self.model(glyph.unsqueeze(1).float() / 255)
        shares = logits.softmax(1)  # symbols that look like a Chinese character add to its share
        shares = shares.index_add(1, self.chinese, shares[:, self.symbols]) * self.kept
        probabilities, labels = shares.topk(self.count)
        outputs = (logits, glyph, labels, probabilities)
        if not self.reject:
            return outputs
        energy = logits.logsumexp(1) - logits.mean(1)  # recognizer.energy
        score = (self.reject["scale"] * energy + self.reject["offset"]).sigmoid()
        return (*outputs, score)


class IntegerLinear(nn.Module):
    """A linear layer after h-swish as an integer product, (N,H) -> (N,K).

    h-swish is x >= -0.375, so x + 0.375 = step * q with q in 0...255 and one step a sample, and
    x W' = step * (q W') - 0.375 * (sum of W'). Weights are uint8 around 128: int8 would saturate on
    processors without VNNI.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.numpy()
        values, scale = (torch.from_numpy(array) for array in quantize_rows(weight))  # (K,H), (K,1)
        self.register_buffer("weight", (values.short() + 128).byte().T.contiguous())
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", layer.bias - HSWISH_LEAST * torch.from_numpy(weight.sum(1)))

    def forward(self, x: Tensor) -> Tensor:
        positive = x + HSWISH_LEAST
        step = positive.amax(1, keepdim=True) * (1 / 255)
        quantized = (positive / step).round().to(torch.uint8)
        sums = IntegerProduct.apply(quantized, self.weight).float()
        # One by one: ONNX Runtime would fuse the product of scale and step.
        return sums * self.scale * step + self.bias


class IntegerProduct(torch.autograd.Function):
    """MatMulInteger of ONNX: (N,H) uint8 times (H,K) uint8 less 128 -> (N,K) int32."""

    @staticmethod
    def forward(ctx, quantized: Tensor, weight: Tensor) -> Tensor:
        return quantized.int() @ (weight.int() - 128)

    @staticmethod
    def symbolic(g, quantized, weight):
        zeros = (g.op("Constant", value_t=torch.tensor(z, dtype=torch.uint8)) for z in (0, 128))
        return g.op("MatMulInteger", quantized, weight, *zeros)


@torch.no_grad()
def to_onnx(model: nn.Module, size: int, precision: str, path: Path) -> onnx.ModelProto:
    """Return the ONNX model of a network or a PictureReader; `path` is a temporary file."""
    entry, outputs, sides, example = "glyphs", ["logits"], {}, torch.zeros(2, 1, size, size)
    if isinstance(model, PictureReader):
        entry, outputs, sides = "picture", model.names, {2: "H", 3: "W"}
        example = torch.zeros(2, 1, 90, 70, dtype=torch.uint8)
    axes = {name: {0: "N"} for name in outputs} | {entry: {0: "N"} | sides}
    with warnings.catch_warnings():  # of the tracer, and that there is another exporter
        warnings.simplefilter("ignore")
        # The exporter of dynamo=True needs onnxscript, and this one is in PyTorch 2.10 to 2.14.
        torch.onnx.export(
            model, (example,), str(path), input_names=[entry], output_names=outputs,
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    proto = onnx.load(path)
    if precision != "fp32":
        pack(proto.graph, precision)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def pack(graph: onnx.GraphProto, precision: str) -> None:
    """Store the kernels of a graph as float16 or, the large ones, as int8; in place."""
    kernels = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    casts, nodes = [], list(graph.node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in kernels]:
        name, weight = tensor.name, numpy_helper.to_array(tensor)
        graph.initializer.remove(tensor)
        wide, stored = name, weight.astype(np.float16)
        if precision == "int8" and weight.size >= LARGE:
            # Not DequantizeLinear: ONNX Runtime would not fold it, and compute it for every sample.
            stored, scale = quantize_rows(weight)
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            wide = f"{name}.wide"
        graph.initializer.append(numpy_helper.from_array(stored, f"{name}.stored"))
        casts.append(helper.make_node("Cast", [f"{name}.stored"], [wide], to=TensorProto.FLOAT))
        if wide != name:
            casts.append(helper.make_node("Mul", [wide, f"{name}.scale"], [name]))
    del graph.node[:]
    graph.node.extend(casts + nodes)  # in order of computation


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values in -127...127 of weights (O,...), and a float32 scale (O,1,...) a row."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True).clip(1e-12)
    scale = (largest / 127).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def compare(path: Path, takes: str, network: Network) -> tuple[float, float]:
    """Return how far logits of a file differ from a network's, relative to their range, and the
    share of samples with equal top-1, on synthetic handwriting of the classes that can be drawn."""
    session = open_session(path)
    drawn = [label for label in network.classes if label in stroke_data()] or list("永国字")
    handwriting = Handwriting(drawn, seed=0)
    bitmaps = (handwriting.draw(i)[0] for i in range(CHECKED))
    glyphs = np.stack([to_glyph(bitmap, network.size) for bitmap in bitmaps])
    feed = {"glyphs": to_input(glyphs).numpy()}
    if takes == "picture":
        feed = {"picture": 255 - glyphs[:, None]}
        (glyphs,) = session.run(["glyph"], feed)
    (logits,) = session.run(["logits"], feed)
    expected = network.logits(to_input(glyphs).numpy())
    difference = np.abs(logits - expected).max() / max(1, np.ptp(expected))
    return float(difference), float((logits.argmax(1) == expected.argmax(1)).mean())


def export(source: Path, out: Path, precision: str, takes: str) -> None:
    """Write and check a file and print its figures."""
    loaded, network = checkpoint.load(source), load_network(source)
    print(printable(network.summary), file=sys.stderr)
    model = checkpoint.build_model(loaded).requires_grad_(False).eval()
    if precision == "int8":
        model.classifier[3] = IntegerLinear(model.classifier[3])
    if takes == "picture":
        model = PictureReader(model, loaded, Recognizer(network).twins)
    names = ("classes", "config", "metrics", "preprocessing", "made_with")
    described = {name: loaded.get(name) for name in names}
    described |= {"reject": network.reject, "shipped": network.shipped}
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in described.items()}
    metadata |= {"precision": precision, "input": takes}
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        with np.errstate(over="ignore", invalid="ignore"):  # of a broken network; see below
            proto = to_onnx(model, network.size, precision, temporary)
            helper.set_model_props(proto, metadata)
            onnx.save(proto, temporary)
            difference, agreement = compare(temporary, takes, network)
        if not math.isfinite(difference) or (precision == "fp32" and difference > TOLERANCE):
            problem = f"its logits differ from PyTorch's by {difference:.2g} of their range"
            raise ValueError(f"{out}: {problem}; nothing was written")
    megabytes = f"{out.stat().st_size / 1e6:.2f} MB"
    print(f"{out}: {precision}, {len(network.classes)} classes, input {takes}, {megabytes}")
    figures = f"largest difference {difference:.1e} of their range, top-1 equal {agreement:.2%}"
    print(f"logits against PyTorch on {CHECKED} synthetic samples: {figures}")


def publish(source: Path, folder: Path, precision: str) -> None:
    """Make a folder with the network and a page that reads with it."""
    page.check_runtime()
    network = load_network(source)
    if any(len(label) != 1 for label in network.classes):
        raise ValueError(f"{source}: some labels are longer than one character; the page needs one")
    export(source, folder / "network.onnx", precision, "picture")
    described = {
        "reads": "here",
        "summary": f"{source.name}: {len(network.classes)} classes",
        "size": network.size,
        "classes": "".join(network.classes),
        "threshold": network.reject and network.reject["threshold"],
        "twins": Recognizer(network).twins,
    }
    page.publish(folder, described)
    print(f"{folder}: for any static host; to try it: python -m http.server -d {folder}")


@command
def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_checkpoint(parser, "checkpoint to export")
    add = parser.add_argument
    add("--precision", choices=("fp32", "fp16", "int8"),
        help="precision of the weights in the file (default: fp32; int8 with --page)")  # fmt: skip
    add("--input", choices=("glyph", "picture"),
        help="input of the network: a preprocessed glyph, or a grey image (default: glyph; "
        "picture with --page)")  # fmt: skip
    add("--out", metavar="FILE.onnx",
        help="file to write (default: next to the checkpoint, as best-int8.onnx)")  # fmt: skip
    add("--page", metavar="DIR",
        help="create a static web page that runs the network in the browser; first run "
        "npm ci --prefix page")  # fmt: skip
    given = parser.parse_args(argv)
    if missing:
        raise needs("exporting", missing)
    source = Path(given.checkpoint or default_checkpoint())
    if given.page:
        if given.out or given.input == "glyph":
            raise ValueError("--page writes network.onnx with --input picture; omit --out, --input")
        publish(source, Path(given.page), given.precision or "int8")
        return 0
    precision, takes = given.precision or "fp32", given.input or "glyph"
    parts = [part for part in (takes, precision) if part not in ("glyph", "fp32")]
    out = Path(given.out or source.with_name("-".join([source.stem, *parts]) + ".onnx"))
    if out.suffix != ".onnx":
        raise ValueError(f"--out is {out}, expected a name that ends in .onnx")
    export(source, out, precision, takes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
