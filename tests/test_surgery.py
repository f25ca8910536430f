"""Folding: the same function with fewer norms, for every kind of block."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import plusx
from plusx.design import Order, Shortcut
from plusx.network import Network
from plusx.surgery import fold, norms


def disturbed(net: Network) -> Network:
    """In float64, its norms as after some training."""
    generator = torch.Generator().manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            for values, low, high in (
                (part.weight, 0.5, 2.0),
                (part.bias, -1.0, 1.0),
                (part.running_mean, -1.0, 1.0),
                (part.running_var, 0.2, 3.0),
            ):
                nn.init.uniform_(values, low, high, generator=generator)
    return net.double().eval()


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def same(net: Network, size: int = 16) -> Network:
    folded = fold(net)
    with torch.no_grad():
        exact = net(images(size))
        torch.testing.assert_close(folded(images(size)), exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))
    return folded


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("shortcut", [*get_args(Shortcut), None])
@pytest.mark.parametrize("kind", ["building", "bottleneck"])
def test_every_kind_of_block_keeps_its_function(kind: str, order: str, shortcut: str | None) -> None:
    block = {"kind": kind, "order": order} | ({"shortcut": shortcut} if shortcut else {"skip": False})
    wider = {"width": 16} if shortcut == "identity" else {"width": 32, "stride": 2}
    middle = {"mid": 8} if kind == "bottleneck" else {}
    stages = [{"depth": 1, "width": 16, **middle}, {"depth": 2, "squeeze": 4, **wider, **middle}]
    design = plusx.Design.from_dict({"stem": {"kind": "small"}, "block": block, "stages": stages}).with_classes(7)
    net = disturbed(plusx.build(design, seed=0))
    folded = same(net)
    assert norms(folded) < norms(net)
    if order == "original":
        assert norms(folded) == 0


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet50d", "cifar_preact110", "seresnet18", "resnetv2_50", "wrn16_8"]
)
def test_published_networks_keep_their_function(name: str) -> None:
    same(disturbed(plusx.build(plusx.design(name).with_classes(10), seed=0)), 64)


def test_the_network_itself_is_left_alone() -> None:
    net = plusx.build("cifar_resnet20", seed=0).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold(net)
    assert net.training
    assert not folded.training
    assert norms(net) == 19
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_norm_that_follows_an_addition_stays() -> None:
    design = plusx.Design.from_dict(
        {
            "stem": {"kind": "small"},
            "block": {"kind": "building", "order": "full_preact"},
            "stages": [{"depth": 2, "width": 16}],
        }
    ).with_classes(4)
    net = disturbed(plusx.build(design, seed=0))
    folded = same(net)
    kept = [name for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert kept  # the first of each block, and the head's
    assert all("branch.1" not in name for name in kept)
