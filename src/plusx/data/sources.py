"""Where images come from: a spec opens as a Dataset.

    "digits"                              the scans that plusx ships (digits.txt says whose they are)
    "fashion-mnist", "fashion-mnist:DIR"  IDX files, plain or .gz
    "cifar10:DIR"                         the binary version
    DIR                                   class folders, perhaps inside train/ and val/ or test/; or files as above

A new source is one function from a folder to a Dataset (here, or a published set's in published.py), and its line in
`open_data`.
"""

import os
import re
from pathlib import Path

import numpy as np

from plusx.data import published
from plusx.data.dataset import Dataset, Images
from plusx.data.decode import SUFFIXES
from plusx.errors import DataError, did_you_mean

NAMES = ("digits", "fashion-mnist", "cifar10")
"""The data sets that a spec may name."""

_TEST_FOLDERS = ("val", "valid", "validation", "test")


def open_data(spec: str | Path) -> Dataset:
    """Open a data set by name or folder; see the top of this file. Raises DataError."""
    name, _, folder = str(spec).partition(":")
    match name, folder:
        case "digits", "":
            return published.digits()
        case "fashion-mnist", _:
            return published.fashion_mnist(_folder(Path(folder)) if folder else None)
        case "cifar10", "":
            raise DataError("cifar10: give the folder of its binary version (data_batch_1.bin, …): cifar10:DIR")
        case "cifar10", _:
            return published.cifar10(_folder(Path(folder)))
    path = _folder(Path(spec))
    if published.is_cifar10(path):
        return published.cifar10(path)
    return published.idx(path) if published.is_idx(path) else _class_folders(path)


def _folder(path: Path) -> Path:
    """The absolute path of a folder that exists. Raises DataError, with the data set it may have been meant for."""
    if path.is_dir():
        return path.resolve()
    found = "that is a file" if path.exists() else "there is no such folder"
    near = "" if os.sep in str(path) else did_you_mean(str(path).partition(":")[0], NAMES)
    raise DataError(f"data {str(path)!r}: {found}{near} (accepted: a folder, or one of {', '.join(NAMES)})")


def _class_folders(root: Path) -> Dataset:
    """Class folders, in the order of their names; below train/ and a test folder where there are these."""
    name = re.sub(r"[^\w.-]+", "-", root.name) or "data"
    tests = [root / part for part in _TEST_FOLDERS if (root / part).is_dir()]
    if not (root / "train").is_dir() or not (tests or _subfolders(root) == ["train"]):
        classes = _class_names(root)
        return Dataset(str(root), name, classes, _class_files(root, classes))
    classes = _class_names(root / "train")
    train = _class_files(root / "train", classes)
    if not tests:
        return Dataset(str(root), name, classes, train)
    known = _class_names(tests[0])
    if strange := [other for other in known if other not in classes]:
        near = did_you_mean(strange[0], classes)
        raise DataError(f"{tests[0]}: class {strange[0]!r} is not one of train's{near}")
    test = _class_files(tests[0], classes, only=known)
    return Dataset(str(root), name, classes, train, test, f"its folder {tests[0].name}/ held out")


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
        loose = sum(_is_image(entry.name) for entry in folder.iterdir())
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
    found = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
