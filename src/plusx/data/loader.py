"""Images brought to one size, in batches: uint8 tensors N C H W (in memory N H W C, "channels last").

Simple on purpose: a set that fits in memory is decoded once; a larger one is decoded batch by batch as it is asked for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plusx.data.dataset import Images
from plusx.data.decode import Pixels, decode

MEMORY_LIMIT = 1 << 30
"""Bytes of decoded images that are held in memory."""

_STATISTICS_IMAGES = 20_000
_STATISTICS_BYTES = 64 << 20
"""Of pixels looked at in one go."""


class Loader:
    """The images of one split at `size` pixels with `channels` channels.

    `loader[indices]` gives (uint8 images N C H W, int64 labels N). Raises DataError for a file that is no image: at
    once where the set fits in memory, else when its batch is asked for.
    """

    def __init__(
        self, images: Images, size: int, channels: int, *, advance: Callable[[int], None] | None = None
    ) -> None:
        self.images, self.size, self.channels = images, size, channels
        self.labels = torch.from_numpy(images.labels)
        fits = len(images) * size * size * channels <= MEMORY_LIMIT
        self._held = self._decode(range(len(images)), advance) if fits else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if self._held is None:
            return _as_nchw(self._decode(indices.tolist())), self.labels[indices]
        return _as_nchw(self._held[indices.numpy()]), self.labels[indices]

    def _decode(self, indices: Sequence[int], advance: Callable[[int], None] | None = None) -> Pixels:
        pixels = np.empty((len(indices), self.size, self.size, self.channels), dtype=np.uint8)
        for position, index in enumerate(indices):
            pixels[position] = self.images.pixels(index, self.size, self.channels)
            if advance is not None:
                advance(1)
        return pixels

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixel values from 0 to 1.

        Exact, from counts of the 256 values; over at most 20,000 images, evenly spaced, where there are more.
        """
        chosen = torch.linspace(0, len(self) - 1, min(len(self), _STATISTICS_IMAGES)).round().long()
        counts = np.zeros((self.channels, 256))
        at_once = max(1, min(256, _STATISTICS_BYTES // (self.size * self.size * self.channels)))
        for part in torch.split(chosen, at_once):
            images, _ = self[part]
            for channel in range(self.channels):
                counts[channel] += np.bincount(images[:, channel].reshape(-1).numpy(), minlength=256)
        share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = share @ values
        std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def load_files(files: Sequence[Path], size: int, channels: int) -> Tensor:
    """Image files as one uint8 batch N C H W. Raises DataError naming the first that is no image."""
    return _as_nchw(np.stack([decode(file, size, channels) for file in files]))


def _as_nchw(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
