"""A study's figures, by matplotlib, as SVG: told apart by dashes and marks as well as colours, legible in grey."""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart."""
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 3)))
_MARKS = "osD^vPX"


@dataclass(frozen=True)
class Figure:
    """A picture as SVG text, and the sentence below it."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Line:
    """Points joined by a line. spread: standard deviations of y, drawn as bars; () for none.

    marked: with a mark at each point, or at every second, third, … where there are many.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    style: int = 0
    marked: bool = True
    dashed: bool | None = None


@dataclass(frozen=True)
class Panel:
    """A pair of axes. integers: with a tick at each x. whole: with ticks at whole numbers alone."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False
    integers: bool = False
    whole: bool = False


def lines(caption: str, *panels: Panel, shared: bool = False) -> Figure:
    """Panels side by side, two in a row. shared: with one y axis for all."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Sequence[Axes]") -> None:
        for each, panel in zip(axes, panels, strict=True):
            for line in panel.lines:
                _line(each, line)
            each.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            if panel.log:
                each.set_yscale("log")
                _at_least_a_decade(each)
            if panel.integers:
                each.set_xticks(sorted({x for line in panel.lines for x in line.x}))
            if panel.whole:
                each.xaxis.set_major_locator(MaxNLocator(integer=True))
            each.legend(frameon=False, fontsize=9)

    return Figure(caption, _drawn(draw, len(panels), shared))


def _at_least_a_decade(axes: "Axes") -> None:
    """Make room on a logarithmic axis, whose ticks are powers of ten, for one of them at least."""
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = math.sqrt(low * high)
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)


def bars(caption: str, y: str, names: Sequence[str], values: Sequence[float], spread: Sequence[float]) -> Figure:
    """A horizontal bar for each name, its standard deviation upon it, and its value beside it."""

    def draw(axes: "Sequence[Axes]") -> None:
        place = range(len(names))
        axes[0].barh(place, values, xerr=spread, color="#9db9d3", edgecolor="#1b1f24", height=0.6, capsize=3)
        most = max([value + reach for value, reach in zip(values, spread, strict=True)], default=1.0)
        for at, value, reach in zip(place, values, spread, strict=True):
            axes[0].text(value + reach + 0.01 * most, at, f"{value:.2f}", va="center", fontsize=9)
        axes[0].set_yticks(place, names)
        axes[0].invert_yaxis()
        axes[0].set(xlabel=y, xlim=(0, 1.12 * most or 1.0))

    return Figure(caption, _drawn(draw, 1, False, height=0.9 + 0.36 * len(names)))


def _line(axes: "Axes", line: Line) -> None:
    dashes = _DASHES[line.style % len(_DASHES)] if line.dashed is None else ("--" if line.dashed else "-")
    look: dict[str, Any] = {"color": _COLOURS[line.style % len(_COLOURS)], "linestyle": dashes, "label": line.name}
    if line.marked:
        every = max(1, len(line.x) // 10)
        look |= {"marker": _MARKS[line.style % len(_MARKS)], "markersize": 5, "markevery": every}
    if line.spread:
        axes.errorbar(line.x, line.y, yerr=line.spread, capsize=3, **look)
    else:
        axes.plot(line.x, line.y, **look)


_numbers: Iterator[int] = iter(cycle(range(10_000)))


def _drawn(draw: "Callable[[Sequence[Axes]], None]", panels: int, shared: bool, height: float = 3.4) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Page

    # text stays text; ids are told apart, for several figures share a page
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": f"plusx-{next(_numbers)}", "font.family": "sans-serif"}
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dfe3e8"}
    with rc_context(settings):
        columns = min(panels, 2)
        rows = math.ceil(panels / columns)
        page = Page(figsize=(9.2 if columns > 1 else 6.4, height * rows), layout="constrained")
        FigureCanvasSVG(page)
        axes = page.subplots(rows, columns, sharey=shared, squeeze=False).flatten()
        for spare in axes[panels:]:
            spare.remove()
        for each in axes[:panels]:
            each.set_axisbelow(True)
        draw(list(axes[:panels]))
        file = io.StringIO()
        page.savefig(file, format="svg", metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", file.getvalue(), count=1, flags=re.DOTALL)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
