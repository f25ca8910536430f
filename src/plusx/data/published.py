"""The published data sets: digits (shipped), Fashion-MNIST (and any IDX files), CIFAR-10 and CIFAR-100 (binary)."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plusx.data import downloads
from plusx.data.dataset import Dataset, Images
from plusx.data.decode import Pixels
from plusx.data.downloads import Say, silent
from plusx.errors import DataError

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CIFAR100 = tuple(_CIFAR100_NAMES.split())
"""Its fine classes, in the order of its fine_label_names.txt, which is alphabetical."""

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_OWN_SPLIT = "its own test part held out"


def digits() -> Dataset:
    """1,797 scans of handwritten digits, 8 by 8 pixels (digits.txt says whose); ink 0 to 16 becomes 0 to 255."""
    with resources.files("plusx.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        ink, labels = arrays["images"], arrays["labels"]
    return Dataset("digits", "digits", DIGITS, _held(np.rint(ink * (255 / 16)).astype(np.uint8)[..., None], labels))


def fashion_mnist(folder: Path | None, *, say: Say = silent) -> Dataset:
    """From the folder given; else from Debian's package; else downloaded, once, to the user's cache."""
    if folder is not None:
        return replace(idx(folder), spec=f"fashion-mnist:{folder}", name="fashion-mnist", classes=FASHION)
    folder = DEBIAN_FASHION if DEBIAN_FASHION.is_dir() else downloads.fashion_mnist(say=say)
    return replace(idx(folder), spec="fashion-mnist", name="fashion-mnist", classes=FASHION)


def is_idx(folder: Path) -> bool:
    """Whether IDX files with MNIST's names lie there."""
    return any(_idx_file(folder, stem) for stem in downloads.FASHION_FILES)


def idx(folder: Path) -> Dataset:
    """A folder of the four IDX files. MNIST's have the same names; the labels tell whose classes these are."""
    parsed = [_parse_idx(*_read_idx(folder, stem)) for stem in downloads.FASHION_FILES]
    for images, labels in (parsed[:2], parsed[2:]):
        if images.ndim != 3 or labels.shape != images.shape[:1] or images.size == 0:
            raise DataError(f"{folder}: images {images.shape} and labels {labels.shape} do not match")
        if labels.max() > 9:
            raise DataError(f"{folder}: a label of {labels.max()} where 0 to 9 are known")
    train, test = (_held(images[..., None], labels) for images, labels in (parsed[:2], parsed[2:]))
    return Dataset(
        str(folder), folder.name, FASHION if _is_fashion(folder) else DIGITS, train, test=test, test_name=_OWN_SPLIT
    )


def _is_fashion(folder: Path) -> bool:
    stem = "t10k-labels-idx1-ubyte"
    return hashlib.sha256(_read_idx(folder, stem)[1]).hexdigest() == downloads.FASHION_FILES[stem]


def _idx_file(folder: Path, stem: str) -> Path | None:
    found = (folder / f"{stem}{ending}" for ending in ("", ".gz"))
    return next((path for path in found if path.is_file()), None)


def _read_idx(folder: Path, stem: str) -> tuple[Path, bytes]:
    path = _idx_file(folder, stem)
    if path is None:
        raise DataError(f"{folder}: {stem} is missing (plain or .gz)")
    try:
        return path, gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"reading {path}: {problem}") from None


def _parse_idx(path: Path, data: bytes) -> NDArray[np.uint8]:
    """One IDX file of bytes: two zeros, type 8, rank, sizes (big-endian), data."""
    start = 4 + 4 * data[3] if len(data) > 3 else 4
    if data[:3] != b"\0\0\x08" or len(data) < start:
        raise DataError(f"reading {path}: not an IDX file of bytes")
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    values = np.frombuffer(data, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=object):
        raise DataError(f"reading {path}: {values.size:,} bytes of data where {shape} was announced")
    return values.reshape(shape)


@dataclass(frozen=True)
class Cifar:
    """How a CIFAR set lies in its binary version: records of label bytes, the last of which counts, and 3 · 32 · 32
    pixel bytes, C H W."""

    name: str
    classes: tuple[str, ...]
    inner: str
    train: tuple[str, ...]
    test: str
    label_bytes: int

    def files(self, folder: Path) -> Path:
        """Where its files lie: there, or in the folder that its archive unpacks to."""
        inner = folder / self.inner
        return inner if inner.is_dir() else folder

    def lies_in(self, folder: Path) -> bool:
        """Whether its files lie there."""
        return all((self.files(folder) / name).exists() for name in (self.train[0], self.test))


CIFAR_SETS = {
    "cifar10": Cifar(
        "cifar10",
        CIFAR10,
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        1,
    ),
    "cifar100": Cifar("cifar100", CIFAR100, "cifar-100-binary", ("train.bin",), "test.bin", 2),
}


def cifar_in(folder: Path) -> str | None:
    """Which of the CIFAR sets lies there, if one does."""
    return next((name for name, layout in CIFAR_SETS.items() if layout.lies_in(folder)), None)


def cifar(name: str, folder: Path | None, *, say: Say = silent) -> Dataset:
    """From the folder given; else from the user's cache or the working folder; else downloaded, once, to the cache."""
    layout = CIFAR_SETS[name]
    if folder is not None:
        return replace(_cifar(layout, folder), spec=f"{name}:{folder}")
    kept = downloads.cifar10_folder() if name == "cifar10" else downloads.cifar100_folder()
    if layout.lies_in(kept):
        return _cifar(layout, kept)
    places = (Path(layout.inner), Path("data") / layout.inner)  # where people unpack its archive
    if found := [place for place in places if layout.lies_in(place)]:
        return cifar(name, found[0].resolve())  # its spec has the whole path, good in any working folder
    return _cifar(layout, downloads.cifar10(say=say) if name == "cifar10" else downloads.cifar100(say=say))


def _cifar(layout: Cifar, folder: Path) -> Dataset:
    source = layout.files(folder)
    train = np.concatenate([_read_cifar(layout, source / name) for name in layout.train])
    test = _read_cifar(layout, source / layout.test)
    parts = (_records(layout, records) for records in (train, test))
    return Dataset(layout.name, layout.name, layout.classes, next(parts), test=next(parts), test_name=_OWN_SPLIT)


def _read_cifar(layout: Cifar, path: Path) -> NDArray[np.uint8]:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as problem:
        raise DataError(f"reading {path}: {problem.strerror} ({layout.name} is read in its binary version)") from None
    length = layout.label_bytes + 3 * 32 * 32
    if len(data) == 0 or len(data) % length:
        raise DataError(f"reading {path}: {len(data):,} bytes are not whole records of {length:,}")
    records = data.reshape(-1, length)
    if (most := int(records[:, layout.label_bytes - 1].max())) >= len(layout.classes):
        raise DataError(f"reading {path}: a label of {most} where 0 to {len(layout.classes) - 1} are known")
    return records


def _records(layout: Cifar, records: NDArray[np.uint8]) -> Images:
    pixels = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _held(np.ascontiguousarray(pixels), records[:, layout.label_bytes - 1])


def _held(pixels: Pixels, labels: NDArray[np.uint8]) -> Images:
    return Images(labels.astype(np.int64), tuple(map(str, range(len(labels)))), pixels)
