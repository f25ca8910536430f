"""Augmentation by a table of operations, drawn for each image: TrivialAugment Wide and RandAugment.

Both with torchvision's tables of 31 magnitudes; images with the same operation are changed together. uint8 N C H W.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from plusx.data import colour
from plusx.data.chance import Draws
from plusx.data.warp import transform

Operation = Callable[[Tensor, Tensor], Tensor]
"""Images N C H W and a strength for each to images."""

_BINS = 31


def trivial(images: Tensor, draws: Draws) -> Tensor:
    """One operation of any magnitude for each image (arXiv 2103.10158, the wide table)."""
    return _apply(images, draws.below(len(_NAMES)), draws.below(_BINS), draws.below(2), _wide())


def rand(images: Tensor, operations: int, magnitude: int, draws: Draws) -> Tensor:
    """`operations` for each image, one after the other, of `magnitude` out of 30 (arXiv 1909.13719)."""
    bins = torch.full((len(images),), magnitude)
    for _ in range(operations):
        images = _apply(
            images, draws.below(len(_NAMES)), bins, draws.below(2), _narrow(images.shape[2], images.shape[3])
        )
    return images


def _apply(images: Tensor, which: Tensor, bins: Tensor, negative: Tensor, table: Mapping[str, Tensor]) -> Tensor:
    changed = images.clone()
    for number, name in enumerate(_NAMES):
        members = (which == number).nonzero().flatten()
        if name == "identity" or not len(members):
            continue
        strength = table[name][bins[members]]
        if name in _SIGNED:
            strength = torch.where(negative[members] == 1, -strength, strength)
        here = members.to(images.device)
        changed[here] = _OPERATIONS[name](images[here], strength)
    return changed


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    return transform(images, _matrix(1, strength, strength * images.shape[2] / 2, 0, 1, 0))


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    return transform(images, _matrix(1, 0, 0, strength, 1, strength * images.shape[3] / 2))


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    return transform(images, _matrix(1, 0, -strength.trunc(), 0, 1, 0))


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    return transform(images, _matrix(1, 0, 0, 0, 1, -strength.trunc()))


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    angle = degrees * (math.pi / 180)
    return transform(images, _matrix(angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0))


def _matrix(*entries: Tensor | float) -> Tensor:
    """float64, N 2 3, of six numbers, some of which differ by image."""
    count = max(entry.numel() if isinstance(entry, Tensor) else 1 for entry in entries)
    columns = [torch.as_tensor(entry, dtype=torch.float64).expand(count) for entry in entries]
    return torch.stack(columns, dim=1).view(count, 2, 3)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    ones = torch.ones_like(strength)
    return colour.adjust(images, 1 + strength, ones, ones)


def _saturation(images: Tensor, strength: Tensor) -> Tensor:
    ones = torch.ones_like(strength)
    return colour.adjust(images, ones, ones, 1 + strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    ones = torch.ones_like(strength)
    return colour.adjust(images, ones, 1 + strength, ones)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    return colour.sharpen(images, 1 + strength)


_OPERATIONS: Mapping[str, Operation] = {
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": colour.posterize,
    "solarize": colour.solarize,
    "autocontrast": colour.autocontrast,
    "equalize": colour.equalize,
}
_NAMES = ("identity", *_OPERATIONS)
_SIGNED = frozenset(_NAMES[1:10])


def _wide() -> dict[str, Tensor]:
    """TrivialAugment's magnitudes, each 31, float64: shears, pixels, degrees, factors, bits, thresholds."""
    most = {"shear x": 0.99, "shear y": 0.99, "translate x": 32.0, "translate y": 32.0, "rotate": 135.0}
    return _table(most, colours=0.99, fewest_bits=2)


def _narrow(height: int, width: int) -> dict[str, Tensor]:
    """RandAugment's."""
    reach = 150 / 331
    most = {"shear x": 0.3, "shear y": 0.3, "translate x": reach * width, "translate y": reach * height, "rotate": 30.0}
    return _table(most, colours=0.9, fewest_bits=4)


def _table(most: Mapping[str, float], colours: float, fewest_bits: int) -> dict[str, Tensor]:
    rising = torch.linspace(0, 1, _BINS, dtype=torch.float64)
    table = {name: high * rising for name, high in most.items()}
    table |= dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), colours * rising)
    table |= {"posterize": 8 - ((8 - fewest_bits) * rising).round(), "solarize": 255 * (1 - rising)}
    return table | dict.fromkeys(("autocontrast", "equalize"), rising)
