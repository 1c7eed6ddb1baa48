"""The network against the paper's and torchvision's figures."""

import pytest
import torch
import torchvision

from model import (
    LARGE,
    SMALL,
    MobileNetV3,
    SqueezeExcite,
    count_macs,
    main,
    make_divisible,
    mobilenet_v3,
    to_input,
)


def randomize(model: torch.nn.Module) -> None:
    """Give BatchNorm statistics that an identity would not pass."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    ("variant", "width", "parameters"),
    [("large", 1.0, 5_483_032), ("small", 1.0, 2_542_856), ("small", 0.75, None)],
)
def test_equals_torchvision(variant, width, parameters):
    ours = mobilenet_v3(variant, 1000, in_channels=3, width=width).eval()
    theirs = getattr(torchvision.models, f"mobilenet_v3_{variant}")(width_mult=width).eval()
    randomize(theirs)
    assert sum(p.numel() for p in ours.parameters()) == parameters or width != 1
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_training_mode_equals_torchvision():
    ours = mobilenet_v3("small", 10, in_channels=3, dropout=0.0)
    theirs = torchvision.models.mobilenet_v3_small(num_classes=10, dropout=0.0)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 64, 64)
    for model in (ours, theirs):
        model(x).square().mean().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("stem", "last", "side"), [(2, 2, 2), (2, 1, 4), (1, 2, 4), (1, 1, 8)])
def test_strides_decide_the_final_map(stem, last, side):
    model = mobilenet_v3("small", 5, stem_stride=stem, last_stride=last, head=16)
    assert count_macs(model, 64)[1] == side
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


def test_counts_multiply_accumulates():
    nn, model = torch.nn, mobilenet_v3("small", 7)
    model.features = nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1, groups=2),  # 8 x 4 x 4 outputs of 9 inputs: 1152
        nn.BatchNorm2d(8),
        SqueezeExcite(8),  # 8 to 8 and back: 128
        nn.Conv2d(8, 5, 2),  # 5 x 3 x 3 outputs of 32: 1440
    )
    model.classifier = nn.Linear(5, 7)  # 35
    assert count_macs(model, 8, in_channels=2) == (1152 + 128 + 1440 + 35, 3)
    assert model.training and count_macs(model.eval(), 8, 2)[0] == 2755 and not model.training
    assert (model.features[1].running_mean == 0).all()
    # torchvision states 0.06 GFLOPS (multiply-accumulates) for Small at 224 px.
    macs, _ = count_macs(mobilenet_v3("small", 1000, in_channels=3), 224, in_channels=3)
    assert 54e6 < macs < 60e6


def test_without_arguments_it_is_the_paper_s_small_one():
    with torch.device("meta"):
        model, rows, large = mobilenet_v3(), MobileNetV3(SMALL, 5), MobileNetV3(LARGE, 5)
    assert model.classifier[3].weight.shape == (3755, 1024) and model.classifier[2].p == 0.2
    assert model.features[0][0].weight.shape == (16, 1, 3, 3)
    assert (len(model.features), len(large.features)) == (13, 17)
    assert rows.classifier[3].weight.shape == (5, 1024) and rows.classifier[2].p == 0.2
    strides = [m.stride[0] for m in rows.modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides.count(2) == 5 and rows.features[0][0].stride == (2, 2)


def test_width_and_head():
    narrow = mobilenet_v3("small", 10, width=0.5, head=32)
    assert narrow.classifier[0].out_features == 32
    assert narrow.classifier[0].in_features == 6 * make_divisible(96 * 0.5)


@pytest.mark.parametrize(
    "bad",
    [{"variant": "medium"}, {"stem_stride": 3}, {"stem_stride": 0}, {"last_stride": 3},
     {"num_classes": 0}, {"width": 0.0}, {"width": -1.0}, {"head": -1}, {"in_channels": 0}],
)  # fmt: skip
def test_refuses(bad):
    with pytest.raises(ValueError, match="expected"), torch.device("meta"):
        mobilenet_v3(**bad)
    with torch.device("meta"):  # what is just allowed
        mobilenet_v3("large", num_classes=1, width=0.01, head=1, in_channels=1)


def test_prints_the_table(capsys):
    assert main(["--head", "9", "--num-classes", "20", "--width", "0.25"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["variant", "stem", "last", "parameters"] and len(lines) == 7
    assert lines[0][4:] == ["32", "px", "48", "px", "64", "px", "80", "px", "96", "px"]
    assert [line[:3] for line in lines[1:]] == [
        *(["large", *strides] for strides in ("22", "21", "12")),
        *(["small", *strides] for strides in ("22", "21", "12")),
    ]
    for line, strides in ((lines[5], (2, 1)), (lines[6], (1, 2))):
        options = dict(zip(("stem_stride", "last_stride"), strides, strict=True))
        model = mobilenet_v3("small", 20, head=9, width=0.25, **options)
        assert line[3] == f"{sum(p.numel() for p in model.parameters()):,}"
        macs, side = count_macs(model, 64)
        assert line[10:13] == [f"{macs / 1e6:.1f}", "M", f"{side}x{side}"]
    assert main(["--width", "0"]) == 2 and "width=0.0" in capsys.readouterr().err


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    model = mobilenet_v3("small", 1000, head=256)
    seen = set()
    for module in model.modules():
        seen.add(type(module).__name__)
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2  # of one group
            wanted = (2 / fan_out) ** 0.5
            if module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx(wanted, rel=0.1)
                assert abs(module.weight.mean()) < 0.1 * wanted
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert (module.bias == 0).all()
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert module.eps == 1e-3 and module.momentum == 0.1
    assert {"Conv2d", "Linear", "BatchNorm2d"} <= seen


def test_a_glyph_becomes_the_input():
    glyphs = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[[[0, 0.2], [0.4, 1]]]])
    torch.testing.assert_close(to_input(glyphs), expected)
    assert to_input(glyphs.numpy()).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(4, 8), (8, 8), (11, 16), (12, 16), (19, 24), (20, 24), (88, 88), (90, 88), (60.5, 64)],
)
def test_channels_are_multiples_of_eight(channels, rounded):
    assert make_divisible(channels) == rounded
