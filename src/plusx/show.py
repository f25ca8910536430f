"""The network as a terminal tree: stem, stages, blocks, layers, head, with shapes and costs. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

from plusx import families, layers
from plusx.cost import Cost, cost
from plusx.design import Design
from plusx.errors import check_one_of
from plusx.layers import BlockPlan, Layer
from plusx.ledger import Part
from plusx.notation import blocks_in, count, depth, formula, output, shape, share, words
from plusx.reports import Report
from plusx.svg import printable

if TYPE_CHECKING:
    from rich.table import Table

Detail = Literal["stage", "block", "layer"]


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree. `params` and `macs` are those of all `times` of it; its `parts` are those of one."""

    what: str
    output: tuple[int, ...]
    params: int
    macs: int
    times: int = 1
    parts: tuple["Node", ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        own = {"what": self.what, "output_shape": list(self.output), "params": self.params, "macs": self.macs}
        return own | {"times": self.times} | {"parts": [part.to_dict() for part in self.parts]}


@dataclass(frozen=True)
class Tree(Report):
    """A network as a tree of `Node`s, down to `detail`."""

    root: Node
    depth: int
    detail: Detail

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the tree, each node with its parts; equal blocks stand once, with `times`."""
        return {"layers_deep": self.depth, "detail": self.detail} | self.root.to_dict()

    def __rich__(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        repeats = any(node.times > 1 for _, node in _lines(self.root))
        note = "Below “× n” stands one of the n equal blocks; its own line counts all." if repeats else None
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=note, caption_justify="left")
        table.add_column("")
        table.add_column("C×H×W", no_wrap=True)
        for name in ("params", "macs", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        for guide, node in _lines(self.root):
            style = "bold" if len(guide) <= 3 else ""
            what = Text(no_wrap=True, overflow="ellipsis").append(guide, "dim").append(node.what, style)
            counts = [count(number) if number else "·" for number in (node.params, node.macs)]
            cells = [shape(node.output), *counts, share(node.macs, self.root.macs) if style else ""]
            table.add_row(what, *(Text(cell, "dim" if cell == "·" else style) for cell in cells))
        return table


def show(design: Design | str, input: int | tuple[int, int] | None = None, *, detail: Detail = "layer") -> Tree:
    """The network of a Design, or of the published one of that name, as a tree with shapes and costs.

    `input` is the images' height and width in pixels, as in `cost`. `detail` is where the tree ends: "stage", "block"
    or "layer". Equal blocks in a row are one line with "× n". Raises DesignError, InputError.
    """
    check_one_of("show: detail", detail, get_args(Detail))
    design = families.find(design)
    costs, plan = cost(design, input), layers.network(design)
    stages = [_stage(index, costs, design, detail) for index in range(len(design.stages))]
    parts = (_row("stem", plan.stem, costs.stem, detail), *stages, _row("head", plan.head, costs.head, detail))
    deep = depth(plan)
    what = f"{printable(design.name) or 'a network'}, {deep} layers deep, on {shape(costs.input_shape)}"
    return Tree(Node(what, parts[-1].output, costs.params, costs.macs, parts=parts), deep, detail)


def _row(name: str, plan: Sequence[Layer], part: Part, detail: Detail) -> Node:
    """The stem or the head."""
    nodes = tuple(_layer(layer, costed) for layer, costed in zip(plan, part.layers, strict=True))
    return Node(name, nodes[-1].output, part.params, part.macs, parts=nodes if detail == "layer" else ())


def _layer(layer: Layer, part: Part, prefix: str = "") -> Node:
    return Node(prefix + words(layer), output(layer, part.shape), part.params, part.macs)


def _stage(index: int, costs: Cost, design: Design, detail: Detail) -> Node:
    part, stage = costs.stages[index], design.stages[index]
    what = f"stage {index}: {blocks_in(stage)}{', stride 2' if stage.stride == 2 else ''}"
    blocks = tuple(_blocks(part.parts, detail)) if detail != "stage" else ()
    return Node(what, part.shape, part.params, part.macs, parts=blocks)


def _blocks(parts: Sequence[Part], detail: Detail) -> Iterator[Node]:
    """Equal blocks in a row as one node."""
    start = 0
    for plan, run in groupby(parts, key=lambda part: part.plan):
        assert isinstance(plan, BlockPlan)
        same = list(run)
        times, first = len(same), same[0]
        place = f"block {start}" if times == 1 else f"blocks {start} to {start + times - 1}"
        what = f"{place}: {formula(plan)}{f'  × {times}' if times > 1 else ''}"
        inner = tuple(_inner(plan, first)) if detail == "layer" else ()
        yield Node(what, first.shape, times * first.params, times * first.macs, times, inner)
        start += times


def _inner(plan: BlockPlan, part: Part) -> Iterator[Node]:
    """The layers of one block; an identity shortcut has none and stands there in words."""
    for costed in part.layers:
        layer, here = costed.plan, costed.name.removeprefix(f"{part.name}.")
        if isinstance(layer, BlockPlan) or layer is None:
            words_of = {"add": "addition"}.get(here, "stochastic depth")
            yield Node(words_of, costed.shape, costed.params, costed.macs)
        else:
            yield _layer(layer, costed, "shortcut: " if here.startswith("shortcut") else "")


def _lines(node: Node, above: str = "", branch: str = "") -> Iterator[tuple[str, Node]]:
    """Every node of the tree from the root on, with the guide that stands before it."""
    yield above + branch, node
    below = above + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    for part in node.parts:
        yield from _lines(part, below, "└─ " if part is node.parts[-1] else "├─ ")
