"""What a study is, what is asked of it, and what it finds.

Question ──Study.arms──▶ arms ──trials──▶ Outcomes ──Study.conclude──▶ Conclusion ──▶ Finding (study.html)
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plusx import reports
from plusx.design import Design
from plusx.recipe import Recipe
from plusx.reports import Report
from plusx.studies.figures import Figure
from plusx.studies.folder import PAGE
from plusx.studies.trials import Arm, Outcomes, Place

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Question:
    """What a study is asked. design: the user's own, or None. size, channels, classes: of the images.

    depths, depth, runs: of the studies that take them. place: where its trials run. budget, device: as they were given.
    """

    place: Place
    recipe: Recipe
    design: Design | None
    size: int
    channels: int
    classes: int
    seeds: int
    depths: tuple[int, ...] = ()
    depth: int | None = None
    runs: tuple[Path, ...] = ()
    budget: str = ""
    device: str | None = None

    def fitting(self, design: Design) -> Design:
        """A Design for these images and classes."""
        return design.with_in_channels(self.channels).with_classes(self.classes)


@dataclass(frozen=True)
class Table:
    """Rows below headings; the first `words` columns are words, the others numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Conclusion:
    """verdict: what was measured, in sentences. numbers: the same for programs. notes: what must be known beside it."""

    verdict: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    numbers: dict[str, Any]
    notes: tuple[str, ...] = ()


def too_little(what: str) -> Conclusion:
    """Of a study without what it compares with."""
    return Conclusion(f"Nothing can be said: {what} did not train, or there was no time for it.", (), (), {})


@dataclass(frozen=True)
class Study:
    """A claim that can be tried. options: those of `depths`, `depth`, `runs`, `design` that it takes.

    arms: what is trained for a question. conclude: what the outcomes say. data: the usual set. recipe: the usual
    preset; None for what `plusx.train` would take, without label smoothing and branches that start at zero.
    """

    name: str
    claim: str
    source: str
    arms: Callable[[Question], list[Arm]]
    conclude: Callable[[Question, Outcomes], Conclusion]
    options: frozenset[str] = frozenset()
    data: str = "digits"
    recipe: str | None = None


def _plain(value: Any) -> Any:
    """With None for numbers that there are not, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Finding(Report):
    """What a study found. folder: where its page and its runs lie. left_out: what there was no time for."""

    study: str
    claim: str
    source: str
    verdict: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    numbers: dict[str, Any]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    failed: tuple[str, ...]
    commands: tuple[str, ...]
    machine: str
    seconds: float
    trained_seconds: float
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        names = ("study", "claim", "source", "verdict", "numbers", "machine", "seconds", "trained_seconds")
        lists = ("notes", "left_out", "failed", "commands")
        return {
            **{name: _plain(getattr(self, name)) for name in names},
            **{name: list(getattr(self, name)) for name in lists},
            "tables": [asdict(table) for table in self.tables],
            "folder": str(self.folder),
            "page": str(self.folder / PAGE),
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(f"{self.claim} ({self.source})"), Text()]
        for each in self.tables:
            shown = reports.table(each.title)
            for index, heading in enumerate(each.headings):
                shown.add_column(heading, justify="left" if index < each.words else "right")
            for row in each.rows:
                shown.add_row(*map(Text, row))
            parts.append(shown)
        parts.append(Text(f"Verdict: {self.verdict}"))
        parts += [Text(note) for note in self.notes]
        parts += [Text(f"Left out: {line}") for line in self.left_out]
        parts += [Text(f"Did not train: {line}") for line in self.failed]
        parts.append(Text(f"Page: {self.folder / PAGE}"))
        return Group(*parts)
