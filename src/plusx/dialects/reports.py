"""What the verbs on other people's checkpoints report: what a file is, and what became of its tensors."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from plusx import layers, notation
from plusx.design import Design
from plusx.dialects.infer import Choice
from plusx.dialects.names import some
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Fate = Literal["kept", "adapted", "dropped", "fresh"]


@dataclass(frozen=True)
class Identification(Report):
    """What network a file holds. `str` and the command line print it; `to_dict` gives plain data.

    name: in words: the nearest published network, and what differs. published: its name alone; empty if there is none.
    dialect: whose names the tensors have. wrappers: what they were taken out of. ignored: what else was there.
    tensors, params: how many of each (running statistics are no params). dtypes: of the tensors in the file.
    choices: what tensors cannot tell, and what was taken. notes: what else there is to know.
    """

    path: str
    name: str
    published: str
    dialect: str
    design: Design
    wrappers: tuple[str, ...]
    ignored: tuple[str, ...]
    tensors: int
    params: int
    dtypes: tuple[str, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: all fields, the Design's main numbers beside them, and the Design itself."""
        plain = {
            name: value for name, value in self.__dict__.items() if name not in ("design", "choices") and value != ""
        }
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        choices = [{**asdict(choice), "others": list(choice.others)} for choice in self.choices]
        return {**plain, **_numbers(self.design), "choices": choices, "design": self.design.to_dict()}

    def __rich__(self) -> "RenderableType":
        """A table of what was found, one of what tensors cannot tell, and notes."""
        from rich.console import Group
        from rich.text import Text

        notes = [Text(f"note: {note}") for note in self.notes]
        unknown = [_choices_table(self.choices)] if self.choices else []
        return Group(Text(f"{self.path}: {self.name}", style="bold"), self._found(), *unknown, *notes)

    def _found(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False, box=None, padding=(0, 2))
        numbers = {name.replace("_", " "): _words(value) for name, value in _numbers(self.design).items()}
        seen = some(self.wrappers, 8) if self.wrappers else "nothing"
        tensors = f"{self.tensors} ({notation.count(self.params)} params, {', '.join(self.dtypes)})"
        rows = {"dialect": self.dialect, "inside of": seen, "left aside": some(self.ignored, 8), "tensors": tensors}
        for name, value in {**numbers, **rows}.items():
            if value:
                table.add_row(name, Text(value))
        return table


@dataclass(frozen=True)
class Tensor:
    """One tensor's way: its name in the file (empty if fresh) and in plusx (empty if dropped), and what was done."""

    theirs: str
    ours: str
    fate: Fate
    how: str = ""


@dataclass(frozen=True)
class LoadReport(Report):
    """What `load` did with every tensor, and in `notes` what the network's use would need and is not known."""

    identification: Identification
    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Fate, int]:
        """How many tensors were kept, adapted, dropped and made afresh."""
        found = Counter(tensor.fate for tensor in self.tensors)
        return {
            "kept": found["kept"],
            "adapted": found["adapted"],
            "dropped": found["dropped"],
            "fresh": found["fresh"],
        }

    def to_dict(self) -> dict[str, Any]:
        """The identification, the counts, every tensor, and the notes."""
        tensors = [asdict(tensor) for tensor in self.tensors]
        found = {"identification": self.identification.to_dict(), "counts": self.counts, "tensors": tensors}
        return {**found, "notes": list(self.notes)}

    def __rich__(self) -> "RenderableType":
        """The identification, the counts, and every tensor that was not simply kept."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("fate", "in the file", "in the network", "how", box=None, padding=(0, 2))
        for tensor in self.tensors:
            if tensor.fate != "kept":
                table.add_row(tensor.fate, *map(Text, (some([tensor.theirs]), tensor.ours, tensor.how)))
        counts = Text(", ".join(f"{count} {fate}" for fate, count in self.counts.items()))
        notes = [Text(f"note: {note}") for note in self.notes]
        return Group(self.identification, counts, *([table] if table.row_count else []), *notes)


@dataclass(frozen=True)
class Conversion(Report):
    """What `convert` wrote: the files, in whose dialect, how many tensors; and what to mind when loading them."""

    source: Identification
    to: str
    files: tuple[str, ...]
    tensors: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: all fields, the source as its identification."""
        wrote = {"to": self.to, "files": list(self.files), "tensors": self.tensors, "notes": list(self.notes)}
        return {"source": self.source.to_dict(), **wrote}

    def __rich__(self) -> "RenderableType":
        """The source, and a line for what was written."""
        from rich.console import Group
        from rich.text import Text

        wrote = Text(f"wrote {self.tensors} tensors in {self.to}'s names: {', '.join(self.files)}", style="bold")
        return Group(self.source, wrote, *(Text(f"note: {note}") for note in self.notes))


def _numbers(design: Design) -> dict[str, Any]:
    """A Design in the vocabulary's words. One value where all stages share it."""
    stages, block = design.stages, design.stages[0].block
    kinds = list(dict.fromkeys(stage.block.kind for stage in stages))
    numbers: dict[str, Any] = {
        "layers": notation.depth(layers.network(design)),
        "block": block.kind if len(kinds) == 1 else kinds,
        "order": block.order,
        "shortcut": block.shortcut if block.skip else "none",
        "stem": design.stem.kind,
        "stem_width": design.stem.width,
        "depths": [stage.depth for stage in stages],
        "widths": [stage.width for stage in stages],
        "mids": [stage.mid for stage in stages] if "bottleneck" in kinds else None,
        "stride_on": next((stage.block.stride_on for stage in stages if stage.block.kind == "bottleneck"), None),
        "groups": block.groups,
        "squeeze": [stage.squeeze for stage in stages] if any(stage.squeeze for stage in stages) else None,
        "strides": [stage.stride for stage in stages],
        "output_stride": design.output_stride,
        "classes": design.head.classes,
        "in_channels": design.stem.in_channels,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _choices_table(choices: tuple[Choice, ...]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("tensors cannot tell", "taken", "why", "could be", "to change it", box=None, padding=(0, 2))
    for choice in choices:
        cells = (choice.what, choice.taken, choice.why, "; ".join(choice.others), choice.flag)
        table.add_row(*map(Text, cells))
    return table
