"""The processes that train together: their number, what each takes of a batch, and what they add up.

`torchrun --nproc-per-node 2 -m plusx train …` starts them (gloo between CPUs, NCCL between GPUs); alone, a process is
rank 0 of 1. All of them see the same data and draw the same random numbers, so that nothing but sums passes between.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from plusx.errors import InputError, PlusxError, WorkError
from plusx.network import choose_device

TIMEOUT_S = 60
"""How long a process waits for the others before it gives up."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others. `device`: what it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` images are this process's: without overlap, none left out, as equal as can be."""
        least, more = divmod(count, self.world)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element."""
        if self.world > 1:
            on_device = values.to(self.device)
            with self.together():
                dist.all_reduce(on_device)
            return on_device.to(values.device)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Every process's rows, those of the first one first."""
        if self.world == 1:
            return values
        counts = torch.zeros(self.world, dtype=torch.int64)
        counts[self.rank] = len(values)
        counts = self.add(counts)
        start = int(counts[: self.rank].sum())
        whole = torch.zeros((int(counts.sum()), *values.shape[1:]), dtype=values.dtype)
        whole[start : start + len(values)] = values.cpu()
        return self.add(whole)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what needs the other processes: one that died or hangs raises WorkError."""
        try:
            yield
        except RuntimeError as problem:
            if self.world == 1 or isinstance(problem, PlusxError):
                raise
            reason = str(problem).splitlines()[0][:200]
            raise WorkError(f"the {self.world} processes cannot go on together: {reason}") from None

    def spread(self, tensors: list[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.world > 1:
            with self.together():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def agree(self, number: int) -> int:
        """The first process's number."""
        return int(self.add(torch.tensor([number if self.first else 0], dtype=torch.int64)).item())


def restarted() -> bool:
    """Whether torchrun has started these processes anew after one failed."""
    return _starts() > 0


def _starts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def ranks(device: str | torch.device | None) -> Iterator[Ranks]:
    """Join the others that torchrun has started, for as long as the block runs. Raises InputError, WorkError."""
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if world == 1:
        yield Ranks(0, 1, choose_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    where = choose_device(device)
    if device in (None, "auto") and where.type != "cuda":
        where = torch.device("cpu")  # gloo, which joins the processes then, knows no other
    if where.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU of its own: it has {torch.cuda.device_count()}"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    with Ranks(rank, world, where).together():
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timedelta(seconds=TIMEOUT_S)))
        # a prefix for each start: torchrun keeps its store, and with it the addresses of processes that are dead
        own = dist.PrefixStore(f"plusx-{_starts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=timedelta(seconds=TIMEOUT_S))
    try:
        with warnings.catch_warnings():
            # of a convolution over one channel, whose two memory formats are one and the same
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield Ranks(rank, world, where)
    finally:
        dist.destroy_process_group()
