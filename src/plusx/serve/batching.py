"""Requests gathered into batches: a bounded queue, and one thread that runs the engine.

    submit(rows) ──▶ queue (at most `queue` rows) ──▶ batch (at most `max_batch` rows of one shape) ──▶ engine ──▶ split

The first request of a batch waits at most `max_delay` for others, and only while there is company: after a batch of
one request the next runs at once, so that a lone client does not pay for the delay.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from plusx.engines import Array, Engine


class FullError(Exception):
    """The queue has no room."""


class LateError(Exception):
    """The deadline passed before the engine was free."""


class Limits(NamedTuple):
    """max_batch: rows that run together. max_delay: seconds that a row waits for others. queue: rows that wait."""

    max_batch: int
    max_delay: float
    queue: int


@dataclass(eq=False)
class _Job:
    inputs: Array
    deadline: float
    future: "Future[Array]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs an engine for many requests at once. Start it, `submit`, `stop` it."""

    def __init__(self, engine: Engine, limits: Limits, ran: Callable[[int, float], None] = lambda *_: None) -> None:
        self._engine, self._limits, self._ran = engine, limits, ran
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._rows = 0
        self._stopping = False
        self._company = False
        self._thread = threading.Thread(target=self._work, name="plusx-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    def submit(self, inputs: Array, deadline: float) -> "Future[Array]":
        """The logits of these rows, later. deadline: on time.monotonic. Raises FullError."""
        with self._changed:
            if self._stopping or self._rows + len(inputs) > self._limits.queue:
                raise FullError
            job = _Job(inputs, deadline)
            self._jobs.append(job)
            self._rows += len(inputs)
            self._changed.notify()
        return job.future

    def stop(self, timeout: float | None = None) -> None:
        """Run what waits, and end. timeout: seconds after which the thread is left to itself; see `alive`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread that runs the engine is there."""
        return self._thread.is_alive()

    def _work(self) -> None:
        while batch := self._gather():
            now = time.monotonic()
            wanted = [job for job in batch if job.future.set_running_or_notify_cancel()]
            for job in wanted:
                if job.deadline < now:
                    job.future.set_exception(LateError())
            if live := [job for job in wanted if job.deadline >= now]:
                self._run(live)

    def _run(self, jobs: list[_Job]) -> None:
        start = time.monotonic()
        try:
            found = self._engine.run(np.concatenate([job.inputs for job in jobs]) if len(jobs) > 1 else jobs[0].inputs)
            parts = np.split(found, np.cumsum([len(job.inputs) for job in jobs])[:-1])
        except Exception as problem:  # whatever the runtime raises: the request fails, the server stays
            for job in jobs:
                job.future.set_exception(problem)
            return
        for job, part in zip(jobs, parts, strict=True):
            job.future.set_result(part)
        with suppress(Exception):  # who counts must not end the server
            self._ran(sum(len(job.inputs) for job in jobs), time.monotonic() - start)

    def _gather(self) -> list[_Job]:
        """The next batch; none when it is time to end."""
        with self._changed:
            while not self._jobs:
                if self._stopping:
                    return []
                self._changed.wait()
            until = self._jobs[0].since + self._limits.max_delay
            while self._company and not self._stopping and self._rows < self._limits.max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = [self._jobs.popleft()]
            rows = len(batch[0].inputs)
            while self._jobs and self._fits(self._jobs[0], batch[0], rows):
                batch.append(self._jobs.popleft())
                rows += len(batch[-1].inputs)
            self._rows -= rows
            self._company = len(batch) > 1 or bool(self._jobs)
            return batch

    def _fits(self, job: _Job, first: _Job, rows: int) -> bool:
        return job.inputs.shape[1:] == first.inputs.shape[1:] and rows + len(job.inputs) <= self._limits.max_batch


def batch_difference(engine: Engine, rows: int) -> float:
    """The largest difference of a logit between images that ran alone and together, on `rows` images of noise."""
    card = engine.card
    shape = (rows, card.channels, card.input_size, card.input_size)
    inputs = engine.prepare(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    alone = np.concatenate([engine.run(inputs[k : k + 1]) for k in range(rows)])
    found = 0.0
    for size in sorted({2, rows // 2, rows} - {0, 1}):
        found = max(found, float(np.abs(engine.run(inputs[:size]) - alone[:size]).max()))
    return found
