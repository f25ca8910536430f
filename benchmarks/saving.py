"""How much a checkpoint holds up training: the step it is taken after, and the steps while it is written.

Result, 24 November 2026, on 2 shared cores of an "AMD EPYC", Python 3.11.7, torch 2.13.0+cpu (n = 7):

    network      a step    taking a checkpoint       while it is written
    ResNet-20     77 ms     2.4 ms of   3 MiB, 3.1 % (at most 3.5 %)     steps take  9 % longer
    ResNet-50    666 ms    23.9 ms of 293 MiB, 3.6 % (at most 3.8 %)     steps take 66 % longer

Taking one holds up a step by less than the goal. Writing it costs the two cores their time: 293 MiB are checksummed and
written beside one or two steps, once in `--checkpoint-minutes` (ten) and at each epoch's end.

Steps of ResNet-50 (224 pixels, batch 16) and of ResNet-20 (32 pixels, batch 128) as `plusx train` makes them, with SGD
and momentum and a moving average of the weights. In each round: some steps with nothing else; then a checkpoint is
taken, as in training (`Learner.capture`, then `Checkpoints.save`), and steps follow until it is written, which goes on
in the background. What taking it holds up is a share of the round's own median step. Goal: at most 5 %.

    python benchmarks/saving.py [--only resnet50] [--rounds 7] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import plusx
from plusx.data.augment import Mixed
from plusx.data.machine import keep_freed_memory
from plusx.learner import Learner, Pixels
from plusx.ranks import Ranks
from plusx.recipe import Ema, preset
from plusx.speed import choose
from plusx.state import Checkpoints, Position

CASES = {"cifar_resnet20": (32, 128), "resnet50": (224, 16)}


def ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def measure(name: str, size: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    keep_freed_memory()  # as `plusx train` does
    recipe, here = preset("quick").replace(ema=Ema()), Ranks(0, 1, torch.device("cpu"))
    speed = choose(recipe, here.device, plusx.cost(name, size).macs * batch)
    learner = Learner(plusx.build(name, seed=0), recipe, Pixels((0.45,) * 3, (0.22,) * 3), here, speed)
    images = Mixed(torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), torch.arange(batch) % 10)

    def step() -> None:
        learner.step(images, batch, 0.1)

    found: dict[str, list[float]] = {"step_ms": [], "taking_ms": [], "taking_percent": [], "writing_percent": []}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        for number in range(rounds + 1):
            plain = statistics.median(ms(step) for _ in range(steps))
            at = Position(step=number)
            taking = ms(lambda at=at: checkpoints.save(learner.capture(at)))  # type: ignore[misc]
            while_writing: list[float] = []
            while checkpoints.busy or not while_writing:
                while_writing.append(ms(step))
            checkpoints.wait()
            if number:  # the first finds memory and files new
                slower = statistics.mean(while_writing) / plain - 1
                for key, value in zip(found, (plain, taking, 100 * taking / plain, 100 * slower), strict=True):
                    found[key].append(value)
        size_mib = max(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 2**20
    medians = {key: statistics.median(values) for key, values in found.items()}
    return {
        "network": name,
        "checkpoint_mib": size_mib,
        "rounds": rounds,
        **medians,
        "most": max(found["taking_percent"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How much a checkpoint holds up training.")
    parser.add_argument("--only", choices=sorted(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1, help="divide batches by this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [options.only] if options.only else list(CASES)
    rows = [
        measure(name, CASES[name][0], CASES[name][1] // options.shrink, options.rounds, options.steps) for name in names
    ]
    if options.json:
        print(json.dumps({"results": rows}))
        return
    for row in rows:
        print(
            f"{row['network']}: a step takes {row['step_ms']:.0f} ms; taking a checkpoint of "
            f"{row['checkpoint_mib']:.0f} MiB takes {row['taking_ms']:.1f} ms, {row['taking_percent']:.1f} % of a step "
            f"(at most {row['most']:.1f} %); steps while it is written take {row['writing_percent']:.0f} % longer "
            f"(n={row['rounds']})"
        )


if __name__ == "__main__":
    main()
