"""What a study costs beside its trainings, and what measuring signals costs beside a training step.

Result, 26 November 2026, on 2 shared cores of an "AMD EPYC", torch 2.13.0+cpu: the study took 182.4 s and its 15
trainings 179.3 s, ratio 1.013 (1.012 to 1.024, n = 3); signals took 639 ms and a step 518 ms, ratio 1.23 (1.09 to 1.41,
n = 9).

    python benchmarks/studies.py [--epochs 20] [--seeds 3] [--turns 3] [--rounds 9] [--json]

The study is `order` at 20 layers on digits, in an empty folder: its time in all, planning, the page and
importing matplotlib included, over that of its trainings by `plusx.train`. Signals: `signals.measure` of
ResNet-56 on 64 images of 32 pixels against a step of SGD on as many, both in float32, by turns; medians.
Goals: below 1.03, and at most 2.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

import plusx
from plusx import environment
from plusx.families import cifar
from plusx.studies import signals
from plusx.studies.question import Finding


def overhead(epochs: int, seeds: int, turns: int) -> dict[str, Any]:
    found = [_study(epochs, seeds) for _ in range(turns)]
    ratios = sorted(study / trainings for study, trainings in found)
    return {
        "study_s": statistics.median(one for one, _ in found),
        "trainings_s": statistics.median(two for _, two in found),
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
        "turns": turns,
    }


def _study(epochs: int, seeds: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = plusx.study("order", seeds=seeds, epochs=epochs, out=f"{folder}/study", show=False)
        seconds = time.perf_counter() - start
    assert isinstance(found, Finding)
    return seconds, found.trained_seconds


def signals_cost(rounds: int) -> dict[str, Any]:
    net = plusx.build(cifar(56), seed=0)
    half, labels = torch.randn(32, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    images = torch.cat([half, half + 0.01 * torch.randn_like(half)])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = [(seconds(step), seconds(lambda: signals.measure(net, images, labels))) for _ in range(rounds + 1)][1:]
    ratios = sorted(measured / stepped for stepped, measured in pairs)
    return {
        "step_ms": 1000 * statistics.median(one for one, _ in pairs),
        "signals_ms": 1000 * statistics.median(two for _, two in pairs),
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A study beside its trainings; signals beside a step.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    study, measured = overhead(options.epochs, options.seeds, options.turns), signals_cost(options.rounds)
    if options.json:
        print(json.dumps({"study": study, "signals": measured, "machine": environment.processor()}))
        return
    print(
        f"study: {study['study_s']:.1f} s, trainings {study['trainings_s']:.1f} s, ratio {study['ratio']:.3f} "
        f"({study['ratio_least']:.3f} to {study['ratio_most']:.3f}, n={study['turns']})"
    )
    print(
        f"signals: {measured['signals_ms']:.0f} ms, a step {measured['step_ms']:.0f} ms, ratio {measured['ratio']:.2f} "
        f"({measured['ratio_least']:.2f} to {measured['ratio_most']:.2f}, n={measured['rounds']})"
    )


if __name__ == "__main__":
    main()
