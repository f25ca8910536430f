"""What `plusx serve` takes beside the engine itself: throughput in batches, latency alone, behaviour under overload.

Result, 24 November 2026, on 2 shared cores of an "AMD EPYC" with AVX512-bf16, torch 2.13.0+cpu, OpenVINO 2026.4.1,
ResNet-50 at 224 (PYTHONPATH=. python benchmarks/serving.py --seconds 45 --turns 9; runs of 3 and 5 turns gave 3.45 and
2.6 ms more, 0.92 and 0.92):

    one client     20.4 ms, the engine alone 18.0 ms: 2.4 ms more        (goal: at most 3)
    32 clients     50.7 images/s, the engine alone 55.9: 0.90            (goal: at least 0.85)
    160 clients    for 21 s, --overload 20, four runs: 474 to 564 answered, 5,368 to 6,218 refused, memory +17 to
                   +57 MiB; p99 1.93 to 2.23 s as the clients see it, with a deadline of 2 s

The deadline counts from when the server has a request's headers; by its own clock p99 was 1.80 to 2.01 s: 0.6 s for the
bodies, 1.06 (median) for the queue and the engine, which has half of its speed left. The rest of the two cores goes to
sending and reading 600 kB of each of 300 requests a second. To read the bodies of refused requests more slowly changed
nothing. With requests of 3 kB (tests/test_serve.py, a minute, slow) p99 is 0.41 s at 2,355 answered and 66,134 refused.

    PYTHONPATH=. python benchmarks/serving.py [--network resnet50] [--size 224] [--seconds 10] [--overload 60] [--json]

The network has random weights and runs on the engine that serve takes by default, in float32. Clients are threads of a
process of their own, on the loopback interface, each with a connection that it keeps; each request is one image as a
raw float32 tensor of the Open Inference Protocol. The bare engine runs the same batch in a process of its own, in turns
with the server, which is idle then.
"""

import argparse
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.serving import Served, ask_in_a_loop, serving

import plusx
from plusx import environment
from plusx.checkpoint import Weights, write_weights
from plusx.engines import open_engine

MAX_BATCH = 16


def weights_file(name: str, size: int, folder: Path) -> Path:
    design = plusx.design(name)
    state = dict(plusx.build(design, seed=0).state_dict())
    return write_weights(folder / "model.safetensors", Weights(design, state, (), size, (0.45,) * 3, (0.225,) * 3))


def bare(told: Connection, file: str, batch: int) -> None:
    """A process: the engine alone; seconds of a call, the median over the time asked for."""
    engine = open_engine(file)
    size = engine.card.input_size
    inputs = np.zeros((batch, 3, size, size), np.float32)
    engine.run(inputs)
    told.send("ready")
    while seconds := told.recv():
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            engine.run(inputs)
            times.append(time.perf_counter() - begin)
        told.send(statistics.median(times))


class Bare:
    def __init__(self, file: Path, batch: int) -> None:
        self.ask, asked = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=bare, args=(asked, str(file), batch))
        self.process.start()
        self.ask.recv()

    def seconds(self, during: float) -> float:
        self.ask.send(during)
        return float(self.ask.recv())

    def stop(self) -> None:
        self.ask.send(0)
        self.process.join()


def clients(told: Connection, port: int, name: str, shape: list[int], count: int, seconds: float) -> None:
    told.send(ask_in_a_loop(port, name, shape, count, seconds))


def load(server: Served, name: str, shape: list[int], count: int, seconds: float) -> dict[str, Any]:
    """Requests by `count` clients of another process: seconds of each that was answered, and how many were refused."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=clients, args=(there, server.port, name, shape, count, seconds))
    process.start()
    found: dict[str, Any] = here.recv()
    process.join()
    return found


def measure(name: str, size: int, seconds: float, overload: float, turns: int) -> dict[str, Any]:
    shape = [1, 3, size, size]
    with tempfile.TemporaryDirectory() as folder:
        file = weights_file(name, size, Path(folder))
        alone, together = Bare(file, 1), Bare(file, MAX_BATCH)
        with serving(file, "--max-batch", str(MAX_BATCH), "--queue", "64") as server:
            load(server, name, shape, 1, 1)
            latency, throughput = [], []
            for _ in range(turns):
                one = load(server, name, shape, 1, seconds / turns)
                latency.append((alone.seconds(seconds / turns / 2), statistics.median(one["seconds"])))
                many = load(server, name, shape, 2 * MAX_BATCH, seconds / turns)
                speed = MAX_BATCH / together.seconds(seconds / turns / 2)
                throughput.append((speed, len(many["seconds"]) / many["during"]))
        for each in (alone, together):
            each.stop()
        deadline_ms = 2000
        options = ("--max-batch", str(MAX_BATCH), "--queue", "16", "--deadline-ms", str(deadline_ms))
        with serving(file, *options) as server:
            load(server, name, shape, 160, max(2.0, overload / 6))
            before = server.memory_mib()
            many = load(server, name, shape, 160, overload)
            grown = server.memory_mib() - before
            status, _, _ = server.ask("GET", "/v2/health/ready")
    return {
        "network": name,
        "size": size,
        "engine_ms": 1000 * statistics.median(one for one, _ in latency),
        "served_ms": 1000 * statistics.median(one for _, one in latency),
        "added_ms": 1000 * statistics.median(two - one for one, two in latency),
        "engine_images_per_s": statistics.median(one for one, _ in throughput),
        "served_images_per_s": statistics.median(two for _, two in throughput),
        "throughput_ratio": statistics.median(two / one for one, two in throughput),
        "turns": turns,
        "overload": {
            "seconds": many["during"],
            "answered": len(many["seconds"]),
            "refused": many["refused"],
            "p99_ms": 1000 * float(np.percentile(many["seconds"], 99)),
            "deadline_ms": deadline_ms,
            "memory_grown_mib": grown,
            "ready_afterwards": status == 200,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="plusx serve beside the bare engine.")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--overload", type=float, default=60, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.network, options.size, options.seconds, options.overload, options.turns)
    about = {"torch": version("torch"), "threads": torch.get_num_threads(), "machine": environment.processor()}
    if options.json:
        print(json.dumps(found | about))
        return
    over = found["overload"]
    print(
        f"{found['network']} at {found['size']}, one client: {found['served_ms']:.2f} ms, the engine alone "
        f"{found['engine_ms']:.2f} ms, {found['added_ms']:.2f} ms more (n={found['turns']})\n"
        f"32 clients: {found['served_images_per_s']:.1f} images/s, the engine at batch {MAX_BATCH} alone "
        f"{found['engine_images_per_s']:.1f}, ratio {found['throughput_ratio']:.2f}\n"
        f"160 clients for {over['seconds']:.0f} s: {over['answered']} answered, p99 {over['p99_ms']:.0f} ms "
        f"(deadline {over['deadline_ms']} ms), {over['refused']} refused, memory {over['memory_grown_mib']:+.0f} MiB, "
        f"ready afterwards: {over['ready_afterwards']}"
    )


if __name__ == "__main__":
    main()
