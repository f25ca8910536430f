"""Images brought to one size, in batches: uint8 tensors N C H W (in memory N H W C, "channels last").

pixels in memory that have that size already ──▶ as they are
a set of up to MEMORY_LIMIT                  ──▶ decoded once: mapped from the cache, or where that fails, in memory
a larger one; random parts of photographs    ──▶ streamed: decoded each time, by worker processes (stream.py)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plusx.data import cache
from plusx.data.dataset import Images
from plusx.data.decode import Pixels, decode
from plusx.data.downloads import Say, silent
from plusx.data.machine import cpus, memory
from plusx.data.stream import Batch, Maker, Order, decode_all
from plusx.data.workers import Workers
from plusx.errors import DataError

MEMORY_LIMIT = 8 << 30
"""Bytes of decoded images that are kept on disk or in memory."""

WORTH_KEEPING = 512
"""Images. Fewer are decoded anew by every process, in less than a second."""

_STATISTICS_IMAGES = 20_000
_STATISTICS_BYTES = 64 << 20
"""Of pixels looked at in one go."""


class Loader:
    """The images of one split at `size` pixels with `channels` channels.

    `loader[indices]` gives (uint8 images N C H W, int64 labels N), always the same; `batches` is for training.

    advance: is told of each image decoded beforehand.
    crop: least and greatest share of the area that `batches` cuts out of each image, at random, before anything is lost
        by resizing. It takes effect, and `crops` is True, where images are files of more than `size` pixels; else the
        middle of each image is kept, and cutting is for the Augmenter.
    workers: processes that decode what is streamed; 0: this one does. timeout_s: how long to wait for one of them.
    on_bad_image: "fail", or "skip" files that are no images: a set that is decoded beforehand is without them; where it
        is streamed, another image of the batch takes its place. `skipped` says which, and why.
    say: is given a line where pixels cannot be kept on disk, and for images skipped.

    Raises DataError for a file that is no image: at once where the set is decoded beforehand, else with its batch.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        channels: int,
        *,
        advance: Callable[[int], None] | None = None,
        crop: tuple[float, float] | None = None,
        workers: int = 0,
        timeout_s: float = 60.0,
        on_bad_image: Literal["skip", "fail"] = "fail",
        say: Say = silent,
    ) -> None:
        self.size, self.channels, self.workers = size, channels, workers
        self.skipped: tuple[str, ...] = ()
        self._on_bad, self._say, self._timeout_s = on_bad_image, say, timeout_s
        self.crops = crop is not None and images.held is None and images.short_side() > size
        self._middle = Maker(images, size, channels)
        self._part = Maker(images, size, channels, crop if self.crops else None)
        self._workers: Workers | None = None
        streamed = self.crops or len(images) * size * size * channels > MEMORY_LIMIT
        self._pixels = None if streamed else self._decode(images, advance)
        self.labels = torch.from_numpy(self.images.labels)

    @property
    def images(self) -> Images:
        """Those that there are: without the ones skipped."""
        return self._middle.images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if self._pixels is not None:
            pixels = self._pixels.index_select(0, indices.to(self._pixels.device))
            return pixels.permute(0, 3, 1, 2), self.labels[indices]
        with ThreadPoolExecutor(cpus()) as threads:
            return self._finished(self._middle.make(Order(indices.tolist(), 0, 0), threads), indices)

    def batches(self, order: Sequence[Tensor], *, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices (int64, N), in order: uint8 images N C H W and int64 labels N.

        The same for any number of workers. Raises WorkError naming a worker that is killed, or that gives nothing for
        `timeout_s`.
        """
        if self._pixels is not None:
            yield from (self[indices] for indices in order)
            return
        orders = [Order(indices.tolist(), epoch, seed) for indices in order]
        made = self._made(orders) if self.workers else map(self._part.make, orders)
        for batch, indices in zip(made, order, strict=True):
            yield self._finished(batch, indices)

    def _made(self, orders: Sequence[Order]) -> Iterator[Batch]:
        """Batches by worker processes: those that there are, or new ones where they cannot take batches so large."""
        largest = max((len(order.indices) for order in orders), default=0)
        if self._workers is None or self._workers.closed or self._workers.largest < largest:
            self.close()
            self._workers = Workers(self._part, self.workers, self._timeout_s, largest)
        return self._workers.make(orders)

    def move(self, device: torch.device) -> bool:
        """Hold the pixels on a CUDA device, where they take at most half of its free memory; whether they do now."""
        if self._pixels is None or device.type != "cuda":
            return False
        if self._pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
            self._pixels = self._pixels.to(device)
        return self._pixels.device.type == "cuda"

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

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
                counts[channel] += np.bincount(images[:, channel].reshape(-1).cpu().numpy(), minlength=256)
        share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = share @ values
        std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())

    def _decode(self, images: Images, advance: Callable[[int], None] | None) -> Tensor | None:
        """All pixels, N H W C, of the images that there are, the others dropped; None if there is no room for them."""
        if images.held is not None and images.held.shape[1:] == (self.size, self.size, self.channels):
            if advance is not None:
                advance(len(images))
            return torch.from_numpy(images.held if images.held.flags.writeable else images.held.copy())
        kept = self._kept(images, advance)
        if kept is None or not kept.bad:
            return None if kept is None else torch.from_numpy(kept.pixels)
        self._refuse(kept.bad, len(images))
        good = [index for index in range(len(images)) if index not in kept.bad]
        if not good:
            raise DataError(f"{next(iter(kept.bad.values()))}; no image is left of {len(images):,}")
        self._middle = self._part = Maker(images.take(good), self.size, self.channels)
        return torch.from_numpy(kept.pixels)[torch.tensor(good)]

    def _kept(self, images: Images, advance: Callable[[int], None] | None) -> cache.Kept | None:
        """From the cache; where that cannot be, in memory; None where that cannot be either."""

        def fill(pixels: Pixels) -> dict[int, str]:
            with ThreadPoolExecutor(cpus()) as threads:
                return decode_all(self._middle, pixels, threads, advance)

        if images.held is None and len(images) >= WORTH_KEEPING:
            try:
                return cache.keep(images, self.size, self.channels, fill, self._say)
            except OSError as problem:
                why = problem.strerror or str(problem)
                self._say(f"decoded images are not kept in {cache.folder()}: {why}; they are decoded in each run")
        shape = (len(images), self.size, self.size, self.channels)
        if np.prod(shape, dtype=object) > (memory() or MEMORY_LIMIT) // 2:
            return None
        pixels = np.empty(shape, dtype=np.uint8)
        return cache.Kept(pixels, fill(pixels))

    def _finished(self, batch: Batch, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels N C H W and labels; in the place of an image that is none, the next one of the batch."""
        pixels, labels = batch.pixels, self.labels[indices]
        if batch.bad:
            self._refuse(batch.bad, len(indices))
            good = [place for place in range(len(indices)) if place not in batch.bad]
            if not good:
                raise DataError(f"{next(iter(batch.bad.values()))}; no image is left of the batch")
            chosen = torch.tensor(
                [min(good, key=lambda g: (g - place) % len(indices)) for place in range(len(indices))]
            )
            pixels, labels = pixels[chosen], labels[chosen]
        return pixels.permute(0, 3, 1, 2), labels

    def _refuse(self, bad: Mapping[int, str], count: int) -> None:
        """Raise for images that are none, or note that they are skipped."""
        first, more = next(iter(bad.values())), len(bad) - 1
        if self._on_bad == "fail":
            raise DataError(first + (f" (and {more:,} more of {count:,})" if more else ""))
        new = [why for why in bad.values() if why not in self.skipped]
        self.skipped += tuple(new)
        for why in new:
            self._say(f"skipped: {why}")


def load_files(files: Sequence[Path], size: int, channels: int) -> Tensor:
    """Image files as one uint8 batch N C H W. Raises DataError naming the first that is no image."""
    return torch.from_numpy(np.stack([decode(file, size, channels) for file in files])).permute(0, 3, 1, 2)
