"""The published families: numbers in, Design out, each with its paper. No torch here.

Each function below is one family; `design(name)` looks a published member up, `names(pattern)` lists them.
Left out on purpose: the dropout of wide residual networks, and options no published member of these families uses.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal, get_args

from plusx.design import (
    Block,
    BottleneckSpec,
    BuildingSpec,
    DeepStem,
    Design,
    Head,
    ImageNetStem,
    SmallStem,
    Stage,
    Stem,
    StrideOn,
)
from plusx.errors import DesignError, check_one_of, did_you_mean

BlockKind = Literal["building", "bottleneck"]

BUILDING_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int, *, stride_on: StrideOn = "3x3", name: str = "") -> Design:
    """ResNet-18, 34, 50, 101, 152 (arXiv 1512.03385, Table 1). `stride_on="1x1"`: the bottlenecks' own in the paper."""
    if depth in BUILDING_DEPTHS and stride_on != "3x3":
        raise DesignError(f"stride_on: {stride_on!r} is of no use: {depth} layers have building blocks")
    block = BottleneckSpec(stride_on=stride_on) if depth in BOTTLENECK_DEPTHS else BuildingSpec()
    return _imagenet(name or f"resnet{depth}", depth, block)


def resnet_d(depth: int, *, name: str = "") -> Design:
    """ResNet-D: the deep stem, and average pooling before the projections (arXiv 1812.01187 §4.2)."""
    block = _kind(depth)(shortcut="D")
    return _imagenet(name or f"resnet{depth}d", depth, block, stem=DeepStem())


def wide_resnet(depth: int, factor: int = 2, *, name: str = "") -> Design:
    """Wide ResNet-50 and 101: wider inside the bottlenecks (arXiv 1605.07146 §3.4), `factor` times."""
    return _imagenet(name or f"wide_resnet{depth}_{factor}", depth, BottleneckSpec(), mid=64 * factor)


def resnext(depth: int, groups: int, group_width: int, *, name: str = "") -> Design:
    """ResNeXt: the 3×3 split into groups (arXiv 1611.05431, Table 1), of `group_width` channels each."""
    block = BottleneckSpec(groups=groups)
    return _imagenet(name or f"resnext{depth}_{groups}x{group_width}d", depth, block, mid=groups * group_width)


def seresnet(depth: int, *, name: str = "") -> Design:
    """ResNet with squeeze-excitation gates, reduction 16 (arXiv 1709.01507 §4).

    A gate's inner channels are rounded to a multiple of 8, as in everyone's weights; the paper does not round, which
    differs only at width 64 (8 here, 4 there).
    """
    return _imagenet(name or f"seresnet{depth}", depth, _kind(depth)(), gated=True)


def resnetv2(depth: int, *, name: str = "") -> Design:
    """Full pre-activation ResNet (arXiv 1603.05027), its stride on the 3×3 as in timm."""
    return _imagenet(name or f"resnetv2_{depth}", depth, _kind(depth)(order="full_preact"))


def plain(depth: int, *, name: str = "") -> Design:
    """The plain twins of ResNet-18 and 34: the same layers, no additions (arXiv 1512.03385 §3.3)."""
    return resnet(depth).plain_twin(name or f"plain{depth}")


def cifar(depth: int, *, name: str = "") -> Design:
    """The paper's CIFAR networks, depth 6n+2, shortcut A (arXiv 1512.03385 §4.2)."""
    return _cifar(name or f"cifar_resnet{depth}", BuildingSpec(shortcut="A"), _per_stage("cifar", depth, 6, 2))


def cifar_plain(depth: int, *, name: str = "") -> Design:
    """The plain twins of the paper's CIFAR networks (arXiv 1512.03385 §4.2)."""
    return cifar(depth).plain_twin(name or f"cifar_plain{depth}")


def cifar_preact(depth: int, *, block: BlockKind = "bottleneck", name: str = "") -> Design:
    """Full pre-activation CIFAR networks (arXiv 1603.05027 §3 and Appendix).

    Bottlenecks (164, 1001) have depth 9n+2 and shortcut B, as the paper's released code does; building blocks (110)
    have depth 6n+2 and shortcut A, as the 110-layer baseline that the paper takes from arXiv 1512.03385.
    """
    check_one_of("block:", block, get_args(BlockKind), DesignError)
    name = name or f"cifar_preact{depth}"
    if block == "building":
        return _cifar(
            name, BuildingSpec(order="full_preact", shortcut="A"), _per_stage("cifar_preact (building)", depth, 6, 2)
        )
    n = _per_stage("cifar_preact (bottleneck)", depth, 9, 2)
    return _cifar(name, BottleneckSpec(order="full_preact"), n, widths=(64, 128, 256))


def wrn(depth: int, factor: int, *, name: str = "") -> Design:
    """Wide residual networks for CIFAR, depth 6n+4 (arXiv 1605.07146, Table 1), `factor` times as wide. No dropout."""
    n = _per_stage("wrn", depth, 6, 4)
    widths = (16 * factor, 32 * factor, 64 * factor)
    return _cifar(name or f"wrn{depth}_{factor}", BuildingSpec(order="full_preact"), n, widths=widths)


def design(name: str) -> Design:
    """The published network of that name. Raises DesignError, with the nearest name, if there is none."""
    return _named(name)


def find(design: Design | str) -> Design:
    """A Design as it is; a name as the published network of that name. Raises DesignError for anything else."""
    if isinstance(design, Design):
        return design
    if isinstance(design, str):
        return _named(design)
    raise DesignError(f"design: {design!r} is neither a Design nor the name of a published network")


def names(pattern: str = "*") -> tuple[str, ...]:
    """The published names, in the families' order; `pattern` as in a shell, or a plain part of the name."""
    pattern = pattern.lower()
    pattern = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    return tuple(name for name in FAMILIES if fnmatchcase(name, pattern))


def citation(name: str) -> str:
    """What the network is, and its paper: the first sentence of its family's docstring, and what sets it apart."""
    if name not in FAMILIES:
        raise DesignError(f"no design is named {name!r}{did_you_mean(name, FAMILIES)}")
    first = (FAMILIES[name].func.__doc__ or "").split("\n", maxsplit=1)[0]
    family = first[: first.index(")") + 1]
    strides = {block.stride_on for stage in design(name).stages if (block := stage.block).kind == "bottleneck"}
    placed = {"1x1": "; stride on the 1×1, as in the paper", "3x3": '; stride on the 3×3, PyTorch\'s "v1.5"'}
    plain_resnet = FAMILIES[name].func is resnet and strides
    return family + (placed[strides.pop()] if plain_resnet else "")


FAMILIES: dict[str, "partial[Design]"] = {
    **{f"resnet{d}": partial(resnet, d) for d in (18, 34, 50, 101, 152)},
    **{f"resnet{d}_v1": partial(resnet, d, stride_on="1x1") for d in (50, 101, 152)},
    **{f"resnet{d}d": partial(resnet_d, d) for d in (18, 34, 50, 101, 152)},
    **{f"wide_resnet{d}_2": partial(wide_resnet, d, 2) for d in (50, 101)},
    "resnext50_32x4d": partial(resnext, 50, 32, 4),
    "resnext101_32x8d": partial(resnext, 101, 32, 8),
    "resnext101_64x4d": partial(resnext, 101, 64, 4),
    **{f"seresnet{d}": partial(seresnet, d) for d in (18, 34, 50, 101, 152)},
    **{f"resnetv2_{d}": partial(resnetv2, d) for d in (50, 101, 152)},
    **{f"plain{d}": partial(plain, d) for d in (18, 34)},
    **{f"cifar_resnet{d}": partial(cifar, d) for d in (20, 32, 44, 56, 110, 1202)},
    **{f"cifar_plain{d}": partial(cifar_plain, d) for d in (20, 32, 44, 56, 110)},
    "cifar_preact110": partial(cifar_preact, 110, block="building"),
    **{f"cifar_preact{d}": partial(cifar_preact, d) for d in (164, 1001)},
    **{f"wrn{d}_{k}": partial(wrn, d, k) for d, k in ((28, 10), (16, 8), (40, 2))},
}


def _named(name: str) -> Design:
    if name not in FAMILIES:
        near = did_you_mean(name.lower(), FAMILIES) if isinstance(name, str) else ""
        raise DesignError(f"no design is named {name!r}{near} (plusx list shows all)")
    return FAMILIES[name](name=name)


def gate_width(width: int) -> int:
    """The inner channels of a squeeze-excitation gate: a 16th of `width`, as a multiple of 8 (see `seresnet`)."""
    return max(8, (width // 16 + 4) // 8 * 8)


def _kind(depth: int) -> Callable[..., BuildingSpec | BottleneckSpec]:
    return BottleneckSpec if depth in BOTTLENECK_DEPTHS else BuildingSpec


def _imagenet(
    name: str, depth: int, block: Block, *, stem: Stem | None = None, mid: int = 64, gated: bool = False
) -> Design:
    """Four stages; widths 64 to 512, or 256 to 2048 around bottlenecks whose first inner width is `mid`."""
    depths = {**BUILDING_DEPTHS, **BOTTLENECK_DEPTHS} if mid == 64 else BOTTLENECK_DEPTHS
    if depth not in depths:
        raise DesignError(f"depth: {depth} is not one of {', '.join(map(str, depths))}")
    bottleneck = block.kind == "bottleneck"
    stages = []
    for index, blocks in enumerate(depths[depth]):
        width = (256 if bottleneck else 64) << index
        stages.append(
            Stage(
                depth=blocks,
                width=width,
                mid=mid << index if bottleneck else None,
                squeeze=gate_width(width) if gated else None,
                stride=1 if index == 0 else 2,
                block=block,
            )
        )
    return Design(name=name, stem=stem or ImageNetStem(), stages=tuple(stages))


def _cifar(name: str, block: Block, depth: int, *, widths: tuple[int, int, int] = (16, 32, 64)) -> Design:
    """Three stages of `depth` blocks on a stem of 16 channels, 10 classes; bottlenecks reduce to a quarter."""
    stages = [
        Stage(
            depth=depth,
            width=width,
            mid=width // 4 if block.kind == "bottleneck" else None,
            stride=1 if index == 0 else 2,
            block=block,
        )
        for index, width in enumerate(widths)
    ]
    return Design(name=name, stem=SmallStem(), stages=tuple(stages), head=Head(classes=10))


def _per_stage(family: str, depth: int, step: int, offset: int) -> int:
    """The n of a depth `step`·n + `offset`. Raises DesignError naming the nearest two depths."""
    n, rest = divmod(depth - offset, step)
    if n >= 1 and rest == 0:
        return n
    below = max(n, 1)
    nearest = f"{step * below + offset} and {step * (below + 1) + offset}"
    raise DesignError(f"{family}: depth {depth} is not {step}n+{offset}; the nearest are {nearest}")
