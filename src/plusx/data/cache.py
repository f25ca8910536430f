"""Decoded pixels kept on disk: one `.npy` file, uint8 N H W C, mapped into memory by whoever needs it.

    $PLUSX_CACHE, else $XDG_CACHE_HOME/plusx/pixels, else ~/.cache/plusx/pixels
    ├── <digest>.npy        pixels; <digest> is of the files' names, sizes and times, the size asked for, the decoders
    ├── <digest>.bad.json   the images that are none, by index, where there are such; their pixels are black
    └── .<digest>.lock      held by the process that decodes; the others wait for it

A file appears whole or not at all: it is written under another name, fsynced and renamed.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plusx.data.dataset import Images
from plusx.data.decode import DECODERS, Pixels
from plusx.data.downloads import Say
from plusx.files import cache_folder, written_whole

if sys.platform != "win32":
    import fcntl

Fill = Callable[[Pixels], Mapping[int, str]]
"""Decodes all images into an array, and gives what is wrong with those that are none, by index."""


@dataclass(frozen=True)
class Kept:
    """All images of a set at one size: uint8 N H W C; and what is wrong with those that are none, by index."""

    pixels: Pixels
    bad: Mapping[int, str]


def folder() -> Path:
    """Where pixels are kept."""
    given = os.environ.get("PLUSX_CACHE")
    return Path(given) if given else cache_folder() / "pixels"


def digest(images: Images, size: int, channels: int) -> str:
    """Of everything that the pixels depend on. Raises DataError for a file that is gone."""
    hashed = hashlib.sha256(f"{DECODERS} {size} {channels}\n".encode())
    for stamp in images.stamps():
        hashed.update(os.fsencode(stamp) + b"\n")
    return hashed.hexdigest()[:40]


def keep(images: Images, size: int, channels: int, fill: Fill, say: Say) -> Kept:
    """The pixels from the cache, decoded by `fill` where they are not there yet.

    Of several processes that want the same, one decodes and the others wait. Raises OSError where the folder cannot be
    written or is too full; then nothing is left there.
    """
    where, name = folder(), digest(images, size, channels)
    if (found := _open(where, name)) is not None:
        return found
    where.mkdir(parents=True, exist_ok=True)
    with _lock(where / f".{name}.lock", say):
        if (found := _open(where, name)) is not None:
            return found
        for left in where.glob(f".{name}.*.tmp"):  # of a process that was killed: whoever lives holds the lock
            left.unlink(missing_ok=True)
        _write(where, name, (len(images), size, size, channels), fill)
    found = _open(where, name)
    if found is None:
        raise OSError("the file written is gone")
    return found


def _open(where: Path, name: str) -> Kept | None:
    try:
        pixels = np.load(where / f"{name}.npy", mmap_mode="c")
        bad_file = where / f"{name}.bad.json"
        bad = json.loads(bad_file.read_bytes()) if bad_file.exists() else {}
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    return Kept(pixels, {int(index): why for index, why in bad.items()})


def _write(where: Path, name: str, shape: tuple[int, ...], fill: Fill) -> None:
    if shutil.disk_usage(where).free < 2 * np.prod(shape, dtype=object):
        raise OSError(errno.ENOSPC, "they would take more than half of the disk space that is free")
    with written_whole(where / f"{name}.npy") as path:
        pixels = _new_array(path, shape)
        bad = fill(pixels)
        pixels.flush()
        if bad:  # before the pixels: they say that all is there
            with written_whole(where / f"{name}.bad.json") as beside:
                beside.write_text(json.dumps(bad), encoding="utf-8")


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """Room on the disk first: writing through a map to a disk that is full would kill the process."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        end = start + int(np.prod(shape, dtype=object))
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, end)
        else:
            file.truncate(end)
    return np.memmap(path, np.uint8, "r+", start, shape)


@contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    """Alone among processes; the lock of one that dies is free."""
    with path.open("w") as file:
        if sys.platform == "win32":
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that decodes the same images")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
