"""What a source opens as: a Dataset of named classes and Images that are not decoded yet, and how it is split."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plusx.data.decode import Pixels, decode, peek, resize_pixels
from plusx.errors import DataError

_PEEKED = 1000


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images as they came, not yet of one size: pixels in memory, or files.

    labels: int64, N, indices into the Dataset's classes.
    keys: what tells an image from the others, for ever: its path below the folder, or its number.
    held: uint8 N H W C, or None where the images are files.
    """

    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    held: Pixels | None = None
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int, size: int, channels: int) -> Pixels:
        """One image as uint8 `size` `size` `channels`. Raises DataError naming a file that is no image."""
        if self.held is not None:
            return resize_pixels(self.held[index], size, channels)
        return decode(self.folder / self.keys[index], size, channels)

    def take(self, indices: Sequence[int]) -> "Images":
        """Some of the images, in that order."""
        held = None if self.held is None else self.held[np.asarray(indices, dtype=np.int64)]
        return replace(self, labels=self.labels[indices], keys=tuple(self.keys[i] for i in indices), held=held)

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
        return [peek(self.folder / self.keys[index]) for index in chosen]


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
