"""Putting what is written in its place, several files at once: all of it, or what was there before.

with beside(path) as folder:
    …                       write into folder
    put(folder, path)
"""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plusx.errors import WorkError
from plusx.files import flush


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk as `path`, gone afterwards. Raises WorkError for what the disk refuses meanwhile."""
    folder = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        folder.mkdir(0o700)  # within: a signal may come before tempfile.mkdtemp would give its name
        yield folder
    except OSError as problem:
        ours = problem.filename in (None, str(folder))
        what = f"writing {path}" if ours else f"export to {path}: {problem.filename}"
        raise WorkError(f"{what}: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, path: Path, *, whole: bool = False) -> list[Path]:
    """Move the files in `folder` to their place, else leave there what was. Gives their paths, that to open first.

    path: where the file to open goes, its fellows beside it. whole: `folder` holds one folder, which goes below `path`.
    """
    if whole:
        path.mkdir(exist_ok=True)
    home = path if whole else path.parent
    names = sorted(
        (each.name for each in folder.iterdir() if each.is_dir() == whole), key=lambda name: name == path.name
    )
    for each in (*folder.rglob("*"), home):
        flush(each)
    if not whole and names == [path.name]:  # one file takes another's place at once
        _move(path.name, folder, home)
    else:
        _exchange(names, folder, home)
    if whole:
        files = (file for file in (home / names[0]).rglob("*") if file.is_file())
        return sorted(files, key=lambda file: file.suffix != ".onnx")
    return [home / name for name in reversed(names)]


def _exchange(names: Sequence[str], folder: Path, home: Path) -> None:
    """Move what `folder` holds to `home`, else leave there what was.

    The file to open is the last of names. It comes last and is the first to go: killed on the way, this leaves no file
    to open rather than one with another's weights, and beside it what was there, in a folder that ends in .old.
    """
    aside = folder.with_name(f"{folder.name}.old")
    aside.mkdir()
    try:
        for name in reversed(names):
            _move(name, home, aside)
        for name in names:
            _move(name, folder, home)
    except BaseException:
        for name in reversed(names):
            if not (folder / name).exists():
                _move(name, home, folder)
        for name in names:
            _move(name, aside, home)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _move(name: str, start: Path, end: Path) -> None:
    """Rename what is there, for good before anything follows."""
    if (start / name).exists():
        (start / name).rename(end / name)
        flush(end)
        flush(start)
