"""What a trained network does with images: `evaluate` counts what it gets right, `predict` names what it sees."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from plusx import reports, runs
from plusx.checkpoint import Weights, read_weights
from plusx.cost import cost
from plusx.data import Images, Loader, load_files, open_data
from plusx.data.augment import normalise
from plusx.design import Design
from plusx.errors import DataError, InputError, WeightsError, did_you_mean
from plusx.network import Network, choose_device
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

BATCH = 250
"""Images per forward pass, at most. Not an option: it changes no result, only the memory taken."""

BATCH_BYTES = 2 << 30
"""Of feature maps in a forward pass: fewer images where they are large."""

_SHOWN_CLASSES = 20


class Tally(NamedTuple):
    """What came of running a network over labelled images, before it is summed up."""

    logits: Tensor
    """float32 N classes."""
    labels: Tensor
    """int64 N."""

    @property
    def accuracy_percent(self) -> float:
        """Of all images, those whose class has the highest logit."""
        return topk_percent(self.logits, self.labels, 1)

    @property
    def loss(self) -> float:
        """The mean cross-entropy in nats, no label smoothing."""
        return float(functional.cross_entropy(self.logits, self.labels))


@dataclass(frozen=True)
class ClassResult:
    """One class: how many images it has, and the percentage of them that was recognised (None where it has none)."""

    name: str
    images: int
    accuracy_percent: float | None


@dataclass(frozen=True)
class Evaluation(Report):
    """How well a network does on labelled images.

    split: which images these are, in words.
    top5_percent: None for five classes or fewer.
    confusion: [true class][named class] → images, in the order of `classes`.
    """

    weights: str
    data: str
    split: str
    images: int
    accuracy_percent: float
    top5_percent: float | None
    loss: float
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "weights": self.weights,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "accuracy_percent": self.accuracy_percent,
            "top5_percent": self.top5_percent,
            "loss": self.loss,
            "classes": [
                {"class": c.name, "images": c.images, "accuracy_percent": c.accuracy_percent} for c in self.classes
            ],
            "confusion": [list(row) for row in self.confusion],
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        top5 = "" if self.top5_percent is None else f", top-5 {self.top5_percent:.2f} %"
        head = f"{self.accuracy_percent:.2f} % of {self.images:,} images right{top5}, loss {self.loss:.3f}"
        where = f"{self.weights} on {self.data} ({self.split})"
        full = len(self.classes) <= _SHOWN_CLASSES
        return Group(Text(head), Text(where), self._confusion_table() if full else self._worst_table())

    def _confusion_table(self) -> "RenderableType":
        from rich.text import Text

        table = reports.table("rows: the true class; columns: the class named")
        for heading in ("class", "images", "right"):
            table.add_column(heading)
        for index in range(len(self.classes)):
            table.add_column(Text(self.classes[index].name), justify="right")
        for row, result in zip(self.confusion, self.classes, strict=True):
            cells = [str(count) if count else "·" for count in row]
            table.add_row(Text(result.name), f"{result.images:,}", _percent(result.accuracy_percent), *cells)
        return table

    def _worst_table(self) -> "RenderableType":
        from rich.text import Text

        table = reports.table("the classes recognised least")
        for heading in ("class", "images", "right", "most often taken for"):
            table.add_column(heading)
        order = sorted((c.accuracy_percent, i) for i, c in enumerate(self.classes) if c.accuracy_percent is not None)
        for _, index in order[:_SHOWN_CLASSES]:
            wrong = [0 if named == index else count for named, count in enumerate(self.confusion[index])]
            taken = self.classes[wrong.index(max(wrong))].name if max(wrong) else "·"
            result = self.classes[index]
            table.add_row(Text(result.name), f"{result.images:,}", _percent(result.accuracy_percent), Text(taken))
        return table


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
    """What the network sees in each image, in the order given."""

    weights: str
    images: tuple[Prediction, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: for each file its class, that class's probability, and the `top` classes."""
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


def evaluate(
    run: str | Path | Weights, data: str | Path | None = None, *, device: str | torch.device | None = None
) -> Evaluation:
    """Top-1 and top-5 accuracy, per class, and the confusion of classes.

    run: a run folder, a weights file, or Weights. data: a spec as in `plusx.data.sources`. Without it, that which
    the run was trained on. Of a run's own data, its test part where training held out a val part instead, else the
    images that the run held out; of other data its test part, its val part, or all of it, the first that there is;
    `split` says which. Classes are matched by name; a class that the network does not know raises DataError.
    """
    weights, folder = _weights(run)
    spec, images, split, names = _images_to_judge(folder, data)
    labels = _labels_by_name(weights, spec, names)
    size, channels = _input(weights)
    images = images.relabel(labels)
    tally = judge(
        weights.network().to(choose_device(device)), Loader(images, size, channels), weights.mean, weights.std
    )
    return _summary(weights, "weights" if folder is None else str(folder), spec, split, tally)


def predict(
    run: str | Path | Weights,
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    device: str | torch.device | None = None,
) -> Predictions:
    """Name what each image file shows, or the one given: its `top` likeliest classes.

    run: a run folder, a weights file, or Weights. Any mode of image; each is resized and cropped as in training.
    Raises WeightsError, DataError naming the first file that is no image, and InputError for no images or `top` < 1.
    """
    weights, folder = _weights(run)
    files = _files(images)
    if type(top) is not int or top < 1:
        raise InputError(f"predict: top {top!r} is not a whole number of at least 1")
    size, channels = _input(weights)
    net, names = weights.network().to(choose_device(device)), class_names(weights)
    found: list[Prediction] = []
    at_once = _at_once(weights.design, size)
    for start in range(0, len(files), at_once):
        part = files[start : start + at_once]
        logits = _logits(net, load_files(part, size, channels), weights.mean, weights.std)
        found += [_prediction(file, row, names, top) for file, row in zip(part, logits.softmax(1), strict=True)]
    return Predictions("weights" if folder is None else str(folder), tuple(found))


def given_path(what: str, value: object) -> Path:
    """The path that a caller gave as `what`. Raises InputError for what is no path."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise InputError(f"{what}: {value!r} is {type(value).__name__}, where a path is needed")


def judge(net: Network, loader: Loader, mean: Sequence[float], std: Sequence[float]) -> Tally:
    """Run every image of `loader` through `net` in eval mode (its mode is restored)."""
    training = net.training
    net.eval()
    parts = torch.split(torch.arange(len(loader)), _at_once(net.design, loader.size))
    logits = [_logits(net, loader[part][0], mean, std) for part in parts]
    net.train(training)
    return Tally(torch.cat(logits), loader.labels)


def topk_percent(logits: Tensor, labels: Tensor, k: int) -> float:
    """Of all images, in percent, those whose class is among the k highest logits. N classes, N → a number."""
    return 100 * float((logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean())


def class_names(weights: Weights) -> tuple[str, ...]:
    """The names of the classes, or their numbers where the weights name none."""
    return weights.classes or tuple(str(index) for index in range(weights.design.head.classes))


def _weights(run: str | Path | Weights) -> tuple[Weights, Path | None]:
    """The weights, and where they were read from."""
    if isinstance(run, Weights):
        return run, None
    folder = given_path("run", run)
    return read_weights(folder), folder


def _files(images: str | Path | Iterable[str | Path]) -> list[Path]:
    if isinstance(images, str | os.PathLike):
        return [Path(images)]
    if not isinstance(images, Iterable):
        raise InputError(f"predict: images {images!r}: a path, or several, are needed, not {type(images).__name__}")
    files = [given_path(f"predict: images[{index}]", image) for index, image in enumerate(images)]
    if not files:
        raise InputError("predict: no images were given")
    return files


def _at_once(design: Design, size: int) -> int:
    """How many images of `size` pixels go through the network together."""
    peak = cost(design, max(size, design.output_stride)).inference_peak_bytes()
    return max(1, min(BATCH, BATCH_BYTES // peak))


def _logits(net: Network, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    device = next(net.parameters()).device
    with torch.inference_mode():
        logits: Tensor = net(normalise(images.to(device), mean, std))
    return logits.float().cpu()


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


def _images_to_judge(run: Path | None, data: str | Path | None) -> tuple[str, Images, str, tuple[str, ...]]:
    """Spec, images, the split in words, and the class names of the data."""
    own = runs.read_origin(run) if run is not None else None
    if data is None and own is None:
        raise DataError("evaluate: say on which data; only a run folder remembers what it was trained on")
    dataset = open_data(data if data is not None else own.data)  # type: ignore[union-attr]
    if own is not None and dataset.spec == own.data and not dataset.has_unseen_part:
        _, images, split = dataset.split(own.held_out, own.split_seed)
    elif dataset.test is not None:
        images, split = dataset.test, dataset.test_name
    elif dataset.val is not None:
        images, split = dataset.val, dataset.val_name
    else:
        images, split = dataset.train, "all of it"
    return dataset.spec, images, split, dataset.classes


def _labels_by_name(weights: Weights, spec: str, names: Sequence[str]) -> list[int]:
    """For each class of the data, its index in the network's classes. Raises DataError for one that is not known."""
    known = class_names(weights)
    for name in names:
        if name not in known:
            shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            raise DataError(f"{spec}: class {name!r} is not one the network knows ({shown}){did_you_mean(name, known)}")
    return [known.index(name) for name in names]


def _summary(weights: Weights, run: str, spec: str, split: str, tally: Tally) -> Evaluation:
    names = class_names(weights)
    count = len(names)
    named = tally.logits.argmax(1)
    confusion = torch.bincount(tally.labels * count + named, minlength=count * count).view(count, count)
    totals, right = confusion.sum(1).tolist(), confusion.diag().tolist()
    return Evaluation(
        weights=run,
        data=spec,
        split=split,
        images=len(tally.labels),
        accuracy_percent=tally.accuracy_percent,
        top5_percent=topk_percent(tally.logits, tally.labels, 5) if count > 5 else None,
        loss=tally.loss,
        classes=tuple(
            ClassResult(name, total, 100 * hits / total if total else None)
            for name, total, hits in zip(names, totals, right, strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _prediction(file: Path, probabilities: Tensor, names: Sequence[str], top: int) -> Prediction:
    best = probabilities.topk(min(top, len(names)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Prediction(str(file), tuple(Guess(names[index], 100 * share) for index, share in pairs))


def _percent(value: float | None) -> str:
    return "·" if value is None else f"{value:.1f} %"
