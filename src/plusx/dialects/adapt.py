"""A network's weights for other images and other classes: a new head, a stem for another number of channels."""

from dataclasses import replace

import torch
from torch import Tensor

from plusx.checkpoint import Weights
from plusx.dialects.reports import Tensor as Moved

_STEM, _HEAD = "stem.0.conv.weight", "head.fc."


def with_classes(
    weights: Weights, moved: tuple[Moved, ...], classes: int, seed: int
) -> tuple[Weights, tuple[Moved, ...]]:
    """A fresh head for another number of classes (0: none), drawn as `plusx.build` draws it. Class names are lost."""
    design = weights.design.with_classes(classes)
    if classes == weights.design.head.classes:
        return weights, moved
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(_HEAD)}
    was = f"a head of {weights.design.head.classes} classes"
    moved = tuple(
        Moved(tensor.theirs, "", "dropped", was) if tensor.ours.startswith(_HEAD) else tensor for tensor in moved
    )
    if classes:
        channels = design.stages[-1].width
        generator = torch.Generator().manual_seed(seed)
        fresh = torch.empty(classes, channels).uniform_(-(channels**-0.5), channels**-0.5, generator=generator)
        tensors |= {f"{_HEAD}weight": fresh, f"{_HEAD}bias": torch.zeros(classes)}
        how = f"a head of {classes} classes, seed {seed}"
        moved += tuple(Moved("", f"{_HEAD}{leaf}", "fresh", how) for leaf in ("weight", "bias"))
    return replace(weights, design=design, tensors=tensors, classes=()), moved


def with_in_channels(weights: Weights, moved: tuple[Moved, ...], in_channels: int) -> tuple[Weights, tuple[Moved, ...]]:
    """A stem that takes another number of channels. Mean and std per channel are lost."""
    design = weights.design.with_in_channels(in_channels)
    before = weights.design.stem.in_channels
    if in_channels == before:
        return weights, moved
    tensors = {**weights.tensors, _STEM: _adapted(weights.tensors[_STEM], in_channels)}
    how = f"summed over {before} channels" if in_channels == 1 else f"{before} channels repeated to {in_channels}"
    moved = tuple(
        Moved(tensor.theirs, tensor.ours, "adapted", how) if tensor.ours == _STEM else tensor for tensor in moved
    )
    return replace(weights, design=design, tensors=tensors, mean=(), std=()), moved


def _adapted(weight: Tensor, in_channels: int) -> Tensor:
    """The stem's first weight for other channels: summed to one; else repeated in turn, scaled to keep its sum's size.

    The convention of timm (`adapt_input_conv`), so that a grey image gives what its three equal channels would.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    turns = -(-in_channels // before)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels].contiguous() * (before / in_channels)
