"""What a source opens as: a Dataset of named classes and Images that are not decoded yet, and how it is split."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plusx.data.decode import Picture, Pixels, peek, read, resize_pixels
from plusx.errors import DataError

_PEEKED = 1000


class Store(Protocol):
    """Image files that are not files of their own: rows of a table, members of an archive. It can be pickled."""

    def read(self, row: int) -> bytes:
        """The content of one. Raises DataError."""

    def name(self, row: int) -> str:
        """What to call it in a message."""

    def stamp(self, row: int) -> str:
        """What changes when its content may have changed."""


@dataclass(frozen=True)
class Files:
    """Files below a folder, as a Store."""

    folder: Path
    keys: tuple[str, ...]

    def read(self, row: int) -> bytes:
        return read(self.folder / self.keys[row])

    def name(self, row: int) -> str:
        return str(self.folder / self.keys[row])

    def stamp(self, row: int) -> str:
        try:
            found = (self.folder / self.keys[row]).stat()
        except OSError as problem:
            raise DataError(f"reading {self.name(row)}: {problem.strerror}") from None
        return f"{self.keys[row]} {found.st_size} {found.st_mtime_ns}"


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images as they came, not yet of one size: pixels in memory, or files, or rows of a Store.

    labels: int64, N, indices into the Dataset's classes.
    keys: what tells an image from the others, for ever: its path below the folder, or its number.
    held: uint8 N H W C, or None where the images are files.
    folder: where the files are, or with a store what all of it is called.
    store, rows: where the images are otherwise, and which of its rows these are (int64, N).
    """

    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    held: Pixels | None = None
    folder: Path = Path()
    store: Store | None = None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, size: int, channels: int) -> Pixels:
        """One image as uint8 `size` `size` `channels`. Raises DataError naming a file that is no image."""
        if self.held is not None:
            return resize_pixels(self.held[index], size, channels)
        return self.picture(index, channels).fit(size)

    def picture(self, index: int, channels: int) -> Picture:
        """One image that is a file, at the size it has. Raises DataError naming it."""
        store, row = self._place(index)
        return Picture(store.read(row), store.name(row), channels)

    def name(self, index: int) -> str:
        """What to call one in a message."""
        store, row = self._place(index)
        return store.name(row)

    def stamps(self) -> Iterator[str]:
        """A line for each image that is a file, which changes when the file does. Raises DataError."""
        for index in range(len(self)):
            store, row = self._place(index)
            yield store.stamp(row)

    def _place(self, index: int) -> tuple[Store, int]:
        if self.store is None or self.rows is None:
            return Files(self.folder, self.keys), index
        return self.store, int(self.rows[index])

    def take(self, indices: Sequence[int]) -> "Images":
        """Some of the images, in that order."""
        held = None if self.held is None else self.held[np.asarray(indices, dtype=np.int64)]
        rows = None if self.rows is None else self.rows[np.asarray(indices, dtype=np.int64)]
        keys = tuple(self.keys[i] for i in indices)
        return replace(self, labels=self.labels[indices], keys=keys, held=held, rows=rows)

    def relabel(self, labels: Sequence[int]) -> "Images":
        """The same images, class i called `labels[i]`."""
        return replace(self, labels=np.asarray(labels, dtype=np.int64)[self.labels])

    def short_side(self) -> int:
        """The median shorter side in pixels; of at most 1,000 files, evenly spaced."""
        if self.held is not None:
            return min(int(side) for side in self.held.shape[1:3])
        return int(np.median([side for side, _ in self._peeks()]))

    def grey(self) -> bool:
        """Whether they have one channel; of at most 1,000 files, evenly spaced."""
        return all(grey for _, grey in self._peeks()) if self.held is None else self.held.shape[3] == 1

    def _peeks(self) -> list[tuple[int, bool]]:
        chosen = np.linspace(0, len(self) - 1, min(len(self), _PEEKED)).round().astype(int)
        return [self._peek(int(index)) for index in chosen]

    def _peek(self, index: int) -> tuple[int, bool]:
        if self.store is None:
            path = self.folder / self.keys[index]
            return peek(path, str(path))  # reads no more than it must
        store, row = self._place(index)
        return peek(store.read(row), store.name(row))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classes and images. `spec` opens the same again, from any working directory.

    val, test: the parts that the source itself holds out; None where there is no such part.
    val_name, test_name: those parts in words.
    notes: lines for a person, about what was found and not used.
    """

    spec: str
    name: str
    classes: tuple[str, ...]
    train: Images
    val: Images | None = None
    val_name: str = ""
    test: Images | None = None
    test_name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def has_unseen_part(self) -> bool:
        """Whether `split` leaves the test part alone, since there is a val part to hold out."""
        return self.val is not None and self.test is not None

    def split(self, held_out: float, seed: int) -> tuple[Images, Images, str]:
        """Images to train on, images held out, and the split in words.

        The source's own split where it has one: its val part, else its test part, is held out. Otherwise the share
        `held_out` of each class (at least one image): those whose key, hashed with `seed`, comes first, so that neither
        other files nor versions change who is in.
        Raises DataError for a class of one image, and where there are fewer than two classes.
        """
        if len(self.classes) < 2:
            raise DataError(f"{self.spec}: only one class, {self.classes[0]!r}; at least two are needed to tell apart")
        if self.val is not None:
            return self.train, self.val, self.val_name
        if self.test is not None:
            return self.train, self.test, self.test_name
        held = np.zeros(len(self.train), dtype=bool)
        for label, name in enumerate(self.classes):
            members = np.flatnonzero(self.train.labels == label).tolist()
            if len(members) < 2:
                raise DataError(f"{self.spec}: class {name!r} has 1 image; a split needs at least 2")
            members.sort(key=lambda i: hashlib.sha256(os.fsencode(f"{seed}:{self.train.keys[i]}")).digest())
            held[members[: min(max(1, round(held_out * len(members))), len(members) - 1)]] = True
        words = f"{100 * held_out:g} % of each class held out, split seed {seed}"
        return self.train.take(np.flatnonzero(~held).tolist()), self.train.take(np.flatnonzero(held).tolist()), words
