"""Which images a person means: files, folders, patterns, standard input; and reading those that are images.

photo.jpg            a file, of whatever name
photos/              every image below it, in the order of their paths; files not named like images are passed over
'photos/**/cat*.jpg' a pattern that the shell left alone (quoted)
-                    the bytes of one image, on standard input
b"…"                 the same, from Python
"""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plusx.data import decode, load_files
from plusx.data.decode import SUFFIXES, named_like_an_image
from plusx.errors import DataError, InputError
from plusx.inference import OnBadImage, given_path

Given = str | Path | bytes

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Picture:
    """One image to look at: the name it goes by, and its bytes where it is no file."""

    name: str
    content: bytes | None = None


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    file: str
    reason: str


def find_pictures(images: Given | Iterable[Given], verb: str) -> list[Picture]:
    """What was given, in that order, as single images; see the top of this file.

    Raises InputError for no images at all and for what is no path; DataError for a folder without images and a
    pattern that nothing matches.
    """
    if isinstance(images, str | os.PathLike | bytes):
        return _pictures(images, f"{verb}: images")
    if not isinstance(images, Iterable):
        raise InputError(f"{verb}: images {images!r}: a path, or several, are needed, not {type(images).__name__}")
    found = [_pictures(image, f"{verb}: images[{index}]") for index, image in enumerate(images)]
    if not found:
        raise InputError(f"{verb}: no images were given")
    return [picture for part in found for picture in part]


def read_list(file: str | Path) -> list[str]:
    """Paths from a text file, or from standard input for "-": one a line, or each ended by a NUL (`find -print0`).

    Raises DataError where it cannot be read or names nothing.
    """
    try:
        content = sys.stdin.buffer.read() if str(file) == STANDARD_INPUT else Path(file).read_bytes()
        text = os.fsdecode(content)
    except OSError as problem:
        raise DataError(f"reading the list {file}: {problem.strerror}") from None
    lines = text.split("\0") if "\0" in text else text.splitlines()
    if not (names := [line for line in lines if line]):
        raise DataError(f"reading the list {file}: it names no images")
    return names


def decode_picture(picture: Picture, size: int, channels: int) -> Tensor:
    """uint8 1 `channels` `size` `size`. Raises DataError, naming the picture, for what is no image."""
    if picture.content is None:
        return load_files([Path(picture.name)], size, channels)
    with decode.quiet():
        name = "standard input" if picture.name == STANDARD_INPUT else picture.name
        pixels = decode.Picture(picture.content, name, channels).fit(size)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def read_pictures(
    pictures: Iterable[Picture], size: int, channels: int, on_bad_image: OnBadImage, skipped: list[Skipped]
) -> Iterator[tuple[Picture, Tensor]]:
    """Each picture with its pixels, 1 C size size; what is no image is added to `skipped`, or raises DataError."""
    for picture in pictures:
        try:
            yield picture, decode_picture(picture, size, channels)
        except DataError as problem:
            if on_bad_image == "fail":
                raise
            skipped.append(Skipped(picture.name, str(problem)))


def _pictures(image: Given, what: str) -> list[Picture]:
    if isinstance(image, bytes):
        return [Picture(STANDARD_INPUT, image)]
    if image == STANDARD_INPUT:  # as text: the path ./- is a file
        return [Picture(STANDARD_INPUT, sys.stdin.buffer.read())]
    path = given_path(what, image)
    if path.is_dir():
        return _below(path)
    if not path.exists() and glob.has_magic(str(path)):
        return _matching(str(path))
    return [Picture(str(path))]


def _below(folder: Path) -> list[Picture]:
    """Every image file at any depth, hidden ones aside."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if named_like_an_image(name)]
    if not found:
        raise DataError(
            f"{folder}: no images are in that folder, or below it (named like {', '.join(sorted(SUFFIXES))})"
        )
    return [Picture(str(path)) for path in sorted(found)]


def _matching(pattern: str) -> list[Picture]:
    """Files of any name that match, and the images below folders that do."""
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    files = {str(path): None for path in matches if path.is_file()}
    if "**" not in pattern:  # which finds what lies in folders by itself
        for folder in filter(Path.is_dir, matches):
            files |= {picture.name: None for picture in _below(folder)}
    if not files:
        raise DataError(f"{pattern}: there is no such file, and no image matches that pattern")
    return [Picture(name) for name in files]
