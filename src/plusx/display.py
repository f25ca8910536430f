"""What a person sees while work goes on, on standard error: a live bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Display:
    """Lines of text, and at most one bar at a time. `show=False`: nothing at all."""

    def __init__(self, show: bool = True) -> None:
        self.console = Console(stderr=True, quiet=not show)

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar of `total` steps, gone when done. Gives `advance(steps=1, text=what)`."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not terminal) as progress:
            task = progress.add_task(what, total=total)

            def advance(steps: int = 1, text: str | None = None) -> None:
                progress.update(task, advance=steps, description=text)

            yield advance

    def epoch_line(self, text: str) -> None:
        """A line for a log; on a terminal the bar says it already."""
        if not self.console.is_terminal:
            self.line(text)
