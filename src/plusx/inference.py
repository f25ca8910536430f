"""A trained network in use: opened, put on a device, and run over images in float32. N C H W, uint8 in, logits out.

Evaluation, prediction, reports and explanations all go through here, so that they agree.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from plusx.checkpoint import Weights, read_weights
from plusx.cost import cost
from plusx.data import Loader
from plusx.data.augment import normalise
from plusx.design import Design
from plusx.errors import InputError, WeightsError, check_one_of
from plusx.metrics import Tally
from plusx.network import Network, choose_device

TTA = Literal["none", "flip", "ten-crop"]
"""Test-time augmentation: how each image is looked at.

none: once.
flip: it and its mirror image.
ten-crop: four corners and the centre of a slightly larger image, and their mirror images (arXiv 1512.03385 §3.4).
"""

OnBadImage = Literal["fail", "skip"]
"""What a file that is no image does: it ends the work, or is named and left out."""

BATCH = 250
"""Images per forward pass, at most. Not an option: it changes no result, only the memory taken."""

BATCH_BYTES = 2 << 30
"""Of feature maps in a forward pass: fewer images where they are large."""

_LARGER = 256 / 224
"""How much larger than its crops an image is for ten-crop, as the paper's 256 is than its 224."""


@dataclass(frozen=True, eq=False)
class Model:
    """Weights made ready for images: `net` is in eval mode, on its device; `size` in pixels; `name` where it is from.

    folder: the run folder or weights file; None for weights that were given as a value.
    """

    weights: Weights
    net: Network
    size: int
    channels: int
    name: str
    folder: Path | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers where the weights name none."""
        return class_names(self.weights)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 N C H W → what the network takes, on its device."""
        device = next(self.net.parameters()).device
        return normalise(images.to(device), self.weights.mean, self.weights.std)

    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 N C H W → float32 N classes, on the CPU."""
        return logits(self.net, images, self.weights.mean, self.weights.std).softmax(1)


def open_model(run: str | Path | Weights, device: str | torch.device | None = None) -> Model:
    """A run folder, a weights file or Weights, ready for images.

    Raises WeightsError for what cannot be read, or cannot tell how images are prepared; InputError for no such device.
    """
    weights, folder = (run, None) if isinstance(run, Weights) else _read(run)
    size, channels = _input(weights)
    net = weights.network().to(choose_device(device))
    return Model(weights, net, size, channels, "weights" if folder is None else str(folder), folder)


def given_path(what: str, value: object) -> Path:
    """The path that a caller gave as `what`. Raises InputError for what is no path."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise InputError(f"{what}: {value!r} is {type(value).__name__}, where a path is needed")


def class_names(weights: Weights) -> tuple[str, ...]:
    """The names of the classes, or their numbers where the weights name none."""
    return weights.classes or tuple(str(index) for index in range(weights.design.head.classes))


def check_tta(tta: str) -> None:
    """Raise InputError for what is no `TTA`."""
    check_one_of("tta", tta, get_args(TTA))


def check_on_bad_image(on_bad_image: str) -> None:
    """Raise InputError for what is no `OnBadImage`."""
    check_one_of("on_bad_image", on_bad_image, get_args(OnBadImage))


def loaded_size(size: int, tta: TTA) -> int:
    """At how many pixels a Loader must give images for a network that takes `size`."""
    return max(size + 1, round(_LARGER * size)) if tta == "ten-crop" else size


def judge(
    net: Network,
    loader: Loader,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    tta: TTA = "none",
    crop: int | None = None,
    chosen: Tensor | None = None,
) -> Tally:
    """Run every image of `loader`, or those `chosen`, through `net` in eval mode (its mode is restored), in float32.

    With `tta` the probabilities of an image's views are averaged, and the Tally's logits are their logarithms. crop: of
    ten-crop, the pixels the network takes; the loader's images are then of `loaded_size(crop, tta)` pixels.
    """
    size = crop or loader.size
    training = net.training
    net.eval()
    try:
        which = torch.arange(len(loader)) if chosen is None else chosen
        found, labels = [], []
        for part in torch.split(which, at_once(net.design, size)):
            images, true = loader[part]
            found.append(_judged(net, images, mean, std, tta, size))
            labels.append(true.cpu())
    finally:
        net.train(training)
    return Tally(torch.cat(found), torch.cat(labels))


def logits(net: Network, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 N C H W → float32 N classes, on the CPU."""
    device = next(net.parameters()).device
    with torch.inference_mode(), full_precision(device):
        found: Tensor = net(normalise(images.to(device), mean, std))
    return found.float().cpu()


def at_once(design: Design, size: int) -> int:
    """How many images of `size` pixels go through the network together."""
    peak = cost(design, max(size, design.output_stride)).inference_peak_bytes()
    return max(1, min(BATCH, BATCH_BYTES // peak))


def views(images: Tensor, tta: TTA, size: int) -> Iterator[Tensor]:
    """Each way to look at a batch: N C H W → N C size size, once, twice or ten times."""
    for crop in _crops(images, size) if tta == "ten-crop" else [images]:
        yield crop
        if tta != "none":
            yield crop.flip(3)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, and no TF32 in a GPU's convolutions and products: results to be believed, not to be fast."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


def _judged(net: Network, images: Tensor, mean: Sequence[float], std: Sequence[float], tta: TTA, size: int) -> Tensor:
    seen = [logits(net, view, mean, std) for view in views(images, tta, size)]
    if len(seen) == 1:
        return seen[0]
    # the mean of probabilities, kept as logarithms: a class that is all but impossible must not become -inf
    return torch.stack([view.log_softmax(1) for view in seen]).logsumexp(0).sub(torch.tensor(len(seen)).log())


def _crops(images: Tensor, size: int) -> Iterator[Tensor]:
    """Four corners and the centre."""
    last = images.shape[2] - size, images.shape[3] - size
    for top, left in ((0, 0), (0, last[1]), (last[0], 0), last, (last[0] // 2, last[1] // 2)):
        yield images[:, :, top : top + size, left : left + size]


def _read(run: str | Path) -> tuple[Weights, Path]:
    folder = given_path("run", run)
    return read_weights(folder), folder


def _input(weights: Weights) -> tuple[int, int]:
    """Input size and channels. Raises WeightsError where the weights cannot tell, or take no ordinary images."""
    channels = weights.design.stem.in_channels
    missing = [name for name in ("input_size", "mean", "std") if not getattr(weights, name)]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise WeightsError(
            f"weights: {', '.join(missing)} not known, so images cannot be prepared for this network; "
            f"plusx convert takes them as {options}"
        )
    if channels not in (1, 3) or weights.design.head.classes < 1:
        raise WeightsError(f"weights: {channels} input channels, {weights.design.head.classes} classes: no classifier")
    assert weights.input_size is not None
    return weights.input_size, channels
