"""What a trained network sees in images: `predict` names the likeliest classes of each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plusx import reports
from plusx.checkpoint import Weights
from plusx.errors import DataError, InputError
from plusx.inference import Model, OnBadImage, at_once, check_on_bad_image, open_model
from plusx.pictures import Given, Picture, Skipped, find_pictures, read_pictures
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Guess:
    """A class and the probability, in percent, that the network gives it."""

    name: str
    probability_percent: float


@dataclass(frozen=True)
class Prediction:
    """What the network sees in one image: its likeliest classes, likeliest first."""

    file: str
    top: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions(Report):
    """What the network sees in each image, in the order given; `skipped` are those that could not be read."""

    weights: str
    images: tuple[Prediction, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: for each file its class, that class's probability, and the `top` classes; then the skipped."""
        return {
            "weights": self.weights,
            "images": [
                {
                    "file": image.file,
                    "class": image.top[0].name,
                    "probability_percent": image.top[0].probability_percent,
                    "top": [{"class": g.name, "probability_percent": g.probability_percent} for g in image.top],
                }
                for image in self.images
            ],
            "skipped": [vars(bad) for bad in self.skipped],
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        table = reports.table()
        for heading in ("image", "class", "probability"):
            table.add_column(heading)
        for image in self.images:
            for position, guess in enumerate(image.top):
                name = image.file if position == 0 else ""
                table.add_row(Text(name, overflow="fold"), Text(guess.name), f"{guess.probability_percent:.1f} %")
        return table


def predict(
    run: str | Path | Weights,
    images: Given | Iterable[Given],
    *,
    top: int = 1,
    on_bad_image: OnBadImage = "fail",
    device: str | torch.device | None = None,
) -> Predictions:
    """Name what each image shows: its `top` likeliest classes.

    run: a run folder, a weights file, or Weights. images: one or several files, folders, patterns, "-" for the bytes on
    standard input, or an image's bytes; see `plusx.pictures`. Any mode of image; each is resized and cropped as in
    training. on_bad_image: what is no image raises DataError ("fail") or is left out and named in `skipped` ("skip").
    Raises WeightsError, DataError naming the first file that is no image or saying that none was one, and InputError
    for no images or `top` < 1.
    """
    model = open_model(run, device)
    pictures = find_pictures(images, "predict")
    if type(top) is not int or top < 1:
        raise InputError(f"predict: top {top!r} is not a whole number of at least 1")
    check_on_bad_image(on_bad_image)
    skipped: list[Skipped] = []
    found = tuple(_predictions(model, read_pictures(pictures, model.size, model.channels, on_bad_image, skipped), top))
    if not found:
        raise DataError(f"predict: none of the {len(skipped):,} images could be read; the first: {skipped[0].reason}")
    return Predictions(model.name, found, tuple(skipped))


def _predictions(model: Model, pictures: Iterator[tuple[Picture, Tensor]], top: int) -> Iterator[Prediction]:
    """As many at once as memory allows, so that a folder may be of any size."""
    at_a_time = at_once(model.weights.design, model.size)
    while part := list(islice(pictures, at_a_time)):
        names = [picture.name for picture, _ in part]
        for name, row in zip(names, model.probabilities(torch.cat([pixels for _, pixels in part])), strict=True):
            yield Prediction(name, likeliest(row, model.classes, top))


def likeliest(probabilities: Tensor, names: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The `top` classes of one image, likeliest first; no more than there are."""
    best = probabilities.topk(min(top, len(names)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Guess(names[index], 100 * share) for index, share in pairs)
