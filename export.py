"""Write a checkpoint as an ONNX file, for use without PyTorch and fast on one CPU thread.

    python export.py                                         # checkpoints/small80.onnx
    python export.py --precision int8 --out small80-int8.onnx
    python export.py --checkpoint runs/train/best.pt --precision int8 --calibration data/train
    python test.py --checkpoint small80-int8.onnx            # measured by the same code

Input `glyphs` (N,1,S,S) float32 in 0...1, output `logits` (N,K) float32, whatever the precision;
N is free. The metadata hold `classes` (JSON: a str, or a list where a label is not one character),
`config` (JSON: settings of the training) and `precision`. BatchNorm is folded into convolutions.

    precision   weights in the file                      computed in
    fp32        float32                                  float32
    fp16        float16                                  float32
    int8        int8, a scale for every output channel;  float32; the head in int8
                small kernels float16; without the
                units of gates that never fire

Convolutions stay in float32 arithmetic because that is the faster and the more exact choice: on
maps this small, onnxruntime spends more on quantising between layers than int8 saves, and int8
activations throughout changed three readings in a hundred and cost 0.7 points (6,191 real glyphs of
63 look-alikes, min-max calibration, the best tried); this way it is one in a thousand. What
costs time is reading the head's weights, so the two linear layers work on uint8 inputs (static
ranges, from calibration glyphs). Many hidden units of squeeze-and-excitation die in training, a
third of them in the shipped weights; int8 leaves those out that none of the calibration glyphs
fires, if there are enough of these, down to a multiple of 16. The file is checked against PyTorch
before it takes its name.

Left out: preprocessing (picture.py), other runtimes than onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
from config import DEFAULT_CHECKPOINT
from dataset import scan, stream_glyphs
from model import ConvNormAct, HSwish, InvertedResidual, MobileNetV3, SqueezeExcite, to_input
from picture import to_glyph
from recognizer import load_network

try:
    import onnx
    import onnxruntime  # noqa: F401  (runs the check)
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    missing: str | None = error.name
else:
    missing = None

# HardSwish came with opset 14; a file of opset 17 and IR version 8 loads in onnxruntime >= 1.12.
OPSET, IR_VERSION = 17, 8
GATE = {"alpha": 1 / 6, "beta": 0.5}  # the paper's h-sigmoid
SMALLEST_INT8 = 10_000  # kernels with fewer weights are kept in float16: few bytes, half the error
BLOCK = 16  # channels in a block of onnxruntime's layout with AVX-512; 8 with AVX2
ENOUGH_TO_DROP = 256  # calibration glyphs that tell which hidden units of gates never fire
LARGEST_DIFFERENCE = 1e-3  # of an fp32 export's logits
LEAST_AGREEMENT = 0.98  # of the readings, without a warning
TRAINING_DATA = Path("data/train")
SOME_FILES = 8  # .gnt files that calibration glyphs come from, thousands in each


def fold_batch_norm(block: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of the convolution that equals convolution and BatchNorm."""
    convolution, norm = block[0], block[1]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def quantise_rows(weight: np.ndarray, least: float | np.ndarray = 0.0) -> tuple[np.ndarray, ...]:
    """Return int8 values in -127...127 and the float32 scale, `least` or more, of each row (O,)."""
    scale = np.maximum(np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-12) / 127, least)
    each = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.round(weight / each).astype(np.int8), scale.astype(np.float32)


class Range(NamedTuple):
    """What the input of a layer spans, zero included."""

    low: float
    high: float

    def quantisation(self) -> tuple[np.float32, np.uint8]:
        """Return scale and zero point of uint8, with the range at 0...127 of 0...255.

        Sums of two products then fit into 16 bits, as processors without VNNI need it, and values
        beyond those of the calibration still have room.
        """
        scale = max(self.high - self.low, 1e-6) / 127
        return np.float32(scale), np.uint8(round(-self.low / scale))


class Calibration(NamedTuple):
    """What int8 needs to know of a network's activations.

    Attributes:
        ranges: of the input of every linear layer.
        firing: (n,) int64 of every squeeze-and-excitation: the hidden units worth keeping.
    """

    ranges: Mapping[nn.Module, Range]
    firing: Mapping[nn.Module, Tensor]


def firing_units(highest: Tensor) -> Tensor:
    """Return the indices of the hidden units that ever fire, from the highest value of each (H,).

    Silent ones fill up a multiple of `BLOCK`, without which onnxruntime leaves its blocked layout.
    """
    count = -(-int((highest > 0).sum()) // BLOCK) * BLOCK
    return highest.topk(min(max(count, BLOCK), len(highest))).indices.sort().values


class Graph:
    """The ONNX graph of a network, built layer by layer.

    Args:
        model: in eval mode; its module names become the names in the file.
        precision: see the module's table.
        calibration: for int8.
        side: of a glyph, px; then of the map under way.
    """

    def __init__(
        self, model: nn.Module, precision: str, calibration: Calibration | None, side: int
    ) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.precision, self.calibration, self.side = precision, calibration, side
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node and return the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def kernel(self, name: str, weight: np.ndarray) -> str:
        """Store a kernel as the precision says; onnxruntime widens it once, on loading."""
        if self.precision == "fp32":
            return self.constant(name, weight)
        if self.precision == "fp16" or weight.size < SMALLEST_INT8:
            half = self.constant(name, weight.astype(np.float16))
            return self.node("Cast", half, to=TensorProto.FLOAT)
        # Not DequantizeLinear: onnxruntime would keep that one and run it for every glyph.
        values, scale = quantise_rows(weight)
        wide = self.node("Cast", self.constant(name, values), to=TensorProto.FLOAT)
        return self.node("Mul", wide, self.constant(f"{name}.scale", scale.reshape(-1, 1, 1, 1)))

    def convolution(self, x: str, layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> str:
        name = self.names[layer]
        self.side = -(-self.side // layer.stride[0])  # padding keeps the side but for the stride
        return self.node(
            "Conv",
            x,
            self.kernel(f"{name}.weight", weight.numpy()),
            self.constant(f"{name}.bias", bias.numpy()),
            kernel_shape=layer.kernel_size,
            strides=layer.stride,
            pads=layer.padding * 2,
            group=layer.groups,
        )

    def linear(self, x: str, layer: nn.Linear) -> str:
        """Add a linear layer; in int8, onnxruntime fuses these nodes to one integer product."""
        name, weight, bias = self.names[layer], layer.weight.numpy(), layer.bias.numpy()
        if self.precision != "int8":
            kernel = self.kernel(f"{name}.weight", weight)
            return self.node("Gemm", x, kernel, self.constant(f"{name}.bias", bias), transB=1)
        step, zero = self.calibration.ranges[layer].quantisation()
        inputs = (self.constant(f"{name}.step", step), self.constant(f"{name}.zero", zero))
        x = self.node("DequantizeLinear", self.node("QuantizeLinear", x, *inputs), *inputs)
        # The bias is an int32 in units of both scales: a row of zeros must not make it overflow.
        values, scale = quantise_rows(weight, np.abs(bias) / (2**30 * step))
        kernel = self.node(
            "DequantizeLinear",
            self.constant(f"{name}.weight", values),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.weight_zero", np.zeros(len(scale), np.int8)),
            axis=0,
        )
        added = self.node(
            "DequantizeLinear",
            self.constant(f"{name}.bias", np.round(bias / (step * scale)).astype(np.int32)),
            self.constant(f"{name}.bias_scale", step * scale),
            self.constant(f"{name}.bias_zero", np.zeros(len(scale), np.int32)),
            axis=0,
        )
        return self.node("Gemm", x, kernel, added, transB=1)

    def squeeze_excite(self, x: str, module: SqueezeExcite) -> str:
        """Add the block so that onnxruntime keeps its blocked layout (NCHWc) all through.

        It multiplies in that layout only where it sees equal shapes, so the gate is repeated over
        the map and both shapes are written down; GlobalAveragePool, since it has no ReduceMean.
        """
        kept = slice(None) if self.calibration is None else self.calibration.firing[module]
        gate = self.node("GlobalAveragePool", x)
        gate = self.convolution(gate, module.fc1, module.fc1.weight[kept], module.fc1.bias[kept])
        gate = self.node("Relu", gate)
        gate = self.convolution(gate, module.fc2, module.fc2.weight[:, kept], module.fc2.bias)
        gate = self.node("HardSigmoid", gate, **GATE)
        times = np.array([1, 1, self.side, self.side], np.float32)
        gate = self.node(
            "Resize",
            gate,
            "",
            self.constant(f"{gate}.times", times),
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        shape = ["N", module.fc2.out_channels, self.side, self.side]
        for name in (x, gate):
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            self.shapes.append(info)
        return self.node("Mul", x, gate)

    def add(self, x: str, module: nn.Module) -> str:
        """Add a module that reads x and return the name of its output."""
        if isinstance(module, MobileNetV3):
            x = self.node("GlobalAveragePool", self.add(x, module.features))
            return self.add(self.node("Flatten", x), module.classifier)
        if isinstance(module, ConvNormAct):
            x = self.convolution(x, module[0], *fold_batch_norm(module))
            return self.add(x, module[2]) if len(module) > 2 else x
        if isinstance(module, InvertedResidual):
            y = self.add(x, module.block)
            return self.node("Add", x, y) if module.residual else y
        if isinstance(module, nn.Sequential):
            for layer in module:
                x = self.add(x, layer)
            return x
        if isinstance(module, SqueezeExcite):
            return self.squeeze_excite(x, module)
        if isinstance(module, nn.Linear):
            return self.linear(x, module)
        if isinstance(module, nn.Dropout):
            return x
        return self.node({HSwish: "HardSwish", nn.ReLU: "Relu"}[type(module)], x)


@torch.no_grad()
def to_onnx(
    model: MobileNetV3, loaded: Mapping, precision: str, calibration: Calibration | None = None
) -> onnx.ModelProto:
    """Return the ONNX model of a network in eval mode, with the metadata of its checkpoint.

    `calibration` is for int8 alone, which needs it.
    """
    size, classes = loaded["config"]["size"], loaded["classes"]
    graph = Graph(model, precision, calibration, size)
    last = graph.add("glyphs", model)
    graph.nodes[-1].output[0] = "logits"
    assert graph.nodes[-1].name == last
    shapes = {"glyphs": ["N", 1, size, size], "logits": ["N", len(classes)]}
    glyphs, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mobilenet_v3",
            [glyphs],
            [logits],
            graph.constants,
            value_info=graph.shapes,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="export.py",
    )
    metadata = {
        "classes": json.dumps(checkpoint.join_classes(classes), ensure_ascii=False),
        "config": json.dumps(loaded["config"]),
        "precision": precision,
    }
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@torch.no_grad()
def calibrate(model: nn.Module, glyphs: np.ndarray) -> Calibration:
    """Return what a network in eval mode does over glyphs (N,S,S) uint8.

    The upper end of a range leaves out the largest of 10,000 values: few, but they would coarsen
    all others. Fewer than `ENOUGH_TO_DROP` glyphs say nothing of what never fires.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    gates = [module for module in model.modules() if isinstance(module, SqueezeExcite)]
    seen: dict[nn.Module, list[np.ndarray]] = {layer: [] for layer in layers}
    highest = {gate: gate.fc1.bias.new_full((len(gate.fc1.bias),), -torch.inf) for gate in gates}

    def watch(gate: SqueezeExcite, hidden: Tensor) -> None:
        highest[gate] = highest[gate].maximum(hidden.amax((0, 2, 3)))

    handles = [
        layer.register_forward_pre_hook(lambda layer, x: seen[layer].append(x[0].numpy()))
        for layer in layers
    ]
    handles += [
        gate.fc1.register_forward_hook(lambda _layer, _x, hidden, gate=gate: watch(gate, hidden))
        for gate in gates
    ]
    for start in range(0, len(glyphs), 64):
        model(to_input(glyphs[start : start + 64]))
    for handle in handles:
        handle.remove()
    values = {layer: np.concatenate(parts) for layer, parts in seen.items()}
    ranges = {
        layer: Range(min(0.0, float(v.min())), max(0.0, float(np.quantile(v, 0.9999))))
        for layer, v in values.items()
    }
    if len(glyphs) < ENOUGH_TO_DROP:
        return Calibration(ranges, {gate: torch.arange(len(top)) for gate, top in highest.items()})
    return Calibration(ranges, {gate: firing_units(top) for gate, top in highest.items()})


def some_glyphs(source: str, size: int, classes: list[str], count: int) -> tuple[np.ndarray, str]:
    """Return up to `count` glyphs (n,S,S) uint8 of a source, or else drawn ones, and their origin.

    Raises:
        FileNotFoundError, ValueError: see `dataset.scan`; no class that can be drawn.
    """
    if not source and TRAINING_DATA.is_dir():
        source = str(TRAINING_DATA)
    rng = np.random.default_rng(0)
    if source:
        entries = scan(source)
        entries = [entries[i] for i in rng.permutation(len(entries))]
        some = [e for e in entries if e.folder][:count]
        some += [e for e in entries if not e.folder][:SOME_FILES]
        chunks = list(stream_glyphs(source, some, size, workers=1))
        for problem in [problem for chunk in chunks for problem in chunk.problems]:
            print(f"unreadable: {problem}", file=sys.stderr)
        glyphs = np.concatenate([chunk.glyphs for chunk in chunks])
        if len(glyphs) < 2:
            raise ValueError(f"{source}: {len(glyphs)} readable pictures, expected 2 or more")
        chosen = rng.permutation(len(glyphs))[:count]
        return glyphs[chosen], f"{len(chosen)} glyphs of {source}"
    from synthesis.stream import Source
    from synthesis.templates import stroke_data, symbols

    known = [label for label in classes if label in stroke_data() or label in symbols()]
    if not known:
        raise ValueError("none of the classes can be drawn: give glyphs with --calibration PATH")
    draw = Source(known, seed=0).draw
    return np.stack([to_glyph(draw(i)[0], size) for i in range(count)]), f"{count} synthetic glyphs"


@torch.inference_mode()
def compare(path: Path, model: nn.Module, glyphs: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of logits and the share of equal top-1, file and PyTorch."""
    network = load_network(path)
    largest, equal = torch.zeros(()), 0
    for start in range(0, len(glyphs), 64):
        x = to_input(glyphs[start : start + 64])
        ours, theirs = network.logits(x), model(x)
        largest = torch.maximum(largest, (ours - theirs).abs().max())  # NaN stays NaN
        equal += int((ours.argmax(1) == theirs.argmax(1)).sum())
    return float(largest), equal / len(glyphs)


def export(given: argparse.Namespace) -> None:
    """Write the file, check it and say the figures."""
    if missing:
        raise ValueError(
            f"exporting needs the package {missing}: pip install -r requirements-optional.txt"
        )
    source = Path(given.checkpoint)
    suffix = ".onnx" if given.precision == "fp32" else f"-{given.precision}.onnx"
    out = Path(given.out or source.with_name(source.stem + suffix))
    if out.suffix != ".onnx":
        raise ValueError(f"--out is {out}, expected a name that ends in .onnx")
    if given.samples < 64:
        raise ValueError(f"--samples is {given.samples}, expected 64 or more")
    loaded = checkpoint.load(source)
    if not all(tensor.isfinite().all() for tensor in loaded["model"].values()):
        raise ValueError(f"{source}: some weights are not finite numbers; nothing was written")
    model = checkpoint.build_model(loaded).eval()
    classes, size = loaded["classes"], loaded["config"]["size"]
    glyphs, origin = some_glyphs(given.calibration, size, classes, given.samples)
    # int8 is calibrated on one half, the check is on the other.
    half = len(glyphs) // 2
    calibration = calibrate(model, glyphs[:half]) if given.precision == "int8" else None
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.stem}.{os.getpid()}.part.onnx")
    try:
        onnx.save(to_onnx(model, loaded, given.precision, calibration), temporary)
        difference, agreement = compare(temporary, model, glyphs[half:])
        exact = given.precision != "fp32" or difference <= LARGEST_DIFFERENCE
        if not (exact and math.isfinite(difference)):
            raise ValueError(
                f"logits of {out} differ from PyTorch's by {difference:.2g}, more than rounding "
                "explains; nothing was written"
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{out}: {given.precision}, {len(classes)} classes, {out.stat().st_size / 1e6:.2f} MB")
    print(
        f"against PyTorch on {len(glyphs) - half} of {origin}: largest difference of a logit "
        f"{difference:.2g}, top-1 equal {agreement:.2%}"
    )
    if agreement < LEAST_AGREEMENT:
        print(
            f"warning: {out} reads {1 - agreement:.0%} of them otherwise than the checkpoint; test "
            "it (python test.py), calibrate it with glyphs like those it will read (--calibration) "
            "or take another --precision",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as an ONNX file and check it against PyTorch.",
        epilog="Needs the packages of requirements-optional.txt: onnx, onnxruntime.",
    )
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="checkpoint to export (default: the shipped weights)",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the weights in the file (default: fp32)",
    )
    group.add_argument(
        "--out",
        metavar="FILE.onnx",
        help="file to write (default: the checkpoint's name with .onnx, -fp16.onnx or -int8.onnx)",
    )
    group = parser.add_argument_group("calibration and check")
    group.add_argument(
        "--calibration",
        default="",
        metavar="PATH",
        help="training glyphs for int8 and for the check: tree of class folders or .gnt (default: "
        f"{TRAINING_DATA} if it is there, else synthetic handwriting)",
    )
    group.add_argument(
        "--samples",
        type=int,
        default=2048,
        metavar="N",
        help="glyphs, half to calibrate and half to check (default: %(default)s)",
    )
    given = parser.parse_args(argv)
    try:
        export(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
