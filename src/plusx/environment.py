"""Where something was run, in words: versions, device, processor. For records and reports."""

import platform
from pathlib import Path

import numpy as np
import torch

from plusx import __version__
from plusx.data.machine import cpus


def describe(device: torch.device | str = "cpu") -> dict[str, str]:
    """What a result may depend on: {"plusx": …, "torch": …, "device": …, "processor": …, …}, plain text."""
    place = torch.device(device)
    found = {
        "plusx": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{processor()}, {cpus()} cores for this process, {torch.get_num_threads()} threads",
        "device": str(place),
    }
    if place.type == "cuda":
        cards, version = torch.cuda.get_device_properties(place), torch.version.cuda
        found["device"] = f"{place}: {cards.name}, {cards.total_memory / 2**30:.0f} GiB, CUDA {version}"
    return found


def processor() -> str:
    """Its name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"
