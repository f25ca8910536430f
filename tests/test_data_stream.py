"""Streaming: the same batches for any number of workers; parts of photographs; workers that are killed or stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from plusx.data import Loader, loader, open_data
from plusx.data.chance import chance
from plusx.data.decode import Picture
from plusx.data.stream import cut_out
from plusx.errors import DataError, WorkError
from tests.images import colour_folders

CROP = (0.1, 1.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders of JPEG files, each a gradient from left to right."""
    for name, level in (("dark", 0), ("light", 120)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            row = np.linspace(level, level + 100, 120 + number)
            pixels = np.broadcast_to(row[None, :, None], (90, 120 + number, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number:02}.jpg", quality=95)
    return tmp_path / "photos"


def order(images: int = 40, size: int = 7) -> list[Tensor]:
    return list(torch.split(torch.randperm(images, generator=chance(1)), size))


def epoch(streamed: Loader, number: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(streamed.batches(order(), epoch=number, seed=3))


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y) and torch.equal(a, b) for (x, a), (y, b) in zip(one, other, strict=True)
    )


@pytest.fixture(params=[None, CROP])
def crop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float] | None:
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 100)
    chosen: tuple[float, float] | None = request.param
    return chosen


def test_the_same_with_any_number_of_workers(root: Path, crop: tuple[float, float] | None) -> None:
    images = open_data(root).train
    loaders = [Loader(images, 32, 3, crop=crop, workers=workers) for workers in (0, 2, 4)]
    try:
        first, second, third = ([epoch(streamed, number) for number in range(2)] for streamed in loaders)
    finally:
        for streamed in loaders:
            streamed.close()
    assert first[0][0][0].shape == (7, 3, 32, 32)
    assert first[0][0][0].dtype == torch.uint8
    assert same(first[0], second[0])
    assert same(first[0], third[0])
    assert same(first[1], second[1])
    assert same(first[1], third[1])
    assert same(first[0], first[1]) == (crop is None)
    assert [label for _, labels in first[0] for label in labels.tolist()] == images.labels[torch.cat(order())].tolist()


def test_an_epoch_left_early_does_not_disturb_the_next(root: Path) -> None:
    streamed = Loader(open_data(root).train, 32, 3, crop=CROP, workers=2)
    try:
        for _ in streamed.batches(order(), epoch=0, seed=3):
            break
        assert same(epoch(streamed, 1), epoch(Loader(open_data(root).train, 32, 3, crop=CROP), 1))
    finally:
        streamed.close()


def test_without_a_crop_the_stream_is_what_the_cache_would_hold(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Loader(open_data(root).train, 32, 3)
    assert not held.crops
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 100)
    streamed = Loader(open_data(root).train, 32, 3)
    assert same(epoch(held), epoch(streamed))
    assert held.statistics() == streamed.statistics()
    pick = torch.tensor([3, 1])
    assert torch.equal(held[pick][0], streamed[pick][0])


def test_small_images_are_not_cropped_by_the_loader(tmp_path: Path) -> None:
    images = open_data(colour_folders(tmp_path / "p")).train
    assert not Loader(images, 16, 3, crop=CROP).crops
    assert Loader(images, 15, 3, crop=CROP).crops


def test_parts_are_cut_before_they_are_reduced(root: Path) -> None:
    """The gradient tells which columns were cut out: at most the whole, all sizes of parts, and not only the middle."""
    streamed = Loader(open_data(root).train, 32, 3, crop=CROP)
    assert streamed.crops
    spans, middles = [], []
    for number in range(5):
        for pixels, labels in streamed.batches(order(), epoch=number, seed=0):
            level = pixels[:, 1].float().mean(1) - 120 * labels[:, None]
            spans.append((level[:, -1] - level[:, 0]) * 32 / 31)
            middles.append(level.mean(1))
    span, middle = torch.cat(spans), torch.cat(middles)
    assert 15 < span.min() < 40
    assert 75 < span.max() <= 104
    assert middle.std() > 8
    assert abs(float(middle.mean()) - 50) < 4


def test_a_part_is_pillows_crop_and_resize(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 16, generator=chance(2)) * 255, (375, 500), mode="bicubic"
    )
    Image.fromarray(noise[0].clamp(0, 255).permute(1, 2, 0).byte().numpy()).save(path, quality=92)
    whole = Image.open(path).convert("RGB")
    for top, left, height, width, within in ((20, 30, 60, 70, 2), (100, 200, 200, 250, 4), (0, 0, 375, 500, 4)):
        part = part_of(Picture(path.read_bytes(), "p", 3), top, left, height, width, size=48)
        box = (left, top, left + width, top + height)
        theirs = np.asarray(whole.crop(box).resize((48, 48), Image.Resampling.BILINEAR))
        apart = np.abs(part.numpy().astype(int) - theirs.astype(int))
        assert apart.max() <= 3 * within
        assert apart.mean() < 1.5


def test_turned_photographs_are_cut_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[:, 80:] = 250
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture = Picture((tmp_path / "turned.jpg").read_bytes(), "p", 3)
    assert (picture.height, picture.width) == (160, 80)
    assert part_of(picture, 0, 0, 70, 80, size=16).max() < 10
    assert part_of(picture, 90, 0, 70, 80, size=16).min() > 240


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_of_a_stream(root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 100)
    (root / "dark" / "03.jpg").write_bytes(b"")
    whole = (root / "dark" / "04.jpg").read_bytes()
    (root / "dark" / "04.jpg").write_bytes(whole[: len(whole) // 2])
    images, said = open_data(root).train, list[str]()
    failing = Loader(images, 32, 3, workers=workers)
    skipping = Loader(images, 32, 3, workers=workers, on_bad_image="skip", say=said.append)
    try:
        with pytest.raises(DataError, match=r"dark/0[34]\.jpg"):
            epoch(failing)
        for _ in range(2):
            batches = epoch(skipping)
            assert [len(pixels) for pixels, _ in batches] == [7] * 5 + [5]
            assert all(int(pixels.amax((1, 2, 3)).min()) > 50 for pixels, _ in batches)
    finally:
        failing.close()
        skipping.close()
    assert len(skipping.skipped) == len(said) == 2
    with pytest.raises(DataError, match="no image is left of the batch"):
        list(skipping.batches([torch.tensor([3, 4])], epoch=0, seed=0))
    skipping.close()


def part_of(picture: Picture, *box: int, size: int) -> Tensor:
    out = torch.empty(size, size, 3, dtype=torch.uint8)
    cut_out(picture, *box, out=out)
    return out


def children() -> set[int]:
    return {
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and (path / "stat").exists() and _parent(path) == os.getpid()
    }


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "gave no batch for 3 s")]
)
def test_a_worker_killed_or_stopped_is_named(root: Path, number: signal.Signals, words: str) -> None:
    before, handler = children(), signal.getsignal(signal.SIGCHLD)
    streamed = Loader(open_data(root).train, 32, 3, crop=CROP, workers=2, timeout_s=3)
    batches = streamed.batches(order(size=1), epoch=0, seed=0)
    for _ in range(4):  # both have started, then
        next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler
    assert streamed._workers is not None
    victim = streamed._workers._processes[1].pid
    semaphores = {
        line.rpartition("/")[2] for line in Path("/proc/self/maps").read_text().splitlines() if "sem." in line
    }
    assert semaphores
    makers = [f"torch_{pid}_" for pid in (os.getpid(), *(process.pid for process in streamed._workers._processes))]
    assert victim is not None
    os.kill(victim, number)
    started = time.monotonic()
    with pytest.raises(WorkError) as problem:
        list(batches)
    assert time.monotonic() - started < 10
    assert str(problem.value) == f"loading images: worker 1 of 2 (process {victim}) {words}"
    assert not Path(f"/proc/{victim}").exists()
    assert {pid for pid in children() - before if "resource_tracker" not in command(pid)} == set()
    left = os.listdir("/dev/shm")
    assert semaphores.isdisjoint(left)
    assert not [name for name in left if name.startswith(tuple(makers))]
    assert len(epoch(streamed)) == 6  # with new workers
    streamed.close()


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


LEAVES = """
import os, signal, sys, torch
from plusx.data import Loader, open_data
if __name__ == "__main__":
    streamed = Loader(open_data(sys.argv[1]).train, 32, 3, crop=(0.1, 1.0), workers=2)
    batches = streamed.batches(list(torch.arange(40).split(5)), epoch=0, seed=0)
    next(batches)
    pids = [process.pid for process in streamed._workers._processes]
    os.kill(pids[0], signal.SIGSTOP)
    print(*pids, flush=True)
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_ends_leaves_no_worker_not_even_a_stopped_one(root: Path, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "leaves.py"), str(root)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [pid for pid in done.stdout.split() if Path(f"/proc/{pid}").exists()] == []
