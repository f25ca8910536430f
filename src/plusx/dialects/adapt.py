"""A network's weights for other images and other classes: a new head, a stem for another number of channels.

And what the caller says beside the tensors: the classes' names, the size of the images, their mean and std.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plusx.checkpoint import Weights, checked
from plusx.dialects.reports import Tensor as Moved
from plusx.errors import WeightsError

_STEM, _HEAD = "stem.0.conv.weight", "head.fc."
_IMAGENET = " (torchvision's ImageNet networks: 224, 0.485,0.456,0.406 and 0.229,0.224,0.225)"


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


def stated(
    classes: str | Path | Sequence[str] | None,
    input_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict[str, Any]:
    """What the caller says of all this, by name; `classes` may be a file. Raises WeightsError for one that is wrong."""
    names = _class_names(Path(classes)) if isinstance(classes, str | Path) else classes
    given = {"classes": names, "input_size": input_size, "mean": mean, "std": std}
    return {name: value for name, value in given.items() if value is not None}


def with_stated(weights: Weights, facts: Mapping[str, Any], where: str) -> Weights:
    """The caller's word instead of the file's. Raises WeightsError where it does not fit the Design."""
    return checked(replace(weights, **facts), where) if facts else weights


def unknown(weights: Weights) -> tuple[str, ...]:
    """What predict and evaluate would want to know and these weights do not tell, and the options that say it."""
    design, notes = weights.design, []
    if design.head.classes < 1:
        return ()
    if missing := [name for name in ("input_size", "mean", "std") if not getattr(weights, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        plural = "are" if len(missing) > 1 else "is"
        note = f"{', '.join(missing)} {plural} not known, which predict and evaluate need: say {options}"
        like_imagenet = design.head.classes == 1000 and design.stem.in_channels == 3 and design.stem.kind != "small"
        notes.append(note + _IMAGENET if like_imagenet else note)
    if not weights.classes:
        notes.append("names of the classes are not known, so they go by number: say --classes FILE, one name per line")
    return tuple(notes)


def _class_names(path: Path) -> tuple[str, ...]:
    """One name per line, in the order of the logits. Raises WeightsError."""
    where = f"reading {path}"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise WeightsError(f"{where}: class names must be UTF-8 text, one per line") from None
    except (OSError, ValueError) as problem:
        raise WeightsError(f"{where}: {getattr(problem, 'strerror', None) or problem}") from None
    names = [line.strip() for line in lines]
    names = names[:-1] if names[-1] == "" else names
    if "" in names:
        raise WeightsError(f"{where}: line {names.index('') + 1} is empty; a class name is expected on each")
    return tuple(names)


def _adapted(weight: Tensor, in_channels: int) -> Tensor:
    """The stem's first weight for other channels: summed to one; else repeated in turn, scaled to keep its sum's size.

    The convention of timm (`adapt_input_conv`), so that a grey image gives what its three equal channels would.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    turns = -(-in_channels // before)
    return weight.repeat(1, turns, 1, 1)[:, :in_channels].contiguous() * (before / in_channels)
