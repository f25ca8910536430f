"""How fast `plusx.cost` is, and how much faster than building a network and counting it with torch.

Result, 24 November 2026, on 2 shared cores of an "AMD EPYC" with AVX-512, Python 3.11.7, torch 2.13.0+cpu:

    10,000 designs (18.0 blocks each): 2.89 s, again 2.81 s, with every row 5.88 s
    a design, over 50: plusx 0.32 ± 0.06 ms, built on meta and counted by torch 85 ± 55 ms (mean ± std)
    ratio, over 50: median 235, 269 ± 180, at least 104
    import plusx to the first cost, over 10 processes: 0.092 ± 0.001 s

10,000 distinct random designs (3 to 5 stages of 1 to 8 blocks, both blocks, widths in multiples of 16, groups, gates,
three shortcuts; 224 pixels), made beforehand, are costed one after the other on one core; then again (nothing is
memoised), and once more with a row written for every block and layer. Some of them, at even distances, are also built
on torch's `meta` device and counted with FlopCounterMode, on one thread; the counts must be equal, and that first round
is not timed. These times are the processor's (`time.process_time`), which a busy machine changes less than the clock's.
The first cost is timed by the clock, in fresh processes.

    python benchmarks/cost_speed.py [--n 10000] [--sample 50] [--runs 10] [--json]

Goals: 30 s, and again 5 s; a ratio of 50 at least; 0.3 s to the first.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from plusx import environment
from plusx.cost import cost
from plusx.design import BottleneckSpec, BuildingSpec, DeepStem, Design, ImageNetStem, Stage

INPUT = 224
FIRST = """
import time
start = time.perf_counter()
import plusx
plusx.cost("resnet50")
print(time.perf_counter() - start)
"""


def random_designs(n: int, seed: int = 0) -> list[Design]:
    """`n` designs, no two the same."""
    draw = random.Random(seed)
    made: dict[Design, None] = {}
    while len(made) < n:
        made[random_design(draw)] = None
    return list(made)


def random_design(draw: random.Random) -> Design:
    """Widths grow from stage to stage; half of the networks have bottlenecks, half of them gates."""
    options: dict[str, Any] = {
        "groups": draw.choice((1, 1, 2, 4, 8, 16)),
        "shortcut": draw.choice(("B", "B", "C", "D")),
    }
    bottleneck, gated = draw.random() < 0.5, draw.random() < 0.5
    block = BottleneckSpec(stride_on=draw.choice(("1x1", "3x3")), **options) if bottleneck else BuildingSpec(**options)
    width = 16 * draw.randint(1, 8)
    stem = draw.choice((ImageNetStem, DeepStem))(width=width)
    stages = []
    for index in range(draw.randint(3, 5)):
        width += 16 * draw.randint(0, 16)
        stages.append(
            Stage(
                depth=draw.randint(1, 8),
                width=width,
                mid=16 * draw.randint(1, 16) if bottleneck else None,
                squeeze=draw.choice((8, 16, 32)) if gated else None,
                stride=1 if index == 0 else 2,
                block=block,
            )
        )
    return Design(stem=stem, stages=tuple(stages))


def timed(work: Callable[[Design], object], designs: list[Design]) -> list[float]:
    """Seconds that `work` takes on each."""
    times = []
    for design in designs:
        start = time.process_time()
        work(design)
        times.append(time.process_time() - start)
    return times


def by_plusx(design: Design) -> tuple[int, int]:
    """Params and macs."""
    known = cost(design, INPUT)
    return known.params, known.macs


def with_rows(design: Design) -> int:
    """The cost, and from it the rows of all blocks and layers; how many there are."""
    known = cost(design, INPUT)
    return len(known.blocks) + len(known.layers)


def by_torch(design: Design) -> tuple[int, int]:
    """Params and macs of the network built on `meta`, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from plusx.network import build

    torch.set_num_threads(1)
    net = build(design, device="meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(torch.empty(1, design.stem.in_channels, INPUT, INPUT, device="meta"))
    return sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2


def first_cost() -> float:
    """Seconds from the import of plusx to the first cost, in a fresh process."""
    return float(subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True).stdout)


def measure(n: int, sample: int, runs: int) -> dict[str, Any]:
    """All of the above; times in seconds, of a design in ms. Raises RuntimeError where plusx and torch disagree."""
    first = [first_cost() for _ in range(runs)]
    designs = random_designs(n)
    once, again, rows = timed(by_plusx, designs), timed(by_plusx, designs), timed(with_rows, designs)
    picked = designs[:: max(1, n // sample)][:sample]
    if differing := [design for design in picked if by_plusx(design) != by_torch(design)]:
        raise RuntimeError(f"plusx and torch count {len(differing)} of {sample} designs differently: {differing[0]}")
    ours, torchs = timed(by_plusx, picked), timed(by_torch, picked)
    ratios = [theirs / own for own, theirs in zip(ours, torchs, strict=True)]
    return {
        "designs": n,
        "blocks_mean": statistics.mean(sum(stage.depth for stage in design.stages) for design in designs),
        "once_s": sum(once),
        "again_s": sum(again),
        "with_rows_s": sum(rows),
        "sample": len(picked),
        "plusx_ms": _spread([1000 * t for t in ours]),
        "torch_ms": _spread([1000 * t for t in torchs]),
        "ratio": _spread(ratios),
        "first_s": _spread(first),
        "machine": f"{environment.processor()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}",
    }


def _spread(values: list[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"median": statistics.median(values), "mean": statistics.mean(values), "std": spread, "min": min(values)}


def report(found: dict[str, Any]) -> str:
    """The measurements in four lines."""

    def shown(key: str, unit: str = "") -> str:
        values = found[key]
        return f"{values['median']:.3g}{unit} (mean {values['mean']:.3g} ± {values['std']:.2g})"

    return "\n".join(
        [
            f"{found['designs']:,} designs ({found['blocks_mean']:.1f} blocks each): {found['once_s']:.2f} s, "
            f"again {found['again_s']:.2f} s, with every row {found['with_rows_s']:.2f} s",
            f"a design: plusx {shown('plusx_ms', ' ms')}, torch's meta and counter {shown('torch_ms', ' ms')}",
            f"ratio: {shown('ratio')}, at least {found['ratio']['min']:.3g}, over {found['sample']} designs",
            f"import plusx to the first cost: {shown('first_s', ' s')}; {found['machine']}, {found['versions']}",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast plusx.cost is.")
    parser.add_argument("--n", type=int, default=10_000, help="random designs to cost")
    parser.add_argument("--sample", type=int, default=50, help="of them, how many to build and count with torch")
    parser.add_argument("--runs", type=int, default=10, help="fresh processes for the first cost")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    found = measure(options.n, options.sample, options.runs)
    print(json.dumps(found) if options.json else report(found))


if __name__ == "__main__":
    main()
