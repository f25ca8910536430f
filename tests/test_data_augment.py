"""Augmentation of whole batches against torchvision's of single images; and that what is drawn depends on the seed and
the place alone: not on the layout, and not on how many processes share a batch."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from plusx.data import auto, colour, mixing, warp
from plusx.data.augment import Augmenter, Mixed
from plusx.data.chance import Draws, chance
from plusx.recipe import Augment, Jitter

PLAIN = Augment(crop_padding=0, flip="none")
EVERYTHING: dict[str, Augment] = {
    "nothing": PLAIN,
    "crop_padding": PLAIN.replace(crop_padding=0.125),
    "resized_crop": PLAIN.replace(resized_crop=(0.08, 1.0)),
    "scale_sides": PLAIN.replace(scale_sides=(1.14, 2.14)),
    "flip": PLAIN.replace(flip="random"),
    "alternating": PLAIN.replace(flip="alternating"),
    "jitter": PLAIN.replace(jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)),
    "cropped and jittered": PLAIN.replace(resized_crop=(0.08, 1.0), jitter=Jitter(contrast=0.4)),
    "lighting": PLAIN.replace(lighting=0.1),
    "trivial": PLAIN.replace(auto="trivial"),
    "rand": PLAIN.replace(auto="rand"),
    "erasing": PLAIN.replace(erasing=0.5),
    "mixup": PLAIN.replace(mixup=0.2),
    "cutmix": PLAIN.replace(cutmix=1.0),
    "both": Augment(mixup=0.2, cutmix=1.0, auto="trivial", erasing=0.1),
}


def pictures(n: int = 24, channels: int = 3, height: int = 20, width: int = 20, seed: int = 1) -> Tensor:
    """Smooth pictures with some noise, of middling and of all brightnesses."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 8 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).round().to(torch.uint8)


def change(augment: Augment, images: Tensor, **options: Any) -> Mixed:
    labels = torch.arange(len(images))
    augmenter = Augmenter(augment, images.shape[1])
    return augmenter(images, labels, **{"chance": chance(7, 0, 3), "indices": labels, **options})


def draws(n: int, seed: int = 5) -> Draws:
    return Draws(chance(seed), n, 0, n)


def boxes_for(n: int, height: int, width: int, scale: tuple[float, float]) -> warp.Boxes:
    tall, wide = (torch.full((n,), side, dtype=torch.float64) for side in (height, width))
    return warp.random_boxes(draws(n).uniform(0, 1, columns=warp.NUMBERS), tall, wide, scale)


def each(images: Tensor, strengths: Tensor, peer: Callable[[Tensor, float], Tensor]) -> Tensor:
    return torch.stack([peer(image, float(strength)) for image, strength in zip(images, strengths, strict=True)])


def apart(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def test_chance_depends_on_seed_and_place() -> None:
    places = [(0,), (0, 1), (1, 0), (0, 1, 0), (0, "1"), (0, "crop", 1), (0, 11), (0, 1, 1)]
    drawn = [torch.randint(2**60, (3,), generator=chance(place[0], *place[1:])).tolist() for place in places]  # type: ignore[arg-type]
    assert len({tuple(numbers) for numbers in drawn}) == len(places)
    assert drawn[1] == torch.randint(2**60, (3,), generator=chance(0, 1)).tolist()
    assert torch.randint(1000, (5,), generator=chance(0)).tolist() == [458, 885, 378, 711, 906]  # runs outlive versions


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_way_gives_the_same_again_in_either_layout_and_at_any_size(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    untouched = images.clone()
    mixed = change(EVERYTHING[name], images)
    assert torch.equal(images, untouched)
    assert (mixed.images.shape, mixed.images.dtype) == (images.shape, torch.uint8)
    assert torch.equal(mixed.labels, torch.arange(24))
    assert torch.equal(mixed.images, change(EVERYTHING[name], images).images)
    by_pixel = change(EVERYTHING[name], images.contiguous(memory_format=torch.channels_last)).images
    assert torch.equal(mixed.images, by_pixel)
    if name != "nothing":
        assert not torch.equal(mixed.images, images)
        assert not torch.equal(mixed.images, change(EVERYTHING[name], images, chance=chance(8), epoch=1).images)
    assert change(EVERYTHING[name], images, size=12).images.shape == (24, channels, 12, 12)


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in ("mixup", "cutmix", "both")])
def test_several_processes_do_what_one_does(name: str) -> None:
    images, indices = pictures(), torch.arange(24)
    alone = change(EVERYTHING[name], images).images
    parts = [
        change(EVERYTHING[name], images[a:b], indices=indices[a:b], whole=24, start=a).images
        for a, b in ((0, 7), (7, 8), (8, 24))
    ]
    assert torch.equal(torch.cat(parts), alone)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "both"])
def test_several_processes_mix_by_the_same_share(name: str) -> None:
    images = pictures()
    alone = change(EVERYTHING[name], images)
    parts = [change(EVERYTHING[name], images[a : a + 12], whole=24, start=a) for a in (0, 12)]
    assert {part.share for part in parts} == {alone.share}


def test_resized_crop_is_pillows_crop_and_resize() -> None:
    images = pictures(height=31, width=43)
    boxes = boxes_for(24, 31, 43, (0.08, 1.0))
    mirrored = torch.arange(24) % 3 == 0
    for size in (9, 31, 50):
        ours = warp.cut(images, boxes, size, mirrored)
        for image, one, turned, *box in zip(images, ours, mirrored, *boxes, strict=True):
            top, left, height, width = (int(side) for side in box)
            pixels = image[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()
            theirs = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
            theirs = theirs.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turned else theirs
            assert apart(one.permute(1, 2, 0), torch.from_numpy(np.array(theirs))) <= 1


def test_boxes_are_as_the_paper_says_and_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    picture = torch.zeros(1, 300, 400)
    top, left, height, width = boxes_for(4000, 300, 400, (0.08, 1.0))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    area, shape = height * width / 120_000, width / height
    assert 0.07 < area.min() < 0.1
    params = (RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000))
    theirs = torch.tensor([[tall * wide / 120_000] for _, _, tall, wide in params])
    assert float(area.mean()) == pytest.approx(float(theirs.mean()), abs=0.02)  # below 0.54, for large ones do not fit
    assert float(area.std()) == pytest.approx(float(theirs.std()), abs=0.02)
    assert shape.min() > 0.74
    assert shape.max() < 1.35
    assert float(shape.log().mean()) == pytest.approx(0.035, abs=0.02)  # the picture is wide
    middle = boxes_for(3, 100, 1000, (1.0, 1.0))  # nothing that large has such a shape
    assert [side.tolist() for side in middle] == [[0.0] * 3, [433.0] * 3, [100.0] * 3, [133.0] * 3]


def test_scaled_sides_are_pillows_resize_and_crop() -> None:
    images = pictures(height=40, width=40)
    boxes = warp.scaled_boxes(draws(24), 40, 16, (1.0, 2.0))
    ours = warp.cut(images, boxes, 16, torch.zeros(24, dtype=torch.bool), within=False)
    scaled = [round(16 * 40 / float(height)) for height in boxes.height]
    assert min(scaled) >= 16
    assert max(scaled) <= 32
    assert len(set(scaled)) > 8
    for image, one, side, top, left in zip(images, ours, scaled, boxes.top, boxes.left, strict=True):
        whole = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR)
        y, x = round(float(top) * side / 40), round(float(left) * side / 40)
        theirs = torch.from_numpy(np.array(whole))[y : y + 16, x : x + 16]
        assert apart(one.permute(1, 2, 0), theirs) <= 1


def test_smaller_images_are_pillows() -> None:
    images = pictures(n=3, height=32, width=32)
    for image, one in zip(images, warp.resize(images, 20), strict=True):
        theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
        assert apart(one.permute(1, 2, 0), torch.from_numpy(np.array(theirs))) <= 1


def test_alternating_flips_turn_every_image_each_second_epoch() -> None:
    images = pictures(n=400, height=6, width=6)
    turned = [change(EVERYTHING["alternating"], images, epoch=epoch).images for epoch in range(3)]
    assert torch.equal(turned[0], turned[2])
    assert torch.equal(turned[0].flip(3), turned[1])
    first = (turned[0] == images).flatten(1).all(1)
    assert 150 < first.sum() < 250
    other = change(EVERYTHING["alternating"], images[100:], indices=torch.arange(100, 400)).images
    assert torch.equal(other, turned[0][100:])  # it is the image that counts, not its place in the batch


def torchvision_operation(name: str) -> Callable[[Tensor, float], Tensor]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    def peer(image: Tensor, strength: float) -> Tensor:
        done: Tensor = _apply_op(image, name, strength, InterpolationMode.NEAREST, None)
        return done

    return peer


OPERATIONS = {
    "shear x": ("ShearX", (-0.99, 0.99)),
    "shear y": ("ShearY", (-0.99, 0.99)),
    "translate x": ("TranslateX", (-11.0, 11.0)),
    "translate y": ("TranslateY", (-11.0, 11.0)),
    "rotate": ("Rotate", (-135.0, 135.0)),
    "brightness": ("Brightness", (-0.9, 0.9)),
    "saturation": ("Color", (-0.9, 0.9)),
    "contrast": ("Contrast", (-0.9, 0.9)),
    "sharpness": ("Sharpness", (-0.9, 0.9)),
    "posterize": ("Posterize", (2, 8)),
    "solarize": ("Solarize", (0.0, 255.0)),
    "autocontrast": ("AutoContrast", (0.0, 0.0)),
    "equalize": ("Equalize", (0.0, 0.0)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(name: str) -> None:
    images = torch.cat([pictures(height=24, width=30), torch.full((1, 3, 24, 30), 9, dtype=torch.uint8)])
    peer, (low, high) = OPERATIONS[name]
    strengths = torch.linspace(low, high, len(images), dtype=torch.float64)
    strengths = strengths.round() if name == "posterize" else strengths
    ours = auto._OPERATIONS[name](images, strengths)
    theirs = each(images, strengths, torchvision_operation(peer))
    differing = (ours.int() - theirs.int()).abs() > 2  # torchvision cuts fractions off, here they are rounded
    moved = name in ("shear x", "shear y", "translate x", "translate y", "rotate")
    assert float(differing.float().mean()) < (0.005 if moved else 1e-9)  # where a place lies between two pixels


def test_the_tables_are_torchvisions() -> None:
    from torchvision.transforms import autoaugment

    wide = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    narrow = autoaugment.RandAugment()._augmentation_space(31, (24, 30))
    for theirs, ours in ((wide, auto._wide()), (narrow, auto._narrow(24, 30))):
        assert len(theirs) == len(auto._NAMES)
        for name, (peer, _) in OPERATIONS.items():
            magnitudes, signed = theirs[peer]
            if magnitudes.ndim:
                assert torch.allclose(ours[name], magnitudes.double(), atol=1e-4)
            assert signed == (name in auto._SIGNED)


def test_jitter_is_torchvisions_where_nothing_is_clipped() -> None:
    from torchvision.transforms import functional

    images = (pictures() // 4 + 90).to(torch.uint8)
    b, c, s = (draws(24, seed).uniform(0.7, 1.3) for seed in (1, 2, 3))
    theirs = each(images, b, functional.adjust_brightness)
    theirs = each(theirs, c, functional.adjust_contrast)
    theirs = each(theirs, s, functional.adjust_saturation)
    assert apart(colour.adjust(images, b, c, s), theirs) <= 3  # torchvision cuts the fraction off three times


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compiled_colours_are_torchs(layout: torch.memory_format) -> None:
    """Both ways, for images whose sizes are no multiple of anything; they may round to the other side."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (5, 3, 37, 41), dtype=torch.uint8, generator=generator).contiguous(
        memory_format=layout
    )
    strengths = (torch.rand(5, dtype=torch.float64, generator=generator) * 2 for _ in range(3))
    change = colour.adjustment(3, *strengths)
    changed = colour.recolour(images, change)
    exact = colour.recolour_values(images, *change)
    assert apart(changed, exact) <= 1
    assert (changed != exact).sum() < 10
    assert colour.is_compiled() or shutil.which("g++") is None
    same = colour.adjustment(3, *(torch.ones(5, dtype=torch.float64) for _ in range(3)))
    assert torch.equal(colour.recolour(images, same), images)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(("channels", "height", "width", "size"), [(3, 37, 41, 20), (1, 28, 28, 28), (3, 20, 20, 33)])
def test_a_compiled_cut_is_torchs(channels: int, height: int, width: int, size: int, within: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, channels, height, width), dtype=torch.uint8, generator=generator)
    tall, wide = (torch.full((40,), side, dtype=torch.float64) for side in (height, width))
    boxes = warp.random_boxes(draws(40).uniform(0, 1, columns=warp.NUMBERS), tall, wide, (0.02, 1.0))
    mirrored = torch.arange(40) % 2 == 1
    assert warp.is_compiled() or shutil.which("g++") is None
    exact = warp.cut_by_products(images, boxes, size, mirrored, within=within)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        ours = warp.cut(given, boxes, size, mirrored, within=within)
        assert apart(ours, exact) <= 1
        assert (ours != exact).float().mean() < 1e-3
    whole = warp.Boxes(*(torch.full((40,), side, dtype=torch.float64) for side in (0, 0, height, width)))
    if height == width == size:
        assert torch.equal(warp.cut(images, whole, size, torch.zeros(40, dtype=torch.bool)), images)


def test_hue_is_torchvisions() -> None:
    from torchvision.transforms import functional

    images, turns = pictures(), draws(24).uniform(-0.5, 0.5)
    assert apart(colour.turn_hue(images, turns), each(images, turns, functional.adjust_hue)) <= 1


def test_lighting_moves_along_imagenets_components() -> None:
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    images = torch.full((24, 3, 5, 5), 120, dtype=torch.uint8)
    steps = draws(24).normal(columns=3).numpy() * 0.5
    moved = colour.lighting(images, 0.5, draws(24)).float() - 120
    assert torch.equal(moved, moved[:, :, :1, :1].expand(24, 3, 5, 5))
    assert np.abs(moved[:, :, 0, 0].numpy() - 255 * (vectors * values * steps[:, None]).sum(2)).max() <= 0.501
    grey = colour.lighting(images[:, :1], 0.5, draws(24)).float()[:, 0, 0, 0] - 120
    assert torch.allclose(grey, moved[:, :, 0, 0] @ torch.tensor([0.299, 0.587, 0.114]), atol=1.01)


def test_erasing_fills_rectangles_with_noise() -> None:
    images = torch.zeros(3000, 1, 24, 24, dtype=torch.uint8)
    changed = mixing.erase(images, 0.25, draws(3000))[:, 0] != 0
    erased = changed.flatten(1).any(1)
    assert 0.22 < float(erased.float().mean()) < 0.28
    for one in changed[erased][:50]:
        rows, columns = one.any(1).nonzero(), one.any(0).nonzero()
        height, width = (int(side.max() - side.min() + 1) for side in (rows, columns))
        assert float(one.sum()) > 0.9 * height * width  # noise is 0 in one pixel of 256
        assert 0.01 < height * width / 576 < 0.45


def test_mixup_and_cutmix_mix_by_their_share() -> None:
    images = torch.arange(0, 240, 10, dtype=torch.uint8)[:, None, None, None].expand(24, 1, 16, 16).contiguous()
    shares = []
    for seed in range(30):
        mixed = change(EVERYTHING["mixup"], images, chance=chance(seed))
        assert mixed.other is not None
        assert mixed.other.tolist() == [23, *range(23)]
        expected = mixed.share * images[:, 0, 0, 0].float() + (1 - mixed.share) * images.roll(1, 0)[:, 0, 0, 0].float()
        assert torch.allclose(mixed.images[:, 0, 3, 3].float(), expected, atol=0.51)
        cut = change(EVERYTHING["cutmix"], images, chance=chance(seed))
        own = (cut.images == images).flatten(1).float().mean(1)
        assert torch.allclose(own, torch.full_like(own, cut.share))
        shares.append(cut.share)
    assert 0.35 < float(np.mean(shares)) < 0.85
    assert len(set(shares)) > 20


def test_beta_is_beta() -> None:
    for alpha in (0.2, 1.0, 4.0):
        numbers = np.array([mixing.beta(alpha, chance(3, step)) for step in range(2000)])
        assert numbers.mean() == pytest.approx(0.5, abs=0.03)
        assert numbers.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_shares_of_trivial_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def watch() -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
        for name, operation in auto._OPERATIONS.items():

            def counted(
                images: Tensor,
                strength: Tensor,
                name: str = name,
                operation: Callable[[Tensor, Tensor], Tensor] = operation,
            ) -> Tensor:
                seen[name] = len(images)
                return operation(images, strength)

            yield name, counted

    monkeypatch.setattr(auto, "_OPERATIONS", dict(watch()))
    auto.trivial(pictures(n=1400, height=6, width=6), draws(1400))
    assert len(seen) == 13
    assert min(seen.values()) > 60
    assert max(seen.values()) < 140


def test_half_of_the_signed_operations_go_the_other_way() -> None:
    """Both ways of a rotation turn up, as often as each other."""
    one = pictures(1, height=21, width=21)
    rotate, strongest = auto._NAMES.index("rotate"), 30
    n = 400
    negative = draws(n).below(2)
    turned = auto._apply(
        one.expand(n, -1, -1, -1).contiguous(),
        torch.full((n,), rotate),
        torch.full((n,), strongest),
        negative,
        auto._wide(),
    )
    ways = {value: turned[negative == value] for value in (0, 1)}
    assert all(bool((way == way[0]).all()) for way in ways.values())
    assert not torch.equal(ways[0][0], ways[1][0])
    assert 160 < int(negative.sum()) < 240


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10)])
def test_of_a_long_image_the_middle_is_cut_as_large_as_the_shapes_allow(height: int, width: int) -> None:
    """No part of 60 % or more of it is of a shape from 3:4 to 4:3."""
    numbers = torch.rand(20, warp.NUMBERS, dtype=torch.float64, generator=chance(0))
    tall_of, wide_of = (torch.full((20,), float(side), dtype=torch.float64) for side in (height, width))
    boxes = warp.random_boxes(numbers, tall_of, wide_of, (0.6, 1.0))
    tall, wide = (10, 13) if width > height else (13, 10)
    assert set(zip(boxes.height.tolist(), boxes.width.tolist(), strict=True)) == {(tall, wide)}
    assert set(boxes.top.tolist()) == {float((height - tall) // 2)}
    assert set(boxes.left.tolist()) == {float((width - wide) // 2)}
