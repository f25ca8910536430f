"""One image, of any mode, as uint8 pixels H W C with one channel or three, at the size asked for.

Grey, palette, alpha, CMYK, 16-bit and float images, and those that EXIF says to turn, all come out as a person sees
them. Transparent parts are laid on white. What a file is, its content says, not its name. JPEG is decoded by
libjpeg-turbo (simplejpeg), at a half, a quarter or an eighth where that is enough; everything else, and the JPEG files
that it finds anything strange in, by Pillow.
"""

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from plusx import native
from plusx.errors import DataError

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"]
)
"""The endings of image files, in lower case. What a file is, its content says; these only tell it from a text file."""


FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""What Pillow is let open. Of its others one, EPS, runs a program on what the file says."""


def named_like_an_image(name: str) -> bool:
    """Whether a file's name, without its folder, is that of an image; hidden files are none."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


DECODERS = f"2 pillow {version('pillow')} simplejpeg {version('simplejpeg')}"
"""What pixels depend on beside the file. The first number counts the changes to what this file makes of an image."""

_GREY_MODES = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"])
_ORIENTATION = 0x0112
_MUCH = 16
_TENSOR, _SIZE = ctypes.c_void_p, ctypes.c_int64
_TAPS = (_TENSOR, _TENSOR, _SIZE)
_RESIZE = native.Symbol(
    Path(__file__).with_name("resize.cpp"), "resize", (_TENSOR, *[_SIZE] * 3, *_TAPS, *_TAPS, _TENSOR)
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by its EXIF orientation."""


class Picture:
    """An image file in memory, a JPEG not decoded yet. `height` and `width`: pixels, of the image upright.

    Raises DataError, naming the file, for anything that is not a whole image of a sane size: here, or when decoded.
    """

    def __init__(self, data: bytes, name: str, channels: int) -> None:
        self._data, self._name, self._channels = data, name, channels
        with _naming(name):
            self._orientation = _plain_jpeg(data)
            self._whole = _by_pillow(data, channels) if self._orientation is None else None
            if self._whole is not None:
                self.height, self.width, _ = self._whole.shape
            else:
                self.height, self.width, _, _ = simplejpeg.decode_jpeg_header(data)
                _refuse_giant(self.height, self.width)
        if self._orientation is not None and self._orientation >= 5:
            self.height, self.width = self.width, self.height

    def pixels(self, at_least: int, *, fast: bool = False) -> Pixels:
        """Upright, H W C; a JPEG at a half, a quarter or an eighth if no side is then below `at_least`.

        fast: whether a JPEG's colours may be upsampled and its DCT computed less exactly; some bytes differ a little.
        """
        if self._whole is None and self._orientation is not None:
            factor = next(f for f in (8, 4, 2, 1) if f == 1 or min(self.height, self.width) // f >= at_least)
            try:
                return _decode_jpeg(self._data, self._orientation, self._channels, factor, fast)
            except ValueError:  # Pillow says what is wrong with it, or that nothing is
                with _naming(self._name):
                    self._whole = _by_pillow(self._data, self._channels)
        assert self._whole is not None
        return self._whole

    def fit(self, size: int) -> Pixels:
        """Pixels `size` `size` C: shorter side resized to `size`, then the centre cut out."""
        return resize(self.pixels(2 * size), size)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, about metadata that does not matter here. Enter it before starting threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path: Path) -> bytes:
    """The content of a file. Raises DataError, naming it."""
    with _naming(str(path)):
        return path.read_bytes()


def decode(path: Path, size: int, channels: int) -> Pixels:
    """Pixels `size` `size` `channels` of a file: shorter side resized to `size`, then the centre cut out.

    Raises DataError, naming the file, for anything that is not a whole image of a sane size.
    """
    with quiet():
        return Picture(read(path), str(path), channels).fit(size)


def peek(file: Path | bytes, name: str) -> tuple[int, bool]:
    """The shorter side in pixels, and whether the image is grey, from the file's header. Raises DataError."""
    with quiet(), _naming(name), open_header(BytesIO(file) if isinstance(file, bytes) else file) as image:
        return min(image.size), image.mode in _GREY_MODES


def resize(pixels: Pixels, size: int) -> Pixels:
    """Shorter side to `size` by antialiased bilinear interpolation, then the centre `size` by `size`: H W C.

    First along the rows, then down the columns. By `resize.cpp`; without a C++ compiler by Pillow, to the same bytes.
    """
    height, width, channels = pixels.shape
    tall, wide = height, width
    if min(width, height) != size:
        scale = size / min(width, height)
        wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (tall - size) // 2
    if (tall, wide) == (height, width):
        return pixels[top : top + size, left : left + size]
    compiled = native.available(_RESIZE)
    columns, rows = _taps(width, wide, left, size), _taps(height, tall, top, size)
    if compiled is not None:
        whole, resized = np.ascontiguousarray(pixels), np.empty((size, size, channels), np.uint8)
        compiled(whole.ctypes.data, width, channels, size, *columns.arguments, *rows.arguments, resized.ctypes.data)
        return resized
    if tall * wide > _MUCH * size**2:  # Pillow would make all of it before most is cut off
        return _weigh(_weigh(pixels.transpose(1, 0, 2), columns).transpose(1, 0, 2), rows)
    image = _as_image(pixels).resize((wide, height), Image.Resampling.BILINEAR)  # for Pillow may begin with either
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    return _as_pixels(image.crop((left, top, left + size, top + size)))


def _weigh(lines: Pixels, taps: "_Taps") -> Pixels:
    """uint8 N … → uint8 `size` …: the weighted sums of the lines that count for each place."""
    sums = np.full((len(taps.first), *lines.shape[1:]), 1 << 21, np.int32)
    for k in range(taps.weights.shape[1]):
        sums += taps.weights[:, k, None, None] * lines[taps.first + k]
    return (sums >> 22).astype(np.uint8)


class _Taps(NamedTuple):
    """For places of a resized line: the first pixel that counts, int32 N, and the weights from there, int32 N taps."""

    first: NDArray[np.int32]
    weights: NDArray[np.int32]

    @property
    def arguments(self) -> tuple[int, int, int]:
        return self.first.ctypes.data, self.weights.ctypes.data, self.weights.shape[1]


@lru_cache(maxsize=256)
def _taps(pixels: int, resized: int, start: int, size: int) -> _Taps:
    """Of `size` places, from `start` on, of a line of `pixels` resized to `resized`.

    A triangle over each place, as wide as the step from one to the next but at least two pixels; its weights add up to
    2^22. These are Pillow's weights for bilinear resizing.
    """
    step = pixels / resized
    reach = max(step, 1.0)
    centre = (np.arange(start, start + size) + 0.5) * step
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), pixels)
    taps = int((last - first).max())
    own = first[:, None] + np.arange(taps)
    weights = np.maximum(1 - np.abs((own - centre[:, None] + 0.5) * (1 / reach)), 0) * (own < last[:, None])
    total = np.cumsum(weights, 1)[:, -1:]
    fixed = (weights / total * 2**22 + 0.5).astype(np.int64)
    moved = first - np.minimum(first, pixels - taps)  # so that no place reads beyond the line
    place = np.arange(taps) - moved[:, None]
    shifted = np.where(place >= 0, np.take_along_axis(fixed, np.maximum(place, 0), 1), 0)
    return _Taps((first - moved).astype(np.int32), np.ascontiguousarray(shifted, dtype=np.int32))


def resize_pixels(pixels: Pixels, size: int, channels: int) -> Pixels:
    """The same for pixels H W C that are in memory already; a copy only where something changes."""
    if pixels.shape == (size, size, channels):
        return pixels
    if pixels.shape[2] != channels:
        pixels = _as_pixels(_one_of_two_modes(_as_image(pixels), channels))
    return resize(pixels, size)


def open_header(file: BytesIO | Path) -> Image.Image:
    """An image whose pixels are not decoded yet, of one of `FORMATS`. Raises what Pillow raises."""
    return Image.open(file, formats=FORMATS)


def _as_pixels(image: Image.Image) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _by_pillow(data: bytes, channels: int) -> Pixels:
    if not data:
        raise ValueError("the file is empty")
    with open_header(BytesIO(data)) as image:
        _refuse_giant(image.height, image.width)
        return _as_pixels(_one_of_two_modes(image, channels))


def _plain_jpeg(data: bytes) -> int | None:
    """The EXIF orientation of a JPEG that libjpeg-turbo decodes to grey or RGB; None for any other file."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in ("Gray", "YCbCr"):
        return None
    if not _has_metadata(data):
        return 1
    with open_header(BytesIO(data)) as image:
        return int(image.getexif().get(_ORIENTATION, 1))


def _has_metadata(data: bytes) -> bool:
    """Whether there is an APP1 segment, EXIF or XMP, before the image."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xE1:
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _decode_jpeg(data: bytes, orientation: int, channels: int, factor: int, fast: bool) -> Pixels:
    """Raises ValueError for a file that is not whole."""
    options: dict[str, int | bool] = {"fastdct": fast, "fastupsample": fast}
    if factor > 1:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        options |= {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", **options)
    if orientation not in _TURNS:
        return pixels
    return _as_pixels(_as_image(pixels).transpose(_TURNS[orientation]))


def _one_of_two_modes(image: Image.Image, channels: int) -> Image.Image:
    """The image upright, as "L" (one channel) or "RGB" (three)."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.new("RGBA", seen.size, "white")
        image.alpha_composite(seen)
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float pixels as 8 bits; floats are taken to reach from 0 to 1, or else to 255."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if image.mode == "F":
        full = 1.0 if values.max() <= 1 else 255.0
    else:
        full = 65535.0 if values.max() <= 65535 else 2.0**31 - 1
    return Image.fromarray(np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8))


def _refuse_giant(height: int, width: int) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever goes wrong, as one DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as problem:  # decoders raise almost anything at hostile bytes
        raise DataError(f"reading {name}: {_reason(problem)}") from None


def _reason(problem: Exception) -> str:
    match problem:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"the image has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        case UnidentifiedImageError():
            return "not an image, or of a kind that is not known"
        case IsADirectoryError():
            return "that is a folder; an image file is needed"
        case OSError() if problem.strerror:
            return problem.strerror
        case _:
            return " ".join(str(problem).split()) or type(problem).__name__
