"""One image, of any mode, as uint8 pixels H W C with one channel or three, at the size asked for.

Grey, palette, alpha, CMYK, 16-bit and float images, and those that EXIF says to turn, all come out as a person sees
them. Transparent parts are laid on white.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from plusx.errors import DataError

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"]
)
"""The endings of image files, in lower case. What a file is, its content says; these only tell it from a text file."""

_GREY_MODES = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"])


def decode(path: Path, size: int, channels: int) -> Pixels:
    """Pixels `size` `size` `channels` of a file: shorter side resized to `size`, then the centre cut out.

    Raises DataError, naming the file, for anything that is not a whole image of a sane size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft(None, (2 * size, 2 * size))  # lets JPEG decode a large photograph at a fraction of its size
                return resize(_one_of_two_modes(image, channels), size)
    except Exception as problem:  # decoders raise almost anything at hostile bytes
        raise DataError(f"reading {path}: {_reason(path, problem)}") from None


def peek(path: Path) -> tuple[int, bool]:
    """The shorter side in pixels, and whether the image is grey, from the file's header. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return min(image.size), image.mode in _GREY_MODES
    except Exception as problem:
        raise DataError(f"reading {path}: {_reason(path, problem)}") from None


def resize(image: Image.Image, size: int) -> Pixels:
    """Shorter side to `size` by antialiased bilinear interpolation, then the centre `size` by `size`: H W C."""
    width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def resize_pixels(pixels: Pixels, size: int, channels: int) -> Pixels:
    """The same for pixels H W C that are in memory already; a copy only where something changes."""
    if pixels.shape == (size, size, channels):
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return resize(_one_of_two_modes(image, channels), size)


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


def _reason(path: Path, problem: Exception) -> str:
    match problem:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"the image has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        case UnidentifiedImageError():
            return "the file is empty" if path.stat().st_size == 0 else "not an image, or of a kind that is not known"
        case IsADirectoryError():
            return "that is a folder; an image file is needed"
        case OSError() if problem.strerror:
            return problem.strerror
        case _:
            return " ".join(str(problem).split()) or type(problem).__name__
