"""The network against the paper's and torchvision's figures."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from model import mobilenet_v3, to_input


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


def test_counts_multiply_accumulates():
    # torchvision states 0.06 GFLOPS (multiply-accumulates) for Small at 224 px.
    model = mobilenet_v3("small", 1000, in_channels=3)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 224, 224))
    assert 54e6 < counter.get_total_flops() / 4 < 60e6


@pytest.mark.parametrize(("stem", "last", "side"), [(2, 2, 2), (2, 1, 4), (1, 2, 4), (1, 1, 8)])
def test_strides_decide_the_final_map(stem, last, side):
    model = mobilenet_v3("small", 5, stem_stride=stem, last_stride=last, head=16)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    assert model.features(torch.zeros(2, 1, 64, 64)).shape[-1] == side


def test_without_arguments_it_is_the_paper_s_small_one():
    with torch.device("meta"):
        model = mobilenet_v3()
    assert model.classifier[3].weight.shape == (3755, 1024) and model.classifier[2].p == 0.2
    assert model.features[0][0].weight.shape == (16, 1, 3, 3) and len(model.features) == 13
    strides = [m.stride[0] for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides.count(2) == 5 and strides[0] == 2


def test_refuses_another_variant():
    with pytest.raises(ValueError, match="expected one of large, small"):
        mobilenet_v3("medium")


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    model = mobilenet_v3("small", 1000, head=256)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2  # of one group
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert (module.bias == 0).all()


def test_a_glyph_becomes_the_input():
    glyphs = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[[[0, 0.2], [0.4, 1]]]])
    torch.testing.assert_close(to_input(glyphs), expected)
    assert to_input(glyphs.numpy()).shape == (1, 1, 2, 2)
