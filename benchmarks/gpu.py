"""Training on one GPU: ResNet-50's step against timm's, and CIFAR with everything on the GPU.

NOT MEASURED YET: no GPU was at hand when this was written. The goals are 1.1 times timm's images per second, and for
CIFAR the seconds to the accuracy that ResNet-18 reaches by the standard recipe.

Step: ResNet-50 at 224 in bfloat16, compiled, synthetic images on the device. The peer is timm's own model trained as
its train.py does with --amp --channels-last --torchcompile: autocast, SGD with momentum, label smoothing 0.1. Ours is
`plusx.learner.Learner`, from uint8 images to updated weights, with its checks for what is not finite. Turns alternate.
The matrix ceiling is the best of repeated products of bfloat16 matrices; a step's share of it counts three times the
forward pass's multiply-adds. The memory ceiling is that of copying; a step's share of it counts every feature map as
written and read once forward and twice backward, which no unfused step can do with less.

CIFAR: ResNet-18 with a stem for small images, on a folder of `train` and `test` class folders. First by the standard
recipe (SGD at 0.1, momentum, weight decay 5e-4, cosine, crops and mirroring), then by `quick` with `FAST`, both from
the start of their process.

    python benchmarks/gpu.py [--cifar FOLDER] [--standard-epochs 60] [--epochs 16] [--batch 256] [--turns 7] [--json]

Without a GPU it runs on the CPU, small (`--batch 4 --size 64 --turns 1`), which says nothing about a GPU.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import plusx
from plusx.data.augment import Mixed
from plusx.design import Design
from plusx.learner import Learner, Pixels
from plusx.ranks import Ranks
from plusx.recipe import preset
from plusx.speed import choose

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

SMALL_RESNET18 = {
    "name": "resnet18_small_images",
    "stem": {"kind": "small", "width": 64},
    "block": {"kind": "building"},
    "stages": [{"depth": 2, "width": 64 << stage, "stride": 2 if stage else 1} for stage in range(4)],
}
STANDARD = ("batch_size=128", "label_smoothing=0", "optimizer.nesterov=false", "schedule.warmup_epochs=0")
FAST = ("batch_size=512", "optimizer.lr=0.4", "augment.flip=alternating", "ema.decay=0.99")


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Of one call."""
    finish()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    finish()
    return (time.perf_counter() - start) / repeats


def finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timm_step(name: str, images: Tensor, labels: Tensor, compiled: bool) -> Callable[[], object]:
    for operator in ("nms", "qnms"):  # torchvision's wheel expects operators that a CPU build of torch does not have
        with contextlib.suppress(RuntimeError):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import timm
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    net = timm.create_model(name).to(DEVICE).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(net, opt="sgd", lr=0.1, weight_decay=2e-5, momentum=0.9)
    forward, wrong = torch.compile(net) if compiled else net, LabelSmoothingCrossEntropy(0.1)
    pixels = ((images.float() / 255 - 0.45) / 0.225).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = wrong(forward(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plusx_step(name: str, images: Tensor, labels: Tensor, compiled: bool) -> Callable[[], object]:
    recipe = preset("quick").replace(compile="yes" if compiled else "no", precision="bfloat16")
    net, macs = plusx.build(name, seed=0, device=DEVICE), plusx.cost(name, images.shape[-1]).macs * len(images)
    pixels = Pixels((0.45,) * 3, (0.225,) * 3)
    learner = Learner(net, recipe, pixels, Ranks(0, 1, DEVICE), choose(recipe, DEVICE, macs))
    return lambda: learner.step(Mixed(images, labels, None, 1.0), len(images), 0.1)


def step(name: str, size: int, batch: int, turns: int, compiled: bool) -> dict[str, Any]:
    """Both steps in turns, and the ceilings."""
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 1000, (batch,), device=DEVICE)
    steps = {make.__name__: make(name, images, labels, compiled) for make in (timm_step, plusx_step)}
    first = {of: seconds(call) for of, call in steps.items()}
    many = 10 if DEVICE.type == "cuda" else 1
    times: dict[str, list[float]] = {of: [] for of in steps}
    for _ in range(turns + 1):
        for of, call in steps.items():
            times[of].append(seconds(call, many))
    timm_s, plusx_s = (times[of][1:] for of in ("timm_step", "plusx_step"))
    ratios = sorted(theirs / ours for theirs, ours in zip(timm_s, plusx_s, strict=True))
    side = 8192 if DEVICE.type == "cuda" else 1024
    one, two = (torch.randn(side, side, device=DEVICE).bfloat16() for _ in range(2))
    block = torch.empty(side * side * 4, dtype=torch.bfloat16, device=DEVICE)
    peak = side**3 / min(seconds(lambda: one @ two) for _ in range(10))
    copying = 2 * block.nbytes / min(seconds(block.clone) for _ in range(10))
    price = plusx.cost(name, size)
    ours_s = statistics.median(plusx_s)
    return {
        "network": name,
        "batch": batch,
        "input": size,
        "compiled": compiled,
        "timm_images_per_s": batch / statistics.median(timm_s),
        "plusx_images_per_s": batch / ours_s,
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
        "turns": turns,
        "first_step_s": first,
        "share_of_matrix_peak": 3 * price.macs * batch / peak / ours_s,
        "share_of_memory_peak": 6 * price.activations * 2 * batch / copying / ours_s,
    }


def cifar(folder: str, standard_epochs: int, epochs: int) -> dict[str, Any]:
    """Seconds and accuracy by the standard recipe and by ours."""
    runs = {"standard": (standard_epochs, STANDARD), "fast": (epochs, FAST)}
    with tempfile.TemporaryDirectory() as place:
        design = Path(place) / "resnet18.toml"
        design.write_text(Design.from_dict(SMALL_RESNET18).to_toml(), encoding="utf-8")
        found = {
            name: trained(folder, design, Path(place) / name, count, settings)
            for name, (count, settings) in runs.items()
        }
    reached = found["fast"]["accuracy_percent"] >= found["standard"]["accuracy_percent"]
    return found | {"ratio": found["standard"]["seconds"] / found["fast"]["seconds"], "reached": reached}


def trained(folder: str, design: Path, out: Path, epochs: int, settings: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "plusx", "train", folder, "--design", str(design), "--recipe", "quick", "--json"]
    command += ["--epochs", str(epochs), "--out", str(out), "--device", DEVICE.type]
    command += [word for setting in settings for word in ("--set", setting)]
    names = ("XDG_CACHE_HOME", "PLUSX_CACHE", "TORCHINDUCTOR_CACHE_DIR")
    caches = {name: str(out.with_name(f"{out.name}-{name}")) for name in names}  # neither finds what the other left
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True)
    accuracy = json.loads(done.stdout)["accuracy_percent"]
    return {"epochs": epochs, "seconds": time.perf_counter() - started, "accuracy_percent": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description="Training on one GPU, against timm's step.")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--eager", action="store_true", help="compile neither")
    parser.add_argument("--cifar", metavar="FOLDER")
    parser.add_argument("--standard-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU: on the CPU"
    found: dict[str, Any] = {"device": name, "torch": version("torch"), "timm": version("timm")}
    found["step"] = step(options.network, options.size, options.batch, options.turns, not options.eager)
    if options.cifar:
        found["cifar"] = cifar(options.cifar, options.standard_epochs, options.epochs)
    print(json.dumps(found) if options.json else report(found))


def report(found: dict[str, Any]) -> str:
    row = found["step"]
    lines = [
        f"{found['device']}, torch {found['torch']}, timm {found['timm']}",
        f"{row['network']}, batch {row['batch']} at {row['input']}: timm {row['timm_images_per_s']:,.0f} images/s, "
        f"plusx {row['plusx_images_per_s']:,.0f}, ratio {row['ratio']:.2f} ({row['ratio_least']:.2f} to "
        f"{row['ratio_most']:.2f}, n={row['turns']}); {100 * row['share_of_matrix_peak']:.0f} % of the matrix peak, "
        f"{100 * row['share_of_memory_peak']:.0f} % of the memory's",
    ]
    if "cifar" in found:
        runs = found["cifar"]
        lines += [
            f"CIFAR, {of}: {run['accuracy_percent']:.2f} % after {run['epochs']} epochs, {run['seconds']:.0f} s"
            for of, run in ((of, runs[of]) for of in ("standard", "fast"))
        ]
        lines.append(f"{'reached' if runs['reached'] else 'NOT reached'}, {runs['ratio']:.2f} times faster")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
