"""How well a trained network does on labelled images: `evaluate` counts what it gets right, and what it takes for what.

metrics.py holds the arithmetic, inference.py the running of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from plusx import reports, run_folder
from plusx.checkpoint import Weights
from plusx.data import Images, Loader, open_data
from plusx.errors import DataError, did_you_mean
from plusx.inference import TTA, Model, OnBadImage, check_on_bad_image, check_tta, judge, loaded_size, open_model
from plusx.metrics import Calibration, Tally, calibration, confusion, topk_percent
from plusx.notation import percent
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_CLASSES = 20


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
    tta: how each image was looked at, see `plusx.inference.TTA`.
    top5_percent: None for five classes or fewer.
    loss: the mean negative log-likelihood (NLL) in nats.
    confusion: [true class][named class] → images, in the order of `classes`.
    skipped: a line for each file that is no image and was left out.
    """

    weights: str
    data: str
    split: str
    tta: TTA
    images: int
    accuracy_percent: float
    top5_percent: float | None
    loss: float
    calibration: Calibration
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "weights": self.weights,
            "data": self.data,
            "split": self.split,
            "tta": self.tta,
            "images": self.images,
            "accuracy_percent": self.accuracy_percent,
            "top5_percent": self.top5_percent,
            "loss": self.loss,
            "ece_percent": self.calibration.ece_percent,
            "calibration": self.calibration.to_dict()["bins"],
            "classes": [
                {"class": c.name, "images": c.images, "accuracy_percent": c.accuracy_percent} for c in self.classes
            ],
            "confusion": [list(row) for row in self.confusion],
            "skipped": list(self.skipped),
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        top5 = "" if self.top5_percent is None else f", top-5 {self.top5_percent:.2f} %"
        head = f"{self.accuracy_percent:.2f} % of {self.images:,} images right{top5}, loss {self.loss:.3f} nats"
        believed = f"calibration error {self.calibration.ece_percent:.2f} % (ECE, {len(self.calibration.bins)} bins)"
        seen = "" if self.tta == "none" else f", test-time {self.tta}"
        where = f"{self.weights} on {self.data} ({self.split}{seen})"
        full = len(self.classes) <= _SHOWN_CLASSES
        return Group(Text(head), Text(believed), Text(where), self._confusion_table() if full else self._worst_table())

    def _confusion_table(self) -> "RenderableType":
        from rich.text import Text

        table = reports.table("rows: the true class; columns: the class named")
        for heading in ("class", "images", "right"):
            table.add_column(heading)
        for index in range(len(self.classes)):
            table.add_column(Text(self.classes[index].name), justify="right")
        for row, result in zip(self.confusion, self.classes, strict=True):
            cells = [str(count) if count else "·" for count in row]
            table.add_row(Text(result.name), f"{result.images:,}", percent(result.accuracy_percent), *cells)
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
            table.add_row(Text(result.name), f"{result.images:,}", percent(result.accuracy_percent), Text(taken))
        return table


class Judged(NamedTuple):
    """A network's answers to the images it was judged by: which those are, and what it made of each.

    chosen: which images of the loader they are, in the order of the tally.
    """

    model: Model
    spec: str
    split: str
    tta: TTA
    loader: Loader
    chosen: Tensor
    tally: Tally


def evaluate(
    run: str | Path | Weights,
    data: str | Path | None = None,
    *,
    tta: TTA = "none",
    on_bad_image: OnBadImage = "fail",
    device: str | torch.device | None = None,
) -> Evaluation:
    """Top-1 and top-5 accuracy, per class, the confusion of classes, and how far the probabilities can be believed.

    run: a run folder, a weights file, or Weights. data: a spec as in `plusx.data.sources`. Without it, that which
    the run was trained on. Of a run's own data, its test part where training held out a val part instead, else the
    images that the run held out; of other data its test part, its val part, or all of it, the first that there is;
    `split` says which. Classes are matched by name; a class that the network does not know raises DataError.
    tta: look at each image once ("none"), at its mirror image too ("flip"), or ten times ("ten-crop"), and average the
    probabilities. on_bad_image: "skip" leaves out, and names in `skipped`, files that are no images; "fail" stops at
    the first. The network runs in float32 on any device. Raises WeightsError, DataError, InputError.
    """
    return summary(judge_run(run, data, tta=tta, on_bad_image=on_bad_image, device=device))


def judge_run(
    run: str | Path | Weights,
    data: str | Path | None = None,
    *,
    tta: TTA = "none",
    on_bad_image: OnBadImage = "fail",
    device: str | torch.device | None = None,
    at_most: int | None = None,
) -> Judged:
    """What `evaluate` sums up. at_most: of more images than these, that many, evenly spaced."""
    check_tta(tta)
    check_on_bad_image(on_bad_image)
    model = open_model(run, device)
    spec, images, split, names = images_to_judge(model.folder, data)
    images = images.relabel(_labels_by_name(model.classes, spec, names))
    loader = Loader(images, loaded_size(model.size, tta), model.channels, on_bad_image=on_bad_image)
    chosen = torch.arange(len(loader))
    if at_most is not None and len(loader) > at_most:  # of the loader, which may be decoded already, not of the images
        split = f"{split}; {at_most:,} of {len(loader):,} images, evenly spaced"
        chosen = torch.linspace(0, len(loader) - 1, at_most, dtype=torch.double).round().long()
    mean, std = model.weights.mean, model.weights.std
    tally = judge(model.net, loader, mean, std, tta=tta, crop=model.size, chosen=chosen)
    return Judged(model, spec, split, tta, loader, chosen, tally)


def summary(judged: Judged) -> Evaluation:
    """The answers as an Evaluation."""
    tally, names = judged.tally, judged.model.classes
    table = confusion(tally)
    return Evaluation(
        weights=judged.model.name,
        data=judged.spec,
        split=judged.split,
        tta=judged.tta,
        images=len(tally.labels),
        accuracy_percent=tally.accuracy_percent,
        top5_percent=topk_percent(tally.logits, tally.labels, 5) if len(names) > 5 else None,
        loss=tally.loss,
        calibration=calibration(tally),
        classes=tuple(
            _class_result(name, row, index) for index, (name, row) in enumerate(zip(names, table, strict=True))
        ),
        confusion=tuple(map(tuple, table)),
        skipped=judged.loader.skipped,
    )


def _class_result(name: str, row: Sequence[int], index: int) -> ClassResult:
    images = sum(row)
    return ClassResult(name, images, 100 * row[index] / images if images else None)


def images_to_judge(
    run: Path | None, data: str | Path | None, verb: str = "evaluate"
) -> tuple[str, Images, str, tuple[str, ...]]:
    """Spec, images, the split in words, and the class names of the data."""
    own = run_folder.read_origin(run) if run is not None else None
    if data is None and own is None:
        raise DataError(f"{verb}: say on which data; only a run folder remembers what it was trained on")
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


def _labels_by_name(known: tuple[str, ...], spec: str, names: Sequence[str]) -> list[int]:
    """For each class of the data, its index in the network's classes. Raises DataError for one that is not known."""
    for name in names:
        if name not in known:
            shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            raise DataError(f"{spec}: class {name!r} is not one the network knows ({shown}){did_you_mean(name, known)}")
    return [known.index(name) for name in names]
