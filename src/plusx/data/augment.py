"""Random changes to whole batches of uint8 images N C H W, drawn from an explicit generator; and normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `padding` pixels either way, black where nothing moves in (arXiv 1512.03385 §4.2)."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    top, left = (torch.randint(0, 2 * padding + 1, (n, 1), generator=generator) for _ in range(2))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    image = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 N C H W → float32 (pixel / 255 - mean) / std, per channel."""
    shape = (1, len(mean), 1, 1)
    scale = torch.tensor(std, device=images.device).view(shape) * 255
    return (images - torch.tensor(mean, device=images.device).view(shape) * 255) / scale
