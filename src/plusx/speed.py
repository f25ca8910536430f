"""How a network is run fast on a device: the precision, the memory format, what is fused, whether torch compiles it.

    choose(recipe, device, step_macs, pays) -> Speed

The same run on the same machine is run the same way, to the last bit: the choice depends on the recipe, the device, the
size of a step, on whether there is a C++ compiler, and on times that are measured once and kept (`plusx.compiling`).
A run records it, and goes on with it. `benchmarks/train_step.py` has the times on a CPU; no GPU was tried.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from plusx import fused
from plusx.data.augment import compiled
from plusx.native import NotCompiledError
from plusx.network import Network
from plusx.recipe import Recipe

LEAST_MACS = 250_000_000
"""Multiply-adds of a step's forward pass below which a run stays in float32. Bfloat16 is faster there too (1.2 to 1.4
times at 81 to 190 million, n = 20, a CPU with AVX512-bf16), but such runs take seconds, and keep their digits."""


@dataclass(frozen=True)
class Speed:
    """How to run: `dtype` of autocast (None: float32), `channels_last`, `compile`, `fuse` (norms). `why`: in words.

    device: its type. native: whether images are changed by C++ (`data.augment.compiled`).
    """

    dtype: torch.dtype | None
    channels_last: bool
    compile: bool
    why: str
    fuse: bool = False
    device: str = "cpu"
    native: bool = False

    def can_follow(self, before: "Speed") -> bool:
        """Whether a run that was run as `before` says can go on so where this was chosen."""
        lacks = (before.fuse and not self.fuse) or (before.compile and not self.compile and self.device == "cpu")
        return self.device == before.device and self.native == before.native and not lacks

    def record(self) -> dict[str, Any]:
        """Plain data; `recorded` reads it back."""
        return {**asdict(self), "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch.")}

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Run what is inside in `dtype` where that is safe."""
        return torch.autocast(device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def prepare(self, net: Network) -> Callable[..., Any]:
        """What to call for the network's outputs. Where that was chosen, `net` itself runs fused from now on."""
        if self.fuse:
            fused.fuse(net)
        return torch.compile(net) if self.compile else net


def recorded(record: Mapping[str, Any]) -> Speed:
    """How a run was run, from its `Speed.record`. Raises TypeError, AttributeError for what is none."""
    dtype = record.get("dtype")
    return Speed(**{**record, "dtype": None if dtype is None else getattr(torch, dtype)})


def unmeasured(_: Speed) -> tuple[bool, str]:
    """Not to compile, where nothing was measured."""
    return False, ", not compiled"


def choose(
    recipe: Recipe, device: torch.device, step_macs: int, pays: Callable[[Speed], tuple[bool, str]] = unmeasured
) -> Speed:
    """`step_macs`: of a forward pass over one process's batch.

    pays: whether compiling does, for what is chosen so far, and words for it; asked on a GPU, where the recipe leaves
        it open.
    """
    fast, large = fast_bfloat16(device), step_macs >= LEAST_MACS
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and fast and large)
    dtype = torch.bfloat16 if half else None
    fusing = compiling = False
    words = ""
    if recipe.compile == "yes":
        compiling, words = _compile(device)
    elif recipe.compile == "auto" and device.type == "cuda":
        compiling, words = pays(Speed(dtype, half or large, False, ""))
    elif recipe.compile == "auto" and half and device.type == "cpu":
        fusing, words = _fuse()
    text = f"bfloat16, channels last{words}" if half else f"float32{', channels last' if large else ''}{words}"
    native = device.type in ("cpu", "mps") and compiled(recipe.augment)  # where the CPU changes the images
    return Speed(dtype, half or large, compiling, text, fusing, device.type, native)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "xpu"


def _compile(device: torch.device) -> tuple[bool, str]:
    """Whether torch can compile, and words for it. On a CPU that gains less than fusing norms, and takes 21 s."""
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        return False, ", not compiled: there is no C++ compiler (g++)"
    return True, ", compiled"


def _fuse() -> tuple[bool, str]:
    """Whether norms, additions and ReLUs can be fused, and words for it."""
    try:
        fused.check()
    except NotCompiledError as problem:
        return False, f", norms not fused: {problem}"
    return True, ", norms fused"
