"""The run folder: what `plusx train` leaves behind, and what can be read back from it.

design.toml        the network, as it was trained
recipe.toml        how, every field spelt out
model.safetensors  the weights after the last whole epoch (checkpoint.py)
metrics.jsonl      its first line says on what: {"run": {…}}; then one line for each epoch
curves.svg         the same as a picture
checkpoints/       the states to go on from (state.py)
epochs/            the weights after some epochs, where that was asked for
report.html        all of it for a person, in one file (report.py)
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from plusx.checkpoint import WEIGHTS_FILE, write_text
from plusx.errors import InputError, WorkError

DESIGN_FILE, RECIPE_FILE, METRICS_FILE, CURVES_FILE = "design.toml", "recipe.toml", "metrics.jsonl", "curves.svg"
REPORT_FILE, CHECKPOINTS_FOLDER, EPOCHS_FOLDER = "report.html", "checkpoints", "epochs"
_FILES = (DESIGN_FILE, RECIPE_FILE, WEIGHTS_FILE, METRICS_FILE, CURVES_FILE)


@dataclass(frozen=True)
class Origin:
    """On what a run was trained: the data's spec, and the split where the data has none of its own."""

    data: str
    held_out: float
    split_seed: int


def read_origin(run: Path) -> Origin | None:
    """The first line of the metrics of a run, or of that which kept these weights; None for a file on its own."""
    about = read_about(run.parent.parent if run.parent.name == EPOCHS_FOLDER else run)
    try:
        return Origin(str(about["data"]), float(about["held_out"]), int(about["split_seed"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_about(run: Path) -> dict[str, Any]:
    """All that the first line of a run folder's metrics says; empty where there is none."""
    try:
        with (run / METRICS_FILE).open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """One record for each whole epoch of a run folder's metrics; empty where there are none.

    Lines that are cut short or are no records are passed over: a run may have been stopped while it wrote.
    """
    try:
        lines = (run / METRICS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [record for record in map(_record, lines) if isinstance(record.get("epoch"), int)]


def seconds(epochs: Iterable[Mapping[str, Any]]) -> float:
    """What the epochs took in all; 0 where nothing tells."""
    return float(sum(record["seconds"] for record in epochs if isinstance(record.get("seconds"), int | float)))


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def epoch_file(run: Path, epoch: int) -> Path:
    """Where a run keeps its weights after that many epochs; the folder is made. Raises WorkError."""
    folder = run / EPOCHS_FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise WorkError(f"writing {folder}: {problem.strerror}") from None
    return folder / f"epoch-{epoch:04}.safetensors"


def kept_epochs(run: Path) -> dict[int, Path]:
    """The weights that a run kept on its way, by how many epochs were done."""
    named = [(re.fullmatch(r"epoch-(\d+)\.safetensors", file.name), file) for file in (run / EPOCHS_FOLDER).glob("*")]
    return {int(match[1]): file for match, file in sorted(named, key=lambda pair: pair[1]) if match}


def write_metrics(run: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the metrics anew, whole or not at all. Raises WorkError when the disk refuses."""
    write_text(run / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def append_metrics(run: Path, line: Mapping[str, Any]) -> None:
    """Add one line to the metrics. Raises WorkError when the disk refuses."""
    try:
        with (run / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as problem:
        raise WorkError(f"writing {run / METRICS_FILE}: {problem.strerror}") from None


def refuse_used(out: Path) -> None:
    """Raise InputError where `out` exists and is not an empty folder: nothing is ever written over."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"out {out}: that is a file; give a folder that is new or empty")
    if any(out.iterdir()):
        raise InputError(f"out {out}: the folder is not empty; give one that is new or empty")


@contextmanager
def new_run(out: Path | None, name: str) -> Iterator[Path]:
    """The folder `out`, or a fresh `runs/<name>-<n>`. A run that ends before its first weights leaves nothing.

    Raises InputError where it cannot be made.
    """
    made = out is None or not out.exists()
    folder = _numbered(Path("runs"), name) if out is None else _make(out)
    try:
        yield folder
    except BaseException:
        if not (folder / WEIGHTS_FILE).exists() and not any(folder.glob(f"{CHECKPOINTS_FOLDER}/*.safetensors")):
            for file in _FILES:
                (folder / file).unlink(missing_ok=True)
            if made and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"out {folder}: {problem.strerror}") from None
    return folder


def _numbered(parent: Path, name: str) -> Path:
    """`parent/name-1`, or the first number that is free; safe when two runs start at once."""
    name = re.sub(r"[^\w.-]+", "-", name)
    for number in count(1):
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if parent.is_dir():
                continue
            raise InputError(f"out {folder}: {parent} is a file") from None
        except OSError as problem:
            raise InputError(f"out {folder}: {problem.strerror}") from None
        return folder
    raise AssertionError("there is always another number")
