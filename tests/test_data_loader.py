"""Batches: the right images at the right size, whether held or decoded as asked for; augmentation; statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plusx.data import Loader, loader, open_data
from plusx.data.augment import Augmenter, normalise
from plusx.errors import DataError
from plusx.recipe import Augment
from tests.images import colour_folders


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_held_and_decoded_batches_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_data(colour_folders(tmp_path / "p", images=4)).train
    seen: list[int] = []
    held = Loader(images, 8, 3, advance=seen.append)
    assert len(seen) == 12
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 100)
    streamed = Loader(images, 8, 3)
    pick = torch.tensor([11, 0, 5])
    for one, other in zip(held[pick], streamed[pick], strict=True):
        assert torch.equal(one, other)
    pixels, labels = streamed[pick]
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert labels.tolist() == [2, 0, 1]
    assert pixels[0, 0].float().mean() > 200  # red
    assert held.statistics() == streamed.statistics()


def test_a_broken_image_is_named_at_once(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "p", images=3)
    (root / "green" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"green/1\.png"):
        Loader(open_data(root).train, 8, 3)


def test_statistics_are_those_of_the_pixels() -> None:
    held = Loader(open_data("digits").train, 8, 1)
    pixels = held[torch.arange(len(held))][0].double() / 255
    mean, std = held.statistics()
    assert mean[0] == pytest.approx(float(pixels.mean()), abs=1e-12)
    assert std[0] == pytest.approx(float(pixels.std(correction=0)), abs=1e-12)
    x = normalise(held[torch.arange(len(held))][0], mean, std)
    assert x.dtype == torch.float32
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_large_images_are_counted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Loader(open_data("digits").train, 8, 1)
    together = held.statistics()
    monkeypatch.setattr(loader, "_STATISTICS_BYTES", 64 * 5 + 1)
    sizes: list[int] = []
    get = Loader.__getitem__

    def watched(self: Loader, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(indices))
        return get(self, indices)

    monkeypatch.setattr(Loader, "__getitem__", watched)
    assert held.statistics() == together
    assert max(sizes) == 5


def test_images_of_one_colour_do_not_divide_by_zero() -> None:
    images = open_data("digits").train
    assert images.held is not None
    images.held[...] = 7
    assert Loader(images, 8, 1).statistics()[1] == (1.0,)


def changed(images: torch.Tensor, how: Augment) -> torch.Tensor:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Augmenter(how, images.shape[1])(images, labels, chance=generator()).images


def test_pad_crop_moves_and_fills_with_black() -> None:
    images = torch.randint(1, 256, (200, 3, 6, 6), dtype=torch.uint8, generator=generator())
    moved = changed(images, Augment(crop_padding=2 / 6, flip="none"))
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for before, after in zip(padded, moved, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(before[:, y : y + 6, x : x + 6], after)]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) == 25
    assert torch.equal(moved, changed(images, Augment(crop_padding=2 / 6, flip="none")))


def test_flip_mirrors_half() -> None:
    images = torch.arange(200 * 16, dtype=torch.int64).remainder(251).to(torch.uint8).view(200, 1, 4, 4)
    flipped = changed(images, Augment(crop_padding=0.0, flip="random"))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_normalise_by_channel() -> None:
    images = torch.full((1, 2, 1, 1), 51, dtype=torch.uint8)
    assert normalise(images, (0.2, 0.0), (0.5, 0.1)).flatten().tolist() == pytest.approx([0.0, 2.0], abs=1e-6)
    assert np.isfinite(normalise(images, (0.2, 0.0), (0.5, 0.1)).numpy()).all()
