"""What a machine can do at best: multiply-adds a second of large products, by precision."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Peak(NamedTuple):
    """Multiply-adds a second of large matrix products, in billions; 0 for a kind that the device does not have."""

    float32: float
    bfloat16: float
    int8: float


def matrix_peak(threads: int, side: int = 2048, device: str = "cpu") -> Peak:
    """The best of several products of each kind: of matrices, and of images by 1×1 convolutions. threads: on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            single, half = (_product_peak(dtype, side, device) for dtype in (torch.float32, torch.bfloat16))
            ints = torch.ones(side, side, dtype=torch.int8, device=device)
            try:
                eight = side**3 / _best(lambda: torch._int_mm(ints, ints)) / 1e9
            except RuntimeError:  # not on this processor
                eight = 0.0
    finally:
        torch.set_num_threads(before)
    return Peak(single, half, eight)


def _product_peak(dtype: torch.dtype, side: int, device: str) -> float:
    one, two = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    images = torch.ones(8, 512, 28, 28, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    weights = torch.ones(512, 512, 1, 1, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    by_matrix = side**3 / _best(lambda: one @ two)
    by_image = 8 * 28 * 28 * 512**2 / _best(lambda: torch.conv2d(images, weights))
    return max(by_matrix, by_image) / 1e9


def _best(call: Callable[[], Tensor], repeats: int = 8) -> float:
    """Seconds of the fastest call."""
    device = call().device
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
