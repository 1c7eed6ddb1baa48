"""The network as ONNX nodes, in fp32, fp16 or int8, and what int8 has to know of activations.

    logits = NetworkGraph(model, "int8", calibrate(model, glyphs), side=80).add("glyphs", model)

See export.py for the precisions and why they are as they are.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model import ConvNormAct, HSwish, InvertedResidual, MobileNetV3, SqueezeExcite, to_input
from onnx_graph.graph import Graph

GATE = {"alpha": 1 / 6, "beta": 0.5}  # the paper's h-sigmoid
REPEATED = {"mode": "nearest", "nearest_mode": "floor",
            "coordinate_transformation_mode": "asymmetric"}  # fmt: skip
SMALLEST_INT8 = 10_000  # kernels with fewer weights are kept in float16: few bytes, half the error
BLOCK = 16  # channels in a block of onnxruntime's layout with AVX-512; 8 with AVX2
ENOUGH_TO_DROP = 256  # calibration glyphs that tell which hidden units of gates never fire


def quantize_rows(weight: np.ndarray, least: float | np.ndarray = 0.0) -> tuple[np.ndarray, ...]:
    """Return int8 values in -127...127 and the float32 scale, `least` or more, of each row (O,)."""
    scale = np.maximum(np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-12) / 127, least)
    each = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.round(weight / each).astype(np.int8), scale.astype(np.float32)


class Range(NamedTuple):
    """What the input of a layer spans, zero included."""

    low: float
    high: float

    def quantization(self) -> tuple[np.float32, np.uint8]:
        """Return scale and zero point of uint8, with the range at 0...127 of 0...255.

        Sums of two products then fit into 16 bits, as processors without VNNI need it, and values
        beyond those of the calibration still have room.
        """
        scale = max(self.high - self.low, 1e-6) / 127
        return np.float32(scale), np.uint8(round(-self.low / scale))


class Calibration(NamedTuple):
    """What int8 needs to know of a network's activations."""

    ranges: Mapping[nn.Module, Range]  # of the input of every linear layer
    firing: Mapping[nn.Module, Tensor]  # (n,) int64 of every gate: hidden units worth keeping


def firing_units(highest: Tensor) -> Tensor:
    """Return the indices of the hidden units that ever fire, from the highest value of each (H,).

    Silent ones fill up a multiple of `BLOCK`, without which onnxruntime leaves its blocked layout.
    """
    count = -(-int((highest > 0).sum()) // BLOCK) * BLOCK
    return highest.topk(min(max(count, BLOCK), len(highest))).indices.sort().values


class NetworkGraph(Graph):
    """The ONNX graph of a network in eval mode, built layer by layer; see export.py.

    `side` is that of a glyph, px, then of the map under way.
    """

    def __init__(
        self, model: nn.Module, precision: str, calibration: Calibration | None, side: int
    ) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.precision, self.calibration, self.side = precision, calibration, side

    def kernel(self, name: str, weight: np.ndarray) -> str:
        """Store a kernel as the precision says; onnxruntime widens it once, on loading."""
        if self.precision == "fp32":
            return self.constant(name, weight)
        if self.precision == "fp16" or weight.size < SMALLEST_INT8:
            half = self.constant(name, weight.astype(np.float16))
            return self.node("Cast", half, to=TensorProto.FLOAT)
        # Not DequantizeLinear: onnxruntime would keep that one and run it for every glyph.
        values, scale = quantize_rows(weight)
        wide = self.node("Cast", self.constant(name, values), to=TensorProto.FLOAT)
        return self.node("Mul", wide, self.constant(f"{name}.scale", scale.reshape(-1, 1, 1, 1)))

    def convolution(self, x: str, layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> str:
        name = self.names[layer]
        self.side = -(-self.side // layer.stride[0])  # padding keeps the side but for the stride
        kernel = self.kernel(f"{name}.weight", weight.numpy())
        bias = self.constant(f"{name}.bias", bias.numpy())
        options = {"kernel_shape": layer.kernel_size, "strides": layer.stride}
        options |= {"pads": layer.padding * 2, "group": layer.groups}
        return self.node("Conv", x, kernel, bias, **options)

    def linear(self, x: str, layer: nn.Linear) -> str:
        """Add a linear layer; in int8, onnxruntime fuses these nodes to one integer product."""
        name, weight, bias = self.names[layer], layer.weight.numpy(), layer.bias.numpy()
        if self.precision != "int8":
            kernel = self.kernel(f"{name}.weight", weight)
            return self.node("Gemm", x, kernel, self.constant(f"{name}.bias", bias), transB=1)
        step, zero = self.calibration.ranges[layer].quantization()
        inputs = (self.constant(f"{name}.step", step), self.constant(f"{name}.zero", zero))
        x = self.node("DequantizeLinear", self.node("QuantizeLinear", x, *inputs), *inputs)
        # The bias is an int32 in units of both scales: a row of zeros must not make it overflow.
        values, scale = quantize_rows(weight, np.abs(bias) / (2**30 * step))
        kernel = self.dequantized(f"{name}.weight", values, scale)
        added = np.round(bias / (step * scale)).astype(np.int32)
        added = self.dequantized(f"{name}.bias", added, step * scale)
        return self.node("Gemm", x, kernel, added, transB=1)

    def dequantized(self, name: str, values: np.ndarray, scale: np.ndarray) -> str:
        """Store whole numbers with a scale for each row."""
        zero = np.zeros(len(scale), values.dtype)
        parts = {name: values, f"{name}_scale": scale, f"{name}_zero": zero}
        names = [self.constant(*part) for part in parts.items()]
        return self.node("DequantizeLinear", *names, axis=0)

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
        gate = self.node("Resize", gate, "", self.constant(f"{gate}.times", times), **REPEATED)
        shape = ["N", module.fc2.out_channels, self.side, self.side]
        for name in (x, gate):
            self.shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self.node("Mul", x, gate)

    def add(self, x: str, module: nn.Module) -> str:
        """Add a module that reads x and return the name of its output."""
        if isinstance(module, MobileNetV3):
            x = self.node("GlobalAveragePool", self.add(x, module.features))
            return self.add(self.node("Flatten", x), module.classifier)
        if isinstance(module, ConvNormAct):
            folded = fuse_conv_bn_eval(module[0], module[1])
            x = self.convolution(x, module[0], folded.weight, folded.bias)
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
def calibrate(model: nn.Module, glyphs: np.ndarray) -> Calibration:
    """Return what a network in eval mode does over glyphs (N,S,S) uint8.

    The upper end of a range leaves out the largest of 10,000 values: few, but they would coarsen
    all others. Fewer than `ENOUGH_TO_DROP` glyphs say nothing of what never fires.
    """
    inputs = {module: [] for module in model.modules() if isinstance(module, nn.Linear)}
    hidden = {module: [] for module in model.modules() if isinstance(module, SqueezeExcite)}

    handles = [
        layer.register_forward_hook(lambda _, x, _y, seen=seen: seen.append(x[0].numpy()))
        for layer, seen in inputs.items()
    ] + [
        gate.fc1.register_forward_hook(lambda _, _x, y, seen=seen: seen.append(y.amax((0, 2, 3))))
        for gate, seen in hidden.items()
    ]
    for start in range(0, len(glyphs), 64):
        model(to_input(glyphs[start : start + 64]))
    for handle in handles:
        handle.remove()
    ranges, firing = {}, {}
    for layer, parts in inputs.items():
        values = np.concatenate(parts)
        high = float(np.quantile(values, 0.9999))
        ranges[layer] = Range(min(0.0, float(values.min())), max(0.0, high))
    for gate, parts in hidden.items():
        top = torch.stack(parts).amax(0)
        enough = len(glyphs) >= ENOUGH_TO_DROP
        firing[gate] = firing_units(top) if enough else torch.arange(len(top))
    return Calibration(ranges, firing)
