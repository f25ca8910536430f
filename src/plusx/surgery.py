"""Edits that keep the function: `fold` takes batch norms into the convolutions before them.

    norm(W ∗ x) = γ (W ∗ x - μ) / √(σ² + ε) + β  =  (γ / √(σ² + ε)) W ∗ x  +  (β - γ μ / √(σ² + ε))

In use a batch norm is an affine function per channel, so it disappears in the convolution whose output it alone sees.
One that follows an addition (pre-activation blocks) or precedes its own convolution's ReLU stays.
"""

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from plusx.blocks import ResidualBlock
from plusx.network import Network


def fold(net: Network) -> Network:
    """A copy in eval mode, the same function to float tolerance, with every norm folded that can be.

    A folded norm is an `nn.Identity`, and its convolution has a bias, so the copy's parameters are no longer those of
    its Design: it is for use and export. Scales are computed in float64.
    """
    folded = copy.deepcopy(net).eval()
    with torch.no_grad():
        for chain in list(_chains(folded)):
            _fold_chain(chain)
    return folded


def norms(net: nn.Module) -> int:
    """How many batch norms a network has."""
    return sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def _chains(net: Network) -> Iterator[list[tuple[nn.Module, str]]]:
    """Layers of which each sees the output of the one before alone, as (parent, name) of each."""
    yield list(_leaves(net.stem))
    for block in net.blocks():
        assert isinstance(block, ResidualBlock)
        yield list(_leaves(block.branch))
        if block.shortcut is not None:
            yield list(_leaves(block.shortcut))


def _leaves(part: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The layers of nested Sequentials, in the order they run."""
    for name, child in part.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child)
        else:
            yield part, name


def _fold_chain(chain: list[tuple[nn.Module, str]]) -> None:
    for before, after in pairwise(chain):
        conv, norm = getattr(*before), getattr(*after)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _fold_pair(conv, norm)
            setattr(*after, nn.Identity())


def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = norm.weight.double() / torch.sqrt(var.double() + norm.eps)
    bias: Tensor = -mean.double() if conv.bias is None else conv.bias.double() - mean.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter((norm.bias.double() + bias * scale).to(conv.weight.dtype), requires_grad=False)
