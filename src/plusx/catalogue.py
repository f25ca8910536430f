"""Runs on this machine: `runs` lists those in a folder, or sets several side by side.

Everything is read from the files of the run folders (run_folder.py), tolerantly: a broken one is listed as such.
"""

import re
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plusx import reports, run_folder
from plusx.checkpoint import WEIGHTS_FILE
from plusx.cost import cost
from plusx.design import Design
from plusx.errors import InputError
from plusx.inference import given_path
from plusx.notation import count
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["finished", "running", "interrupted", "broken"]
"""finished: all epochs of its recipe are done. running: not all, and a file of it is fresh. broken: unreadable."""

FRESH_S = 15 * 60.0
"""A run that wrote nothing for so long, and for three of its epochs, is no longer running."""

_DEPTH = 4
"""Folders below the one given that are searched."""


@dataclass(frozen=True)
class RunFacts:
    """One run folder. None for what its files do not tell.

    data: the spec; epochs: whole ones done, of `epochs_wanted`; seconds: of training; problem: why it is broken, or "".
    recipe, design: every field, by its path such as "optimizer.lr".
    """

    folder: Path
    state: State
    data: str | None
    design_name: str | None
    recipe_name: str | None
    epochs: int
    epochs_wanted: int | None
    accuracy_percent: float | None
    held_out_loss: float | None
    params: int | None
    seconds: float
    problem: str
    recipe: Mapping[str, Any]
    design: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without recipe and design."""
        return {
            "folder": str(self.folder),
            "state": self.state,
            "data": self.data,
            "design": self.design_name,
            "recipe": self.recipe_name,
            "epochs": self.epochs,
            "epochs_wanted": self.epochs_wanted,
            "accuracy_percent": self.accuracy_percent,
            "held_out_loss": self.held_out_loss,
            "params": self.params,
            "seconds": self.seconds,
        } | ({"problem": self.problem} if self.problem else {})


@dataclass(frozen=True)
class RunList(Report):
    """The runs below a folder, in the order of their names; numbers as numbers."""

    folder: Path
    runs: tuple[RunFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"folder": str(self.folder), "runs": [run.to_dict() for run in self.runs]}

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        if not self.runs:
            return Text(f"no runs in {self.folder} (plusx train makes one)")
        table = reports.table()
        for heading in ("run", "data", "design"):
            table.add_column(heading, overflow="fold")
        for heading in ("epochs", "right", "params", "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for run in self.runs:
            table.add_row(*map(Text, _cells(run, self.folder)))
        return table


@dataclass(frozen=True)
class RunComparison(Report):
    """Runs side by side: what came of them, and the fields of recipe and design that are not the same in all.

    differences: (field, its value in each run), such as ("recipe: optimizer.lr", (0.1, 0.2)); None where it has none.
    """

    runs: tuple[RunFacts, ...]
    differences: tuple[tuple[str, tuple[Any, ...]], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "differences": [{"field": field, "values": list(values)} for field, values in self.differences],
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        table = reports.table()
        table.add_column("")
        for run in self.runs:
            table.add_column(Text(run.folder.name), justify="right", overflow="fold")
        for name, cells in self._results():
            table.add_row(Text(name, "bold"), *map(Text, cells))
        table.add_section()
        for field, values in self.differences:
            table.add_row(Text(field), *(Text("·" if value is None else str(value)) for value in values))
        same = "" if self.differences else "\nRecipe and design are the same, field by field."
        return _with_note(table, same)

    def _results(self) -> Iterator[tuple[str, list[str]]]:
        names = ("data", "design", "epochs", "right", "params", "time", "state")
        columns = [_cells(run, run.folder)[1:] for run in self.runs]
        for name, *cells in zip(names, *columns, strict=True):
            yield name, cells
        yield "held-out loss", ["·" if run.held_out_loss is None else f"{run.held_out_loss:.4f}" for run in self.runs]


def list_runs(folder: str | Path = "runs") -> RunList:
    """The run folders in `folder`, or below it, or `folder` itself. Raises InputError where there is no such folder."""
    root = given_path("runs", folder)
    if not root.is_dir():
        found = "that is a file" if root.exists() else "there is no such folder"
        raise InputError(f"runs {root}: {found}")
    return RunList(root, tuple(read_run(run) for run in sorted(_run_folders(root, _DEPTH), key=_order)))


def runs(*folders: str | Path) -> RunList | RunComparison:
    """The runs below a folder, by default `runs`; or, of two or more runs, what differs between them.

    Raises InputError for a folder that is not there, or of several one that is no run.
    """
    return compare_runs(folders) if len(folders) > 1 else list_runs(*folders)


def compare_runs(folders: Sequence[str | Path]) -> RunComparison:
    """Two or more runs side by side. Raises InputError for fewer, and for a folder that is no run."""
    paths = [given_path(f"runs[{index}]", folder) for index, folder in enumerate(folders)]
    if len(paths) < 2:
        raise InputError(f"runs: {len(paths)} given; at least two are needed to compare")
    for path in paths:
        if not path.is_dir() or not _is_run(path):
            found = "that is no run of plusx train" if path.is_dir() else "there is no such folder"
            raise InputError(f"runs {path}: {found}")
    found_runs = tuple(map(read_run, paths))
    recipe = _differences("recipe", [run.recipe for run in found_runs])
    design = _differences("design", [run.design for run in found_runs])
    return RunComparison(found_runs, (*recipe, *design))


def read_run(folder: Path) -> RunFacts:
    """What the files of a run folder tell. Never raises: what is wrong is said in `problem`."""
    about, epochs = run_folder.read_about(folder), run_folder.read_epochs(folder)
    recipe, design, problem, params = dict[str, Any](), dict[str, Any](), "", None
    try:
        recipe, design = _toml(folder / run_folder.RECIPE_FILE), _toml(folder / run_folder.DESIGN_FILE)
        params = cost(Design.read(folder / run_folder.DESIGN_FILE)).params
    except (InputError, OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        problem = " ".join(str(reason).split())
    done, last = max((record["epoch"] for record in epochs), default=0), epochs[-1] if epochs else {}
    wanted = _wanted(about, recipe)
    return RunFacts(
        folder=folder,
        state="broken" if problem else _state(folder, epochs, done, wanted, recipe),
        data=_text(about.get("data")),
        design_name=_text(design.get("name")),
        recipe_name=_text(recipe.get("name")),
        epochs=done,
        epochs_wanted=wanted,
        accuracy_percent=_number(last.get("held_out_accuracy_percent")),
        held_out_loss=_number(last.get("held_out_loss")),
        params=params,
        seconds=run_folder.seconds(epochs),
        problem=problem,
        recipe=recipe,
        design=design,
    )


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        try:
            inner = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:
            return
        for entry in inner:
            yield from _run_folders(entry, depth - 1)


def _is_run(folder: Path) -> bool:
    return (folder / run_folder.METRICS_FILE).is_file() and (folder / run_folder.DESIGN_FILE).is_file()


def _order(folder: Path) -> list[str | int]:
    """digits-net-10 comes after digits-net-9: text and numbers, in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(folder))]


def _is_done(epochs: Sequence[Mapping[str, Any]], done: int, wanted: int | None, recipe: Mapping[str, Any]) -> bool:
    """Whether as many steps, where the recipe counts those, or else epochs, are done as were wanted."""
    steps = _number(recipe.get("steps"))
    if steps is not None:
        return bool(epochs) and (_number(epochs[-1].get("step")) or 0) >= steps
    return wanted is not None and done >= wanted


def _state(
    folder: Path, epochs: Sequence[Mapping[str, Any]], done: int, wanted: int | None, recipe: Mapping[str, Any]
) -> State:
    if _is_done(epochs, done, wanted, recipe) and (folder / WEIGHTS_FILE).is_file():
        return "finished"
    longest = max((value for record in epochs if (value := _number(record.get("seconds"))) is not None), default=0.0)
    return "running" if time.time() - _newest(folder) < max(FRESH_S, 3 * longest) else "interrupted"


def _newest(folder: Path) -> float:
    """When a file of the run was last written, in seconds since 1970."""
    times = [0.0]
    for file in (*folder.glob("*"), *folder.glob(f"{run_folder.CHECKPOINTS_FOLDER}/*")):
        try:
            times.append(file.stat().st_mtime)
        except OSError:  # gone in the meantime
            continue
    return max(times)


def _wanted(about: Mapping[str, Any], recipe: Mapping[str, Any]) -> int | None:
    """Epochs in all: as the run says, else as its recipe does."""
    value = about.get("epochs", None if "steps" in recipe else recipe.get("epochs"))
    return value if isinstance(value, int) else None


def _toml(file: Path) -> dict[str, Any]:
    """Every field of a TOML file by its path; tables in lists by their number: stages.0.width."""
    return dict(_flat(tomllib.loads(file.read_text(encoding="utf-8")), ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}")
    else:
        yield path, value


def _differences(what: str, columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    fields = dict.fromkeys(field for column in columns for field in column)
    rows = [(f"{what}: {field}", tuple(column.get(field) for column in columns)) for field in fields]
    return [(field, values) for field, values in rows if any(value != values[0] for value in values)]


def _cells(run: RunFacts, below: Path) -> list[str]:
    name = str(run.folder.relative_to(below)) if run.folder != below else str(run.folder)
    return [
        name,
        run.data or "·",
        run.design_name or "·",
        f"{run.epochs}/{'·' if run.epochs_wanted is None else run.epochs_wanted}",
        "·" if run.accuracy_percent is None else f"{run.accuracy_percent:.2f} %",
        "·" if run.params is None else count(run.params),
        f"{run.seconds:,.0f} s" if run.seconds else "·",
        f"{run.state}: {run.problem}" if run.problem else run.state,
    ]


def _with_note(table: "RenderableType", note: str) -> "RenderableType":
    from rich.console import Group

    return Group(table, note.strip()) if note else table


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
