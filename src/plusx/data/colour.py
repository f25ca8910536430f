"""Changing colours: whole batches of uint8 images N C H W, grey or RGB, each image with its own strength.

Strengths are float64, N, on a CPU. Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), as in Pillow.
"""

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from plusx import native
from plusx.data.chance import Draws
from plusx.data.warp import by_chunks, cut_off, to_bytes
from plusx.recipe import Jitter

_GREY = (0.299, 0.587, 0.114)

_PCA = torch.tensor(
    [
        [-0.5675 * 0.2175, 0.7192 * 0.0188, 0.4009 * 0.0045],
        [-0.5808 * 0.2175, -0.0045 * 0.0188, -0.8140 * 0.0045],
        [-0.5836 * 0.2175, -0.6948 * 0.0188, 0.4203 * 0.0045],
    ],
    dtype=torch.float64,
)
"""Principal components of ImageNet's RGB pixels from 0 to 1, each times its deviation (NIPS 2012, Krizhevsky, §4.1)."""


_TENSOR, _SIZE = ctypes.c_void_p, ctypes.c_int64
_RECOLOUR = native.Symbol(
    Path(__file__).with_name("colour.cpp"), "recolour", (_TENSOR, _SIZE, _SIZE, *[_TENSOR] * 3, ctypes.c_int)
)


class Linear(NamedTuple):
    """A linear change of colours, float32, each N C C: one matrix for the pixels, one for the image's mean colour."""

    of_pixels: Tensor
    of_mean: Tensor


def jitter(how: Jitter, channels: int, draws: Draws) -> Linear | None:
    """Brightness, contrast and saturation as torchvision's ColorJitter defines them; None where they do nothing.

    They commute where nothing is clipped, so they are one linear map here, clipped and rounded once.
    """
    spreads = (how.brightness, how.contrast, how.saturation)
    if not any(spreads):
        return None
    ones = torch.ones(draws.count, dtype=torch.float64)
    return adjustment(channels, *(draws.uniform(1 - x, 1 + x) if x else ones for x in spreads))


def adjustment(channels: int, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Linear:
    """Times `brightness`; away from the image's mean grey by `contrast`; away from each pixel's grey by `saturation`.

    With x a pixel, g its grey and m the mean of g: b (c (s x + (1 - s) g) + (1 - c) m).
    """
    grey = torch.tensor(_GREY if channels == 3 else (1.0,), dtype=torch.float64)
    b, c, s = (strength[:, None, None] for strength in (brightness, contrast, saturation))
    of_pixels = b * c * (s * torch.eye(channels, dtype=torch.float64) + (1 - s) * grey)
    return Linear(of_pixels.float(), (b * (1 - c) * grey).expand(of_pixels.shape).float())


def recolour(images: Tensor, change: Linear) -> Tensor:
    """The images with their colours changed so.

    On a CPU with a C++ compiler by `colour.cpp`, several times as fast; it may differ by 1 where a value is within
    float rounding of the next.
    """
    n, channels, height, width = images.shape
    fits = images.device.type == "cpu" and images.dtype == torch.uint8 and channels == 3
    compiled = native.available(_RECOLOUR) if fits else None
    if compiled is None:
        return by_chunks(recolour_values, images, *change)
    rows = images.permute(0, 2, 3, 1).contiguous()
    of_pixels, of_mean = (matrices.to("cpu", torch.float32).contiguous() for matrices in change)
    assert of_pixels.shape == of_mean.shape == (n, 3, 3)
    changed = torch.empty_like(rows)
    at = [tensor.data_ptr() for tensor in (rows, of_pixels, of_mean, changed)]
    compiled(at[0], n, height * width, *at[1:], torch.get_num_threads())
    return changed.permute(0, 3, 1, 2)


def is_compiled() -> bool:
    """Whether `recolour` is compiled here."""
    return native.available(_RECOLOUR) is not None


def recolour_values(values: Tensor, of_pixels: Tensor, of_mean: Tensor) -> Tensor:
    """The same in torch, for a few images."""
    planes = values.to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
    offset = torch.bmm(of_mean, planes.mean(2, keepdim=True)).add_(0.5)
    return cut_off(torch.baddbmm(offset, of_pixels, planes)).view(values.shape)


def adjust(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """The images with such an `adjustment`."""
    return recolour(images, adjustment(images.shape[1], brightness, contrast, saturation))


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The hue of HSV turned by a share of a whole turn; grey images stay as they are."""
    return images if images.shape[1] == 1 else by_chunks(_turn_hue, images, turns)


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    values = _float(images)
    high, low = values.amax(1, keepdim=True), values.amin(1, keepdim=True)
    chroma = high - low
    red, green, blue = ((high - values) / chroma.clamp_min(1)).unbind(1)
    r, g, _ = values.unbind(1)
    top = high[:, 0]
    sixths = torch.where(top == r, blue - green, torch.where(top == g, 2 + red - blue, 4 + green - red))
    sixths = sixths[:, None] + 6 * _column(turns, images)
    shifts = torch.tensor([5, 3, 1], device=images.device).view(1, 3, 1, 1)
    place = (sixths + shifts).remainder(6)
    return to_bytes(high - chroma * torch.minimum(place, 4 - place).clamp(0, 1))


def lighting(images: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Noise along the principal components of ImageNet's colours, one step for the whole image; grey takes its grey."""
    added = 255 * deviation * draws.normal(columns=3) @ _PCA.T
    if images.shape[1] == 1:
        added = (added * torch.tensor(_GREY, dtype=torch.float64)).sum(1, keepdim=True)
    return to_bytes(_float(images).add_(added.float().to(images.device)[:, :, None, None]))


def sharpen(images: Tensor, strength: Tensor) -> Tensor:
    """Away from the image smoothed by 1 1 1 / 1 5 1 / 1 1 1 (over 13), the outermost pixels excepted."""
    values = _float(images)
    if min(images.shape[2:]) < 3:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 3, 3)
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = torch.nn.functional.conv2d(values, kernel, groups=images.shape[1]).round()
    return to_bytes(torch.lerp(smooth, values, _column(strength, images)))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Only the highest `bits` of each byte kept."""
    masks = (256 - 2 ** (8 - bits.long())).to(torch.uint8)
    return images & masks.to(images.device)[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Pixels at `threshold` or above, of 0 to 255, inverted."""
    return torch.where(images >= _column(threshold, images), 255 - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to reach from 0 to 255."""
    values = _float(images)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    stretched = ((values - low) * (255 / (high - low).clamp_min(1))).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's values spread evenly, as Pillow does it: by its histogram without the last value that occurs."""
    n, channels, height, width = images.shape
    flat = images.reshape(n * channels, height * width).long()
    counts = torch.zeros(n * channels, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    step = (height * width - counts.gather(1, flat.amax(1, keepdim=True))).div(255, rounding_mode="floor")
    before = counts.cumsum(1) - counts
    table = (before + step.div(2, rounding_mode="floor")).div(step.clamp_min(1), rounding_mode="floor").clamp_(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(1, flat).to(torch.uint8).view(n, channels, height, width)


def _float(images: Tensor) -> Tensor:
    return images.to(torch.float32)


def _column(strength: Tensor, images: Tensor) -> Tensor:
    return strength.float().to(images.device)[:, None, None, None]
