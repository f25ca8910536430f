"""Images of a set that is too large to hold, decoded batch by batch: the same in any process, so by any number of them.

What is in a batch depends on the seed, the epoch and the images alone. workers.py has the processes.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plusx.data import warp
from plusx.data.chance import chance
from plusx.data.dataset import Images
from plusx.data.decode import Picture, Pixels, quiet
from plusx.errors import DataError


class Order(NamedTuple):
    """A batch to be made: which images, in which epoch of a run with which seed."""

    indices: list[int]
    epoch: int
    seed: int


class Batch(NamedTuple):
    """A batch made: uint8 N H W C, and what is wrong with the images that are none, by their place in it."""

    pixels: Tensor
    bad: dict[int, str]


@dataclass(frozen=True)
class Maker:
    """Makes batches at `size` pixels: the middle of each image, or, with `crop`, a random part of it, between those
    shares of its area, cut out before anything is lost by resizing (arXiv 1409.4842 §6)."""

    images: Images
    size: int
    channels: int
    crop: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image's pixels: H W C."""
        return (self.size, self.size, self.channels)

    def make(self, order: Order, threads: Executor | None = None, into: Tensor | None = None) -> Batch:
        """Decode a batch, `into` pixels given or into new ones; each image has a generator of its own, by seed, epoch
        and index."""
        count = len(order.indices)
        pixels = torch.empty(count, *self.shape, dtype=torch.uint8) if into is None else into
        fill = self._middles(pixels, order.indices) if self.crop is None else self._parts(pixels, order, self.crop)
        bad: dict[int, str] = {}

        def one(place: int) -> None:
            try:
                fill(place)
            except DataError as problem:
                bad[place] = str(problem)

        with quiet():
            for _ in (map if threads is None else threads.map)(one, range(count)):
                pass
        return Batch(pixels, dict(sorted(bad.items())))

    def _middles(self, pixels: Tensor, indices: list[int]) -> Callable[[int], None]:
        def fill(place: int) -> None:
            pixels[place] = torch.from_numpy(self.images.pixels(indices[place], self.size, self.channels))

        return fill

    def _parts(self, pixels: Tensor, order: Order, crop: tuple[float, float]) -> Callable[[int], None]:
        numbers = torch.stack([_numbers(order, index) for index in order.indices])
        pictures = [self._picture(index) for index in order.indices]
        sides = [(0, 0) if isinstance(found, DataError) else (found.height, found.width) for found in pictures]
        height, width = torch.tensor(sides, dtype=torch.float64).clamp_min(1).unbind(1)
        boxes = torch.stack(warp.random_boxes(numbers, height, width, crop), 1).long().tolist()

        def fill(place: int) -> None:
            found = pictures[place]
            if isinstance(found, DataError):
                raise found
            cut_out(found, *boxes[place], out=pixels[place])

        return fill

    def _picture(self, index: int) -> Picture | DataError:
        try:
            return self.images.picture(index, self.channels)
        except DataError as problem:
            return problem


def _numbers(order: Order, index: int) -> Tensor:
    return torch.rand(warp.NUMBERS, generator=chance(order.seed, "crop", order.epoch, index), dtype=torch.float64)


def cut_out(picture: Picture, top: int, left: int, height: int, width: int, *, out: Tensor) -> None:
    """A box of a picture, decoded as small as the box allows, resized antialiased into `out`: uint8, side side C."""
    size = len(out)
    shrink = max(1, min(height, width) // size)
    pixels = picture.pixels(-(-min(picture.height, picture.width) // shrink), fast=True)
    down, right = pixels.shape[0] / picture.height, pixels.shape[1] / picture.width
    rows = slice(round(top * down), max(round(top * down) + 1, round((top + height) * down)))
    columns = slice(round(left * right), max(round(left * right) + 1, round((left + width) * right)))
    part = torch.from_numpy(np.require(pixels[rows, columns], requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    out.copy_(resized[0].permute(1, 2, 0))


def decode_all(maker: Maker, into: Pixels, threads: Executor, advance: Callable[[int], None] | None) -> dict[int, str]:
    """Every image into `into` (uint8 N H W C); what is wrong with those that are none, by index."""
    bad: dict[int, str] = {}

    def one(index: int) -> None:
        try:
            into[index] = maker.images.pixels(index, maker.size, maker.channels)
        except DataError as problem:
            bad[index] = str(problem)
            into[index] = 0

    with quiet():
        for _ in threads.map(one, range(len(into))):
            if advance is not None:
                advance(1)
    return dict(sorted(bad.items()))
