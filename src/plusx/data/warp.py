"""Moving pixels: whole batches of uint8 images N C H W cut, resized, mirrored, shifted, and mapped by matrices.

Each image has its own parameters; no function here loops over images. Memory may lie N C H W or N H W C.
"""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from plusx import native
from plusx.data.chance import Draws

_SHAPES = (3 / 4, 4 / 3)
_ATTEMPTS = 10
NUMBERS = 2 * _ATTEMPTS + 2
"""How many random numbers `random_boxes` needs for an image."""

_CHUNK_BYTES = 2 << 20
"""Of float pixels worked on in one go on a CPU. Then it stays in the caches."""


_TENSOR, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_CUT = native.Symbol(
    Path(__file__).with_name("cut.cpp"), "cut", (_TENSOR, *[_SIZE] * 4, _TENSOR, _TENSOR, _SIZE, _INT, _TENSOR, _INT)
)


class Boxes(NamedTuple):
    """Rectangles of images, in pixels, each N: all float64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def to_bytes(values: Tensor) -> Tensor:
    """Real numbers as uint8: the nearest, 0 and 255 at the ends. Changes `values`."""
    return cut_off(values.add_(0.5))


def cut_off(values: Tensor) -> Tensor:
    """The same of numbers that are larger by a half. By way of int16, which torch does three times as fast on a CPU."""
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def by_chunks(change: Callable[..., Tensor], images: Tensor, *each: Tensor) -> Tensor:
    """`change(images, *each)`, on a CPU a few images at a time; each: tensors of N on a CPU."""
    at_once = max(1, _CHUNK_BYTES // (4 * max(1, images[:1].numel())))
    if images.device.type != "cpu" or len(images) <= at_once:
        return change(images, *(values.to(images.device) for values in each))
    cuts = list(range(at_once, len(images), at_once))
    parts = zip(*(values.tensor_split(cuts) for values in (images, *each)), strict=True)
    first = change(*next(parts))
    changed = first.new_empty(len(images), *first.shape[1:])
    changed[: len(first)] = first
    for start, part in zip(cuts, parts, strict=True):
        changed[start : start + len(part[0])] = change(*part)
    return changed


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Those images left to right where `mirrored` (bool, N) says so."""
    by_pixel = images.stride(1) == 1
    rows = images.permute(0, 2, 3, 1) if by_pixel else images
    which = torch.arange(len(images)) + len(images) * mirrored
    changed = torch.cat([rows, rows.flip(2 if by_pixel else 3)]).index_select(0, which.to(images.device))
    return changed.permute(0, 3, 1, 2) if by_pixel else changed


def shift(images: Tensor, down: Tensor, right: Tensor, most: int) -> Tensor:
    """Each image moved by `down` and `right` (int64, N) pixels, at most `most` either way, black where nothing is."""
    n, channels, height, width = images.shape
    tall, wide = height + 2 * most, width + 2 * most
    padded = images.new_zeros(n, tall, wide, channels)
    padded[:, most : most + height, most : most + width] = images.permute(0, 2, 3, 1)
    top, left = (most - offset.to(images.device) for offset in (down, right))
    row = (torch.arange(n, device=images.device) * tall + top)[:, None] + torch.arange(height, device=images.device)
    starts = ((row * wide + left[:, None]) * channels).flatten()
    length = width * channels
    rows = padded.flatten().as_strided((padded.numel() - length + 1, length), (1, 1))  # a row from any byte on
    return rows.index_select(0, starts).view(n, height, width, channels).permute(0, 3, 1, 2)


def random_boxes(numbers: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float]) -> Boxes:
    """Where to cut: a share of the area, of a shape from 3:4 to 4:3, anywhere (arXiv 1409.4842 §6).

    numbers: float64, N `NUMBERS`, from 0 to 1. height, width: of the images, float64, N.
    The first of ten that lies within the image; else the middle of it, as large as those shapes allow.
    """
    height, width = height[:, None], width[:, None]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * numbers[:, :_ATTEMPTS])
    low, high = (math.log(shape) for shape in _SHAPES)
    shape = (low + (high - low) * numbers[:, _ATTEMPTS:-2]).exp()
    tall, wide = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (tall >= 1) & (wide >= 1) & (tall <= height) & (wide <= width)
    first, some = fits.to(torch.uint8).argmax(1, keepdim=True), fits.any(1, keepdim=True)
    tall = torch.where(some, tall.gather(1, first), torch.minimum(height, (width / _SHAPES[0]).round()))
    wide = torch.where(some, wide.gather(1, first), torch.minimum(width, (height * _SHAPES[1]).round()))
    place = torch.where(some, numbers[:, -2:], 0.5)
    top, left = (place[:, :1] * (height - tall + some)).floor(), (place[:, 1:] * (width - wide + some)).floor()
    return Boxes(*(side[:, 0] for side in (top, left, tall, wide)))


def scaled_boxes(draws: Draws, side: int, size: int, multiples: tuple[float, float]) -> Boxes:
    """Where to cut `side`² pixels so that resizing to `size`² is what it is to resize them to a side drawn between
    `multiples` of `size` and cut `size`² out anywhere (arXiv 1512.03385 §3.4)."""
    low, high = (max(size, round(multiple * size)) for multiple in multiples)
    scaled = low + draws.below(high - low + 1).double()
    place = draws.uniform(0, 1, columns=2)
    top, left = ((place[:, axis] * (scaled - size + 1)).floor() for axis in (0, 1))
    cut = size * side / scaled
    return Boxes(top * side / scaled, left * side / scaled, cut, cut)


def cut(images: Tensor, boxes: Boxes, size: int, mirrored: Tensor, *, within: bool = True) -> Tensor:
    """Each image's box resized to `size` by antialiased bilinear interpolation; left to right where `mirrored` (N).

    within: whether only pixels of the box count, or also those about it. Rounded once, where Pillow rounds twice and
    may differ by 1. On a CPU with a C++ compiler by `cut.cpp`; elsewhere as two batched products, for resizing along
    one side is a small matrix. The two may differ by 1.
    """
    n, channels, height, width = images.shape
    fits = images.device.type == "cpu" and images.dtype == torch.uint8 and channels in (1, 3)
    compiled = native.available(_CUT) if fits else None
    if compiled is None:
        return cut_by_products(images, boxes, size, mirrored, within=within)
    rows = images.permute(0, 2, 3, 1).contiguous()
    where, turned = torch.stack(boxes).to("cpu", torch.float64), mirrored.to("cpu", torch.uint8).contiguous()
    assert (where.shape, turned.shape) == ((4, n), (n,))
    done = torch.empty(n, size, size, channels, dtype=torch.uint8)
    at = [tensor.data_ptr() for tensor in (rows, where, turned, done)]
    threads = torch.get_num_threads()
    compiled(at[0], n, height, width, channels, at[1], at[2], size, within, at[3], threads)
    return done.permute(0, 3, 1, 2)


def is_compiled() -> bool:
    """Whether `cut` is compiled here."""
    return native.available(_CUT) is not None


def cut_by_products(images: Tensor, boxes: Boxes, size: int, mirrored: Tensor, *, within: bool = True) -> Tensor:
    """What `cut` gives, in torch."""

    def change(part: Tensor, turned: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
        starts, lengths = (top, left), (tall, wide)
        if part.shape[2] == part.shape[3]:  # both sides in one go
            rows, columns = _taps(torch.cat(starts), torch.cat(lengths), part.shape[2], size, within).tensor_split(2)
        else:
            rows, columns = (_taps(starts[i], lengths[i], part.shape[2 + i], size, within) for i in (0, 1))
        columns = torch.where(turned[:, None, None], columns.flip(1), columns).transpose(1, 2)
        return to_bytes(_two_products(part, rows, columns))

    return by_chunks(change, images, mirrored, *boxes)


def _two_products(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    narrow = torch.bmm(values.view(n, channels * height, width), columns).view(n, channels, height, -1)
    return torch.matmul(rows[:, None], narrow)


def _taps(start: Tensor, length: Tensor, pixels: int, size: int, within: bool) -> Tensor:
    """float32, N `size` `pixels`: what each pixel gives to each of `size` evenly spaced places of a stretch."""
    start, step = start.float()[:, None, None], (length / size).float()[:, None, None]
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(pixels, device=start.device) + 0.5
    weights = (pixel - centre).abs_().div_(step.clamp_min(1)).neg_().add_(1).clamp_min_(0)
    if within:
        weights *= (pixel > start) & (pixel < start + length.float()[:, None, None])
    return weights.div_(weights.sum(2, keepdim=True))


def resize(images: Tensor, size: int) -> Tensor:
    """All of each image, antialiased bilinear, to `size` by `size`."""
    if images.shape[2:] == (size, size):
        return images
    values = images if images.device.type == "cpu" else images.float()
    resized = torch.nn.functional.interpolate(values, (size, size), mode="bilinear", antialias=True)
    return resized if resized.dtype == torch.uint8 else to_bytes(resized)


def transform(images: Tensor, matrix: Tensor) -> Tensor:
    """The pixel nearest to where `matrix` (float64, N 2 3) puts each place, black outside.

    It maps a place (x, y), in pixels from the centre, to where its colour comes from.
    """
    n, channels, height, width = images.shape
    matrix = matrix.to(images.device)
    y = torch.arange(height, device=images.device, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, device=images.device, dtype=torch.float64) - (width - 1) / 2
    m = matrix[:, :, :, None, None]
    column = (m[:, 0, 0] * x + m[:, 0, 1] * y[:, None] + m[:, 0, 2] + (width - 1) / 2).round().long()
    row = (m[:, 1, 0] * x + m[:, 1, 1] * y[:, None] + m[:, 1, 2] + (height - 1) / 2).round().long()
    seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp_(0, height - 1) * width + column.clamp_(0, width - 1)).flatten(1)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    place = (place + torch.arange(n, device=images.device)[:, None] * (height * width)).flatten()
    moved = pixels.index_select(0, place).view(n, height, width, channels) * seen[..., None]
    return moved.permute(0, 3, 1, 2)
