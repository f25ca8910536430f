"""The topology, described once: each block and network as small shaped values. No torch here.

`blocks.py` and `network.py` assemble modules from these values; `cost.py` and `draw.py` fold over the same ones. A new
block is one function here that gives a BlockPlan.

    BlockPlan       y = after(branch(x) + shortcut(x)),  x first through preact
    NetworkPlan     stem → stages → head

All tensors are N C H W.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack, get_args

from plusx.design import Design, Order, Shortcut, Stage, StrideOn
from plusx.errors import DesignError, check_one_of, did_you_mean

ConvOrder = Literal["conv norm act", "conv norm", "conv", "act conv norm", "norm act conv"]


@dataclass(frozen=True, slots=True)
class Conv:
    """A `kernel`×`kernel` convolution without bias, with its norm and activation in the `order` they run.

    Padding keeps the size: dilation · (kernel - 1) / 2. Output: out_channels, ceil(H / stride), ceil(W / stride).
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    order: ConvOrder = "conv norm act"


@dataclass(frozen=True, slots=True)
class Norm:
    """Batch normalisation (arXiv 1502.03167)."""

    channels: int


@dataclass(frozen=True, slots=True)
class Act:
    """ReLU."""

    channels: int


@dataclass(frozen=True, slots=True)
class MaxPool:
    """3×3 max pooling of stride 2, padding 1."""

    channels: int


@dataclass(frozen=True, slots=True)
class AvgPool:
    """2×2 average pooling whose taps lie `dilation` apart; at the lower and right edge it averages what is there."""

    channels: int
    stride: int = 2
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class Pad:
    """Shortcut A: take every `stride`-th pixel, and add zero channels at the end or (`centred`) half on either side."""

    in_channels: int
    out_channels: int
    stride: int = 1
    centred: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Squeeze-excitation: x · sigmoid(W2 relu(W1 mean(x))), `squeeze` channels inside (arXiv 1709.01507 §3)."""

    channels: int
    squeeze: int


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over height and width: N C H W → N C.

    `window`: by avg_pool2d over the whole map: the same terms, summed in another order.
    """

    channels: int
    window: bool = False


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer with bias: N in_features → N out_features.

    `pointwise`: computed as a 1×1 convolution of one pixel: the same terms, summed in another order.
    """

    in_features: int
    out_features: int
    pointwise: bool = False


Layer = Conv | Norm | Act | MaxPool | AvgPool | Pad | Gate | GlobalPool | Linear


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """y = after(branch(x) + shortcut(x)), x first through `preact`.

    `shortcut` is empty for the identity, and None in a plain block, which has no addition: y = after(branch(x)).
    """

    kind: str
    preact: tuple[Layer, ...]
    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None
    after: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage's first block, and the one that the other `depth` - 1 repeat (None in a stage of one block)."""

    first: BlockPlan
    rest: BlockPlan | None
    depth: int

    def __iter__(self) -> Iterator[BlockPlan]:
        yield self.first
        for _ in range(self.depth - 1):
            assert self.rest is not None
            yield self.rest


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """Layers of the stem, blocks of the stages, layers of the head."""

    stem: tuple[Layer, ...]
    stages: tuple[StagePlan, ...]
    head: tuple[Layer, ...]


class BlockOptions(TypedDict, total=False):
    """The keyword arguments of both blocks.

    out_channels: channels of the output; those of the input unless given.
    stride: of the block's subsampling convolution.
    groups: of every 3×3 convolution.
    dilation: of every 3×3 convolution.
    first_dilation: where a stride gave way to dilation, that of a 3×3 that carried it (`Design.with_output_stride`).
    order: the order of operations; see `plusx.design.Order`.
    shortcut: what x passes; see `plusx.design.Shortcut`.
    squeeze: inner channels of a squeeze-excitation gate at the branch's end; None: no gate.
    skip: False leaves the addition out: the plain twin.
    share_preact: a pre-activation order activates x before the two paths part. So it does wherever the shortcut has
        weights, and in the first block of a network (arXiv 1603.05027, Appendix).
    """

    out_channels: int | None
    stride: int
    groups: int
    dilation: int
    first_dilation: int | None
    order: Order
    shortcut: Shortcut
    squeeze: int | None
    skip: bool
    share_preact: bool


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Where an order puts norms and activations. A projection shortcut ends as the branch does."""

    inner: ConvOrder
    last: ConvOrder
    projection: ConvOrder
    before: Literal["", "act", "norm act"] = ""
    after: Literal["", "act", "norm act"] = ""


_ORDERS: dict[Order, _Recipe] = {
    "original": _Recipe("conv norm act", "conv norm", "conv norm", after="act"),
    "bn_after_add": _Recipe("conv norm act", "conv", "conv", after="norm act"),
    "relu_before_add": _Recipe("conv norm act", "conv norm act", "conv norm"),
    "relu_preact": _Recipe("act conv norm", "act conv norm", "conv norm", before="act"),
    "full_preact": _Recipe("norm act conv", "norm act conv", "conv", before="norm act"),
}
_WITHOUT_PREACT: dict[ConvOrder, ConvOrder] = {"act conv norm": "conv norm", "norm act conv": "conv"}


@dataclass(frozen=True, slots=True)
class _Options:
    """`BlockOptions` with their defaults, checked."""

    out_channels: int | None = None
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    first_dilation: int | None = None
    order: Order = "original"
    shortcut: Shortcut = "B"
    squeeze: int | None = None
    skip: bool = True
    share_preact: bool = False

    def __post_init__(self) -> None:
        check_one_of("order:", self.order, get_args(Order), DesignError)
        check_one_of("shortcut:", self.shortcut, get_args(Shortcut), DesignError)
        for flag in ("skip", "share_preact"):
            if not isinstance(getattr(self, flag), bool):
                raise DesignError(f"{flag}: {getattr(self, flag)!r} is not True or False")
        if not self.skip and self.shortcut not in ("B", "identity"):  # what nobody has chosen, and what says the same
            raise DesignError(f"shortcut: {self.shortcut} is of no use where skip is False: there is no addition")
        for field in ("out_channels", "first_dilation", "squeeze"):
            if (value := getattr(self, field)) is not None:
                _positive(field, value)
        if self.first_dilation is not None and self.stride != 1:
            raise DesignError(f"first_dilation: stands for a stride that was removed, but the stride is {self.stride}")

    @property
    def first(self) -> int:
        """The dilation of a 3×3 that subsamples, or would."""
        return self.dilation if self.first_dilation is None else self.first_dilation


def _chosen(block: str, options: BlockOptions) -> _Options:
    known = tuple(BlockOptions.__annotations__)
    if odd := [name for name in options if name not in known]:
        raise DesignError(f"{block} has no option {odd[0]!r}{did_you_mean(odd[0], known)} (known: {', '.join(known)})")
    return _Options(**options)


def building(channels: int, **options: Unpack[BlockOptions]) -> BlockPlan:
    """Two 3×3 convolutions (arXiv 1512.03385, Figure 5 left). Raises DesignError."""
    chosen = _chosen("a building block", options)
    recipe, width = _ORDERS[chosen.order], channels if chosen.out_channels is None else chosen.out_channels
    branch = (
        Conv(channels, width, 3, chosen.stride, chosen.first, chosen.groups, recipe.inner),
        Conv(width, width, 3, 1, chosen.dilation, chosen.groups, recipe.last),
    )
    return _block("building", branch, chosen)


def bottleneck(
    in_channels: int, mid_channels: int, *, stride_on: StrideOn = "3x3", **options: Unpack[BlockOptions]
) -> BlockPlan:
    """1×1 down to `mid_channels`, 3×3, 1×1 up (arXiv 1512.03385, Figure 5 right).

    `stride_on` names the convolution that subsamples. The 3×3 has `first_dilation` where it would carry the stride
    itself, and `dilation` where the stride comes before it. Raises DesignError.
    """
    chosen = _chosen("a bottleneck", options)
    for name, channels in (("in_channels", in_channels), ("mid_channels", mid_channels)):
        _positive(name, channels)
    recipe, width = _ORDERS[chosen.order], in_channels if chosen.out_channels is None else chosen.out_channels
    check_one_of("stride_on:", stride_on, get_args(StrideOn), DesignError)
    if stride_on == "3x3":
        strides, dilation = (1, chosen.stride), chosen.first
    else:
        strides, dilation = (chosen.stride, 1), chosen.dilation
    branch = (
        Conv(in_channels, mid_channels, 1, strides[0], order=recipe.inner),
        Conv(mid_channels, mid_channels, 3, strides[1], dilation, chosen.groups, recipe.inner),
        Conv(mid_channels, width, 1, order=recipe.last),
    )
    return _block("bottleneck", branch, chosen)


_BLOCKS: dict[str, Callable[..., BlockPlan]] = {"building": building, "bottleneck": bottleneck}


def network(design: Design) -> NetworkPlan:
    """The layers of a whole Design, as `plusx.build` assembles them."""
    stages = []
    for stage, first, rest in stage_arguments(design):
        plan = _BLOCKS[stage.block.kind]
        stages.append(StagePlan(plan(**first), plan(**rest) if stage.depth > 1 else None, stage.depth))
    return NetworkPlan(_stem(design), tuple(stages), _head(design))


def stage_arguments(design: Design) -> Iterator[tuple[Stage, dict[str, Any], dict[str, Any]]]:
    """For each stage, the arguments of its first block and those of every later one."""
    in_channels, at_start = design.stem.width, True
    for stage in design.stages:
        shared = _shared_arguments(stage)
        first = {"stride": stage.stride, "first_dilation": stage.first_dilation, "share_preact": at_start}
        yield (
            stage,
            {**_channel_arguments(stage, in_channels), **shared, **first},
            {**_channel_arguments(stage, stage.width), **shared},
        )
        in_channels, at_start = stage.width, False


def drop_rate(design: Design, stage: int, block: int) -> float:
    """The stochastic depth of one block: it grows linearly over the network's blocks (arXiv 1603.09382 §3)."""
    depths = [stage.depth for stage in design.stages]
    return design.stages[stage].block.stochastic_depth * (sum(depths[:stage]) + block + 1) / sum(depths)


def _channel_arguments(stage: Stage, in_channels: int) -> dict[str, Any]:
    if stage.block.kind == "building":
        return {"channels": in_channels}
    return {"in_channels": in_channels, "mid_channels": stage.mid, "stride_on": stage.block.stride_on}


def _shared_arguments(stage: Stage) -> dict[str, Any]:
    block = stage.block
    return {
        "out_channels": stage.width,
        "groups": block.groups,
        "dilation": stage.dilation,
        "order": block.order,
        "shortcut": block.shortcut,
        "squeeze": stage.squeeze,
        "skip": block.skip,
    }


def _stem(design: Design) -> tuple[Layer, ...]:
    """The stem's last convolution leaves to the first block what that begins with (arXiv 1603.05027, Appendix)."""
    stem = design.stem
    before = _ORDERS[design.stages[0].block.order].before
    last: ConvOrder = {"": "conv norm act", "act": "conv norm", "norm act": "conv"}[before]  # type: ignore[assignment]
    match stem.kind:
        case "imagenet":
            return Conv(stem.in_channels, stem.width, 7, 2, order=last), MaxPool(stem.width)
        case "deep":
            first, second = stem.mid
            return (
                Conv(stem.in_channels, first, 3, 2),
                Conv(first, second, 3),
                Conv(second, stem.width, 3, order=last),
                MaxPool(stem.width),
            )
        case "small":
            return (Conv(stem.in_channels, stem.width, 3, order=last),)


def _head(design: Design) -> tuple[Layer, ...]:
    """Pooling and classifier, after the norm and activation that pre-activation blocks leave undone.

    The full pre-activation networks' classifier is pointwise, as timm's is, so that logits agree to the last bit.
    """
    last = design.stages[-1]
    before = _ORDERS[last.block.order].before
    pool: tuple[Layer, ...] = (*_loose(before, last.width), GlobalPool(last.width, design.head.pool == "window"))
    classifier = Linear(last.width, design.head.classes, pointwise=before == "norm act")
    return (*pool, classifier) if design.head.classes else pool


def _block(kind: str, branch: tuple[Conv, ...], chosen: _Options) -> BlockPlan:
    for conv in branch:
        check(conv)
    recipe, in_channels, width = _ORDERS[chosen.order], branch[0].in_channels, branch[-1].out_channels
    shortcut = _shortcut(chosen, in_channels, width) if chosen.skip else None
    weighted = any(isinstance(layer, Conv) for layer in shortcut or ())
    preact: tuple[Layer, ...] = ()
    if recipe.before and shortcut is not None and (weighted or chosen.share_preact):
        preact = _loose(recipe.before, in_channels)
        branch = (replace(branch[0], order=_WITHOUT_PREACT[branch[0].order]), *branch[1:])
    gate = () if chosen.squeeze is None else (Gate(width, chosen.squeeze),)
    return BlockPlan(kind, preact, (*branch, *gate), shortcut, _loose(recipe.after, width))


def _shortcut(chosen: _Options, in_channels: int, width: int) -> tuple[Layer, ...]:
    """The shortcut's layers. A stride that was removed counts as a change of shape: its weights are there."""
    kind, stride, removed = chosen.shortcut, chosen.stride, chosen.first_dilation is not None
    changes = stride != 1 or in_channels != width
    project = Conv(in_channels, width, 1, stride, order=_ORDERS[chosen.order].projection)
    match kind:
        case "identity" if changes:
            raise DesignError(f"shortcut: identity cannot take {in_channels} channels to {width} at stride {stride}")
        case "A" | "A-centred" if width < in_channels:
            raise DesignError(f"shortcut: {kind} pads channels and cannot take {in_channels} to {width}")
        case "A" | "A-centred" if changes:
            return (Pad(in_channels, width, stride, kind == "A-centred"),)
        case "D" if stride != 1 or removed:
            return AvgPool(in_channels, stride, chosen.first), replace(project, stride=1)
        case "B" | "D" if changes or removed:
            return (project,)
        case "C":
            return (project,)
        case _:
            return ()


def _loose(order: Literal["", "act", "norm act"], channels: int) -> tuple[Layer, ...]:
    return {"": (), "act": (Act(channels),), "norm act": (Norm(channels), Act(channels))}[order]


def _positive(field: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise DesignError(f"{field}: {value!r} is not a positive whole number")


def check(conv: Conv) -> None:
    """Raises DesignError unless the convolution's numbers are positive and its groups divide its channels."""
    for field in ("in_channels", "out_channels", "kernel", "stride", "dilation", "groups"):
        _positive(field, getattr(conv, field))
    for channels in (conv.in_channels, conv.out_channels):
        if channels % conv.groups:
            raise DesignError(f"groups: {conv.groups} does not divide {channels} channels")
