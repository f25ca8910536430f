"""Fetching a published data set once, into the user's cache, checked against its published checksum."""

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from plusx.errors import DataError
from plusx.files import cache_folder, written_whole

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
"""Where Zalando publishes Fashion-MNIST (arXiv 1708.07747)."""

FASHION_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The four IDX files and the SHA-256 of each, decompressed: a .gz depends on who compressed it."""

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
"""Where its authors publish CIFAR-10 in the binary version, 162 MiB."""

CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""Of that archive, as its page prints it."""

CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
"""Where its authors publish CIFAR-100 in the binary version, 161 MiB."""

CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
"""Of that archive, as its page prints it."""

Say = Callable[[str], None]
"""Takes a line for a person who waits."""

_TIMEOUT_S = 30


def silent(_: str) -> None:
    """Says nothing."""


def fashion_mnist(url: str = FASHION_URL, *, say: Say = silent) -> Path:
    """The folder of Fashion-MNIST's files, downloaded where they are not there yet. Raises DataError."""
    folder = cache_folder() / "fashion-mnist"
    for name, digest in FASHION_FILES.items():
        path = folder / f"{name}.gz"
        if not path.exists():
            _fetch(f"{url}/{name}.gz", path, digest, say)
    return folder


def cifar10_folder() -> Path:
    """Where `cifar10` keeps what it downloads."""
    return cache_folder() / "cifar10"


def cifar100_folder() -> Path:
    """Where `cifar100` keeps what it downloads."""
    return cache_folder() / "cifar100"


def cifar10(*, say: Say = silent) -> Path:
    """Download CIFAR-10's binary version and unpack it to `cifar10_folder()`. Raises DataError."""
    return _archive("cifar10", CIFAR10_URL, CIFAR10_MD5, cifar10_folder(), say)


def cifar100(*, say: Say = silent) -> Path:
    """Download CIFAR-100's binary version and unpack it to `cifar100_folder()`. Raises DataError."""
    return _archive("cifar100", CIFAR100_URL, CIFAR100_MD5, cifar100_folder(), say)


def _archive(name: str, url: str, md5: str, folder: Path, say: Say) -> Path:
    with _one_line(name, url, f"give the folder of its binary version: {name}:DIR"):
        data = _read(url, say)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise ValueError("its MD5 is not the published file's")
        _unpack(data, folder)
    return folder


def _fetch(url: str, path: Path, digest: str, say: Say) -> None:
    """Download one .gz file; it appears at `path` only whole and right."""
    with _one_line("fashion-mnist", url, "give a folder that holds the files: fashion-mnist:DIR"):
        data = _read(url, say)
        if hashlib.sha256(gzip.decompress(data)).hexdigest() != digest:
            raise ValueError("its SHA-256 is not the published file's")
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as beside:
            beside.write_bytes(data)


def _read(url: str, say: Say) -> bytes:
    say(f"downloading {url} to {cache_folder()}")
    with urlopen(url, timeout=_TIMEOUT_S) as answer:
        data: bytes = answer.read()
    return data


def _unpack(data: bytes, folder: Path) -> None:
    """Unpack a .tar.gz; it appears as `folder` only whole. Nothing in it can be written outside."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        with tarfile.open(fileobj=BytesIO(data), mode="r:gz") as archive:
            archive.extractall(beside, filter="data")
        if not folder.exists():  # another run may have been quicker
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _one_line(name: str, url: str, advice: str) -> Iterator[None]:
    """Whatever goes wrong with a download, as one DataError that says what to do instead."""
    try:
        yield
    except (OSError, EOFError, ValueError, HTTPException, zlib.error, tarfile.TarError) as problem:
        said = getattr(problem, "reason", problem)
        if isinstance(problem, HTTPError):
            said = problem  # with its number
            problem.close()
        reason = " ".join(str(said).split())
        raise DataError(f"{name} is not on this machine, and {url} did not give it: {reason}; {advice}") from None
