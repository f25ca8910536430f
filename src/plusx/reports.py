"""What a verb returns when it reports: a value that prints as a table and dumps as plain data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table


class Report(ABC):
    """A result. `print(report)` shows it to a person; `to_dict()` gives it to a program, units in the key names."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""

    @abstractmethod
    def __rich__(self) -> "RenderableType":
        """What a terminal shows."""

    def __str__(self) -> str:
        return render(self.__rich__())


def table(title: str = "", *, show_footer: bool = False) -> "Table":
    """An empty table as all reports draw theirs: a rule below the headings, two spaces between columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(title, style="bold not italic") if title else None  # Text: brackets in a name are no markup
    return Table(
        title=heading,
        title_justify="left",
        show_footer=show_footer,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


class FirstThatFits:
    """Shows the first of several renderables whose narrowest form the terminal is wide enough for, or the last."""

    def __init__(self, *renderables: "RenderableType") -> None:
        self.renderables = renderables

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        from rich.measure import Measurement
        from rich.table import Table

        unbounded = options.update(max_width=10_000)
        for renderable in self.renderables:
            if isinstance(renderable, Table):
                _hold_widths(renderable, console, unbounded)
        widths = [Measurement.get(console, unbounded, renderable).minimum for renderable in self.renderables]
        fitting = [r for r, width in zip(self.renderables, widths, strict=True) if width <= options.max_width]
        yield (fitting or [self.renderables[-1]])[0]


def _hold_widths(table: "Table", console: "Console", options: "ConsoleOptions") -> None:
    """A column that must not wrap is as wide as its widest cell; rich counts its longest word alone."""
    from rich.measure import Measurement

    for column in table.columns:
        if column.no_wrap:
            cells = [column.header, column.footer, *column.cells]
            column.min_width = max(Measurement.get(console, options, cell).maximum for cell in cells)


def render(renderable: "RenderableType", width: int = 120) -> str:
    """A rich renderable as plain text of at most `width` columns."""
    from rich.console import Console

    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n")
