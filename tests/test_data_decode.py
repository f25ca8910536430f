"""One image file of any mode comes out as a person sees it; anything wrong is one line that names the file."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from plusx import native
from plusx.data.decode import Picture, decode, peek, resize, resize_pixels
from plusx.errors import DataError
from tests.images import noisy

ORANGE = (240, 130, 20)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def plain(mode: str, colour: object, size: tuple[int, int] = (9, 7)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


@contextmanager
def no_compiler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda symbol: None)
        yield


def palette(transparent: bool = False) -> Image.Image:
    image = plain("RGB", ORANGE).quantize(4)
    if transparent:
        image.info["transparency"] = image.getpixel((0, 0))
    return image


@pytest.mark.parametrize(
    ("name", "make", "rgb", "within"),
    [
        ("rgb.png", lambda: plain("RGB", ORANGE), ORANGE, 0),
        ("rgb.jpg", lambda: plain("RGB", ORANGE), ORANGE, 3),
        ("grey.png", lambda: plain("L", 90), (90, 90, 90), 0),
        ("grey.jpg", lambda: plain("L", 90), (90, 90, 90), 2),
        ("bits.png", lambda: plain("1", 1), (255, 255, 255), 0),
        ("palette.png", palette, ORANGE, 1),
        ("palette.gif", palette, ORANGE, 1),
        ("clear.png", lambda: palette(transparent=True), (255, 255, 255), 0),
        ("alpha.png", lambda: plain("RGBA", (*ORANGE, 255)), ORANGE, 0),
        ("half.png", lambda: plain("RGBA", (0, 0, 0, 128)), (127, 127, 127), 1),
        ("hidden.png", lambda: plain("RGBA", (0, 0, 0, 0)), (255, 255, 255), 0),
        ("grey-alpha.png", lambda: plain("LA", (90, 255)), (90, 90, 90), 0),
        ("cmyk.jpg", lambda: plain("RGB", ORANGE).convert("CMYK"), ORANGE, 4),
        ("cmyk.tif", lambda: plain("RGB", ORANGE).convert("CMYK"), ORANGE, 1),
        ("sixteen.png", lambda: plain("I;16", 90 * 257), (90, 90, 90), 0),
        ("sixteen.tif", lambda: plain("I;16", 90 * 257), (90, 90, 90), 0),
        ("int.tif", lambda: plain("I", 90 * 257), (90, 90, 90), 0),
        ("float.tif", lambda: plain("F", 90 / 255), (90, 90, 90), 0),
        ("float255.tif", lambda: plain("F", 90.0), (90, 90, 90), 0),
        ("rgb.webp", lambda: plain("RGB", ORANGE), ORANGE, 12),
        ("rgb.bmp", lambda: plain("RGB", ORANGE), ORANGE, 0),
    ],
)
def test_every_mode_is_right_rgb_and_grey(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], rgb: tuple[int, int, int], within: int
) -> None:
    path = save(tmp_path / name, make())
    pixels = decode(path, 5, 3)
    assert pixels.shape == (5, 5, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(rgb)).max() <= within
    grey = decode(path, 5, 1)
    assert grey.shape == (5, 5, 1)
    red, green, blue = rgb
    assert np.abs(grey.astype(int) - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= within + 1


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_exif_turns_the_image(tmp_path: Path, mode: str) -> None:
    dark_left = np.zeros((8, 8), np.uint8)
    dark_left[:, 4:] = 255
    image = Image.fromarray(dark_left)
    if mode == "I;16":
        image = Image.fromarray(dark_left.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying; to be shown after a quarter turn clockwise: the left becomes the top
    path = save(tmp_path / "turned.png", image if mode == "I;16" else image.convert(mode), exif=exif)
    pixels = decode(path, 8, 1)[:, :, 0]
    assert pixels[:4].max() == 0
    assert pixels[4:].min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exif_turns_jpeg_as_pillow_does(tmp_path: Path, orientation: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.linspace(0, 255, 30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)).rotate(20)
    path = save(tmp_path / "turned.jpg", image.convert(mode), exif=exif, quality=95)
    theirs = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    for size in (30, 7):
        ours = decode(path, size, 3).astype(int)
        assert np.abs(ours - resize(np.asarray(theirs), size).astype(int)).max() <= 8
    assert Picture(path.read_bytes(), "p", 3).height == theirs.height


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90), st.sampled_from((1, 3))),
    size=st.integers(1, 60),
    hard=st.booleans(),
)
@example(shape=(375, 500, 3), size=224, hard=False)
@example(shape=(500, 375, 1), size=224, hard=True)
def test_resizing_is_pillows_to_the_bit(shape: tuple[int, int, int], size: int, hard: bool) -> None:
    height, width, channels = shape
    pixels = np.random.default_rng(size).integers(0, 256, shape, np.uint8)
    pixels = 255 * (pixels > 127).astype(np.uint8) if hard else pixels
    scale = size / min(height, width)
    wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (tall - size) // 2
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for once in ((wide, height), (wide, tall)):
        image = image.resize(once, Image.Resampling.BILINEAR)
    theirs = np.asarray(image.crop((left, top, left + size, top + size))).reshape(size, size, channels)
    assert np.array_equal(resize(pixels, size), theirs)
    with no_compiler():
        assert np.array_equal(resize(pixels, size), theirs)


def test_a_thin_image_takes_little_memory_without_a_compiler() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6000, 1, 3), np.uint8)
    with no_compiler():
        tracemalloc.start()
        resized = resize(pixels, 224)
        assert tracemalloc.get_traced_memory()[1] < 60e6
        tracemalloc.stop()
    assert np.array_equal(resized, resize(pixels, 224))


def test_resizing_a_part_of_an_array_reads_that_part_only() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    part = whole[5:35, 10:50]
    assert np.array_equal(resize(part, 12), resize(part.copy(), 12))


def photo(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 60}, {"optimize": True}]
)
def test_jpeg_is_what_pillow_makes_of_it(tmp_path: Path, options: dict[str, Any]) -> None:
    path = save(tmp_path / "photo.jpg", photo(1), **options)
    with Image.open(path) as image:
        theirs = np.asarray(image.convert("RGB")).astype(int)
    for channels, expected in ((3, theirs), (1, (theirs @ [0.299, 0.587, 0.114])[..., None])):
        whole = Picture(path.read_bytes(), "p", channels).pixels(150).astype(int)
        assert whole.shape == (150, 200, channels)
        off = np.abs(whole - expected)
        assert off.max() <= (3 if channels == 3 else 10)  # grey is the file's own, where RGB was clipped
        assert off.mean() < 0.5
    assert Picture(path.read_bytes(), "p", 3).pixels(37).shape == (38, 50, 3)
    assert Picture(path.read_bytes(), "p", 3).pixels(38).shape == (75, 100, 3)


def test_an_image_by_another_name_is_what_its_content_says(tmp_path: Path) -> None:
    save(tmp_path / "a.png", plain("RGB", ORANGE))
    save(tmp_path / "b.jpg", plain("RGB", ORANGE))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").rename(tmp_path / "b.png")
    for name in ("a.jpg", "b.png"):
        assert np.abs(decode(tmp_path / name, 5, 3).astype(int) - np.asarray(ORANGE)).max() <= 3


def test_a_jpeg_with_something_behind_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo(2))
    before = decode(path, 16, 3)
    path.write_bytes(path.read_bytes() + b"junk" * 100)
    assert np.array_equal(decode(path, 16, 3), before)


def test_a_gigapixel_header_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        data = save(tmp_path / name, photo(3)).read_bytes()
        if name == "a.jpg":
            at = data.index(b"\xff\xc0") + 5
            data = data[:at] + struct.pack(">HH", 40_000, 50_000) + data[at + 4 :]
        else:
            header = data[12:16] + struct.pack(">II", 50_000, 40_000) + data[24:29]
            data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        (tmp_path / name).write_bytes(data)
        wrong(tmp_path / name, "pixels")


def test_a_jpeg_cut_anywhere_is_bad(tmp_path: Path) -> None:
    data = save(tmp_path / "whole.jpg", photo(4)).read_bytes()
    for length in (1, 3, 100, 300, len(data) // 2, len(data) * 3 // 4):
        (tmp_path / "cut.jpg").write_bytes(data[:length])
        wrong(tmp_path / "cut.jpg")


def test_shorter_side_then_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    pixels = decode(save(tmp_path / "wide.png", Image.fromarray(wide)), 10, 3)
    assert pixels.min() == 200
    half = decode(tmp_path / "wide.png", 5, 3)
    assert half.shape == (5, 5, 3)
    assert half[:, 1:4].min() == 200
    assert np.array_equal(resize_pixels(wide, 10, 3), pixels)
    assert resize_pixels(wide, 10, 1).shape == (10, 10, 1)


def test_a_large_jpeg_decoded_at_a_fraction_is_the_same_picture(tmp_path: Path) -> None:
    steps = np.linspace(0, 255, 640).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(steps[None, :, None], (480, 640, 3)).copy())
    path = save(tmp_path / "large.jpg", image, quality=95)
    assert np.abs(decode(path, 32, 3).astype(int) - resize_pixels(np.asarray(image), 32, 3).astype(int)).max() <= 6


def test_peek(tmp_path: Path) -> None:
    assert peek(save(tmp_path / "a.png", plain("L", 3)), "a") == (7, True)
    assert peek(save(tmp_path / "b.png", plain("RGB", ORANGE)).read_bytes(), "b") == (7, False)


def wrong(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as problem:
        decode(path, 8, 3)
    message = str(problem.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words)


def test_wrong_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save(tmp_path / "whole.png", noisy(ORANGE, 0, (64, 64))).read_bytes()
    jpeg = save(tmp_path / "whole.jpg", noisy(ORANGE, 0, (64, 64))).read_bytes()
    bad = tmp_path / "bad.png"
    for data in (whole[: len(whole) // 2], whole[:40], whole[:60] + bytes(200) + whole[260:], jpeg[: len(jpeg) // 2]):
        bad.write_bytes(data)
        wrong(bad)
    bad.write_bytes(b"")
    wrong(bad, "empty")
    bad.write_text("not an image at all")
    wrong(bad, "not an image")
    wrong(tmp_path / "none.png", "No such file")
    wrong(tmp_path, "is a folder")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    wrong(tmp_path / "whole.png", "more than 4,000 pixels")  # a warning of Pillow's
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    wrong(tmp_path / "whole.png", "more than 1,000 pixels")  # an error of Pillow's
    save(tmp_path / "nan.tif", plain("F", float("nan")))
    wrong(tmp_path / "nan.tif", "not finite")
