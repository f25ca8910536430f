"""How many threads a training step is worth, and how long a whole run takes here, judged by a few of its steps."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from plusx.data.augment import Mixed
from plusx.learner import Learner, Pixels
from plusx.network import build
from plusx.plan import Plan
from plusx.ranks import Ranks

MACS_PER_THREAD = 250_000_000
"""Less work in a batch is not worth another thread: on digits a second one takes 7 s instead of 9.5 s on two free
cores, and 50 s where one of them is busy, for threads wait for the slowest at every layer."""


@contextmanager
def worthwhile_threads(step_macs: int) -> Iterator[None]:
    """A thread for each `MACS_PER_THREAD` of a forward pass, and no more than torch has already."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, math.ceil(step_macs / MACS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_seconds(plan: Plan, here: Ranks) -> float:
    """Seconds that the steps of a plan and the judging of its held-out images take on this device.

    Measured on noise, by the lower quartile of some steps, since what else the machine does makes single ones slow: it
    is rather too short than too long. Opening the data and writing the report come on top.
    """
    batch, channels = math.ceil(len(plan.images) / plan.steps_each), plan.design.stem.in_channels
    images = torch.randint(0, 256, (batch, channels, plan.size, plan.size), dtype=torch.uint8, device=here.device)
    labels = torch.zeros(batch, dtype=torch.int64, device=here.device)
    with worthwhile_threads(plan.price.macs * batch), torch.random.fork_rng():
        pixels = Pixels((0.5,) * channels, (0.25,) * channels)
        learner = Learner(build(plan.design, seed=0), plan.recipe, pixels, here, plan.speed)
        step_s = _usual_s(lambda: learner.step(Mixed(images, labels), batch, 0.0))
        net = learner.kept.eval()
        with torch.inference_mode():
            judge_s = _usual_s(lambda: float(net(learner.images(images)).sum()))
    return plan.steps * step_s + plan.epochs * len(plan.held_out) / batch * judge_s


def _usual_s(call: Callable[[], object]) -> float:
    """The lower quartile of up to 12 calls within a second, of at least two; after one that does not count."""
    call()
    times: list[float] = []
    while len(times) < 2 or (len(times) < 12 and sum(times) < 1.0):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]
