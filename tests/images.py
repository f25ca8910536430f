"""Small data sets for tests, made on the spot: coloured shapes in class folders, IDX files, CIFAR-10's binary files."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


def noisy(colour: Sequence[int], seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """One colour with noise; `size` is width and height."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8))


def colour_folders(root: Path, images: int = 10, classes: Sequence[str] = tuple(COLOURS), seed: int = 0) -> Path:
    """A folder for each colour, with that many PNG files."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(images):
            noisy(COLOURS[name], seed + number).save(root / name / f"{number}.png")
    return root


def idx(values: NDArray[np.uint8]) -> bytes:
    """An IDX file of bytes."""
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def fashion_files(folder: Path, train: int = 40, test: int = 20, compress: bool = True) -> Path:
    """The four files of Fashion-MNIST with few images, each as bright as its label says."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.broadcast_to((labels * 25)[:, None, None], (count, 28, 28)).astype(np.uint8)
        for stem, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx(values)
            (folder / (stem + ".gz" * compress)).write_bytes(gzip.compress(data) if compress else data)
    return folder


def cifar_files(folder: Path, each: int = 10) -> Path:
    """The six files of CIFAR-10's binary version: record i of a file has label i % 10 and planes i, i + 1, i + 2."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = [bytes([i % 10]) + b"".join(bytes([i + plane]) * 1024 for plane in range(3)) for i in range(each)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


def cifar100_files(folder: Path, each: int = 200) -> Path:
    """The two files of CIFAR-100's binary version: record i has the fine label i % 100 and planes of it, + 1, + 2."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        rows = [bytes([i % 20, i % 100]) + b"".join(bytes([i % 100 + c]) * 1024 for c in range(3)) for i in range(each)]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
    return folder
