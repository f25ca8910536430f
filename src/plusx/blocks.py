"""The residual blocks, as torch modules.

    BuildingBlock (Figure 5 left)          Bottleneck (Figure 5 right)

        x ──────────┐                          x ──────────┐
        │           │                          │           │
     3×3, ReLU      │                       1×1, ReLU      │   down to mid_channels
        │           │                          │           │
       3×3          │                       3×3, ReLU      │
        │           │                          │           │
        + ◄─────────┘                         1×1          │   back up
        │                                      │           │
      ReLU                                     + ◄─────────┘
        │                                      │
                                              ReLU

    y = act(F(x) + x)          "Deep Residual Learning for Image Recognition", arXiv 1512.03385

Every convolution is followed by batch normalisation. What the layers of a block are is said once, in `layers.py`; here
they become modules. Every activation call has its own module and nothing runs in place, so that hooks, quantisers and
attributions work on every one (in training on a CPU, `fused.py` may run several as one). All tensors are N C H W.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusx import layers
from plusx.design import StrideOn
from plusx.errors import DesignError, check_one_of
from plusx.layers import BlockOptions, BlockPlan, ConvOrder, Layer


class ResidualBlock(nn.Module):
    """y = act(F(x) + x). What `BuildingBlock` and `Bottleneck` have in common.

    Shapes: N in_channels H W → N out_channels ceil(H/stride) ceil(W/stride).
    `preact` is the identity, except where a pre-activation block activates x before the two paths part.
    """

    def __init__(self, plan: BlockPlan, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        if not 0 <= stochastic_depth < 1 or (stochastic_depth and plan.shortcut is None):
            fits = "from 0 to below 1, and 0 in a plain block"
            raise DesignError(f"stochastic_depth: {stochastic_depth!r} does not fit; accepted are rates {fits}")
        self.preact = assemble(plan.preact)
        self.branch = nn.Sequential(*map(module, plan.branch))
        self.shortcut = None if plan.shortcut is None else assemble(plan.shortcut)
        self.act = assemble(plan.after)
        if stochastic_depth:
            self.branch.append(StochasticDepth(stochastic_depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.preact(x)
        if self.shortcut is None:  # the plain twin
            y: Tensor = self.act(self.branch(x))
        else:
            y = self.act(self.branch(x) + self.shortcut(x))
        return y


class BuildingBlock(ResidualBlock):
    """y = act(F(x) + x), F = 3×3, 3×3: the block of shallow networks, 18 and 34 (arXiv 1512.03385, Figure 5 left).

    `BuildingBlock(64)` keeps 64 channels. Options, all by keyword: `BlockOptions`, and `stochastic_depth`, the
    probability of dropping the branch of an image in training. Raises DesignError for options that do not fit.
    """

    def __init__(self, channels: int, *, stochastic_depth: float = 0.0, **options: Unpack[BlockOptions]) -> None:
        super().__init__(layers.building(channels, **options), stochastic_depth)


class Bottleneck(ResidualBlock):
    """y = act(F(x) + x), F = 1×1 down, 3×3, 1×1 up: for deep networks, 50 to 152 (arXiv 1512.03385, Figure 5 right).

    `Bottleneck(256, 64)` takes 256 channels through 64 and back. `stride_on` names the convolution that subsamples:
    "1x1" as in the paper, or "3x3" as in PyTorch's "v1.5". Other options, all by keyword: `BlockOptions`, and
    `stochastic_depth`, the probability of dropping the branch of an image in training. Raises DesignError.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        *,
        stride_on: StrideOn = "3x3",
        stochastic_depth: float = 0.0,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__(layers.bottleneck(in_channels, mid_channels, stride_on=stride_on, **options), stochastic_depth)


class ConvBlock(nn.Sequential):
    """Convolution without bias, batch norm, ReLU: N in_channels H W → N out_channels ceil(H/stride) ceil(W/stride).

    Its children are `conv`, `norm` and `act`, in the `order` they run; `activation=False` leaves `act` out.
    Padding is (k_size - 1) // 2, times the dilation: the shape above is that of an odd `k_size`. Raises DesignError for
    another `order`. Source: arXiv 1512.03385 §3.4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        k_size: int = 3,
        activation: bool = True,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        order: ConvOrder = "conv norm act",
    ) -> None:
        check_one_of("order:", order, get_args(ConvOrder), DesignError)
        layers.check(layers.Conv(in_channels, out_channels, k_size, stride, dilation, groups, order))
        normed = in_channels if order.startswith("norm") else out_channels
        parts: dict[str, nn.Module] = {
            "conv": nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size=k_size,
                stride=stride,
                padding=dilation * ((k_size - 1) // 2),
                dilation=dilation,
                groups=groups,
                bias=False,
            ),
            "norm": nn.BatchNorm2d(normed),
            "act": nn.ReLU(),
        }
        names = [name for name in order.split() if activation or name != "act"]
        super().__init__(OrderedDict((name, parts[name]) for name in names))


class AveragePool(nn.Module):
    """The pooling of shortcut D: means of 2×2 pixels that lie `dilation` apart; at the edges, of those there are."""

    def __init__(self, stride: int = 2, dilation: int = 1) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation

    def forward(self, x: Tensor) -> Tensor:
        if self.dilation == 1 and self.stride > 1:
            return functional.avg_pool2d(x, 2, self.stride, ceil_mode=True, count_include_pad=False)
        for dim in (2, 3):
            x = (x + _shifted(x, dim, self.dilation)) / 2
        return x[:, :, :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        return f"stride={self.stride}, dilation={self.dilation}"


class PadShortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, with `front` and `back` zero channels added (arXiv 1512.03385 §3.3)."""

    def __init__(self, stride: int, front: int, back: int) -> None:
        super().__init__()
        self.stride, self.front, self.back = stride, front, back

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.back))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, front={self.front}, back={self.back}"


class SqueezeExcitation(nn.Module):
    """y = x · sigmoid(W2 relu(W1 mean(x))), per channel: N C H W → N C H W (arXiv 1709.01507 §3)."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, kernel_size=1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(squeeze, channels, kernel_size=1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * scale


class StochasticDepth(nn.Module):
    """In training, zero an image's branch with probability `rate` and scale the others by 1 / (1 - rate).

    Source: arXiv 1603.09382 §3; the scaling in training instead of in use is torchvision's and timm's.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class GlobalPool(nn.Module):
    """The mean over height and width: N C H W → N C.

    `window`: by avg_pool2d over the whole map, which sums in another order (`plusx.design.Head`). Not when compiled or
    exported: the window's size would be fixed there, and the compiler orders sums as it likes.
    """

    def __init__(self, window: bool = False) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        if self.window and not torch.compiler.is_compiling():
            return functional.avg_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def extra_repr(self) -> str:
        return "window=True" if self.window else ""


class PointwiseLinear(nn.Linear):
    """A linear layer computed as a 1×1 convolution of one pixel: N in_features → N out_features.

    The same terms as nn.Linear, summed in another order: that of the heads that are written as convolutions.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x[:, :, None, None], self.weight[:, :, None, None], self.bias).flatten(1)


def module(layer: Layer) -> nn.Module:
    """The torch module of one described layer."""
    match layer:
        case layers.Conv(i, o, kernel, stride, dilation, groups, order):
            return ConvBlock(i, o, kernel, stride=stride, dilation=dilation, groups=groups, order=order)
        case layers.Norm(channels):
            return nn.BatchNorm2d(channels)
        case layers.Act():
            return nn.ReLU()
        case layers.MaxPool():
            return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        case layers.AvgPool(_, stride, dilation):
            return AveragePool(stride, dilation)
        case layers.Pad(i, o, stride, centred):
            front = (o - i) // 2 if centred else 0
            return PadShortcut(stride, front, o - i - front)
        case layers.Gate(channels, squeeze):
            return SqueezeExcitation(channels, squeeze)
        case layers.GlobalPool(_, window):
            return GlobalPool(window)
        case layers.Linear(i, o, pointwise):
            return PointwiseLinear(i, o) if pointwise else nn.Linear(i, o)


_NAMES = {
    layers.Norm: "norm",
    layers.Act: "act",
    layers.AvgPool: "pool",
    layers.GlobalPool: "pool",
    layers.Linear: "fc",
}


def assemble(plan: Iterable[Layer]) -> nn.Module:
    """The layers one after another: the identity for none, the module itself for one, else named children.

    A ConvBlock among several gives its own children (`pool`, `conv`, `norm`), so that a projection's parameters are
    called `conv.weight`, `norm.weight` whether or not pooling precedes it.
    """
    children: OrderedDict[str, nn.Module] = OrderedDict()
    plan = tuple(plan)
    if not plan:
        return nn.Identity()
    if len(plan) == 1:
        return module(plan[0])
    for layer in plan:
        built = module(layer)
        children.update(built.named_children() if isinstance(built, ConvBlock) else [(_NAMES[type(layer)], built)])
    return nn.Sequential(children)


def _shifted(x: Tensor, dim: int, by: int) -> Tensor:
    """x moved `by` pixels towards the start along `dim`; where nothing moves in, x itself."""
    by = min(by, x.shape[dim])
    return torch.cat([x.narrow(dim, by, x.shape[dim] - by), x.narrow(dim, x.shape[dim] - by, by)], dim)
