"""Training in bfloat16 on a CPU with kernels of our own and fewer passes over memory.

    fuse(net)   the network, running so where it can

    norm, addition of the shortcut, ReLU    one operation. Torch runs three, each of which reads and writes all of its
                                            images: a third of the time of a step of ResNet-20
    many convolutions                       find their weights' gradient in a kernel of our own, where oneDNN runs at a
                                            quarter to four fifths of the processor's speed
    shortcut A                              keeps gradients channels last
    max pooling                             remembers which pixel it took in a byte, where torch needs eight

Norms and pooling are in `fused.cpp`, weights' gradients in `convolution.cpp` (for processors with AVX512-bf16); both
are compiled when they are first used (`plusx.native`). Times are in `benchmarks/train_step.py`. What the network is,
its parameters and their names stay the same.
"""

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plusx import native
from plusx.blocks import ConvBlock, PadShortcut, ResidualBlock
from plusx.network import Network

_TENSOR, _SIZE, _REAL, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
LANES = 16
"""The kernels of convolutions and pooling take channels in multiples of this."""

BYTE = 256
"""Pixels of a window that a byte tells apart."""

_SOURCE = Path(__file__).with_name("fused.cpp")
_FORWARD = native.Symbol(_SOURCE, "norm_forward", (*[_TENSOR] * 9, *[_SIZE] * 2, *[_REAL] * 2, *[_INT] * 2))
_BACKWARD = native.Symbol(_SOURCE, "norm_backward", (*[_TENSOR] * 11, *[_SIZE] * 2, *[_INT] * 2))
_POOL, _UNPOOL = (
    native.Symbol(_SOURCE, name, (*[_TENSOR] * 3, *[_SIZE] * 7, _INT)) for name in ("pool_forward", "pool_backward")
)
_WEIGHTS = native.Symbol(
    Path(__file__).with_name("convolution.cpp"), "weights_gradient", (*[_TENSOR] * 3, *[_SIZE] * 7, _INT)
)


def check() -> None:
    """Raise NotCompiledError where the kernels cannot be had."""
    native.function(_FORWARD)


class _Norm(torch.autograd.Function):
    """relu(norm(x) + shortcut): `shortcut` may be None, `relu` False. All images are bfloat16, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, relu: bool, *_: Tensor) -> Tensor:
        weight, bias = norm.weight, norm.bias
        y, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        channels = x.shape[1]
        statistics = norm.running_mean, norm.running_var
        native.function(_FORWARD)(
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
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, invstd = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        passed = torch.empty_like(x) if ctx.adds and ctx.relu else None
        channels = x.shape[1]
        native.function(_BACKWARD)(
            *map(_at, (gradient, y, x, weight, bias, mean, invstd, of_x, passed, of_weight, of_bias)),
            x.numel() // channels,
            channels,
            ctx.relu,
            torch.get_num_threads(),
        )
        of_shortcut = (passed if ctx.relu else gradient) if ctx.adds else None
        return of_x, of_shortcut, None, None, of_weight, of_bias


class _MaxPool(torch.autograd.Function):
    """Max pooling over square windows. Images are bfloat16, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int, stride: int, padding: int) -> Tensor:
        batch, channels, height, width = x.shape
        sides = [(size + 2 * padding - side) // stride + 1 for size in (height, width)]
        y = torch.empty((batch, channels, *sides), dtype=x.dtype, memory_format=torch.channels_last)
        taps = torch.empty_like(y, dtype=torch.uint8)
        ctx.of_x, ctx.sizes = x.shape, (batch, height, width, channels, side, stride, padding)
        native.function(_POOL)(*map(_at, (x, y, taps)), *ctx.sizes, torch.get_num_threads())
        ctx.save_for_backward(taps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (taps,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x = torch.empty(ctx.of_x, dtype=gradient.dtype, memory_format=torch.channels_last)
        native.function(_UNPOOL)(*map(_at, (gradient, taps, of_x)), *ctx.sizes, torch.get_num_threads())
        return of_x, None, None, None


class _Conv(torch.autograd.Function):
    """A 1×1 or 3×3 convolution of bfloat16 images, channels last, with float32 weights; padded by `side // 2`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, half := weight.to(torch.bfloat16))
        ctx.stride = stride
        return nn.functional.conv2d(x, half, stride=stride, padding=weight.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        outputs, inputs, side, _ = weight.shape
        stride, padding = [ctx.stride] * 2, [side // 2] * 2
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, _, _ = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            stride,
            padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [ctx.needs_input_grad[0], False, False],
        )
        of_weight = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
        native.function(_WEIGHTS)(
            *map(_at, (x, gradient, of_weight)),
            *(x.shape[0], x.shape[2], x.shape[3], inputs, outputs, side, ctx.stride),
            torch.get_num_threads(),
        )
        return of_x, of_weight, None


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
        and norm.weight.device.type == "cpu"
        and norm.weight.dtype == norm.running_mean.dtype == torch.float32
        and x.numel() > x.shape[1]
        and _learns_from(x)
        and (shortcut is None or _learns_from(shortcut))
    )


def _learns_from(images: Tensor) -> bool:
    return (
        images.dtype == torch.bfloat16
        and images.device.type == "cpu"
        and images.is_contiguous(memory_format=torch.channels_last)
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _by_kernel(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether a convolution's weights' gradient is sooner found by our kernel."""
    if not (type(layer) is nn.Conv2d and layer.training and layer.weight.requires_grad and _learns_from(x)):
        return False
    side, stride, channels = layer.kernel_size[0], layer.stride[0], (layer.in_channels, layer.out_channels)
    return (
        side in (1, 3)
        and (layer.kernel_size, layer.stride) == ((side, side), (stride, stride))
        and (layer.dilation, layer.groups, layer.bias) == ((1, 1), 1, None)
        and (layer.padding, layer.padding_mode) == ((side // 2, side // 2), "zeros")
        and not any(count % LANES for count in channels)
        and layer.weight.dtype == torch.float32
        and native.available(_WEIGHTS) is not None
    )


def _pools(layer: nn.Module, x: Tensor) -> TypeGuard[nn.MaxPool2d]:
    """Whether the kernels can run this: square windows, whole ones only, on images that lead to something learning."""
    return (
        type(layer) is nn.MaxPool2d
        and all(isinstance(value, int) for value in (layer.kernel_size, layer.stride, layer.padding))
        and (layer.dilation, layer.ceil_mode, layer.return_indices) == (1, False, False)
        and int(layer.kernel_size) ** 2 <= BYTE  # type: ignore[arg-type]
        and x.shape[1] % LANES == 0
        and x.requires_grad
        and _learns_from(x)
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
        elif _pools(layer, x):
            x = _MaxPool.apply(x, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[no-untyped-call]
        elif _by_kernel(layer, x):
            x = _Conv.apply(x, layer.weight, layer.stride[0])  # type: ignore[no-untyped-call]
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


class _Pad:
    """The forward of shortcut A by a pooling of single pixels: a slice's gradient is N C H W in memory, and the
    gradients of all that comes before it would be."""

    def __init__(self, shortcut: PadShortcut) -> None:
        self.shortcut, self.sliced = shortcut, shortcut.forward

    def __call__(self, x: Tensor) -> Tensor:
        if self.shortcut.stride == 1 or not _learns_from(x):
            return self.sliced(x)
        every = nn.functional.avg_pool2d(x, 1, self.shortcut.stride)
        return nn.functional.pad(every, (0, 0, 0, 0, self.shortcut.front, self.shortcut.back))


def fuse(net: Network) -> None:
    """From now on `net` runs as said above, while it learns and wherever that fits.

    There, hooks on norms, activations and small convolutions are passed over. Raises NotCompiledError.
    """
    check()
    for part in net.modules():
        if isinstance(part, nn.Sequential):
            part.forward = _Chain(part)  # type: ignore[method-assign]
        elif isinstance(part, PadShortcut):
            part.forward = _Pad(part)  # type: ignore[method-assign]
        elif isinstance(part, ResidualBlock) and part.shortcut is not None and _ends_in_norm(part):
            part.forward = _Block(part)  # type: ignore[method-assign]


def _ends_in_norm(block: ResidualBlock) -> bool:
    last = block.branch[-1]
    return isinstance(last, ConvBlock) and type(list(last)[-1]) is nn.BatchNorm2d
