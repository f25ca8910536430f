"""Fetching a published data set once, into the user's cache, checked against the SHA-256 of its contents."""

import gzip
import hashlib
import os
from pathlib import Path
from urllib.request import urlopen

from plusx.errors import DataError

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
"""Where Zalando publishes Fashion-MNIST (arXiv 1708.07747)."""

FASHION_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The four IDX files and the SHA-256 of each, decompressed: a .gz depends on who compressed it."""

_TIMEOUT_S = 30


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/plusx`, else `~/.cache/plusx`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plusx"


def fashion_mnist(url: str = FASHION_URL) -> Path:
    """The folder of Fashion-MNIST's files, downloaded where they are not there yet. Raises DataError."""
    folder = cache_folder() / "fashion-mnist"
    for name, digest in FASHION_FILES.items():
        path = folder / f"{name}.gz"
        if not path.exists():
            _fetch(f"{url}/{name}.gz", path, digest)
    return folder


def _fetch(url: str, path: Path, digest: str) -> None:
    """Download one .gz file; it appears at `path` only whole and right."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as answer:
            data = answer.read()
        if hashlib.sha256(gzip.decompress(data)).hexdigest() != digest:
            raise ValueError("its SHA-256 is not the published file's")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except (OSError, EOFError, ValueError) as problem:
        reason = " ".join(str(getattr(problem, "reason", problem)).split())
        advice = "give a folder that holds the files: fashion-mnist:DIR"
        raise DataError(
            f"fashion-mnist is not on this machine, and {url} did not give it: {reason}; {advice}"
        ) from None
    finally:
        beside.unlink(missing_ok=True)
