"""Where images come from: a spec opens as a Dataset.

    "digits"                              the scans that plusx ships (digits.txt says whose they are)
    "fashion-mnist", "fashion-mnist:DIR"  IDX files, plain or .gz
    "cifar10", "cifar10:DIR"              the binary version; so too "cifar100", "cifar100:DIR"
    "hf:DIR"                              what Hugging Face's datasets loads: imagefolder, parquet (extra: datasets)
    "wds:DIR", "wds:DIR/x-{000..003}.tar" WebDataset shards
    DIR                                   class folders, perhaps inside train/, val/ and test/; or files as above

A set that is named without a folder is looked for on this machine, and downloaded once where it is not there. A new
source is one function from a folder to a Dataset (folders.py, published.py, archives.py), and its line in `open_data`.
"""

import os
from pathlib import Path

from plusx.data import archives, published
from plusx.data.dataset import Dataset
from plusx.data.downloads import Say, silent
from plusx.data.folders import open_folder
from plusx.errors import DataError, did_you_mean

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100")
"""The data sets that a spec may name."""

_ACCEPTED = (
    "a folder, digits, fashion-mnist, fashion-mnist:DIR, cifar10, cifar10:DIR, cifar100, cifar100:DIR, hf:DIR, wds:DIR"
)


def open_data(spec: str | Path, *, say: Say = silent) -> Dataset:
    """Open a data set by name or folder; see the top of this file. Raises DataError.

    say: is given a line before a download, which may take minutes.
    """
    if not isinstance(spec, str | os.PathLike):
        raise DataError(f"data {spec!r}: a name or a path is needed, not {type(spec).__name__} (accepted: {_ACCEPTED})")
    name, _, folder = str(spec).partition(":")
    given = _folder(Path(folder)) if folder and name in (*NAMES[1:], "hf") else None
    match name, folder:
        case "digits", "":
            return published.digits()
        case "fashion-mnist", _:
            return published.fashion_mnist(given, say=say)
        case "cifar10" | "cifar100", _:
            return published.cifar(name, given, say=say)
        case "hf", _ if given is not None:
            return archives.open_hugging_face(given)
        case "wds", _ if folder:
            return archives.open_shards(folder)
    path = _folder(Path(spec))
    if (found := published.cifar_in(path)) is not None:
        return published.cifar(found, path)
    return published.idx(path) if published.is_idx(path) else open_folder(path)


def _folder(path: Path) -> Path:
    """The absolute path of a folder that exists. Raises DataError, with the data set it may have been meant for."""
    if path.is_dir():
        return path.resolve()
    found = "that is a file" if path.exists() else "there is no such folder"
    near = "" if os.sep in str(path) else did_you_mean(str(path).partition(":")[0], NAMES)
    raise DataError(f"data {str(path)!r}: {found}{near} (accepted: {_ACCEPTED})")
