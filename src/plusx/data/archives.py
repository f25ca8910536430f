"""Images that lie in larger files: WebDataset shards (tar archives), and Hugging Face datasets.

Both are indexed when opened, and read image by image at random afterwards: so batches are shuffled over the whole set,
processes and workers read only what they train on, and a run resumes anywhere.
"""

import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from plusx.data.dataset import Dataset, Images
from plusx.data.decode import SUFFIXES
from plusx.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shards:
    """Members of tar archives, as a Store. places: for each row the archive's number, the offset and the length."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    places: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    stamps: tuple[str, ...]

    def read(self, row: int) -> bytes:
        number, start, length = self.places[row].tolist()
        try:
            with self.files[number].open("rb") as file:
                return os.pread(file.fileno(), length, start)
        except OSError as problem:
            raise DataError(f"reading {self.files[number]}: {problem.strerror}") from None

    def name(self, row: int) -> str:
        return f"{self.files[self.places[row, 0]]}/{self.names[row]}"

    def stamp(self, row: int) -> str:
        return f"{self.stamps[self.places[row, 0]]} {self.places[row, 1]}"


def open_shards(spec: str) -> Dataset:
    """WebDataset shards: `DIR/name-{000..003}.tar`, one .tar, or a folder of them; a sample is an image and its class
    in a file of the same name that ends in .cls (a number) or .txt (a name). Raises DataError.

    Archives whose names start with val or test are held out.
    """
    files = _shard_files(spec)
    parts: dict[str, list[Path]] = {}
    for file in files:
        match = re.match(r"(val|test)", file.name)
        parts.setdefault(match.group(1) if match else "train", []).append(file)
    if "train" not in parts:
        raise DataError(f"wds:{spec}: all archives are called val or test; none is left to train on")
    samples = {part: _samples(tuple(found)) for part, found in parts.items()}
    classes = _classes(spec, [label for _, labels in samples.values() for label in labels])
    numbers = {name: number for number, name in enumerate(classes)}
    images = {}
    for part, (store, labels) in samples.items():
        where = np.asarray([numbers[label] for label in labels], dtype=np.int64)
        archives = [store.files[number].name for number in store.places[:, 0].tolist()]
        keys = tuple(f"{archive}/{name}" for archive, name in zip(archives, store.names, strict=True))
        images[part] = Images(where, keys, folder=store.files[0].parent, store=store, rows=np.arange(len(where)))
    words = {part: f"its {part} archives held out" for part in images}
    name = re.sub(r"[^\w.-]+", "-", Path(spec).name.partition("{")[0].removesuffix(".tar").strip("-_")) or "shards"
    return Dataset(
        f"wds:{spec}",
        name,
        classes,
        images["train"],
        images.get("val"),
        words.get("val", ""),
        images.get("test"),
        words.get("test", ""),
    )


def _shard_files(spec: str) -> list[Path]:
    path = Path(spec)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".tar")
        if not files:
            raise DataError(f"wds:{spec}: the folder holds no .tar files")
        return [file.resolve() for file in files]
    files = [Path(name).resolve() for name in _expand(spec)]
    for file in files:
        if not file.is_file():
            raise DataError(f"wds:{spec}: there is no {file} (accepted: a folder of .tar files; x-{{000..003}}.tar)")
    return files


def _expand(spec: str) -> list[str]:
    match = _RANGE.search(spec)
    if match is None:
        return [spec]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [name for number in numbers for name in _expand(spec[: match.start()] + number + spec[match.end() :])]


def _samples(files: tuple[Path, ...]) -> tuple[Shards, list[str]]:
    """All images of some archives, and what their classes are called there."""
    names: list[str] = []
    labels: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, file in enumerate(files):
        found: dict[str, tuple[str, int, int]] = {}
        said: dict[str, str] = {}
        for member, content in _members(file):
            key, _, ending = member.name.rpartition("/")[2].partition(".")
            key = f"{member.name.rpartition('/')[0]}/{key}"
            if content is not None:
                said[key] = content
            elif f".{ending.rpartition('.')[2]}".lower() in SUFFIXES:
                found[key] = (member.name, member.offset_data, member.size)
        for key, (name, start, length) in found.items():
            if key not in said:
                raise DataError(f"reading {file}: {name} has no class beside it (a file of its name that ends in .cls)")
            names.append(name)
            labels.append(said[key])
            places.append((number, start, length))
    if not names:
        raise DataError(f"reading {files[0]}: there are no images in it")
    stats = (file.stat() for file in files)
    stamps = tuple(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(files, stats, strict=True))
    return Shards(files, tuple(names), np.asarray(places, dtype=np.int64), stamps), labels


def _members(file: Path) -> Iterable[tuple[tarfile.TarInfo, str | None]]:
    """The files in an archive, and of those that name a class, what they say."""
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                is_class = member.name.endswith((".cls", ".cls.txt", ".txt"))
                content = archive.extractfile(member) if is_class and member.size < 1000 else None
                yield member, None if content is None else content.read().decode("utf-8", "replace").strip()
    except (OSError, tarfile.TarError) as problem:
        raise DataError(f"reading {file}: {' '.join(str(problem).split())}") from None


def _classes(spec: str, labels: list[str]) -> tuple[str, ...]:
    """Names in the order of their numbers, or of the alphabet where they are none."""
    found = set(labels)
    if all(label.isdecimal() for label in found):
        return tuple(str(number) for number in range(max(map(int, found)) + 1)) if len(found) > 1 else tuple(found)
    if odd := [label for label in found if not label or not label.isprintable()]:
        raise DataError(f"wds:{spec}: {odd[0]!a} is no class's name")
    return tuple(sorted(found))


@dataclass(frozen=True)
class Table:
    """Rows of a Hugging Face dataset, as a Store. rows: a `datasets.Dataset` whose images are not decoded."""

    rows: Any
    column: str
    called: str

    def read(self, row: int) -> bytes:
        image = self.rows[row][self.column]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except OSError as problem:
            raise DataError(f"reading {image['path']}: {problem.strerror}") from None

    def name(self, row: int) -> str:
        path = self.rows[row][self.column]["path"]
        return f"{self.called}, row {row}" + (f" ({path})" if path else "")

    def stamp(self, row: int) -> str:
        return f"{self.rows._fingerprint} {row}"


def open_hugging_face(folder: Path) -> Dataset:
    """A folder that `datasets` loads: an imagefolder, parquet, or what `save_to_disk` wrote. Raises DataError."""
    library = _library()
    try:
        parts = _load(library, folder)
    except Exception as problem:  # the library raises almost anything
        raise DataError(f"hf:{folder}: {' '.join(str(problem).split())[:300]}") from None
    named = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
    found = {named[part]: rows for part, rows in parts.items() if part in named}
    if "train" not in found:
        raise DataError(f"hf:{folder}: there is no part called train (found: {', '.join(parts)})")
    image, label = _columns(library, folder, found["train"])
    classes = tuple(found["train"].features[label].names)
    images = {part: _rows(library, folder, part, rows, image, label) for part, rows in found.items()}
    return Dataset(
        f"hf:{folder}",
        re.sub(r"[^\w.-]+", "-", folder.name) or "data",
        classes,
        images["train"],
        images.get("val"),
        "its validation part held out" if "val" in images else "",
        images.get("test"),
        "its test part held out" if "test" in images else "",
    )


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise DataError("hf:DIR needs the extra datasets: pip install 'plusx[datasets]'") from None
    module: ModuleType = datasets
    return module


def _load(library: ModuleType, folder: Path) -> dict[str, Any]:
    shown = library.is_progress_bar_enabled()
    library.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            loaded = library.load_from_disk(str(folder))
            return dict(loaded) if isinstance(loaded, library.DatasetDict) else {"train": loaded}
        is_table = any(folder.rglob("*.parquet"))
        return dict(library.load_dataset("parquet" if is_table else "imagefolder", data_dir=str(folder)))
    finally:
        if shown:
            library.enable_progress_bars()


def _columns(library: ModuleType, folder: Path, rows: Any) -> tuple[str, str]:
    """The column of images and the one of classes."""
    of_kind = {
        kind: [name for name, feature in rows.features.items() if isinstance(feature, kind)]
        for kind in (library.Image, library.ClassLabel)
    }
    for kind, names in of_kind.items():
        if len(names) != 1:
            found = ", ".join(f"{name}: {type(feature).__name__}" for name, feature in rows.features.items())
            raise DataError(f"hf:{folder}: one column of {kind.__name__} is needed, {len(names)} are there ({found})")
    return of_kind[library.Image][0], of_kind[library.ClassLabel][0]


def _rows(library: ModuleType, folder: Path, part: str, rows: Any, image: str, label: str) -> Images:
    labels = np.asarray(rows[label][:], dtype=np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"hf:{folder}: rows of {part} have no class")
    table = rows.select_columns([image]).cast_column(image, library.Image(decode=False))
    keys = tuple(f"{part}/{number}" for number in range(len(labels)))
    store = Table(table, image, f"hf:{folder} {part}")
    return Images(labels, keys, folder=folder, store=store, rows=np.arange(len(labels)))
