"""Batch norm, the addition of the shortcut and ReLU as one operation, for training in bfloat16 on a CPU.

    fuse(net)   the network, running so where it can

Torch runs the three as operations of their own, each of which reads and writes all of its images. They take a third of
the time of a step of ResNet-20. `fused.cpp`, compiled once for this machine by the C++ compiler (`$CXX`, else g++),
makes two passes forward and two backward. Times: `benchmarks/train_step.py`. What the network is, its parameters and
their names stay the same.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from plusx.blocks import ConvBlock, ResidualBlock
from plusx.data.downloads import cache_folder
from plusx.files import written_whole
from plusx.network import Network

_SOURCE = Path(__file__).with_name("fused.cpp")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
_TENSOR, _SIZE, _REAL, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int


class NoKernelsError(Exception):
    """The kernels cannot be had here; the message says why."""


@functools.cache
def kernels() -> ctypes.CDLL:
    """The compiled `fused.cpp`: from the cache, where it is put the first time. Raises NoKernelsError."""
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted)
    if compiler is None:
        raise NoKernelsError(f"there is no C++ compiler ({wanted})")
    library = cache_folder() / "compiled" / f"fused-{_key(compiler)}.so"
    try:
        loaded = _load(compiler, library)
    except (OSError, subprocess.SubprocessError) as problem:
        raise NoKernelsError(f"{compiler}: {' '.join(str(problem).split())[:200]}") from None
    loaded.norm_forward.argtypes = [_TENSOR] * 9 + [_SIZE] * 2 + [_REAL] * 2 + [_INT] * 2
    loaded.norm_backward.argtypes = [_TENSOR] * 11 + [_SIZE] * 2 + [_INT] * 2
    loaded.norm_forward.restype = loaded.norm_backward.restype = None
    return loaded


def _load(compiler: str, library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError:  # not there, or damaged
        library.parent.mkdir(parents=True, exist_ok=True)
        _compile(compiler, library)
        return ctypes.CDLL(str(library))


def _compile(compiler: str, library: Path) -> None:
    with written_whole(library) as fresh:
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(next(iter(done.stderr.splitlines()), f"exit code {done.returncode}"))


def _key(compiler: str) -> str:
    """Of all that the compiled kernels depend on: the source, the compiler and the processor."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model"))][:4]
    about = [platform.machine(), compiler, str(Path(compiler).stat().st_mtime_ns), *_FLAGS, *flags]
    return hashlib.sha256("\n".join([_SOURCE.read_text(), *about]).encode()).hexdigest()[:16]


class _Norm(torch.autograd.Function):
    """relu(norm(x) + shortcut): `shortcut` may be None, `relu` False. All images are bfloat16, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, relu: bool, *_: Tensor) -> Tensor:
        weight, bias = norm.weight.detach(), norm.bias.detach()
        y, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        channels = x.shape[1]
        statistics = norm.running_mean, norm.running_var
        kernels().norm_forward(
            *map(_at, (x, shortcut, y, weight, bias, *statistics, mean, invstd)),
            x.numel() // channels,
            channels,
            norm.eps,
            norm.momentum,
            relu,
            torch.get_num_threads(),
        )
        adds = shortcut is not None
        ctx.save_for_backward(x, y if relu and adds else None, weight, bias, mean, invstd)
        ctx.relu, ctx.adds = relu, adds
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, invstd = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        passed = torch.empty_like(x) if ctx.adds and ctx.relu else None
        channels = x.shape[1]
        kernels().norm_backward(
            *map(_at, (gradient, y, x, weight, bias, mean, invstd, of_x, passed, of_weight, of_bias)),
            x.numel() // channels,
            channels,
            ctx.relu,
            torch.get_num_threads(),
        )
        of_shortcut = (passed if ctx.relu else gradient) if ctx.adds else None
        return of_x, of_shortcut, None, None, of_weight, of_bias


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _norm(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    y: Tensor = _Norm.apply(x, shortcut, norm, relu, norm.weight, norm.bias)  # type: ignore[no-untyped-call]
    return y


def _fits(norm: nn.Module, x: Tensor, shortcut: Tensor | None = None) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the kernels can run this: a batch norm that learns, on images as they need them."""
    return (
        type(norm) is nn.BatchNorm2d  # and not one over several processes
        and norm.training
        and norm.affine
        and norm.momentum is not None
        and norm.running_mean is not None
        and torch.is_grad_enabled()
        and x.numel() > x.shape[1]
        and all(
            images.dtype == torch.bfloat16 and images.is_contiguous(memory_format=torch.channels_last)
            for images in (x, x if shortcut is None else shortcut)
        )
    )


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The layers one after the other; a norm and the ReLU that follows it as one."""
    todo = list(layers)
    while todo:
        layer = todo.pop(0)
        if _fits(layer, x):
            relu = bool(todo) and type(todo[0]) is nn.ReLU
            x = _norm(layer, x, None, relu)
            todo = todo[relu:]
        else:
            x = layer(x)
    return x


class _Chain:
    """The forward of a Sequential."""

    def __init__(self, chain: nn.Sequential) -> None:
        self.chain = chain

    def __call__(self, x: Tensor) -> Tensor:
        return _run(self.chain, x)


class _Block:
    """The forward of a residual block whose branch ends in a norm: y = act(norm(…) + shortcut(x))."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block

    def __call__(self, x: Tensor) -> Tensor:
        block = self.block
        assert block.shortcut is not None
        x = block.preact(x)
        *before, last = block.branch
        assert isinstance(last, ConvBlock)
        *inner, norm = last
        y, kept = _run(inner, _run(before, x)), block.shortcut(x)
        if not (_fits(norm, y, kept) and y.shape == kept.shape):
            added: Tensor = block.act(norm(y) + kept)
            return added
        relu = type(block.act) is nn.ReLU
        y = _norm(norm, y, kept, relu)
        if not relu:
            y = block.act(y)
        return y


def fuse(net: Network) -> None:
    """From now on `net` runs its norms, additions and ReLUs as one wherever the kernels can. Raises NoKernelsError."""
    kernels()
    for part in net.modules():
        if isinstance(part, nn.Sequential):
            part.forward = _Chain(part)  # type: ignore[method-assign]
        elif isinstance(part, ResidualBlock) and part.shortcut is not None and _ends_in_norm(part):
            part.forward = _Block(part)  # type: ignore[method-assign]


def _ends_in_norm(block: ResidualBlock) -> bool:
    last = block.branch[-1]
    return isinstance(last, ConvBlock) and type(list(last)[-1]) is nn.BatchNorm2d
