"""The published network that a Design is, or is nearest to, and in what they differ."""

from collections.abc import Iterator
from functools import cache

from plusx import families
from plusx.design import Design, Head


def nearest(design: Design) -> tuple[str, tuple[str, ...]]:
    """The name of the published network with these blocks, and the Design's differences from it, in words.

    The name is empty where no published network has as many blocks of these widths.
    """
    alike = [(other.name, differences(design, other)) for other in _candidates(design) if _same_blocks(design, other)]
    return min(alike, key=lambda found: len(found[1]), default=("", ()))


def named(design: Design) -> Design:
    """The Design under its published name, where it differs by classes, input channels and order of pooling only."""
    same = (
        other.name for other in _candidates(design) if _same_blocks(design, other) and _bare(other) == _bare(design)
    )
    return design.replace(name=next(same, ""))


def _bare(design: Design) -> str:
    return design.replace(head=Head(classes=0)).with_in_channels(3).digest


@cache
def _named_designs() -> tuple[Design, ...]:
    return tuple(families.design(name) for name in families.names())


def _candidates(design: Design) -> Iterator[Design]:
    yield from _named_designs()
    depths = {stage.depth for stage in design.stages}
    if len(depths) == 1 and len(design.stages) == 3:  # the CIFAR families, which have a member of every depth
        n = depths.pop()
        yield families.cifar(6 * n + 2)
        yield families.cifar_plain(6 * n + 2)
        yield families.cifar_preact(6 * n + 2, block="building")
        yield families.cifar_preact(9 * n + 2)
        yield families.wrn(6 * n + 4, max(1, design.stages[0].width // 16))


def _same_blocks(design: Design, other: Design) -> bool:
    def blocks(one: Design) -> list[tuple[object, ...]]:
        return [(stage.depth, stage.width, stage.mid, stage.block.kind) for stage in one.stages]

    return blocks(design) == blocks(other)


def differences(design: Design, other: Design) -> tuple[str, ...]:
    """In what a Design with the same blocks differs from a published one, in a few words each."""
    return tuple(_differences(design, other))


def _differences(design: Design, other: Design) -> Iterator[str]:
    if design.stem.replace(in_channels=3) != other.stem:
        yield f"the {design.stem.kind} stem" if design.stem.kind != other.stem.kind else "other channels in the stem"
    block, theirs = design.stages[0].block, other.stages[0].block
    if block.skip != theirs.skip:
        yield "additions" if block.skip else "no additions"
    elif block.skip and block.shortcut != theirs.shortcut:
        yield f"shortcut {block.shortcut}"
    if block.order != theirs.order:
        yield f"order {block.order}"
    if getattr(block, "stride_on", "") != getattr(theirs, "stride_on", ""):
        yield f"the stride on the {getattr(block, 'stride_on', '')}"
    if block.groups != theirs.groups:
        yield f"{block.groups} groups"
    squeezes = [stage.squeeze for stage in design.stages]
    if squeezes != [stage.squeeze for stage in other.stages]:
        yield "squeeze-excitation" if any(squeezes) else "no squeeze-excitation"
    if [(stage.stride, stage.dilation) for stage in design.stages] != [
        (stage.stride, stage.dilation) for stage in other.stages
    ]:
        yield f"output stride {design.output_stride}"
    if design.head.classes != other.head.classes:
        yield f"{design.head.classes} classes" if design.head.classes else "no classifier"
    if design.stem.in_channels != 3:
        yield f"{design.stem.in_channels} input channel{'s' if design.stem.in_channels > 1 else ''}"
