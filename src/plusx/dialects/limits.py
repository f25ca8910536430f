"""What each dialect can say: which Designs its peer can build, and under which of its names the tensors then go.

A Design beyond that is not written: the peer would compute something else with the same tensors, or not load them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from plusx.design import Design, Order, Shortcut
from plusx.dialects import names
from plusx.dialects.names import Table
from plusx.families import gate_width

Target = Literal["plusx", "torchvision", "timm", "transformers", "akamaster", "chenyaofo", "kuangliu"]
"""The dialects that `convert` writes."""

TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Dialect:
    """What a peer's own code builds. A tuple lists the values it has; an empty one: any.

    source: where that code is.
    stages: how many. widths: of each stage, for building blocks (bottlenecks: four times as many).
    narrow: a bottleneck's mid is a quarter of its width; otherwise their ratio is the same in all stages.
    gates, groups, dilation, headless: whether it has them. window: whether it pools by avg_pool2d.
    """

    source: str
    stems: tuple[str, ...]
    blocks: tuple[str, ...] = ("building", "bottleneck")
    shortcuts: tuple[Shortcut, ...] = ("B",)
    stride_on: tuple[str, ...] = ("3x3",)
    stem_width: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    narrow: bool = True
    gates: bool = False
    groups: bool = False
    dilation: tuple[str, ...] = ()
    headless: bool = False
    orders: tuple[Order, ...] = ("original",)
    window: bool = False
    extra: Callable[[Design], str] = field(default=lambda _: "")


def _timm_extra(design: Design) -> str:
    """What timm's constructors fix beyond the table below: gates, stems, and the resnetv2."""
    stem = design.stem
    halves = stem.width // 2
    if stem.kind == "deep" and stem.mid not in ((halves, halves), (3 * (halves // 4), halves)):
        return f"stem.mid {list(stem.mid)}"
    for index, stage in enumerate(design.stages):
        if stage.squeeze is not None and stage.squeeze != gate_width(stage.width):
            return f"stages[{index}].squeeze {stage.squeeze}"
    if not preactivated(design):
        return f"stem.width {stem.width}" if stem.kind == "imagenet" and stem.width != 64 else ""
    if design.stages[0].squeeze or any(stage.block.groups > 1 for stage in design.stages):
        return "squeeze-excitation or groups in a pre-activation network"
    if any(stage.mid is not None and stage.mid * 4 != stage.width for stage in design.stages):
        return "a pre-activation bottleneck whose mid is not a quarter of its width"
    widths = [stem.width, *(stage.width for stage in design.stages)]
    same = [a == b and stage.stride == 1 for (a, b), stage in zip(pairwise(widths), design.stages, strict=True)]
    if same[0] or (design.stages[0].block.kind == "bottleneck" and any(same)):
        return "a stage of pre-activation blocks that starts with an identity shortcut"
    return ""


DIALECTS: dict[str, Dialect] = {
    "torchvision": Dialect(
        "https://github.com/pytorch/vision",
        stems=("imagenet",),
        stem_width=(64,),
        stages=(4,),
        widths=(64, 128, 256, 512),
        narrow=False,
        groups=True,
        dilation=("bottleneck",),
    ),
    "timm": Dialect(
        "https://github.com/huggingface/pytorch-image-models",
        stems=("imagenet", "deep"),
        shortcuts=("B", "D"),
        stages=(4,),
        narrow=False,
        gates=True,
        groups=True,
        dilation=("building", "bottleneck"),
        headless=True,
        orders=("original", "full_preact"),
        extra=_timm_extra,
    ),
    "transformers": Dialect(
        "https://github.com/huggingface/transformers",
        stems=("imagenet",),
        stride_on=("1x1", "3x3"),
        headless=True,
    ),
    "akamaster": Dialect(
        "https://github.com/akamaster/pytorch_resnet_cifar10",
        stems=("small",),
        blocks=("building",),
        shortcuts=("A-centred", "B"),
        window=True,
        stem_width=(16,),
        stages=(3,),
        widths=(16, 32, 64),
    ),
    "chenyaofo": Dialect(
        "https://github.com/chenyaofo/pytorch-cifar-models",
        stems=("small",),
        blocks=("building",),
        stem_width=(16,),
        stages=(3,),
        widths=(16, 32, 64),
    ),
    "kuangliu": Dialect(
        "https://github.com/kuangliu/pytorch-cifar",
        stems=("small",),
        window=True,
        stem_width=(64,),
        stages=(4,),
        widths=(64, 128, 256, 512),
    ),
}


def preactivated(design: Design) -> bool:
    """Whether timm calls this network a resnetv2."""
    return design.stages[0].block.order == "full_preact"


def problem(design: Design, to: str) -> str:
    """The part of the Design that dialect `to` cannot express, or the empty string."""
    if to == "plusx":
        return ""
    dialect, stem, block = DIALECTS[to], design.stem, design.stages[0].block
    if any(stage.block != block for stage in design.stages):
        return "stages whose blocks differ"
    checks = (
        (stem.kind in dialect.stems, f"stem.kind {stem.kind!r}"),
        (not dialect.stem_width or stem.width in dialect.stem_width, f"stem.width {stem.width}"),
        (block.kind in dialect.blocks, f"block.kind {block.kind!r}"),
        (block.skip, "block.skip false (the plain twin)"),
        (block.order in dialect.orders, f"block.order {block.order!r}"),
        (not block.skip or block.shortcut in _same(design, dialect.shortcuts), f"block.shortcut {block.shortcut!r}"),
        (not dialect.stages or len(design.stages) in dialect.stages, f"{len(design.stages)} stages"),
        (
            block.groups == 1 or (dialect.groups and block.kind == "bottleneck"),
            f"block.groups {block.groups} in {block.kind} blocks",
        ),
        (dialect.gates or not any(stage.squeeze for stage in design.stages), "squeeze-excitation"),
        (len({stage.squeeze is None for stage in design.stages}) == 1, "gates in some stages only"),
        (dialect.headless or design.head.classes > 0, "head.classes 0"),
        (
            getattr(block, "stride_on", "3x3") in dialect.stride_on,
            f"block.stride_on {getattr(block, 'stride_on', '')!r}",
        ),
    )
    found = next((text for holds, text in checks if not holds), "")
    return found or _sizes_problem(design, dialect) or _strides_problem(design, to) or dialect.extra(design)


def _same(design: Design, shortcuts: tuple[Shortcut, ...]) -> tuple[Shortcut, ...]:
    """The shortcuts, and those that compute the same in this Design: all but C do where no shape changes."""
    widths = {design.stem.width, *(stage.width for stage in design.stages)}
    if len(widths) == 1 and all(stage.stride == 1 and stage.first_dilation is None for stage in design.stages):
        return ("identity", "A", "A-centred", "B", "D")
    return shortcuts


def _sizes_problem(design: Design, dialect: Dialect) -> str:
    """Widths other than the peer's, or inner widths that one number for the whole network does not give."""
    factor = 4 if design.stages[0].block.kind == "bottleneck" else 1
    ratios = {factor * (stage.mid or stage.width) / stage.width for stage in design.stages}
    if len(ratios) > 1 or (dialect.narrow and ratios != {1}):
        return f"stages[].mid {[stage.mid for stage in design.stages]}"
    widths = [stage.width for stage in design.stages]
    if dialect.widths and widths != [width * factor for width in dialect.widths]:
        return f"stages[].width {widths}"
    return ""


def _strides_problem(design: Design, to: str) -> str:
    """Strides other than 1, 2, 2, …, but for dilation in their place where the peer has that."""
    strides, dilations = [stage.stride for stage in design.stages], [stage.dilation for stage in design.stages]
    first = (1, 2) if to == "transformers" else (1,)
    if set(dilations) != {1}:
        if design.stages[0].block.kind not in DIALECTS[to].dilation:
            return f"stages[].dilation {dilations}"
        undone = design.replace(
            stages=tuple(
                stage.replace(stride=1 if index == 0 else 2, dilation=1, first_dilation=None)
                for index, stage in enumerate(design.stages)
            )
        )
        reachable = design.output_stride in {feature.stride for feature in undone.features}
        same = reachable and undone.with_output_stride(design.output_stride) == design
        # where timm dilates, it pools in front of a projection over neighbours, not over taps that lie apart
        return (
            ""
            if same and design.stages[0].block.shortcut != "D"
            else f"stages[].dilation {dilations} with stages[].stride {strides}"
        )
    if strides[0] not in first or any(stride != 2 for stride in strides[1:]):
        return f"stages[].stride {strides}"
    return ""


def table(design: Design, to: str) -> Table:
    """The naming that dialect `to` uses for this Design."""
    deep, pooled = design.stem.kind == "deep", design.stages[0].block.shortcut == "D"
    match to:
        case "plusx":
            return names.PLUSX
        case "timm" if preactivated(design):
            return names.RESNETV2_DEEP if deep else names.RESNETV2
        case "timm":
            tables = {(False, False): names.RESNET, (False, True): names.RESNET_POOLED}
            return (tables | {(True, False): names.RESNET_DEEP, (True, True): names.RESNET_DEEP_POOLED})[deep, pooled]
        case "transformers":
            return names.HUB if design.head.classes else names.HUB_BARE
        case "akamaster" | "kuangliu":
            return names.LINEAR
        case _:
            return names.RESNET


def dialect_of(table: Table, design: Design) -> str:
    """Whose naming it is, among those who share a table: torchvision and chenyaofo do, akamaster and kuangliu do."""
    if table is names.LINEAR:
        return "akamaster" if len(design.stages) == 3 else "kuangliu"
    if table is names.RESNET:
        small = design.stem.kind == "small" and len(design.stages) == 3
        gated = any(stage.squeeze for stage in design.stages)
        return "chenyaofo" if small else "timm" if gated else "torchvision"
    return table.name.removesuffix("'s resnetv2")
