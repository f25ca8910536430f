"""A study's folder: whose it is, so that nothing of anybody's is written over.

study.json        what is studied here: the study, on which images, of which design or runs
study.html        the page; figure-1.svg, … its figures; study-recipe.toml, study-design.toml what its command names
runs/, results/   the trainings, and what each gave (trials.py)
measured/         what was measured once and is kept, such as latencies
locks/, processes/   who trains what, while it does
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from plusx.checkpoint import write_text
from plusx.errors import InputError

MARK = "study.json"
PAGE = "study.html"


@contextmanager
def claimed(out: Path | None, name: str, asked: dict[str, Any]) -> Iterator[Path]:
    """The folder for a study: `out`, or the first of studies/NAME, studies/NAME-2, … that holds the same or nothing.

    asked: what makes it another study, as plain data. Raises InputError where `out` holds anything else. A study that
    is refused leaves nothing.
    """
    folder = _free(name, asked) if out is None else out
    if not _is_ours(folder, asked):
        raise InputError(
            f"out {folder}: it holds another study, or files that are none; give a folder that is new or empty"
        )
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"out {folder}: {problem.strerror}") from None
    new = not (folder / MARK).exists()
    if new:
        write_text(folder / MARK, json.dumps(asked))
    try:
        yield folder
    except InputError:
        if new:
            _leave(folder, made)
        raise


def _free(name: str, asked: dict[str, Any]) -> Path:
    numbered = (Path("studies") / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(folder for folder in numbered if _is_ours(folder, asked))


def _is_ours(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether it is new, or empty, or holds what was asked. Raises InputError for what is no folder to write to."""
    try:
        if not any(not each.name.startswith(".") for each in folder.iterdir()):
            return True
        return bool(json.loads((folder / MARK).read_text(encoding="utf-8")) == asked)
    except FileNotFoundError:
        return not folder.exists()
    except ValueError:
        return False
    except OSError as problem:
        raise InputError(f"out {folder}: {problem.strerror}") from None


def _leave(folder: Path, made: list[Path]) -> None:
    """Take away what holds nothing yet."""
    for inside in folder.iterdir():
        if inside.is_dir() and not any(inside.iterdir()):
            inside.rmdir()
    if [each.name for each in folder.iterdir()] == [MARK]:
        (folder / MARK).unlink()
        for each in made:
            if not any(each.iterdir()):
                each.rmdir()
