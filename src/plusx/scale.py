"""How a network's training scales out: a model of the step time over many devices, before any is rented. No torch here.

    step = slowest(compute) + exposed all-reduce

compute    3 × macs × images per device ÷ the multiply-adds per second that one device sustains (once forward, twice
           backward).
slowest    every step waits for the slowest device. Steps whose lengths vary by `spread` (standard deviation over mean)
           take, of N at once, about 1 + spread · √(2 ln N) of their mean (the expected maximum of N normals).
all-reduce a ring over the machines: 2 (M - 1)/M of the gradients pass each machine's link, and 2 (M - 1) messages each
           wait `latency`. Between the devices of one machine it is taken to cost nothing.
exposed    what of it the backward pass cannot hide: the last bucket of 25 MiB (torch's DDP), which is ready only at its
           end, and whatever is longer than the backward pass.

docs/scale.md sets the model beside published measurements, and says where it misses.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plusx import reports
from plusx.cost import cost
from plusx.design import Design
from plusx.errors import InputError
from plusx.notation import count
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import Group

MACS_PER_SECOND = 4.5e12
"""One V100 in float32 on ResNet-50: 367 images/s × 3 × 4.09 G (OneFlow's DLPerf, PyTorch ResNet50 v1.5, 2020)."""

BUCKET_BYTES = 25 * 2**20
_BITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class Point(NamedTuple):
    """One number of devices. Times in ms; efficiency in percent of that many devices working alone."""

    devices: int
    step_ms: float
    compute_ms: float
    waiting_ms: float
    all_reduce_ms: float
    exposed_ms: float
    images_per_second: float
    efficiency_percent: float


@dataclass(frozen=True)
class Scaling(Report):
    """Step time, throughput and efficiency from one device to many; the terms are those of `plusx.scale`."""

    design: Design
    batch: int
    per_machine: int
    bits_per_second: float
    latency_us: float
    macs_per_second: float
    spread_percent: float
    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what was assumed, and a row for each number of devices."""
        assumed = {name: value for name, value in vars(self).items() if name not in ("design", "points")}
        return {"design": self.design.name, **assumed, "points": [point._asdict() for point in self.points]}

    def __rich__(self) -> "Group":
        from rich.console import Group

        table = reports.table(f"{self.design.name or 'a design'}, {self.batch} images on each device")
        for heading in ("devices", "step\nms", "compute\nms", "waiting\nms", "all-reduce\nms", "exposed\nms"):
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in ("images/s", "efficiency"):
            table.add_column(heading, justify="right", no_wrap=True)
        for point in self.points:
            times = (point.step_ms, point.compute_ms, point.waiting_ms, point.all_reduce_ms, point.exposed_ms)
            cells = [f"{time:,.1f}" for time in times]
            rate = f"{point.images_per_second:,.0f}"
            table.add_row(str(point.devices), *cells, rate, f"{point.efficiency_percent:.1f} %")
        notes = (
            f"{self.per_machine} devices a machine, {count(int(self.bits_per_second))}bit/s and {self.latency_us:g} µs "
            f"between machines, {count(int(self.macs_per_second))}mac/s a device, steps that vary by "
            f"{self.spread_percent:g} %.\nA model, not a measurement: see docs/scale.md for where it misses."
        )
        return Group(table, notes)


def scale(
    design: Design | str,
    input: int | tuple[int, int] | None = None,
    *,
    devices: int,
    bandwidth: str = "100Gb",
    batch: int = 32,
    per_machine: int = 8,
    latency_us: float = 20.0,
    macs_per_second: float = MACS_PER_SECOND,
    spread_percent: float = 3.0,
) -> Scaling:
    """Training's step time on 1, 2, 4, … up to `devices` devices of `batch` images each.

    bandwidth: of the link between two machines, in bits per second: 100Gb, 25Gb. macs_per_second: multiply-adds that
    one device sustains in training. Raises InputError, DesignError.
    """
    known, bits = cost(design, input), _bits(bandwidth)
    for name, value in (("devices", devices), ("batch", batch), ("per_machine", per_machine)):
        if type(value) is not int or value < 1:
            raise InputError(f"scale: {name} {value!r} is not a positive whole number")
    for name, number in (("macs_per_second", macs_per_second), ("latency_us", latency_us)):
        if not 0 < number < math.inf:
            raise InputError(f"scale: {name} {number!r} is not a positive number")
    counts = [*(2**power for power in range(devices.bit_length()) if 2**power < devices), devices]
    compute, size = 3 * known.macs * batch / macs_per_second, 4 * known.params
    points = [
        _point(number, compute, size, batch, math.ceil(number / per_machine), bits, latency_us, spread_percent)
        for number in counts
    ]
    assumed = (batch, per_machine, bits, latency_us, macs_per_second, spread_percent)
    return Scaling(known.design, *assumed, tuple(points))


def _point(
    devices: int, compute: float, size: int, batch: int, machines: int, bits: float, latency_us: float, spread: float
) -> Point:
    waiting = compute * spread / 100 * math.sqrt(2 * math.log(devices))
    passes = 2 * (machines - 1)
    reduce = passes / machines * size / (bits / 8) + passes * latency_us / 1e6
    exposed = max(reduce * min(1.0, BUCKET_BYTES / size), reduce - 2 / 3 * compute)
    step = compute + waiting + exposed
    return Point(
        devices=devices,
        step_ms=1000 * step,
        compute_ms=1000 * compute,
        waiting_ms=1000 * waiting,
        all_reduce_ms=1000 * reduce,
        exposed_ms=1000 * exposed,
        images_per_second=devices * batch / step,
        efficiency_percent=100 * compute / step,
    )


def _bits(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(?:b|bit)(?:/s|ps)?", text.strip())
    if not found or float(found[1]) <= 0:
        raise InputError(f"bandwidth: {text!r} is not bits per second, such as 100Gb")
    return float(found[1]) * _BITS[found[2]]
