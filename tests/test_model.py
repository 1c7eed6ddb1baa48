"""The network against the paper's and torchvision's figures."""

import pytest
import torch
import torchvision
from conftest import call_script

from model import count_macs, make_divisible, mobilenet_v3


def randomise(model: torch.nn.Module) -> None:
    """Give BatchNorm statistics that an identity would not pass."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(("variant", "parameters"), [("large", 5_483_032), ("small", 2_542_856)])
def test_equals_torchvision(variant, parameters):
    ours = mobilenet_v3(variant, num_classes=1000, in_channels=3, last_stride=2).eval()
    theirs = getattr(torchvision.models, f"mobilenet_v3_{variant}")().eval()
    randomise(theirs)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_training_mode_equals_torchvision():
    ours = mobilenet_v3("small", 10, 3, dropout=0.0)
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
    # torchvision states 0.06 GFLOPS (multiply-accumulates) for Small at 224 px.
    macs, _ = count_macs(mobilenet_v3("small", 1000, 3), 224, in_channels=3)
    assert 54e6 < macs < 60e6


def test_width_and_head():
    narrow = mobilenet_v3("small", 10, width=0.5, head=32)
    assert narrow.classifier[0].out_features == 32
    assert narrow.classifier[0].in_features == 6 * make_divisible(96 * 0.5)


@pytest.mark.parametrize(
    "bad", [{"variant": "medium"}, {"stem_stride": 3}, {"num_classes": 0}, {"width": 0.0}]
)
def test_refuses(bad):
    with pytest.raises(ValueError, match="expected"):
        mobilenet_v3(**bad)


def test_prints_the_table():
    done = call_script("model.py", "--head", "384")
    assert done.returncode == 0
    assert "2,593,963" in done.stdout and "4x4" in done.stdout
