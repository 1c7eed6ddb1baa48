"""MobileNetV3 (Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2).

    model = mobilenet_v3("small", num_classes=3755)

Modules carry torchvision's names, so that a torchvision state dict loads unchanged when the shapes
agree (``in_channels=3, num_classes=1000, last_stride=2``, the paper's head). Changes for characters
are arguments: one input channel, a stem with stride 1, a last stage with stride 1, another head
width.

Shapes: input (B,1,S,S) float in 0...1 -> logits (B,K) float. S is free; it is halved by the stem
(``stem_stride``), by three blocks, and by the last stage (``last_stride``).
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

# The epsilon is that of the paper's code and torchvision. Their momentum of 0.01 suits batches of
# thousands over hundreds of epochs; in short runs the running statistics would lag behind the
# weights. The averaging of train.py makes up for it.
BN_EPS = 1e-3
BN_MOMENTUM = 0.1


class Bneck(NamedTuple):
    """One row of the paper's tables: kernel, expansion and output channels, SE, h-swish, stride."""

    kernel: int
    expansion: int
    out: int
    se: bool
    hs: bool
    stride: int


# Paper, table 1: kernel, exp size, #out, SE, NL (h-swish or ReLU), s.
LARGE = (
    Bneck(3, 16, 16, False, False, 1),
    Bneck(3, 64, 24, False, False, 2),
    Bneck(3, 72, 24, False, False, 1),
    Bneck(5, 72, 40, True, False, 2),
    Bneck(5, 120, 40, True, False, 1),
    Bneck(5, 120, 40, True, False, 1),
    Bneck(3, 240, 80, False, True, 2),
    Bneck(3, 200, 80, False, True, 1),
    Bneck(3, 184, 80, False, True, 1),
    Bneck(3, 184, 80, False, True, 1),
    Bneck(3, 480, 112, True, True, 1),
    Bneck(3, 672, 112, True, True, 1),
    Bneck(5, 672, 160, True, True, 2),
    Bneck(5, 960, 160, True, True, 1),
    Bneck(5, 960, 160, True, True, 1),
)

# Paper, table 2.
SMALL = (
    Bneck(3, 16, 16, True, False, 2),
    Bneck(3, 72, 24, False, False, 2),
    Bneck(3, 88, 24, False, False, 1),
    Bneck(5, 96, 40, True, True, 2),
    Bneck(5, 240, 40, True, True, 1),
    Bneck(5, 240, 40, True, True, 1),
    Bneck(5, 120, 48, True, True, 1),
    Bneck(5, 144, 48, True, True, 1),
    Bneck(5, 288, 96, True, True, 2),
    Bneck(5, 576, 96, True, True, 1),
    Bneck(5, 576, 96, True, True, 1),
)

# Variant -> block table, head width (the layer before the classifier).
VARIANTS = {"large": (LARGE, 1280), "small": (SMALL, 1024)}


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of `divisor`, never below 90 % of it (paper's code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


# h-swish(x) = x * ReLU6(x + 3) / 6 (paper, section 5.2), as one fused kernel.
HSwish = partial(nn.Hardswish, inplace=True)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, BatchNorm, and an activation unless `act` is None."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act=None
    ) -> None:
        super().__init__(
            nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out, eps=BN_EPS, momentum=BN_MOMENTUM),
            *([act()] if act else []),
        )


class SqueezeExcite(nn.Module):
    """Scale the channels by a gate computed from their means (Hu et al. 2018; paper, section 5.3).

    The squeeze is to a quarter of the *expansion* channels, the gate is the paper's h-sigmoid,
    ReLU6(x + 3) / 6.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)  # (B,C,1,1)
        scale = self.fc2(nn.functional.relu(self.fc1(scale)))
        return x * nn.functional.hardsigmoid(scale)


class InvertedResidual(nn.Module):
    """Expansion 1x1 -> depthwise -> SE -> projection 1x1 (linear); residual where shapes agree.

    SE stands inside the bottleneck, between the depthwise convolution and the projection, and
    nothing follows the residual sum (paper, figure 4).
    """

    def __init__(self, in_channels: int, row: Bneck) -> None:
        super().__init__()
        act = HSwish if row.hs else nn.ReLU
        self.residual = row.stride == 1 and in_channels == row.out
        layers: list[nn.Module] = []
        if row.expansion != in_channels:
            layers.append(ConvNormAct(in_channels, row.expansion, 1, act=act))
        wide = row.expansion
        layers.append(ConvNormAct(wide, wide, row.kernel, row.stride, groups=wide, act=act))
        if row.se:
            layers.append(SqueezeExcite(wide))
        layers.append(ConvNormAct(wide, row.out, 1))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3(nn.Module):
    """MobileNetV3: stem, bottlenecks, last convolution, mean over the map, head.

    Raises ValueError for an unknown variant.
    """

    def __init__(
        self,
        variant: str = "small",  # or "large"
        num_classes: int = 3755,  # K, the number of logits
        in_channels: int = 1,
        width: float = 1.0,  # multiplier of all channel counts but `head`
        stem_stride: int = 2,  # 1 keeps the input's resolution in the stem
        last_stride: int = 2,  # of the last stage; 1 keeps a 64 px glyph at 4x4 instead of 2x2
        head: int = 0,  # width of the layer before the classifier; 0: the paper's times `width`
        dropout: float = 0.2,  # probability, before the classifier
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
        rows, paper_head = VARIANTS[variant]
        head = head or make_divisible(paper_head * width)
        channels = make_divisible(16 * width)
        layers: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, stem_stride, act=HSwish)]
        last = max(i for i, row in enumerate(rows) if row.stride == 2)
        for i, row in enumerate(rows):
            row = row._replace(
                expansion=make_divisible(row.expansion * width),
                out=make_divisible(row.out * width),
                stride=last_stride if i == last else row.stride,
            )
            layers.append(InvertedResidual(channels, row))
            channels = row.out
        layers.append(ConvNormAct(channels, 6 * channels, 1, act=HSwish))
        self.features = nn.Sequential(*layers)
        layers = [nn.Linear(6 * channels, head), HSwish(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(head, num_classes))
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))  # (B,C)
        return self.classifier(x)  # (B,K)


mobilenet_v3 = MobileNetV3  # the name of torchvision's builders


def init_weights(module: nn.Module) -> None:
    """Initialize a layer: He normal (fan out) for convolutions, N(0, 0.01) for linear layers."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # only names and shapes are needed
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


def to_input(glyphs: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn glyphs (B,S,S) uint8 into the network's input (B,1,S,S) float32 in 0...1."""
    tensor = torch.as_tensor(glyphs)
    return tensor.to(device, non_blocking=True).unsqueeze(1).float().div_(255)
