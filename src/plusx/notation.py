"""How layers, blocks, shapes and counts are written in trees and pictures. No torch here.

box(layer)        3×3, 64, /2                        as in the figures of arXiv 1512.03385
words(layer)      3×3 conv, 32 → 64, stride 2, norm, relu
formula(block)    relu(F(x) + W x)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plusx import layers
from plusx.design import Stage
from plusx.layers import BlockPlan, Layer, NetworkPlan

_MARKS = {"norm": "norm", "act": "relu"}


@dataclass(frozen=True, slots=True)
class Step:
    """A layer that gets a box, after the norms and activations (`before`) that x passes on the arrow towards it."""

    before: tuple[str, ...]
    layer: Layer


def steps(plan: Iterable[Layer]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """A row of layers as boxes, and the norms and activations that follow the last box."""
    boxes: list[Step] = []
    marks: list[str] = []
    for layer in plan:
        for part in _parts(layer):
            if part in _MARKS:
                marks.append(_MARKS[part])
            else:
                boxes.append(Step(tuple(marks), layer))
                marks = []
    return tuple(boxes), tuple(marks)


def _parts(layer: Layer) -> tuple[str, ...]:
    match layer:
        case layers.Conv():
            return tuple(layer.order.split())
        case layers.Norm():
            return ("norm",)
        case layers.Act():
            return ("act",)
        case _:
            return ("box",)


def box(layer: Layer) -> str:
    """A layer in the shorthand of the paper's figures: kernel, output channels, stride."""
    match layer:
        case layers.Conv():
            return f"{_kernel(layer.kernel)}, {layer.out_channels}{_by(layer.stride)}"
        case layers.MaxPool():
            return "max pool, /2"
        case layers.AvgPool():
            return f"avg pool{_by(layer.stride)}"
        case layers.Pad():
            same = layer.in_channels == layer.out_channels
            return ("subsample" if same else f"pad to {layer.out_channels}") + _by(layer.stride)
        case layers.Gate():
            return f"SE, {layer.squeeze}"
        case layers.GlobalPool():
            return "global avg pool"
        case layers.Linear():
            return f"fc, {layer.out_features}"
        case layers.Norm():
            return "norm"
        case layers.Act():
            return "relu"


def label(layer: Layer) -> str:
    """The same where there is room for more of the words."""
    match layer:
        case layers.MaxPool():
            return "3×3 max pool, /2"
        case layers.AvgPool():
            return f"2×2 avg pool{_by(layer.stride)}"
        case layers.Gate():
            return "squeeze-excitation"
        case _:
            return box(layer)


def details(layer: Layer) -> str:
    """What the shorthand leaves out, where it is unusual: groups and dilation."""
    groups, dilation = getattr(layer, "groups", 1), getattr(layer, "dilation", 1)
    return ", ".join(_details(groups, dilation))


def words(layer: Layer) -> str:
    """A layer in the field's words, with the norm and activation that belong to it, in the order they run."""
    match layer:
        case layers.Conv():
            names = {"conv": _conv(layer), "norm": "norm", "act": "relu"}
            return ", ".join(names[part] for part in layer.order.split())
        case layers.MaxPool():
            return "3×3 max pool, stride 2"
        case layers.AvgPool():
            return ", ".join(["2×2 avg pool", *_stride(layer.stride), *_details(1, layer.dilation)])
        case layers.Pad():
            where = "on both sides" if layer.centred else "at the end"
            zeros = [f"zeros {where}, {layer.in_channels} → {layer.out_channels}", *_stride(layer.stride)]
            return ", ".join(zeros) if layer.in_channels != layer.out_channels else f"subsample, stride {layer.stride}"
        case layers.Gate():
            return f"squeeze-excitation, {layer.channels} → {layer.squeeze} → {layer.channels}"
        case layers.GlobalPool():
            return "global avg pool"
        case layers.Linear():
            return f"fc, {layer.in_features} → {layer.out_features}"
        case layers.Norm():
            return "norm"
        case layers.Act():
            return "relu"


def _conv(conv: layers.Conv) -> str:
    grow = f"{_kernel(conv.kernel)} conv, {conv.in_channels} → {conv.out_channels}"
    return ", ".join([grow, *_stride(conv.stride), *_details(conv.groups, conv.dilation)])


def _kernel(size: int) -> str:
    return f"{size}×{size}"


def _by(stride: int) -> str:
    return f", /{stride}" if stride > 1 else ""


def _stride(stride: int) -> list[str]:
    return [f"stride {stride}"] if stride > 1 else []


def _details(groups: int, dilation: int) -> list[str]:
    named = ((f"{groups} groups", groups), (f"dilation {dilation}", dilation))
    return [text for text, value in named if value > 1]


def formula(block: BlockPlan) -> str:
    """A block as a formula: W is a 1×1 convolution, and z is x where both paths begin with the same activation."""
    return _applied(block.after, total(block)) + (f", z = {_applied(block.preact, 'x')}" if block.preact else "")


def total(block: BlockPlan) -> str:
    """What the addition gives: `F(x) + x`; in a plain block `F(x)`."""
    x = "z" if block.preact else "x"
    return f"F({x})" if block.shortcut is None else f"F({x}) + {_shortcut_of(block, x)}"


def shortcut_name(block: BlockPlan) -> str:
    """What the shortcut does, in one or two words; empty where there is none."""
    if block.shortcut is None:
        return ""
    if not block.shortcut:
        return "identity"
    return "projection" if any(isinstance(layer, layers.Conv) for layer in block.shortcut) else "pad"


def _shortcut_of(block: BlockPlan, x: str) -> str:
    """`x`, `pad(x)`, `W x` or `W pool(x)`."""
    for layer in block.shortcut or ():
        match layer:
            case layers.Pad():
                x = f"pad({x})"
            case layers.AvgPool():
                x = f"pool({x})"
            case _:
                x = f"W {x}"
    return x


def _applied(marks: tuple[Layer, ...], inner: str) -> str:
    """`relu(norm(inner))` for a norm and an activation."""
    for layer in marks:
        inner = f"{box(layer)}({inner})"
    return inner


def blocks_in(stage: Stage) -> str:
    """`3 bottlenecks`."""
    kind = {"building": "building block", "bottleneck": "bottleneck"}[stage.block.kind]
    return f"{stage.depth} {kind}{'s' if stage.depth > 1 else ''}"


def operations(block: BlockPlan) -> str:
    """What runs in the branch, in order: `conv norm relu conv norm`."""
    names = {"norm": "norm", "act": "relu", "conv": "conv", "box": "SE"}
    return " ".join(names[part] for layer in block.branch for part in _parts(layer))


def depth(plan: NetworkPlan) -> int:
    """Layers deep, as the paper counts: convolutions and linear layers from input to output, shortcuts left out."""
    row = [*plan.stem, *(layer for stage in plan.stages for block in stage for layer in block.branch), *plan.head]
    return sum(isinstance(layer, layers.Conv | layers.Linear) for layer in row)


def shape(sizes: Iterable[int]) -> str:
    """C×H×W."""
    return "×".join(map(str, sizes))


def output(layer: Layer, sizes: Sequence[int]) -> tuple[int, ...]:
    """A layer's output shape without the height and width of 1 that stand for "averaged out": C H W, or C."""
    return tuple(sizes[:1] if isinstance(layer, layers.GlobalPool | layers.Linear) else sizes)


def count(number: int) -> str:
    """Three digits and a unit: 950, 9.41 K, 25.6 M, 4.09 G."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size * 0.9995:
            value = number / size
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return str(number)


def percent(value: float | None) -> str:
    """One digit after the point; a dot for what is not known."""
    return "·" if value is None else f"{value:.1f} %"


def share(part: int, whole: int) -> str:
    """A part as percent, one digit after the point."""
    return f"{100 * part / whole:.1f} %" if whole else "0.0 %"
