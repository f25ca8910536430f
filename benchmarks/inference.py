"""How fast exported networks answer, against torchvision's exported by each runtime's documented way.

Result, 24 November 2026, on 2 shared cores of an "AMD EPYC" with AVX512-bf16, torch 2.13.0+cpu, OpenVINO 2026.4.1,
onnxruntime 1.32.0; batch 1: --batch 1 --turns 11 --seconds 0.4, batch 16: --turns 7, in another run:

                          plusx       fastest peer             ratio (least to most)   share of peak
    ResNet-18, 1   f32      6.95 ms   OpenVINO      6.90 ms    1.01 (0.98 to 1.01)     0.95
                   bf16     3.60      OpenVINO      3.59       1.00 (0.99 to 1.00)     0.93
                   int8     1.96      OpenVINO      1.94       1.01 (1.00 to 1.01)     0.85
    ResNet-50, 1   f32     16.76      OpenVINO     16.82       1.01 (0.96 to 1.08)     0.91
                   bf16     8.94      OpenVINO      8.41       1.01 (0.99 to 1.08)     0.85
                   int8     4.64      OpenVINO      4.70       0.99 (0.90 to 1.09)     0.82
    ResNet-18, 16  f32    111.8       onnxruntime 112.2        0.99 (0.91 to 1.05)     0.94
                   bf16    56.1       OpenVINO     58.3        0.97 (0.95 to 1.00)     0.95
                   int8    29.7       OpenVINO     29.0        1.01 (1.00 to 1.03)     0.88
    ResNet-50, 16  f32    273.6       onnxruntime 264.4        1.03 (1.01 to 1.26)     0.95
                   bf16   134.9       OpenVINO    129.8        1.02 (0.99 to 1.08)     0.92
                   int8    68.3       OpenVINO     66.4        1.02 (0.98 to 1.08)     0.91

int8 takes 0.50 to 0.55 of bfloat16's time (goal: at most 0.6), the first answer comes after 0.09 to 0.15 s (goal: 1 s).
The goal for the ratios is 1.00. Ours and OpenVINO's network are the same layers in the same runtime, and one process of
either differs from the next by as much as they do: three of each, in turns on a quiet machine, gave 0.997 to 1.003
(n = 9). There is little left to be faster by, at 0.82 to 0.95 of what the machine's matrix units do at best.

From a JPEG file, of the network's time: ResNet-50 1.11, 1.17 and 1.37, ResNet-18 1.20, 1.37 and 1.69 (float32,
bfloat16, int8; goal 1.15). Reading takes 1.4 ms, once 3: of these libjpeg-turbo's decoding takes 0.8, so that int8
would need 1.16 for that alone; resizing 0.2, once 0.8; normalising 0.06, once 0.34.

    python benchmarks/inference.py [--only resnet18] [--batch 1] [--turns 7] [--seconds 0.6] [--json]

Each contender has a process of its own, and they take turns, in an order that is shuffled each time: a tenth of a turn
does not count, the median of its calls does, and of turns the median again. The peers are torchvision's network eager,
compiled by torch with its weights frozen, exported by torch.onnx to onnxruntime, and converted by
openvino.convert_model, the latter in float32, bfloat16 and (by NNCF, calibrated on noise) int8. Ours is what `plusx
export --to openvino` writes, opened by `plusx.open_engine`. A ratio below 1 means that ours is faster than the fastest
peer of that precision.

Also: the time from opening an export to its first answer, OpenVINO's cache filled, in a fresh process, imports aside;
and from a JPEG file of 500 by 375 pixels to the answer, decoding, cutting and softmax included, against the network.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import plusx
from plusx import environment
from plusx.checkpoint import Weights
from plusx.engines import open_engine
from plusx.export import write
from plusx.inference import open_model
from plusx.lowering import card_of
from plusx.peak import matrix_peak
from plusx.pictures import Picture, decode_picture
from plusx.quantise import write_int8
from plusx.surgery import fold

NETWORKS = ("resnet18", "resnet50")
PRECISIONS = ("float32", "bfloat16", "int8")


def torchvision_model(name: str) -> nn.Module:
    for operator, arguments in (("nms", "(Tensor a, Tensor b, float c) -> Tensor"), ("qnms", "(Tensor a) -> Tensor")):
        try:
            torch.library.define(f"torchvision::{operator}", arguments)
        except RuntimeError:
            continue  # declared already
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name).eval()
    return model


def peer(name: str, how: str, size: int, batch: int, threads: int) -> Callable[[], object]:
    """One answer of the peer's network, each time it is called."""
    model, images = torchvision_model(name), torch.rand(batch, 3, size, size)
    engine, precision = how.split()
    if engine == "onnxruntime":
        import onnxruntime as ort

        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/model.onnx"
            torch.onnx.export(model, (images,), file, dynamo=True, verbose=False, external_data=False)
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            session = ort.InferenceSession(file, options)
        inputs = {session.get_inputs()[0].name: images.numpy()}
        return lambda: session.run(None, inputs)
    if engine == "openvino":
        import openvino as ov

        converted = ov.convert_model(model, example_input=images, input=[batch, 3, size, size])
        if precision == "int8":
            import nncf

            converted = nncf.quantize(converted, nncf.Dataset([torch.rand(batch, 3, size, size).numpy()] * 4))
        hint = {"bfloat16": "bf16"}.get(precision, "f32")
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.compile_model(converted, "CPU", settings)
        array = images.numpy()
        return lambda: compiled(array)
    run: Any = torch.compile(model, options={"freezing": True}) if engine == "compiled" else model

    def answer() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return run(images)

    return answer


def ours(file: str, precision: str, threads: int, batch: int, size: int) -> Callable[[], object]:
    engine = open_engine(file, precision=precision if precision == "bfloat16" else None, threads=threads)  # type: ignore[arg-type]
    inputs = np.random.default_rng(0).random((batch, 3, size, size), np.float32)
    return lambda: engine.run(inputs)


def contend(
    told: Connection, threads: int, seconds: float, make: Callable[..., Callable[[], object]], args: Any
) -> None:
    """A process: says when it is ready, then gives the median seconds of a call for each word it is sent."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    answer = make(*args)
    answer()
    told.send("ready")
    while told.recv() == "turn":
        told.send(turn(answer, seconds))


def turn(answer: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        answer()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[len(times) // 10 :])


class Contender:
    def __init__(self, threads: int, seconds: float, make: Callable[..., Callable[[], object]], args: Any) -> None:
        self.ask, asked = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=contend, args=(asked, threads, seconds, make, args))
        self.process.start()
        asked.close()
        self.ask.recv()

    def turn(self) -> float:
        self.ask.send("turn")
        return float(self.ask.recv())

    def stop(self) -> None:
        self.ask.send("stop")
        self.process.join()


def write_ours(name: str, size: int, batch: int, folder: Path) -> dict[str, str]:
    """The files of `plusx export`, by precision; of random weights, which no speed depends on."""
    design = plusx.design(name)
    state = dict(plusx.build(design, seed=0).state_dict())
    model = open_model(Weights(design, state, (), size, (0.45,) * 3, (0.225,) * 3), "cpu")
    card, net = card_of(model).replace(batch=batch), fold(model.net)
    write(net, card, "openvino", folder / "model.xml")
    noise = torch.randint(0, 256, (max(4, batch), 3, size, size), dtype=torch.uint8)
    write_int8(net, card.replace(precision="int8"), "openvino", noise, folder / "int8.xml")
    exact = str(folder / "model.xml")
    return {"float32": exact, "bfloat16": exact, "int8": str(folder / "int8.xml")}


def peers_of(precision: str) -> list[str]:
    engines = {
        "float32": ("eager", "compiled", "onnxruntime", "openvino"),
        "bfloat16": ("eager", "compiled", "openvino"),
        "int8": ("openvino",),
    }
    return [f"{engine} {precision}" for engine in engines[precision]]


def measure(name: str, size: int, batch: int, turns: int, seconds: float, threads: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        files = write_ours(name, size, batch, Path(folder))
        contenders = {
            how: Contender(threads, seconds, peer, (name, how, size, batch, threads))
            for precision in PRECISIONS
            for how in peers_of(precision)
        }
        for precision, file in files.items():
            contenders[f"plusx {precision}"] = Contender(
                threads, seconds, ours, (file, precision, threads, batch, size)
            )
        order = [random.Random(k).sample(sorted(contenders), len(contenders)) for k in range(turns)]
        rounds = [{who: contenders[who].turn() for who in turn} for turn in order]
        for each in contenders.values():
            each.stop()
    medians = {who: statistics.median(one[who] for one in rounds) for who in rounds[0]}
    peak, macs = matrix_peak(threads), plusx.cost(name, size).macs * batch
    found = []
    for precision in PRECISIONS:
        best = min(peers_of(precision), key=lambda who: medians[who])
        ratios = sorted(one[f"plusx {precision}"] / one[best] for one in rounds)
        found.append(
            {
                "network": name,
                "batch": batch,
                "precision": precision,
                "ours_ms": 1000 * medians[f"plusx {precision}"],
                "fastest_peer": best,
                "peer_ms": 1000 * medians[best],
                "peers_ms": {who: 1000 * medians[who] for who in peers_of(precision)},
                "ratio": statistics.median(ratios),
                "ratio_least": ratios[0],
                "ratio_most": ratios[-1],
                "turns": turns,
                "share_of_peak": macs / 1e9 / getattr(peak, precision) / medians[f"plusx {precision}"],
                "int8_to_bfloat16": medians["plusx int8"] / medians["plusx bfloat16"],
            }
        )
    return found


def opened(told: Connection, file: str, precision: str, threads: int, size: int) -> None:
    """A fresh process: seconds from opening to the first answer."""
    inputs = np.zeros((1, 3, size, size), np.float32)
    start = time.perf_counter()
    chosen: Any = precision if precision == "bfloat16" else None
    open_engine(file, precision=chosen, threads=threads, cache=True).run(inputs)
    told.send(time.perf_counter() - start)


def load_s(file: str, precision: str, threads: int, size: int) -> float:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=opened, args=(there, file, precision, threads, size))
    process.start()
    seconds = float(here.recv())
    process.join()
    return seconds


def file_to_answer(told: Connection, file: str, precision: str, photo: str, threads: int, seconds: float) -> None:
    """A fresh process: median seconds of the network alone and from a file, in turns."""
    engine = open_engine(file, precision=precision if precision == "bfloat16" else None, threads=threads)  # type: ignore[arg-type]
    size = engine.card.input_size
    inputs = np.zeros((1, 3, size, size), np.float32)

    def whole() -> object:
        pixels = decode_picture(Picture(photo), size, 3).numpy()
        logits = torch.from_numpy(engine.logits(pixels))
        return logits.softmax(1).topk(5)

    pairs = [(turn(lambda: engine.run(inputs), seconds), turn(whole, seconds)) for _ in range(5)]
    told.send([statistics.median(times) for times in zip(*pairs, strict=True)])


def around(name: str, size: int, seconds: float, threads: int) -> list[dict[str, Any]]:
    """What surrounds the network: opening it, and reading a photograph."""
    from PIL import Image

    found = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_ours(name, size, 1, Path(folder))
        grid = np.add.outer(np.arange(375), np.arange(500))[..., None] // np.array([2, 3, 4])
        noise = np.random.default_rng(0).integers(0, 40, (375, 500, 3))
        photo = f"{folder}/photo.jpg"
        Image.fromarray(((grid + noise) % 256).astype(np.uint8)).save(photo, quality=90)
        for precision, file in files.items():
            load_s(file, precision, threads, size)  # fills the cache
            loads = [load_s(file, precision, threads, size) for _ in range(3)]
            here, there = get_context("spawn").Pipe()
            args = (there, file, precision, photo, threads, seconds)
            process = get_context("spawn").Process(target=file_to_answer, args=args)
            process.start()
            bare, whole = here.recv()
            process.join()
            row = {"network": name, "precision": precision, "load_s": statistics.median(loads)}
            found.append(row | {"bare_ms": 1000 * bare, "file_ms": 1000 * whole, "file_ratio": whole / bare})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Exported networks against torchvision's.")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    threads = torch.get_num_threads()
    names = [options.only] if options.only else list(NETWORKS)
    batches = [options.batch] if options.batch else [1, 16]
    rows: list[dict[str, Any]] = []
    for name in names:
        for batch in batches:
            rows += measure(name, options.size, batch, options.turns, options.seconds, threads)
            if not options.json:
                print("\n".join(map(speed_line, rows[-len(PRECISIONS) :])), flush=True)
    beside: list[dict[str, Any]] = []
    for name in names:
        beside += around(name, options.size, options.seconds, threads)
        if not options.json:
            print("\n".join(map(around_line, beside[-len(PRECISIONS) :])), flush=True)
    about = {name: version(name) for name in ("torch", "openvino", "onnxruntime", "nncf")}
    if options.json:
        print(json.dumps({"results": rows, "around": beside, "machine": environment.processor(), **about}))


def speed_line(row: dict[str, Any]) -> str:
    peers = ", ".join(f"{who} {ms:.2f}" for who, ms in row["peers_ms"].items())
    int8 = f"; {row['int8_to_bfloat16']:.2f} of bfloat16's time" if row["precision"] == "int8" else ""
    return (
        f"{row['network']}, batch {row['batch']}, {row['precision']}: plusx {row['ours_ms']:.2f} ms, ratio to "
        f"{row['fastest_peer']} {row['ratio']:.2f} ({row['ratio_least']:.2f} to {row['ratio_most']:.2f}, "
        f"n={row['turns']}), share of peak {row['share_of_peak']:.2f}{int8}; peers: {peers}"
    )


def around_line(row: dict[str, Any]) -> str:
    return (
        f"{row['network']}, {row['precision']}: first answer after {row['load_s']:.2f} s; a JPEG of 500 by 375 "
        f"{row['file_ms']:.2f} ms, the network alone {row['bare_ms']:.2f} ms, ratio {row['file_ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
