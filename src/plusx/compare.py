"""Two blocks side by side: at equal width, at equal macs, at equal params. `compare(first, second)`. No torch here.

The point of "Deep Residual Learning for Image Recognition" §4.1: a bottleneck makes a wide block affordable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plusx import layers, ledger, reports
from plusx.errors import DesignError, did_you_mean
from plusx.layers import BlockPlan
from plusx.ledger import Part
from plusx.notation import count
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import Group

STEP = 16
"""Widths are chosen in multiples of this; a bottleneck's inner width, a quarter, is then a multiple of 4."""


def _building(width: int) -> BlockPlan:
    return layers.building(width)


def _bottleneck(width: int) -> BlockPlan:
    return layers.bottleneck(width, width // 4)


_BLOCKS: dict[str, Callable[[int], BlockPlan]] = {"building": _building, "bottleneck": _bottleneck}


class Candidate(NamedTuple):
    """One block of `width` channels in and out on a map of a given size, and what it costs for one image."""

    kind: str
    width: int
    cost: Part

    @property
    def mid(self) -> int | None:
        """A bottleneck's inner channels."""
        return self.width // 4 if self.kind == "bottleneck" else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "block": self.kind,
            "width": self.width,
            "mid": self.mid,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "activations": self.cost.activations,
            "training_bytes": self.cost.training_bytes(),
        }


class Pairing(NamedTuple):
    """The two blocks with one thing `equal`, exactly or as nearly as multiples of `STEP` allow."""

    equal: str
    first: Candidate
    second: Candidate

    @property
    def ratio(self) -> float:
        """The second's share of what should be equal, in proportion to the first's."""
        return _quantity(self.equal, self.second) / _quantity(self.equal, self.first)


@dataclass(frozen=True)
class Comparison(Report):
    """Two blocks at equal width, equal macs and equal params; `input` is the map's H and W."""

    input: tuple[int, int]
    pairings: tuple[Pairing, ...]

    @property
    def reading(self) -> str:
        """The comparison in one line."""
        at_width, at_macs, _ = self.pairings
        first, second = at_width.first, at_width.second
        macs, params = _times(second.cost.macs, first.cost.macs), _times(second.cost.params, first.cost.params)
        both = f"{macs} the macs and params" if macs == params else f"{macs} the macs and {params} the params"
        return (
            f"At {first.width} channels a {second.kind} block takes {both} of a {first.kind} block; "
            f"for the same macs it has {at_macs.second.width} channels."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: counts for one image, training memory in float32."""
        rows = [
            {"equal": p.equal, "ratio": round(p.ratio, 6), "first": p.first.to_dict(), "second": p.second.to_dict()}
            for p in self.pairings
        ]
        return {"input_px": list(self.input), "pairings": rows, "reading": self.reading}

    def __rich__(self) -> "Group":
        from rich.console import Group

        table = reports.table(f"two blocks on {self.input[0]}×{self.input[1]} pixels")
        table.add_column("equal", no_wrap=True)
        table.add_column("block", no_wrap=True)
        for heading in ("width", "mid", "params", "macs", "activa-\ntions", "train\nMiB", "second\n/ first"):
            table.add_column(heading, justify="right", no_wrap=True)
        for pairing in self.pairings:
            table.add_row(pairing.equal, *_cells(pairing.first))
            table.add_row("", *_cells(pairing.second), f"{pairing.ratio:.4f}", end_section=True)
        notes = "Training: what autograd keeps of one image in float32, the block's input included."
        return Group(table, notes, self.reading)


def compare(
    first: str = "building", second: str = "bottleneck", *, width: int = 256, input: int | tuple[int, int] = 14
) -> Comparison:
    """The two blocks at equal width, and the second as wide as the first's macs, and as its params, allow.

    A bottleneck's inner width is a quarter of its width. `input`: a side of the feature map, or H and W, in pixels.
    Raises DesignError for an unknown block, a width or an input that does not fit.
    """
    size = input if isinstance(input, tuple) else (input, input)
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise DesignError(
            f"compare: input {input!r} is not a positive whole number of pixels, or two: height and width"
        )
    for kind in (first, second):
        _check(kind, width)
    fixed = _candidate(first, width, size)
    pairings = [Pairing("width", fixed, _candidate(second, width, size))]
    pairings += [Pairing(equal, fixed, _matching(second, equal, fixed, size)) for equal in ("macs", "params")]
    return Comparison(size, tuple(pairings))


def _check(kind: str, width: int) -> None:
    if kind not in _BLOCKS:
        raise DesignError(
            f"compare: block {kind!r} is not one of {', '.join(_BLOCKS)}{did_you_mean(str(kind), _BLOCKS)}"
        )
    if type(width) is not int or width < 1:
        raise DesignError(f"compare: width {width!r} is not a positive whole number")
    if kind == "bottleneck" and width % 4:
        raise DesignError(f"compare: width {width} is not a multiple of 4: a bottleneck's inner width is a quarter")


def _candidate(kind: str, width: int, size: tuple[int, int]) -> Candidate:
    return Candidate(kind, width, ledger.block(_BLOCKS[kind](width), width, size))


def _matching(kind: str, equal: str, fixed: Candidate, size: tuple[int, int]) -> Candidate:
    """The block of that kind whose macs or params come nearest to the fixed one's, its width a multiple of STEP."""
    if kind == fixed.kind:
        return fixed
    target, low, high = _quantity(equal, fixed), 0, 1
    while _quantity(equal, _candidate(kind, high * STEP, size)) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _quantity(equal, _candidate(kind, middle * STEP, size)) < target:
            low = middle
        else:
            high = middle
    near = [_candidate(kind, steps * STEP, size) for steps in (low, high) if steps]
    return min(near, key=lambda candidate: abs(_quantity(equal, candidate) - target))


def _quantity(equal: str, candidate: Candidate) -> int:
    return {"width": candidate.width, "macs": candidate.cost.macs, "params": candidate.cost.params}[equal]


def _times(part: int, whole: int) -> str:
    """`1/17 of`, `17 times`, or `1 times`."""
    ratio = max(part, whole) / min(part, whole)
    short = f"{ratio:.3g}" if ratio < 9.95 else f"{ratio:.0f}"
    return f"1/{short} of" if part < whole else f"{short} times"


def _cells(candidate: Candidate) -> tuple[str, ...]:
    cost, mid = candidate.cost, candidate.mid
    memory = f"{cost.training_bytes() / 2**20:.2f}"
    counts = (count(cost.params), count(cost.macs), count(cost.activations))
    return candidate.kind, str(candidate.width), "" if mid is None else str(mid), *counts, memory
