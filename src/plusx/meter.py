"""What the layers of `layers.py` do when torch runs them, on shapes alone. No torch here.

A `Meter` is an abstract interpreter: it takes a feature map's shape through a block as `blocks.py` takes a tensor
through its modules, and counts what each call computes, reads and writes, what autograd keeps of it, and how much is
alive meanwhile. `cost.py` turns the counts into a report.

    Map       a tensor of one image, C H W, known by its shape
    Tally     counts that add up: parameters, multiply-adds, elements kept, elements moved, …
    Line      one layer: its output, what it cost, the most that was alive while it ran

Everything is counted for one image, in elements, so that batch and dtype can be chosen afterwards.
"""

from collections.abc import Callable, Iterable
from operator import sub
from typing import Any, NamedTuple, get_args

from plusx import layers
from plusx.layers import BlockPlan, Layer


class Tally(NamedTuple):
    """What adds up over the layers of a network. Elements are those of one image, unless said otherwise."""

    params: int = 0
    macs: int = 0
    """Multiply-adds of convolutions (gates' too) and linear layers."""
    activations: int = 0
    """Elements of the outputs of convolutions and linear layers (pycls' definition, arXiv 2003.13678 §2)."""
    kept: int = 0
    """Elements that autograd keeps for the backward pass, each storage once, parameters left out."""
    indices: int = 0
    """The int64 that max pooling writes, and autograd keeps."""
    moved: int = 0
    """Elements of feature maps read and written in inference, by every call of torch."""
    moved_params: int = 0
    """Parameters and running statistics read in inference, once per batch."""
    norms: int = 0
    """Batch norms, each with one int64 counter."""
    statistics: int = 0
    """Means and variances of batch norms: as many run along, and as many are kept for the backward pass, per batch."""
    vectors: int = 0
    """Parameters that are no weights of a convolution or linear layer: scales, shifts and biases."""
    biased: int = 0
    """Elements that get a bias."""
    normed: int = 0
    """Elements that batch norms give."""
    rectified: int = 0
    """Elements that ReLUs and sigmoids give."""
    added: int = 0
    """Elements that additions of branch and shortcut give."""
    scaled: int = 0
    """Elements that gates multiply."""
    pooled: int = 0
    """Elements that go into pooling, other than the global one."""
    averaged: int = 0
    """Elements that go into the head's global pooling."""


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum, count by count."""
    return Tally._make(map(sum, zip(*tallies, strict=True)))


def difference(after: Tally, before: Tally) -> Tally:
    """What came between, count by count."""
    return Tally._make(map(sub, after, before))


class Map:
    """A feature map, C H W, and where it comes from.

    `storage`: elements of the memory it lies in, more than its own where it is a view of a larger map.
    `kept`: autograd keeps that memory already. `reach`, `stride`: one of its pixels sees 1 + `reach` pixels of the
    meter's input, and the next one sees them `stride` further on; 0 where it sees all of them.
    """

    __slots__ = ("channels", "elements", "height", "kept", "reach", "storage", "stride", "width")

    def __init__(self, channels: int, height: int, width: int, reach: int = 0, stride: int = 1) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.elements = self.storage = channels * height * width
        self.reach, self.stride, self.kept = reach, stride, False

    def after(self, channels: int, span: int = 0, stride: int = 1) -> "Map":
        """What a window of `span` + 1 pixels gives of this map, padded so that H and W shrink by `stride` alone."""
        height, width = self.height, self.width
        if stride != 1:
            height, width = -(-height // stride), -(-width // stride)
        return Map(channels, height, width, self.reach + span * self.stride, self.stride * stride)


class Line(NamedTuple):
    """One layer. `layer` is None for what no layer describes: the addition, and stochastic depth.

    `shape`, C H W, `reach` and `stride` are those of its output. `so_far`: what it and all lines before it cost.
    `alive`: elements alive at its fullest moment, of those the meter knows.
    """

    name: str
    layer: Layer | None
    shape: tuple[int, int, int]
    reach: int
    stride: int
    so_far: Tally
    alive: int


class Meter:
    """Runs layers on a Map, and writes a `Line` for each.

    Memory follows the lifetimes of Python's objects in eager torch: a module's input lives until its call ends, for the
    caller's frame holds it; every other value lives until its last use.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.held = 0  # elements that enclosing calls hold, the input of the running layer among them
        self.alive = 0  # elements at the fullest moment since the last line
        self.params = self.macs = self.activations = self.kept = self.indices = 0
        self.moved = self.moved_params = self.norms = self.statistics = self.vectors = self.biased = 0
        self.normed = self.rectified = self.added = self.scaled = self.pooled = self.averaged = 0

    def sequence(self, prefix: str, plan: Iterable[Layer], x: Map) -> Map:
        """Layers as an nn.Sequential of modules, named by number. The caller has `x` in `held`."""
        y = x
        for index, layer in enumerate(plan):
            hold = 0 if y is x else y.storage
            self.held += hold
            z = self._run(layer, y, y)
            self.held -= hold
            y = self._write(f"{prefix}{index}", layer, z)
        return y

    def assembled(self, name: str, plan: tuple[Layer, ...], x: Map) -> Map:
        """Layers as `blocks.assemble` joins them: a module itself where it is alone, else parts of one Sequential."""
        y = x
        for layer in plan:
            called = name if len(plan) == 1 else f"{name}.{_NAMES[type(layer)]}"
            y = self._write(called, layer, self._run(layer, y, x))
        return y

    def block(self, plan: BlockPlan, x: Map, *, dropped: bool = False) -> Map:
        """`ResidualBlock.forward`; `dropped` where the branch ends in stochastic depth."""
        self.held += x.storage
        outer, start = self.held, x
        x = self.assembled("preact", plan.preact, x)
        self.held += 0 if x is start else x.storage
        y = self.sequence("branch.", plan.branch, x)
        if dropped:
            self.kept += 1  # one random number for each image
            self._write(f"branch.{len(plan.branch)}", None, y)
        if plan.shortcut is not None:
            self.held += y.storage
            shortcut = self.assembled("shortcut", plan.shortcut, x)
            self.held += 0 if shortcut is x else shortcut.storage
            total = self._write("add", None, self._add(y, shortcut))
            self.held -= y.storage + (0 if shortcut is x else shortcut.storage)
            y = total
        if plan.after:
            self.held += y.storage
            y = self.assembled("act", plan.after, y)
        self.held = outer - start.storage
        return y

    def _run(self, layer: Layer, x: Map, outer: Map) -> Map:
        """One layer, call by call. `outer` is held already; what comes between is held while the next call runs."""
        y = x
        for call in _calls(layer):
            hold = 0 if y is outer else y.storage
            self.held += hold
            z = call(self, layer, y)
            self.held -= hold
            y = z
        return y

    def tally(self) -> Tally:
        """What everything has cost so far."""
        return Tally(
            self.params,
            self.macs,
            self.activations,
            self.kept,
            self.indices,
            self.moved,
            self.moved_params,
            self.norms,
            self.statistics,
            self.vectors,
            self.biased,
            self.normed,
            self.rectified,
            self.added,
            self.scaled,
            self.pooled,
            self.averaged,
        )

    def _write(self, name: str, layer: Layer | None, y: Map) -> Map:
        alive, shape = self.alive or self.held, (y.channels, y.height, y.width)
        self.lines.append(Line(name, layer, shape, y.reach, y.stride, self.tally(), alive))
        self.alive = 0
        return y

    def _keep(self, x: Map) -> None:
        if not x.kept:
            x.kept = True
            self.kept += x.storage

    def _make(self, y: Map, read: int, temporary: int = 0) -> Map:
        """`y` comes to be, from `read` elements, beside `temporary` ones."""
        self.moved += read + y.elements
        alive = self.held + temporary + y.storage
        if alive > self.alive:
            self.alive = alive
        return y

    def _conv(self, layer: layers.Conv, x: Map) -> Map:
        return self._weigh(
            x,
            x.after(layer.out_channels, layer.dilation * (layer.kernel - 1), layer.stride),
            layer.kernel,
            layer.groups,
        )

    def _weigh(self, x: Map, y: Map, kernel: int = 1, groups: int = 1, *, bias: bool = False) -> Map:
        """A convolution, or the linear layer that a 1×1 on one pixel is."""
        weights, biases = y.channels * (x.channels // groups) * kernel * kernel, y.channels if bias else 0
        self.params += weights + biases
        self.vectors += biases
        self.biased += y.elements if bias else 0
        self.moved_params += weights + biases
        self.macs += weights * y.height * y.width
        self.activations += y.elements
        self._keep(x)
        return self._make(y, x.elements)

    def _norm(self, layer: Layer, x: Map) -> Map:
        channels = x.channels
        self.params += 2 * channels
        self.vectors += 2 * channels
        self.statistics += 2 * channels
        self.moved_params += 4 * channels
        self.norms += 1
        self.normed += x.elements
        self._keep(x)
        return self._make(x.after(channels), x.elements)

    def _act(self, layer: Layer, x: Map) -> Map:
        y = self._make(x.after(x.channels), x.elements)
        self.rectified += y.elements
        self._keep(y)
        return y

    def _max_pool(self, layer: layers.MaxPool, x: Map) -> Map:
        y = self._make(x.after(x.channels, 2, 2), x.elements)
        self.pooled += x.elements
        self.indices += y.elements
        self._keep(x)
        return y

    def _avg_pool(self, layer: layers.AvgPool, x: Map) -> Map:
        """`blocks.AveragePool`: torch's own where nothing is dilated, else means with a shifted copy, H then W."""
        y = x.after(x.channels, layer.dilation, layer.stride)
        self.pooled += x.elements
        if layer.dilation == 1 and layer.stride > 1:
            self._keep(x)
            return self._make(y, x.elements)
        y.storage = x.elements  # a view of the means at every pixel
        self.moved += 14 * x.elements  # twice: join 2, add 3, halve 2
        self.alive = max(self.alive, self.held + 3 * x.elements)
        return y

    def _pad(self, layer: layers.Pad, x: Map) -> Map:
        y = x.after(layer.out_channels, 0, layer.stride)
        return self._make(y, x.channels * y.height * y.width)

    def _gate(self, layer: layers.Gate, x: Map) -> Map:
        scale = self._make(Map(x.channels, 1, 1), x.elements)
        for channels in (layer.squeeze, layer.channels):
            self.held += scale.storage
            before, scale = scale, self._weigh(scale, Map(channels, 1, 1), bias=True)
            self.held += scale.storage - before.storage
            before, scale = scale, self._act(layer, scale)  # a ReLU, then a sigmoid: of both, the output is kept
            self.held -= before.storage
        self._keep(x)
        self.scaled += x.elements
        return self._make(x.after(x.channels), x.elements + scale.elements, scale.storage)

    def _add(self, x: Map, other: Map) -> Map:
        y = self._make(x.after(x.channels), x.elements + other.elements)
        y.reach = max(x.reach, other.reach)
        self.added += y.elements
        return y

    def _global_pool(self, layer: layers.GlobalPool, x: Map) -> Map:
        self.averaged += x.elements
        if layer.window:  # avg_pool2d's gradient asks for its input, though only for its shape
            self._keep(x)
        return self._make(Map(x.channels, 1, 1, stride=0), x.elements)

    def _linear(self, layer: layers.Linear, x: Map) -> Map:
        return self._weigh(x, Map(layer.out_features, 1, 1, stride=0), bias=True)


_Call = Callable[[Meter, Any, Map], Map]

_PARTS: dict[str, _Call] = {"conv": Meter._conv, "norm": Meter._norm, "act": Meter._act}

_ORDERS: dict[str, tuple[_Call, ...]] = {
    order: tuple(_PARTS[part] for part in order.split()) for order in get_args(layers.ConvOrder)
}
"""The calls of a convolution with its norm and activation, in each order."""

_SINGLE: dict[type[Layer], tuple[_Call, ...]] = {
    layers.Norm: (Meter._norm,),
    layers.Act: (Meter._act,),
    layers.MaxPool: (Meter._max_pool,),
    layers.AvgPool: (Meter._avg_pool,),
    layers.Pad: (Meter._pad,),
    layers.Gate: (Meter._gate,),
    layers.GlobalPool: (Meter._global_pool,),
    layers.Linear: (Meter._linear,),
}
"""The calls of each layer that is one module."""

_NAMES: dict[type[Layer], str] = {
    layers.Conv: "conv",
    layers.Norm: "norm",
    layers.Act: "act",
    layers.AvgPool: "pool",
    layers.GlobalPool: "pool",
    layers.Linear: "fc",
}
"""What `blocks.assemble` calls a layer among several."""


def _calls(layer: Layer) -> tuple[_Call, ...]:
    return _ORDERS[layer.order] if isinstance(layer, layers.Conv) else _SINGLE[type(layer)]
