"""Whether torch.compile pays for a run on a GPU: measured there, once, and remembered.

    times(design, size, batch, dtype, device, steps) -> Times    of a step, eagerly and compiled, and of compiling
    Times.pays(steps)                                            whether a run of so many steps is over sooner compiled

What was measured is kept in the cache, so that the same run on the same machine is always run the same way.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

from plusx.data.downloads import cache_folder
from plusx.design import Design
from plusx.files import written_whole
from plusx.network import build

LEAST_S = 60.0
"""Seconds that a run takes eagerly below which compiling, which takes tens of seconds, is not tried."""

_STEPS = 10


@dataclass(frozen=True)
class Times:
    """Seconds of a step eagerly and compiled, and of compiling; the latter two None where that was not tried."""

    eager_s: float
    compiled_s: float | None = None
    compiling_s: float | None = None

    def pays(self, steps: int) -> bool:
        """Whether `steps` steps are over sooner when they are compiled first."""
        if self.compiled_s is None or self.compiling_s is None:
            return False
        return self.compiling_s + steps * self.compiled_s < steps * self.eager_s

    def words(self) -> str:
        """In words."""
        if self.compiled_s is None:
            return f"a step takes {1000 * self.eager_s:.0f} ms"
        return (
            f"a step takes {1000 * self.eager_s:.0f} ms eagerly and {1000 * self.compiled_s:.0f} ms compiled, "
            f"compiling {self.compiling_s:.0f} s"
        )


def times(design: Design, size: int, batch: int, dtype: torch.dtype | None, device: torch.device, steps: int) -> Times:
    """Of a forward and backward pass, from the cache or measured now. `dtype`: of autocast, None for none."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about = json.dumps([design.digest, size, batch, str(dtype), card, torch.__version__])
    path = cache_folder() / "measured" / f"compile-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"
    known = _read(path)
    if known is not None and (known.compiled_s is not None or steps * known.eager_s < LEAST_S):
        return known
    measured = _measure(design, size, batch, dtype, device, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as fresh:
        fresh.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    return measured


def _read(path: Path) -> Times | None:
    try:
        return Times(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or not as we write it
        return None


def _measure(
    design: Design, size: int, batch: int, dtype: torch.dtype | None, device: torch.device, steps: int
) -> Times:
    net = build(design, seed=0, device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (batch, design.stem.in_channels, size, size)
    images = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def step(forward: Callable[..., torch.Tensor]) -> None:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = forward(images)
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        _finish(device)

    _seconds(lambda: step(net))  # libraries choose their kernels
    eager = statistics.median(_seconds(lambda: step(net)) for _ in range(_STEPS))
    if steps * eager < LEAST_S:
        return Times(eager)
    compiled = torch.compile(net)
    compiling = _seconds(lambda: step(compiled))
    return Times(eager, statistics.median(_seconds(lambda: step(compiled)) for _ in range(_STEPS)), compiling)


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
