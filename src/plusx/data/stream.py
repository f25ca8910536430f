"""Images of a set that is too large to hold, decoded batch by batch, by worker processes or by this one.

Batch i is made by worker i modulo their number; what is in it depends on the seed, the epoch and the images alone, so
it is the same for any number of workers. torch's DataLoader moves the batches. A worker that is killed, or that gives
nothing for `timeout_s`, ends the others and becomes a WorkError.
"""

import atexit
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from plusx.data import warp
from plusx.data.chance import chance
from plusx.data.dataset import Images
from plusx.data.decode import Picture, Pixels, quiet
from plusx.data.machine import keep_freed_memory
from plusx.errors import DataError, WorkError

_LOOK_S = 1.0
"""How often a wait for a batch is interrupted to see whether the workers live."""

_START_S = 60.0
"""How long a new worker may take at least to its first batch: it starts Python and torch."""


class Order(NamedTuple):
    """A batch to be made: which images, in which epoch of a run with which seed."""

    indices: Tensor
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

    def make(self, order: Order, threads: Executor | None = None) -> Batch:
        """Decode a batch; each image's randomness is of its own (seed, epoch, index)."""
        indices = order.indices.tolist()
        pixels = torch.empty(len(indices), self.size, self.size, self.channels, dtype=torch.uint8)
        fill = self._middles(pixels, indices) if self.crop is None else self._parts(pixels, order, self.crop)
        bad: dict[int, str] = {}

        def one(place: int) -> None:
            try:
                fill(place)
            except DataError as problem:
                bad[place] = str(problem)

        with quiet():
            for _ in (map if threads is None else threads.map)(one, range(len(indices))):
                pass
        return Batch(pixels, dict(sorted(bad.items())))

    def _middles(self, pixels: Tensor, indices: list[int]) -> Callable[[int], None]:
        def fill(place: int) -> None:
            pixels[place] = torch.from_numpy(self.images.pixels(indices[place], self.size, self.channels))

        return fill

    def _parts(self, pixels: Tensor, order: Order, crop: tuple[float, float]) -> Callable[[int], None]:
        numbers = torch.stack([_numbers(order, index) for index in order.indices.tolist()])
        pictures = [self._picture(index) for index in order.indices.tolist()]
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
    part = torch.from_numpy(np.ascontiguousarray(pixels[rows, columns]))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    out.copy_(resized[0].permute(1, 2, 0))


class _Made(Dataset[Batch]):
    """A Maker as torch's DataLoader wants it: what its sampler says is made."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker

    def __getitem__(self, order: Order) -> Batch:
        return self.maker.make(order)


class _Orders(Sampler[Order]):
    """What is asked for, set anew for each epoch."""

    def __init__(self) -> None:
        self.orders: Sequence[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders)

    def __len__(self) -> int:
        return len(self.orders)


class Workers:
    """Worker processes that make batches; they are started at the first, and live until `close`."""

    def __init__(self, maker: Maker, workers: int, timeout_s: float) -> None:
        self.workers, self.timeout_s = workers, timeout_s
        self._orders = _Orders()
        self._processes: list[BaseProcess] = []
        self._batches: Iterator[Batch] | None = None
        with quiet():  # torch warns of more workers than processors
            self._loader: DataLoader[Batch] | None = DataLoader(
                _Made(maker),
                batch_size=None,
                sampler=self._orders,
                num_workers=workers,
                multiprocessing_context="spawn",
                persistent_workers=True,
                timeout=min(_LOOK_S, timeout_s),
                collate_fn=_as_it_is,
                worker_init_fn=_start_worker,
            )
        atexit.register(self.close)  # else a worker that is stopped would be waited for at the end

    def make(self, orders: Sequence[Order]) -> Iterator[Batch]:
        """The batches, in order. Raises WorkError, all workers ended, naming one that is killed or says nothing."""
        self._orders.orders = orders
        new = self._start()
        for number in range(len(orders)):
            patience_s = max(self.timeout_s, _START_S) if new and number < self.workers else self.timeout_s
            batch = self._next(number % self.workers, patience_s)
            if isinstance(batch, str):
                self.close()
                raise WorkError(batch)
            yield batch

    def _start(self) -> bool:
        """Workers where there are none yet, and their work; whether they are new.

        torch's handler of dead children is undone: it would raise in the middle of whatever the main thread is doing.
        """
        assert self._loader is not None, "closed"
        before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        with quiet():
            self._batches = iter(self._loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        if self._processes:
            return False
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        self._processes.sort(key=lambda process: process.pid or 0)
        return True

    def _next(self, worker: int, patience_s: float) -> Batch | str:
        """The next batch, which that worker makes; or what is wrong."""
        asked = time.monotonic()
        while isinstance(batch := self._look(), str):  # no batch yet: do the workers live?
            if dead := [number for number, process in enumerate(self._processes) if not process.is_alive()]:
                return f"{self._called(dead[0])} {_end(self._processes[dead[0]])}"
            if "timed out" not in batch:
                return f"loading images: {batch}"
            if time.monotonic() - asked >= patience_s:
                return f"{self._called(worker)} gave no batch for {patience_s:g} s"
        return batch

    def _look(self) -> Batch | str:
        """The next batch if it comes soon, else torch's words. No exception leaves here: its frames would hold the
        iterator, and with that its semaphores, after `close`."""
        assert self._batches is not None
        try:
            return next(self._batches)
        except RuntimeError as problem:
            return " ".join(str(problem).split())

    def _called(self, number: int) -> str:
        return f"loading images: worker {number} of {self.workers} (process {self._processes[number].pid})"

    @property
    def closed(self) -> bool:
        """Whether they are ended, for good."""
        return self._loader is None

    def close(self) -> None:
        """End the workers at once, those too that are stopped."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes, self._batches, self._loader = [], None, None
        atexit.unregister(self.close)


def _end(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _start_worker(_: int) -> None:
    """One thread each; Ctrl-C is for the main process, which ends the workers."""
    keep_freed_memory()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(value: Any) -> Any:
    return value


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
