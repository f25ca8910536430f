"""The costs of a network's parts: the counts of `meter.py`, gathered from layers to blocks, stages and the whole.

    network(design, size) -> Part       a tree: network → stem, stages, head → blocks → layers

What each count means is said at the top of `cost.py`. No torch here.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

from plusx import layers
from plusx.design import Design
from plusx.errors import check_one_of
from plusx.layers import BlockPlan, Layer, StagePlan
from plusx.meter import Line, Map, Meter, Tally, difference, total

Dtype = Literal["float32", "bfloat16", "float16", "float64"]

_ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_INDEX_BYTES = 8  # int64


class Part(NamedTuple):
    """What a layer, a block, a stage, the stem, the head or the whole network costs, and its `parts`.

    `name`: that of its torch module; the addition and stochastic depth have names of their own.
    `plan`: its description in `layers.py`, of a layer or block.
    `output`: its shape, C H W. `receptive_field` and `stride` (input pixels per output pixel): None where one output
    sees the whole image. `fullest`: pairs of elements and int64 alive at once, one of which is the peak.
    """

    kind: Literal["layer", "block", "stage", "stem", "head", "network"]
    name: str
    plan: Layer | BlockPlan | None
    shape: tuple[int, int, int]
    tally: Tally
    receptive_field: int | None
    stride: int | None
    fullest: tuple[tuple[int, int], ...]
    inside: "tuple[Part, ...] | _Lines | _Blocks" = ()

    @property
    def parts(self) -> tuple["Part", ...]:
        """What it consists of."""
        return self.inside.parts() if isinstance(self.inside, _Lines | _Blocks) else self.inside

    @property
    def params(self) -> int:
        """Parameters."""
        return self.tally.params

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers, for one image."""
        return self.tally.macs

    @property
    def activations(self) -> int:
        """Elements of the outputs of convolutions and linear layers, for one image."""
        return self.tally.activations

    @property
    def blocks(self) -> tuple["Part", ...]:
        """The blocks in it."""
        return (self,) if self.kind == "block" else tuple(block for part in self.parts for block in part.blocks)

    @property
    def layers(self) -> tuple["Part", ...]:
        """The layers in it."""
        return (self,) if self.kind == "layer" else tuple(layer for part in self.parts for layer in part.layers)

    def training_bytes(self, dtype: Dtype = "float32", batch: int = 1) -> int:
        """What autograd keeps for the backward pass. What several layers keep counts where it is kept first."""
        tally, item = self.tally, _item_bytes(dtype)
        return batch * (tally.kept * item + tally.indices * _INDEX_BYTES) + tally.statistics * max(4, item)

    def inference_peak_bytes(self, dtype: Dtype = "float32", batch: int = 1) -> int:
        """Feature maps alive at once while it runs, those that the network holds meanwhile included."""
        item = _item_bytes(dtype)
        return batch * max(elements * item + indices * _INDEX_BYTES for elements, indices in self.fullest)

    def weights_bytes(self, dtype: Dtype = "float32") -> int:
        """Parameters and buffers: running statistics, and one int64 for each batch norm."""
        return (self.tally.params + self.tally.statistics) * _item_bytes(dtype) + self.tally.norms * _INDEX_BYTES

    def moved_bytes(self, dtype: Dtype = "float32", batch: int = 1) -> int:
        """What all calls of torch read and write in inference."""
        tally, item = self.tally, _item_bytes(dtype)
        return batch * (tally.moved * item + tally.indices * _INDEX_BYTES) + tally.moved_params * item

    def macs_per_byte(self, dtype: Dtype = "float32", batch: int = 1) -> float:
        """Arithmetic intensity of inference."""
        moved = self.moved_bytes(dtype, batch)
        return batch * self.macs / moved if moved else 0.0

    def to_dict(self, batch: int = 1) -> dict[str, Any]:
        """Plain data, without the parts."""
        return {
            "name": self.name,
            "kind": self.kind,
            "output_shape": list(self.shape),
            "params": self.params,
            "macs": self.macs,
            "activations": self.activations,
            "training_bytes": {dtype: self.training_bytes(dtype, batch) for dtype in get_args(Dtype)},
            "inference_peak_bytes": {dtype: self.inference_peak_bytes(dtype, batch) for dtype in get_args(Dtype)},
            "weights_bytes": {dtype: self.weights_bytes(dtype) for dtype in get_args(Dtype)},
            "macs_per_byte": {dtype: round(self.macs_per_byte(dtype, batch), 4) for dtype in get_args(Dtype)},
            "receptive_field_px": self.receptive_field,
            "stride_px": self.stride,
        }


def network(design: Design, size: tuple[int, int]) -> Part:
    """The costs of a Design on images of H and W pixels, all of them."""
    plan, image = layers.network(design), Map(design.stem.in_channels, *size)
    stem, x = _chain("stem", plan.stem, image, _Place(image.storage))
    parts, place = [stem], _Place(image.storage).after(x.reach, x.stride)
    for index, (stage, planned) in enumerate(zip(design.stages, plan.stages, strict=True)):
        part, x, place = _stage(f"stages.{index}", planned, x, place, stage.block.stochastic_depth > 0)
        parts.append(part)
    head, _ = _chain("head", plan.head, x, place._replace(held=place.held + x.storage))
    whole = _join("network", design.name, (*parts, head))
    return whole._replace(receptive_field=place.field, stride=place.stride)


def block(plan: BlockPlan, channels: int, size: tuple[int, int]) -> Part:
    """The costs of one block alone, on a feature map of `channels` and H and W."""
    return _block("", _measure(plan, Map(channels, *size), dropped=False), _Place(0))


def _item_bytes(dtype: str) -> int:
    check_one_of("dtype:", dtype, _ITEM_BYTES)
    return _ITEM_BYTES[dtype]


class _Place(NamedTuple):
    """Where something stands in the network: elements `held` around it, and how its input sees the image."""

    held: int
    field: int = 1
    stride: int = 1

    def after(self, reach: int, stride: int) -> "_Place":
        """The place behind what sees `reach` more pixels of its input here, and moves on by `stride` of them."""
        return _Place(self.held, self.field + reach * self.stride, self.stride * stride)


class _Lines(NamedTuple):
    """The layers of a block, stem or head in their place; they become parts when someone looks."""

    lines: tuple[Line, ...]
    prefix: str
    place: _Place

    def parts(self) -> tuple[Part, ...]:
        """A part for each line."""
        return tuple(self._parts())

    def _parts(self) -> Iterator[Part]:
        before = Tally()
        for name, layer, shape, reach, step, so_far, alive in self.lines:
            tally, before = difference(so_far, before), so_far
            _, field, stride = self.place.after(reach, step)
            fullest = ((self.place.held + alive, tally.indices),)
            name = self.prefix + name
            yield Part("layer", name, layer, shape, tally, field if step else None, stride or None, fullest)


class _Measured(NamedTuple):
    """A block on its own, its place still open. Its output: `shape`, `reach`, `stride`, whether autograd keeps it."""

    plan: BlockPlan
    lines: tuple[Line, ...]
    tally: Tally
    alive: int
    shape: tuple[int, int, int]
    reach: int
    stride: int
    kept: bool


class _Blocks(NamedTuple):
    """The blocks of a stage in their place; they become parts when someone looks.

    Beside each block's own input, `Network.forward` holds the image and the stage's input; `held` are the elements of
    both. The first block's input is the stage's.
    """

    blocks: tuple[_Measured, ...]
    name: str
    place: _Place
    held: int

    def parts(self) -> tuple[Part, ...]:
        """A part for each block."""
        parts, place = [], self.place
        for index, block in enumerate(self.blocks):
            parts.append(_block(f"{self.name}.{index}", block, place))
            place = place.after(block.reach, block.stride)._replace(held=self.held)
        return tuple(parts)

    def alive(self) -> int:
        """Elements at the stage's fullest moment."""
        first, *others = [block.alive for block in self.blocks]
        return max(self.place.held + first, self.held + max(others, default=0))

    def after(self) -> _Place:
        """The place behind the last block."""
        place = self.place
        for block in self.blocks:
            place = place.after(block.reach, block.stride)
        return place


def _measure(plan: BlockPlan, x: Map, dropped: bool) -> _Measured:
    meter = Meter()
    y = meter.block(plan, x, dropped=dropped)
    lines, shape = tuple(meter.lines), (y.channels, y.height, y.width)
    return _Measured(plan, lines, meter.tally(), max([line.alive for line in lines]), shape, y.reach, y.stride, y.kept)


def _map(shape: tuple[int, int, int], kept: bool) -> Map:
    """A meter's input."""
    x = Map(*shape)
    x.kept = kept
    return x


def _stage(name: str, plan: StagePlan, x: Map, place: _Place, dropped: bool) -> tuple[Part, Map, _Place]:
    """A stage's blocks; a repeated one is measured anew only where autograd keeps its input and kept not the last's."""
    measured: list[_Measured] = []
    shape, kept, known = (x.channels, x.height, x.width), x.kept, None
    for planned in plan:
        if known != (id(planned), kept):
            known = id(planned), kept
            measured.append(_measure(planned, _map(shape, kept), dropped))
        else:
            measured.append(measured[-1])
        shape, kept = measured[-1].shape, measured[-1].kept
    blocks = _Blocks(tuple(measured), name, place, place.held + x.storage)
    tally, after = total([block.tally for block in measured]), blocks.after()
    part = Part("stage", name, None, shape, tally, after.field, after.stride, ((blocks.alive(), 0),), blocks)
    return part, _map(shape, kept), after


def _block(name: str, block: _Measured, place: _Place) -> Part:
    _, field, stride = place.after(block.reach, block.stride)
    lines = _Lines(block.lines, name and f"{name}.", place)
    return Part(
        "block", name, block.plan, block.shape, block.tally, field, stride, ((place.held + block.alive, 0),), lines
    )


def _chain(kind: Literal["stem", "head"], plan: tuple[Layer, ...], x: Map, place: _Place) -> tuple[Part, Map]:
    """The stem, named by number, or the head, named by `blocks.assemble`; `place` holds `x`."""
    meter = Meter()
    if kind == "stem":
        y = meter.sequence("stem.", plan, x)
    else:
        y = meter.assembled("head" if len(plan) > 1 else "head.0", plan, x)
    lines = _Lines(tuple(meter.lines), "", place)
    return _join(kind, kind, lines.parts())._replace(inside=lines), y


def _join(kind: Literal["stem", "stage", "head", "network"], name: str, parts: Sequence[Part]) -> Part:
    """What parts cost together, one running after the other."""
    moments = {moment for part in parts for moment in part.fullest}
    plain = max([elements for elements, indices in moments if not indices], default=0)
    fullest = ((plain, 0), *[moment for moment in moments if moment[1]])
    last, tally = parts[-1], total([part.tally for part in parts])
    return Part(kind, name, None, last.shape, tally, last.receptive_field, last.stride, fullest, tuple(parts))
