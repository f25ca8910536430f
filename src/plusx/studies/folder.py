"""A study's folder: whose it is, so that nothing of anybody's is written over.

study.json        what is studied here: the study, on which images, of which design or runs, and how
study.html        the page; figure-1.svg, … its figures; study-recipe.toml, study-design.toml what its command names
runs/, results/   the trainings, and what each gave (trials.py)
measured/         what was measured once and is kept, such as latencies
locks/, processes/   who trains what, while it does
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from plusx.checkpoint import write_text
from plusx.errors import InputError

MARK = "study.json"
PAGE = "study.html"

Asked = dict[str, Any]
"""What makes it another study, as JSON gives it back."""


@contextmanager
def claimed(out: Path | None, name: str, asked: Asked) -> Iterator[Path]:
    """The folder for a study: `out`, or that below studies/ which holds the same, else a new one: NAME, NAME-2, ….

    Raises InputError where `out` holds anything else. A study that is refused leaves nothing. Processes that ask the
    same share a folder; those that ask different things at once get different ones.
    """
    for folder in _places(name, asked) if out is None else [out]:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        new = _claim(folder, asked)
        if new is not None:
            break
    else:
        raise InputError(
            f"out {out}: it holds another study, or files that are none; give a folder that is new or empty"
        )
    try:
        yield folder
    except InputError:
        if new:
            _leave(folder, made)
        raise
    finally:
        if _shown(folder) and not (folder / MARK).exists():  # one that was refused may have taken the mark away
            write_text(folder / MARK, json.dumps(asked))


def _places(name: str, asked: Asked) -> Iterator[Path]:
    """Folders below studies/ that hold the same, then any of that name."""
    place = Path("studies")
    yield from (folder for folder in sorted([place / name, *place.glob(f"{name}-*")]) if _mark(folder) == asked)
    yield from (place / (name if number == 1 else f"{name}-{number}") for number in count(1))


def _claim(folder: Path, asked: Asked) -> bool | None:
    """Mark a folder that is new, empty, or marked so: whether it was not marked yet; None where it holds else."""
    from filelock import FileLock

    try:
        if not _is_ours(folder, asked):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".claim.lock"):
            if not _is_ours(folder, asked):
                return None
            new = not (folder / MARK).exists()
            if new:
                write_text(folder / MARK, json.dumps(asked))
            return new
    except OSError as problem:
        raise InputError(f"out {folder}: {problem.strerror}") from None


def _is_ours(folder: Path, asked: Asked) -> bool:
    """Whether it is new, or empty, or holds what was asked. Raises InputError for what is no folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out {folder}: that is a file")
    return not _shown(folder) or _mark(folder) == asked


def _mark(folder: Path) -> object:
    try:
        return json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _shown(folder: Path) -> list[Path]:
    """What lies in a folder, hidden files aside; empty where there is none."""
    with suppress(FileNotFoundError):
        return [each for each in folder.iterdir() if not each.name.startswith(".")]
    return []


def _leave(folder: Path, made: list[Path]) -> None:
    """Take away a study that was refused, unless others are at it, or something was trained."""
    with suppress(OSError):
        for name in ("processes", "locks", "results", "runs"):
            if (folder / name).is_dir():
                (folder / name).rmdir()
        shutil.rmtree(folder / "measured", ignore_errors=True)
        if _shown(folder) == [folder / MARK]:
            (folder / MARK).unlink()
            (folder / ".claim.lock").unlink(missing_ok=True)
            for each in made:
                each.rmdir()
