"""Whether torch.compile pays for a run on a GPU: measured there, once, and remembered.

    times(work, device, steps) -> Times    of a step, eagerly and compiled, and of compiling
    Times.pays(steps)                      whether a run of so many steps is over sooner compiled

What was measured is kept in the cache, so that the same run on the same machine is always run the same way.
"""

import contextlib
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

from plusx.design import Design
from plusx.files import cache_folder, written_whole
from plusx.network import build

LEAST_S = 60.0
"""Seconds that a run takes eagerly below which compiling, which takes tens of seconds, is not tried."""

_STEPS = 10


@dataclass(frozen=True)
class Times:
    """Seconds of a step eagerly and compiled, and of compiling; the latter two None where that was not tried.

    A step that cannot be compiled here takes for ever.
    """

    eager_s: float
    compiled_s: float | None = None
    compiling_s: float | None = None

    def pays(self, steps: int) -> bool:
        """Whether `steps` steps are over sooner when they are compiled first."""
        if self.compiled_s is None or self.compiling_s is None or steps * self.eager_s < LEAST_S:
            return False
        return self.compiling_s + steps * self.compiled_s < steps * self.eager_s

    def words(self) -> str:
        """In words."""
        if self.compiled_s is None:
            return f"a step takes {1000 * self.eager_s:.0f} ms"
        if math.isinf(self.compiled_s):
            return "torch cannot compile it here"
        return (
            f"a step takes {1000 * self.eager_s:.0f} ms eagerly and {1000 * self.compiled_s:.0f} ms compiled, "
            f"compiling {self.compiling_s:.0f} s"
        )


@dataclass(frozen=True)
class Work:
    """One pass forward and backward: `batch` images of `size` pixels. `dtype`: of autocast, None for none."""

    design: Design
    size: int
    batch: int
    dtype: torch.dtype | None
    channels_last: bool


def known(work: Work, device: torch.device) -> Times | None:
    """What was measured before on such a device; None where nothing was."""
    return _read(_path(work, device))


def times(work: Work, device: torch.device, steps: int) -> Times:
    """Of one pass, from the cache or measured now, as far as a run of `steps` of them needs it."""
    found = known(work, device)
    if found is not None and (found.compiled_s is not None or steps * found.eager_s < LEAST_S):
        return found
    measured, path = _measure(work, device, steps), _path(work, device)
    with contextlib.suppress(OSError):  # where it cannot be kept it is measured again
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as fresh:
            fresh.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    return measured


def _path(work: Work, device: torch.device) -> Path:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = [work.design.digest, work.size, work.batch, str(work.dtype), work.channels_last, card, torch.__version__]
    return cache_folder() / "measured" / f"compile-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> Times | None:
    try:
        return Times(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or not as we write it
        return None


def _measure(work: Work, device: torch.device, steps: int) -> Times:
    layout, dtype = torch.channels_last if work.channels_last else torch.contiguous_format, work.dtype
    net = build(work.design, seed=0, device=device).to(memory_format=layout)  # type: ignore[call-overload]
    shape = (work.batch, work.design.stem.in_channels, work.size, work.size)
    images = torch.zeros(shape, device=device).contiguous(memory_format=layout)
    labels = torch.zeros(work.batch, dtype=torch.int64, device=device)

    def step(forward: Callable[..., torch.Tensor]) -> None:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = forward(images)
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        _finish(device)

    _seconds(lambda: step(net))  # libraries choose their kernels
    eager = statistics.median(_seconds(lambda: step(net)) for _ in range(_STEPS))
    if steps * eager < LEAST_S:
        return Times(eager)
    try:
        compiled = torch.compile(net)
        compiling = _seconds(lambda: step(compiled))
        return Times(eager, statistics.median(_seconds(lambda: step(compiled)) for _ in range(_STEPS)), compiling)
    except (RuntimeError, ImportError):  # no Triton, a card too old for it, or too little memory
        return Times(eager, math.inf, 0.0)


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
