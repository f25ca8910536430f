"""What a verb returns when it reports: a value that prints as a table and dumps as plain data."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


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


def render(renderable: "RenderableType", width: int = 120) -> str:
    """A rich renderable as plain text of at most `width` columns."""
    from rich.console import Console

    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n")
