"""Worker processes that make batches (stream.py), fed by torch's DataLoader.

Batch i is made by worker i modulo their number. Its pixels come by memory that the main process shares with all of them
before they start, for where a worker has to hand over memory of its own, one that is stopped or killed just then is
waited for without end. What goes through the DataLoader's queues is a few bytes that are written at once.
A worker that is killed, or that gives nothing for `timeout_s`, ends the others and becomes a WorkError.
"""

import atexit
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from plusx.data.decode import quiet
from plusx.data.machine import keep_freed_memory
from plusx.data.stream import Batch, Maker, Order
from plusx.errors import WorkError

_AHEAD = 2
"""Batches that each worker makes before they are asked for."""

_LOOK_S = 1.0
"""How often a wait for a batch is interrupted to see whether the workers live."""

_START_S = 60.0
"""How long a new worker may take at least to its first batch: it starts Python and torch."""


class _Task(NamedTuple):
    """What a worker is asked: a batch, and which slot of the shared memory it goes to."""

    order: Order
    slot: int


class _Made(Dataset[dict[int, str]]):
    """A Maker as torch's DataLoader wants it: what its sampler says is made, and what is wrong with it comes back."""

    def __init__(self, maker: Maker, slots: Tensor) -> None:
        self.maker, self.slots = maker, slots

    def __getitem__(self, task: _Task) -> dict[int, str]:
        into = self.slots[task.slot, : len(task.order.indices)]
        return self.maker.make(task.order, into=into).bad


class _Tasks(Sampler[_Task]):
    """What is asked for, set anew for each epoch."""

    def __init__(self) -> None:
        self.tasks: Sequence[_Task] = ()

    def __iter__(self) -> Iterator[_Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class Workers:
    """Worker processes that make batches of at most `largest` images; they start at the first, and live until `close`.

    Raises WorkError where there is no memory to share.
    """

    def __init__(self, maker: Maker, workers: int, timeout_s: float, largest: int) -> None:
        self.workers, self.timeout_s, self.largest = workers, timeout_s, largest
        self._tasks = _Tasks()
        self._processes: list[BaseProcess] = []
        self._answers: Iterator[dict[int, str]] | None = None
        self._slots = _shared(_AHEAD * workers + 1, largest, *maker.shape)
        with quiet():  # torch warns of more workers than processors
            self._loader: DataLoader[dict[int, str]] | None = DataLoader(
                _Made(maker, self._slots),
                batch_size=None,
                sampler=self._tasks,
                num_workers=workers,
                prefetch_factor=_AHEAD,
                multiprocessing_context="spawn",
                persistent_workers=True,
                timeout=min(_LOOK_S, timeout_s),
                collate_fn=_as_it_is,
                worker_init_fn=_start_worker,
            )
        atexit.register(self.close)  # else a worker that is stopped would be waited for at the end

    def make(self, orders: Sequence[Order]) -> Iterator[Batch]:
        """The batches, in order. Raises WorkError, all workers ended, naming one that is killed or says nothing."""
        self._tasks.tasks = [_Task(order, number % len(self._slots)) for number, order in enumerate(orders)]
        new = self._start()
        for number, task in enumerate(self._tasks.tasks):
            patience_s = max(self.timeout_s, _START_S) if new and number < self.workers else self.timeout_s
            answer = self._next(number % self.workers, patience_s)
            if isinstance(answer, str):
                self.close()
                raise WorkError(answer)
            yield Batch(self._slots[task.slot, : len(task.order.indices)].clone(), answer)

    def _start(self) -> bool:
        """Workers where there are none yet, and their work; whether they are new.

        torch's handler of dead children is undone: it would raise in the middle of whatever the main thread is doing.
        """
        assert self._loader is not None, "closed"
        before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        with quiet():
            self._answers = iter(self._loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        if self._processes:
            return False
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        self._processes.sort(key=lambda process: process.pid or 0)
        return True

    def _next(self, worker: int, patience_s: float) -> dict[int, str] | str:
        """What is wrong with the images of the next batch, which that worker makes; or, in words, with the workers."""
        asked = time.monotonic()
        while isinstance(answer := self._look(), str):  # no batch yet: do the workers live?
            if dead := [number for number, process in enumerate(self._processes) if not process.is_alive()]:
                return f"{self._called(dead[0])} {_end(self._processes[dead[0]])}"
            if "timed out" not in answer:
                return f"loading images: {answer}"
            if time.monotonic() - asked >= patience_s:
                return f"{self._called(worker)} gave no batch for {patience_s:g} s"
        return answer

    def _look(self) -> dict[int, str] | str:
        """The next answer if it comes soon, else torch's words. No exception leaves here: its frames would hold the
        iterator, and with that its semaphores, after `close`."""
        assert self._answers is not None
        try:
            return next(self._answers)
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
        self._processes, self._answers, self._loader = [], None, None
        atexit.unregister(self.close)


def _shared(*shape: int) -> Tensor:
    try:
        shared: Tensor = torch.empty(shape, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        return shared
    except RuntimeError as problem:
        need = f"{torch.Size(shape).numel() / 2**20:,.0f} MiB of shared memory"
        why = " ".join(str(problem).split())[:200]
        raise WorkError(f"loading images: workers need {need}: {why}; fewer workers need less") from None


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
