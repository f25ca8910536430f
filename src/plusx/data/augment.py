"""Random changes to whole batches of uint8 images N C H W, as a recipe says, drawn from an explicit generator.

    resize ─▶ crop, flip ─▶ auto ─▶ jitter, lighting ─▶ erasing ─▶ mixup or cutmix ─▶ (normalise)

warp.py, colour.py, auto.py and mixing.py hold the changes themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plusx.data import auto, colour, mixing, warp
from plusx.data.chance import Draws
from plusx.data.machine import keep_freed_memory
from plusx.recipe import Augment


class Mixed(NamedTuple):
    """Images to train on, and what they show: the loss is share · CE(labels) + (1 - share) · CE(other).

    images: uint8, N C size size, in either layout. labels: int64, N. other: int64, N; None where nothing was mixed in.
    """

    images: Tensor
    labels: Tensor
    other: Tensor | None = None
    share: float = 1.0

    def to(self, device: torch.device) -> "Mixed":
        """The same on a device."""
        other = None if self.other is None else self.other.to(device)
        return Mixed(self.images.to(device), self.labels.to(device), other, self.share)


class Augmenter:
    """The changes that an `Augment` asks for, for images of `channels` (1 or 3).

    seed: says, for flip = "alternating", which images are mirrored in even epochs.
    The process keeps memory that it frees from then on: see `keep_freed_memory`.
    """

    def __init__(self, augment: Augment, channels: int, *, seed: int = 0) -> None:
        assert channels in (1, 3)
        keep_freed_memory()
        self.augment, self.channels, self.seed = augment, channels, seed

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        chance: torch.Generator,
        epoch: int = 0,
        indices: Tensor | None = None,
        size: int | None = None,
        whole: int | None = None,
        start: int = 0,
    ) -> Mixed:
        """Change a batch, on the device it is on; images: uint8, N C H W, labels: int64, N.

        chance: a CPU generator; from it every number is drawn for all `whole` images of the batch (by default N), of
            which these are those from `start` on, so that several processes together do what one does; only that an
            image is mixed with one of its own process.
        epoch, indices: for flip = "alternating", which images of the data set these are (int64, N).
        size: the side of what comes out, in pixels; by default that of the images.
        """
        draws = Draws(chance, len(images) if whole is None else whole, start, len(images))
        assert start + len(images) <= draws.whole
        mirrored, colours = (
            self._mirrored(draws, epoch, indices),
            colour.jitter(self.augment.jitter, self.channels, draws),
        )
        images = self._crop(images, size or images.shape[2], mirrored, draws)
        images = self._recolour(images, draws, colours)
        if self.augment.erasing:
            images = mixing.erase(images, self.augment.erasing, draws)
        return self._mix(images, labels, chance)

    def _mirrored(self, draws: Draws, epoch: int, indices: Tensor | None) -> Tensor:
        """Which images are mirrored: bool, N."""
        if self.augment.flip == "none":
            return torch.zeros(draws.count, dtype=torch.bool)
        if self.augment.flip == "random":
            return draws.uniform(0, 1) < 0.5
        assert indices is not None, "alternating flips need to know which images these are"
        return (_bit(indices.cpu(), self.seed) + epoch) % 2 == 1

    def _crop(self, images: Tensor, size: int, mirrored: Tensor, draws: Draws) -> Tensor:
        """Resized to `size`, cut and mirrored."""
        how, (height, width) = self.augment, images.shape[2:]
        if how.resized_crop:
            numbers = draws.uniform(0, 1, columns=warp.NUMBERS)
            tall, wide = (torch.full((len(images),), side, dtype=torch.float64) for side in (height, width))
            boxes = warp.random_boxes(numbers, tall, wide, how.resized_crop)
            return warp.cut(images, boxes, size, mirrored)
        if how.scale_sides:
            boxes = warp.scaled_boxes(draws, height, size, how.scale_sides)
            return warp.cut(images, boxes, size, mirrored, within=False)
        images = warp.resize(images, size)
        if padding := round(how.crop_padding * size):
            down, right = (draws.below(2 * padding + 1) - padding for _ in range(2))
            images = warp.shift(images, down, right, padding)
        return warp.mirror(images, mirrored) if how.flip != "none" else images

    def _recolour(self, images: Tensor, draws: Draws, colours: colour.Linear | None) -> Tensor:
        how = self.augment
        if how.auto == "trivial":
            images = auto.trivial(images, draws)
        elif how.auto == "rand":
            images = auto.rand(images, how.rand_operations, how.rand_magnitude, draws)
        if colours is not None:
            images = colour.recolour(images, colours)
        if how.jitter.hue:
            images = colour.turn_hue(images, draws.uniform(-how.jitter.hue, how.jitter.hue))
        return colour.lighting(images, how.lighting, draws) if how.lighting else images

    def _mix(self, images: Tensor, labels: Tensor, chance: torch.Generator) -> Mixed:
        """The batch mixed with itself, moved on by one image, by one share for all."""
        ways = [way for way in ("mixup", "cutmix") if getattr(self.augment, way)]
        if not ways:
            return Mixed(images, labels)
        way = ways[int(torch.randint(len(ways), (), generator=chance))]
        share = mixing.beta(getattr(self.augment, way), chance)
        if way == "mixup":
            return Mixed(mixing.mixup(images, share), labels, labels.roll(1), share)
        images, share = mixing.cutmix(images, share, chance)
        return Mixed(images, labels, labels.roll(1), share)


def compiled(augment: Augment) -> bool:
    """Whether changes that it asks for are made by C++ here, which may round to the other side (see `plusx.native`)."""
    cuts = augment.resized_crop is not None or augment.scale_sides is not None
    jitters = any((augment.jitter.brightness, augment.jitter.contrast, augment.jitter.saturation))
    return (cuts and warp.is_compiled()) or (jitters and colour.is_compiled())


def _bit(indices: Tensor, seed: int) -> Tensor:
    """A bit, 0 or 1, for each index, that looks random and is always the same (splitmix64's mixing)."""
    x = indices.long() * -7046029254386353131 + (seed * 0x9E3779B1 + 0x7F4A7C15) % 2**62
    for factor, bits in ((-4658895280553007687, 30), (-7723592293110705685, 27)):
        x = (x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))) * factor
    return (x >> 33) & 1


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 N C H W → float32 (pixel / 255 - mean) / std, per channel; memory lies as that of the images does."""
    centre, scale = (255 * torch.tensor(values, device=images.device) for values in (mean, std))
    rows = images.permute(0, 2, 3, 1)
    if not rows.is_contiguous():
        return images.float().sub_(centre[:, None, None]).div_(scale[:, None, None])
    n, height, width, channels = rows.shape  # a row at once: torch is slow where the last dimension is of three
    values = rows.reshape(n, height, width * channels).float().sub_(centre.repeat(width)).div_(scale.repeat(width))
    return values.view(rows.shape).permute(0, 3, 1, 2)
