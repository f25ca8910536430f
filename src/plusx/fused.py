"""Training in bfloat16 on a CPU with fewer passes over memory: a network's layers, several as one.

    fuse(net)   the network, running so where it can

    norm, addition of the shortcut, ReLU    one operation. Torch runs three, each of which reads and writes all of its
                                            images: a third of the time of a step of ResNet-20
    convolutions of small maps              take their weights' gradient as one product of matrices, where oneDNN runs
                                            at half of the processor's speed
    shortcut A                              keeps gradients channels last

The first is in `fused.cpp`, which is compiled when it is first used (`plusx.native`). Times are in
`benchmarks/train_step.py`. What the network is, its parameters and their names stay the same.
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
_SOURCE = Path(__file__).with_name("fused.cpp")
_FORWARD = native.Symbol(_SOURCE, "norm_forward", (*[_TENSOR] * 9, *[_SIZE] * 2, *[_REAL] * 2, *[_INT] * 2))
_BACKWARD = native.Symbol(_SOURCE, "norm_backward", (*[_TENSOR] * 11, *[_SIZE] * 2, *[_INT] * 2))


def check() -> None:
    """Raise NotCompiledError where the kernels cannot be had."""
    native.function(_FORWARD)


class _Norm(torch.autograd.Function):
    """relu(norm(x) + shortcut): `shortcut` may be None, `relu` False. All images are bfloat16, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, relu: bool, *_: Tensor) -> Tensor:
        weight, bias = norm.weight.detach(), norm.bias.detach()
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


class _Conv(torch.autograd.Function):
    """A convolution of stride 1, 1×1 or padded 3×3. Images and weights are bfloat16, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.conv2d(x, weight, padding=weight.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        outputs, inputs, side, _ = weight.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        padding = [side // 2] * 2
        of_x, _, _ = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            [1, 1],
            padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [ctx.needs_input_grad[0], False, False],
        )
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
        of_weight = torch.mm(rows.t(), _windows(x, side)).view(outputs, side, side, inputs).permute(0, 3, 1, 2)
        return of_x, of_weight


def _windows(x: Tensor, side: int) -> Tensor:
    """What each output pixel of a convolution sees: N C H W → N·H·W, side·side·C."""
    pixels = x.permute(0, 2, 3, 1)
    if side > 1:
        around = nn.functional.pad(pixels, (0, 0, side // 2, side // 2, side // 2, side // 2))
        pixels = around.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)
    return pixels.reshape(-1, side * side * x.shape[1])


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


SMALL_MAPS = {1: 4096, 3: 1024}
"""By a kernel's side: up to so many pixels of a batch's maps together a convolution is `_Conv`'s."""

MANY_CHANNELS = 512
"""Where in and out together are at least twice as many, and neither below a half."""


def _by_product(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether a convolution's weights' gradient is sooner found as one product."""
    if not (type(layer) is nn.Conv2d and layer.training and layer.weight.requires_grad and _learns_from(x)):
        return False
    side = layer.kernel_size[0]
    return (
        layer.kernel_size == (side, side)
        and x.shape[0] * x.shape[2] * x.shape[3] <= SMALL_MAPS.get(side, 0)
        and (layer.stride, layer.dilation, layer.groups, layer.bias) == ((1, 1), (1, 1), 1, None)
        and (layer.padding, layer.padding_mode) == ((side // 2, side // 2), "zeros")
        and min(layer.in_channels, layer.out_channels) >= MANY_CHANNELS // 2
        and layer.in_channels + layer.out_channels >= 2 * MANY_CHANNELS
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
        elif _by_product(layer, x):
            x = _Conv.apply(x, layer.weight.to(torch.bfloat16))  # type: ignore[no-untyped-call]
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
