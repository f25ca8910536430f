"""Decoded pixels on disk: found again, made anew when anything changed, whole or not there, and never in the way."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from plusx.data import Images, Loader, cache, loader, open_data
from plusx.errors import DataError
from tests.images import colour_folders


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, in which every set is worth keeping."""
    monkeypatch.setenv("PLUSX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loader, "WORTH_KEEPING", 1)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return colour_folders(tmp_path / "photos", images=4)


def images(root: Path) -> Images:
    return open_data(root).train


def everything(held: Loader) -> torch.Tensor:
    return held[torch.arange(len(held))][0]


def decoded(root: Path, size: int = 8, channels: int = 3) -> int:
    """How many images are decoded to open this."""
    seen: list[int] = []
    Loader(images(root), size, channels, advance=seen.append)
    return sum(seen)


def test_pixels_are_decoded_once_and_those_of_the_files(folder: Path, root: Path) -> None:
    assert [decoded(root) for _ in range(3)] == [12, 0, 0]
    held = Loader(images(root), 8, 3)
    direct = np.stack([images(root).pixels(index, 8, 3) for index in range(12)])
    assert np.array_equal(everything(held).permute(0, 2, 3, 1).numpy(), direct)
    (file,) = folder.glob("*.npy")
    assert np.array_equal(np.load(file), direct)
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_whatever_pixels_depend_on_makes_others(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(root)
    assert decoded(root, size=9) == 12
    assert decoded(root, channels=1) == 12
    (root / "red" / "1.png").touch()
    assert decoded(root) == 12
    (root / "red" / "1.png").rename(root / "red" / "1b.png")
    assert decoded(root) == 12
    assert decoded(root) == 0
    monkeypatch.setattr(cache, "DECODERS", "others")
    assert decoded(root) == 12


def test_the_cache_itself_is_never_written_to(folder: Path, root: Path) -> None:
    held = Loader(images(root), 8, 3)
    before = everything(held).clone()
    assert held._pixels is not None
    held._pixels.zero_()
    assert torch.equal(everything(Loader(images(root), 8, 3)), before)


def test_a_damaged_file_is_made_anew(folder: Path, root: Path) -> None:
    before = everything(Loader(images(root), 8, 3)).clone()
    (file,) = folder.glob("*.npy")
    for damage in (b"", file.read_bytes()[:300]):
        file.write_bytes(damage)
        assert decoded(root) == 12
        assert torch.equal(everything(Loader(images(root), 8, 3)), before)


def test_a_set_in_memory_is_not_written_again(folder: Path) -> None:
    data = open_data("digits").train
    held = Loader(data, 8, 1)
    assert not folder.exists()
    assert held._pixels is not None
    assert data.held is not None
    assert held._pixels.data_ptr() == data.held.ctypes.data


def test_bad_images_are_remembered(folder: Path, root: Path) -> None:
    (root / "green" / "1.png").write_bytes(b"broken")
    (root / "red" / "3.png").write_bytes(b"")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"green/1\.png: not an image.* \(and 1 more of 12\)$"):
            Loader(images(root), 8, 3)
        held = Loader(images(root), 8, 3, on_bad_image="skip", say=said.append)
        assert len(held) == len(held.labels) == 10
        assert held.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
        assert [("green/1.png" in why, "red/3.png" in why) for why in held.skipped] == [(True, False), (False, True)]
        assert [line.startswith("skipped: reading ") for line in said] == [True] * len(said)
        good = images(root).take([i for i in range(12) if i not in (5, 11)])
        direct = np.stack([good.pixels(index, 8, 3) for index in range(10)])
        assert np.array_equal(everything(held).permute(0, 2, 3, 1).numpy(), direct)
    assert len(said) == 4
    Image.new("RGB", (9, 9)).save(root / "green" / "1.png")
    Image.new("RGB", (9, 9)).save(root / "red" / "3.png")
    assert len(Loader(images(root), 8, 3)) == 12


def test_no_image_left_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "p" / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no image is left of 1"):
        Loader(open_data(tmp_path / "p").train, 8, 3, on_bad_image="skip")


def test_a_folder_that_cannot_be_written_is_said_once(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("in the way")
    said: list[str] = []
    held = Loader(images(root), 8, 3, say=said.append)
    assert len(said) == 1
    assert str(folder) in said[0]
    assert "\n" not in said[0]
    monkeypatch.setenv("PLUSX_CACHE", str(folder) + "2")
    assert torch.equal(everything(held), everything(Loader(images(root), 8, 3)))


def test_a_full_disk_leaves_nothing(folder: Path, root: Path) -> None:
    """A limit on the size of files takes the disk's part."""
    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        held = Loader(images(root), 8, 3, say=said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(said) == 1
    assert "File too large" in said[0]
    assert len(everything(held)) == 12
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_half_of_the_free_space_is_left(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3000))
    said: list[str] = []
    Loader(images(root), 8, 3, say=said.append)
    assert "more than half" in said[0]


SLOW = """
import sys, time
from plusx.data import Loader, dataset, loader, open_data
loader.WORTH_KEEPING = 1
decode = dataset.Images.pixels
def slowly(*given):
    print("decoding", flush=True)
    time.sleep(0.1)
    return decode(*given)
dataset.Images.pixels = slowly
held = Loader(open_data(sys.argv[1]).train, 8, 3, say=lambda line: print("waits", flush=True))
print("sum", int(held._pixels.long().sum()), flush=True)
"""


def slow(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", SLOW, str(root)], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_decodes(folder: Path, root: Path) -> None:
    said = [process.communicate(timeout=60)[0] for process in [slow(root), slow(root)]]
    assert sum(text.count("decoding") for text in said) == 12
    assert sum("waits" in text for text in said) <= 1
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert len(list(folder.glob("*.npy"))) == 1


def test_a_process_killed_while_it_decodes_leaves_the_way_free(folder: Path, root: Path) -> None:
    process = slow(root)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path for path in folder.iterdir() if path.suffix == ".tmp"]
    assert not list(folder.glob("*.npy"))
    started = time.monotonic()
    assert decoded(root) == 12
    assert time.monotonic() - started < 10
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_the_bad_ones_are_written_first(folder: Path, root: Path) -> None:
    (root / "red" / "0.png").write_bytes(b"broken")
    Loader(images(root), 8, 3, on_bad_image="skip")
    (file,) = folder.glob("*.bad.json")
    assert list(json.loads(file.read_text())) == ["8"]
    (pixels,) = folder.glob("*.npy")
    assert file.stat().st_mtime_ns <= pixels.stat().st_ctime_ns


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUSX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.folder() == Path("/x/plusx/pixels")
