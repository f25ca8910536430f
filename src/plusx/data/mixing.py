"""Erasing parts of images, and mixing images with each other: whole batches of uint8 images N C H W."""

import math

import numpy as np
import torch
from torch import Tensor

from plusx.data.chance import Draws
from plusx.data.warp import by_chunks, to_bytes

_AREA = (0.02, 0.4)
_SHAPES = (0.3, 1 / 0.3)


def erase(images: Tensor, probability: float, draws: Draws) -> Tensor:
    """With that probability a rectangle of 2 to 40 % of the area, of a shape from 3:10 to 10:3, is filled with noise
    (arXiv 1708.04896). The noise is drawn once for the batch; a rectangle that is too long is cut at the edges."""
    channels, height, width = images.shape[1:]
    area = height * width * draws.uniform(*_AREA)
    shape = draws.uniform(math.log(_SHAPES[0]), math.log(_SHAPES[1])).exp()
    place, chosen = draws.uniform(0, 1, columns=2), draws.uniform(0, 1) < probability
    noise = torch.randint(256, (1, channels, height, width), generator=draws.chance, dtype=torch.uint8)
    tall = (area * shape).sqrt().round().clamp_max(height) * chosen
    wide = (area / shape).sqrt().round().clamp_max(width)
    rows = _stretch(place[:, 0], tall, height)
    columns = _stretch(place[:, 1], wide, width)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.device)
    return torch.where(inside, noise.to(images.device), images)


def _stretch(place: Tensor, length: Tensor, pixels: int) -> Tensor:
    """bool, N `pixels`: from a start drawn by `place`, of 0 to 1, on for `length`."""
    start = (place * (pixels - length + 1)).floor()[:, None]
    pixel = torch.arange(pixels)
    return (pixel >= start) & (pixel < start + length[:, None])


def beta(alpha: float, chance: torch.Generator) -> float:
    """One number from 0 to 1 of the distribution Beta(alpha, alpha)."""
    seed = int(torch.randint(2**62, (), generator=chance))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mixup(images: Tensor, share: float) -> Tensor:
    """`share` of each image and the rest of the one before it (arXiv 1710.09412)."""
    return by_chunks(
        lambda one, other: to_bytes(torch.lerp(other.float(), one.float(), share)), images, images.roll(1, 0)
    )


def cutmix(images: Tensor, share: float, chance: torch.Generator) -> tuple[Tensor, float]:
    """A rectangle of 1 - `share` of the area, anywhere, cut at the edges, from the image before (arXiv 1905.04899).

    Also gives the share that is left of each image, in whole pixels.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)
    centre = torch.rand(2, generator=chance, dtype=torch.float64).tolist()
    (top, bottom), (left, right) = (
        (max(0, round(c * length - side * length / 2)), min(length, round(c * length + side * length / 2)))
        for c, length in zip(centre, (height, width), strict=True)
    )
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
