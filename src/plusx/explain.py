"""Why a network names what it names: `explain` writes an image beside the parts of it that spoke for a class.

    gradcam   Grad-CAM (arXiv 1610.02391 §3) on the last feature maps: coarse, and tells where
    ig        integrated gradients (arXiv 1703.01365 §3) from the mean colour: fine, and tells which pixels

Both are captum's, an extra: pip install 'plusx[explain]'. What is shown is what the network sees, resized and cropped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor, nn

from plusx.checkpoint import Weights, replacing
from plusx.data.decode import Pixels, open_header
from plusx.errors import InputError, check_one_of, did_you_mean
from plusx.inference import Model, full_precision, given_path, open_model
from plusx.network import Network
from plusx.pictures import Given, decode_picture, find_pictures
from plusx.reports import Report
from plusx.svg import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

Method = Literal["gradcam", "ig"]

STEPS = 64
"""Of the path that integrated gradients sum over; the paper finds 20 to 300 enough (§5)."""

SIDE = 320
"""Pixels of each half of the picture, or the image's own where that is larger."""

_WORDS = {"gradcam": "Grad-CAM", "ig": "integrated gradients"}
_MARGIN, _CAPTION = 12, 30
_MADE_BY = "plusx explain"
_FLAMES = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
"""From nothing to much: five colours of matplotlib's "inferno", which reads in grey too."""


@dataclass(frozen=True)
class Explanation(Report):
    """A picture that was written, and in words what it explains.

    class_name, probability_percent: the class it explains, and what the network gives it.
    named: the class that the network names, with its probability.
    """

    file: Path
    image: str
    weights: str
    method: Method
    class_name: str
    probability_percent: float
    named: str
    named_probability_percent: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "file": str(self.file),
            "image": self.image,
            "weights": self.weights,
            "method": self.method,
            "class": self.class_name,
            "probability_percent": self.probability_percent,
            "named": self.named,
            "named_probability_percent": self.named_probability_percent,
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        named = f"{self.image}: {self.named}, {self.named_probability_percent:.1f} %"
        other = f"; {self.class_name}, {self.probability_percent:.1f} %" if self.class_name != self.named else ""
        return Text(f"{named}{other}\n{self.file}: what speaks for {self.class_name} ({_WORDS[self.method]})")


def explain(
    run: str | Path | Weights,
    image: Given,
    *,
    output: str | Path,
    method: Method = "gradcam",
    class_name: str | None = None,
    device: str | torch.device | None = None,
) -> Explanation:
    """Write `output`, a PNG of the image beside itself with what speaks for a class laid over it.

    run: a run folder, a weights file, or Weights. image: a file, "-" for standard input, or an image's bytes.
    class_name: the class to explain, by default the one the network names. An explanation that is there is replaced,
    nothing else is. Raises InputError for what is wrong with these, and where captum is missing; DataError for what is
    no image; WeightsError; WorkError when the disk refuses.
    """
    path = _output(output)
    check_one_of("explain: method", method, get_args(Method))
    _captum()
    model = open_model(run, device)
    target = None if class_name is None else _index(class_name, model.classes)
    pictures = find_pictures(image, "explain")
    if len(pictures) > 1:
        raise InputError(
            f"explain: image {str(image)!r} stands for {len(pictures):,} images; one is explained at a time"
        )
    pixels = decode_picture(pictures[0], model.size, model.channels)
    probabilities = model.probabilities(pixels)[0]
    named = int(probabilities.argmax())
    target = named if target is None else target
    done = Explanation(
        path,
        pictures[0].name,
        model.name,
        method,
        model.classes[target],
        100 * float(probabilities[target]),
        model.classes[named],
        100 * float(probabilities[named]),
    )
    heat = attribute(model, pixels, target, method)
    _save(_picture(pixels[0].permute(1, 2, 0).numpy(), heat.numpy(), done), path)
    return done


def attribute(model: Model, pixels: Tensor, target: int, method: Method = "gradcam") -> Tensor:
    """What each pixel of an image, uint8 1 C H W, says for the class `target`: float32 H W, 1 for the most."""
    heat: Tensor
    attr, x = _captum(), model.prepare(pixels).requires_grad_()
    with full_precision(x.device), _parameters_still(model.net):
        if method == "gradcam":
            maps = attr.LayerGradCam(model.net, last_maps(model.net)).attribute(x, target, relu_attributions=True)
            heat = attr.LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")[0, 0]
        else:
            found = attr.IntegratedGradients(model.net).attribute(
                x, torch.zeros_like(x), target, n_steps=STEPS, internal_batch_size=16
            )
            heat = found[0].sum(0).clamp(min=0)
    heat = heat.detach().float().cpu()
    most = heat.flatten().kthvalue(max(1, round(0.995 * heat.numel()))).values  # a few pixels must not dim the others
    return (heat / most.clamp(min=1e-12)).clamp(0, 1)


def last_maps(net: Network) -> nn.Module:
    """The module whose output are the last feature maps: the head's activation where there is one (pre-activation
    networks, whose stages end in bare sums), else the last stage."""
    for name, part in net.head.named_children():
        if name == "act":
            return part
    return net.stages[-1]


@contextmanager
def _parameters_still(net: Network) -> Iterator[None]:
    """No gradients of parameters: only those of pixels and maps are needed."""
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise InputError("explain needs captum, which is an extra: pip install 'plusx[explain]'") from None
    return captum.attr


def _index(name: str, known: tuple[str, ...]) -> int:
    if name in known:
        return known.index(name)
    shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    raise InputError(f"explain: class {name!r} is not one the network knows ({shown}){did_you_mean(name, known)}")


def _output(output: str | Path) -> Path:
    """Raises InputError for what cannot be written, or would overwrite what is not ours."""
    path = given_path("output", output)
    if path.suffix.lower() != ".png":
        raise InputError(f"explaining to {path}: {path.suffix or 'no suffix'!r} is not .png, which is what is written")
    if not path.parent.is_dir():
        raise InputError(f"explaining to {path}: there is no folder {path.parent}")
    if path.exists() and not _is_ours(path):
        raise InputError(
            f"explaining to {path}: it exists and is no explanation; name another file, or remove it first"
        )
    return path


def _is_ours(path: Path) -> bool:
    try:
        with open_header(path) as image:
            return image.info.get("Software") == _MADE_BY
    except (OSError, ValueError, SyntaxError):
        return False


def _picture(pixels: Pixels, heat: NDArray[np.float32], done: Explanation) -> Image.Image:
    """The image, itself with the heat laid over it, and words below."""
    plain = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    side = max(SIDE, plain.width)
    smooth = Image.Resampling.BICUBIC if plain.width > 64 else Image.Resampling.NEAREST
    plain = plain.resize((side, side), smooth)
    strength = Image.fromarray(heat, "F").resize((side, side), Image.Resampling.BILINEAR)
    values = np.asarray(strength, dtype=np.float64).clip(0, 1)
    over = Image.fromarray(_blend(np.asarray(plain.convert("L"), dtype=np.float64), values))
    canvas = Image.new("RGB", (2 * side + 3 * _MARGIN, side + _MARGIN + 2 * _CAPTION), "white")
    canvas.paste(plain, (_MARGIN, _MARGIN))
    canvas.paste(over, (side + 2 * _MARGIN, _MARGIN))
    named = f"{done.named}, {done.named_probability_percent:.1f} %"
    why = f"{_WORDS[done.method]} for {done.class_name}, {done.probability_percent:.1f} %"
    for left, words in ((_MARGIN, named), (side + 2 * _MARGIN, why)):
        _write(canvas, (left, side + _MARGIN + 10), words, side)
    return canvas


def _blend(grey: NDArray[np.float64], heat: NDArray[np.float64]) -> Pixels:
    """The image in grey, H W, and flames where the heat, H W from 0 to 1, is: H W 3."""
    places = np.linspace(0, 1, len(_FLAMES))
    colours = np.stack([np.interp(heat, places, _FLAMES[:, channel]) for channel in range(3)], axis=2)
    alpha = 0.75 * heat[:, :, None] ** 0.7
    return np.rint(grey[:, :, None] * (1 - alpha) + colours * alpha).astype(np.uint8)


def _write(canvas: Image.Image, at: tuple[int, int], words: str, width: int) -> None:
    """One line, cut where it is too long; the font that Pillow brings has Latin letters only, others show as boxes."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(17)
    words = printable(words)
    while draw.textlength(words, font) > width and len(words) > 2:
        words = f"{words[:-2].rstrip()}…"
    draw.text(at, words, "#1b1f24", font)


def _save(picture: Image.Image, path: Path) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", _MADE_BY)
    with replacing(path) as beside:
        picture.save(beside, "PNG", pnginfo=about)
