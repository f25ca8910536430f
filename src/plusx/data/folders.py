"""A folder of images as a Dataset: a folder for each class, perhaps inside folders for the parts of a split.

    photos/cat/… photos/dog/…                      classes
    photos/train/cat/… photos/val/cat/… …/test/…   parts: train, and val or test or both

Guessing wrong here trains a network that tells training photographs from test ones. So folders that are called like
parts of a split, and are not such parts as above, are refused.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plusx.data.dataset import Dataset, Images
from plusx.data.decode import named_like_an_image
from plusx.errors import DataError, did_you_mean

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What a part's folder may be called, in any case, and the part."""

_UNCLEAR = ("eval", "evaluation")
"""Parts too, but of which people mean val or test."""

_ACCEPTED = "accepted: a folder for each class; or such folders inside train, and inside val or test or both"


def open_folder(root: Path) -> Dataset:
    """The images below `root`; classes in the order of their names. Raises DataError; see the top of this file."""
    name = re.sub(r"[^\w.-]+", "-", root.name) or "data"
    parts = _parts(root)
    notes: tuple[str, ...] = ()
    if "val" in parts and "test" in parts and not _subfolders(parts["test"]):
        notes = (f"{parts.pop('test').name}/ has no folders of classes and is left aside",)
    folder = parts.get("train", root)
    classes = _class_names(folder)
    held_out = {part: _held_out(parts[part], classes) for part in ("val", "test") if part in parts}
    words = {part: f"its folder {parts[part].name}/ held out" for part in held_out}
    if len(held_out) == 2:
        words["test"] = f"its folder {parts['test'].name}/, which training does not look at"
    return Dataset(
        str(root),
        name,
        classes,
        _class_files(folder, classes),
        held_out.get("val"),
        words.get("val", ""),
        held_out.get("test"),
        words.get("test", ""),
        notes,
    )


def _parts(root: Path) -> dict[str, Path]:
    """The folders of the parts that there are, "train" among them; none where the folders in `root` are classes.

    A class may be called "train" (a vehicle) or "test": its images lie in it directly, beside other classes.
    """
    names = _subfolders(root)
    like_parts = [name for name in names if name.lower() in (*_PARTS, *_UNCLEAR)]
    if len(like_parts) < len(names) and not any(_subfolders(root / name) for name in like_parts):
        return {}
    if unclear := [name for name in like_parts if name.lower() in _UNCLEAR]:
        raise _refusal(root, like_parts, f"{unclear[0]}/ may mean val or test; call it so")
    parts: dict[str, Path] = {}
    for name in like_parts:
        part = _PARTS[name.lower()]
        if part in parts:
            raise _refusal(root, like_parts, f"{parts[part].name}/ and {name}/ are the same part")
        parts[part] = root / name
    if parts and "train" not in parts:
        raise _refusal(root, like_parts, "there is no train/")
    if strange := [name for name in names if name not in like_parts and _image_files(root / name)]:
        raise _refusal(root, like_parts, f"what {strange[0]}/ is for is not clear; move it away, or rename one of them")
    return parts


def _refusal(root: Path, like_parts: Sequence[str], why: str) -> DataError:
    found = ", ".join(f"{name}/" for name in like_parts)
    seem = "seems to be a part" if len(like_parts) == 1 else "seem to be parts"
    return DataError(f"{root}: {found} {seem} of a split, but {why} ({_ACCEPTED})")


def _held_out(folder: Path, classes: tuple[str, ...]) -> Images:
    """The images of a part that need not have every class. Raises DataError for a class that train/ has not."""
    known = _class_names(folder)
    if strange := [name for name in known if name not in classes]:
        raise DataError(f"{folder}: class {strange[0]!r} is not one of train's{did_you_mean(strange[0], classes)}")
    return _class_files(folder, classes, only=known)


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as problem:
        raise DataError(f"reading {folder}: {problem.strerror}") from None


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(_subfolders(folder))
    if odd := [name for name in names if not name.isprintable()]:
        raise DataError(f"{folder}: class folder {odd[0]!a} has a name that cannot be printed")
    if not names:
        loose = sum(named_like_an_image(entry.name) for entry in folder.iterdir())
        found = f"{loose} images lie in it directly" if loose else "it holds no folders and no images"
        raise DataError(f"{folder}: {found}; a folder of images for each class is needed")
    return names


def _class_files(root: Path, classes: tuple[str, ...], only: tuple[str, ...] = ()) -> Images:
    """Every image file at any depth below each class's folder. Raises DataError naming a class without any."""
    keys: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if only and name not in only:
            continue
        files = _image_files(root / name)
        if not files:
            raise DataError(f"{root / name}: the folder of class {name!r} holds no images")
        keys += [path.relative_to(root).as_posix() for path in files]
        labels += [label] * len(files)
    return Images(np.asarray(labels, dtype=np.int64), tuple(keys), folder=root)


def _image_files(folder: Path) -> list[Path]:
    found = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names if named_like_an_image(name)]
    return sorted(found)
