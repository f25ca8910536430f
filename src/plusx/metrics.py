"""What a network's answers are worth, as numbers: accuracy, likelihood, and whether its probabilities can be believed.

Logits are float32 N classes, labels int64 N. Log-probabilities serve as logits too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15
"""Of equal width, as arXiv 1706.04599 §5 has them."""


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
        """The mean cross-entropy in nats, no label smoothing: the negative log-likelihood (NLL)."""
        return float(functional.cross_entropy(self.logits, self.labels))


@dataclass(frozen=True)
class Bin:
    """The images whose class is named with a probability above `above_percent`, up to `up_to_percent`.

    confidence_percent: the mean of those probabilities; accuracy_percent: how many are right. None where no image is.
    """

    above_percent: float
    up_to_percent: float
    images: int
    confidence_percent: float | None
    accuracy_percent: float | None

    @property
    def gap_percent(self) -> float:
        """How far the two lie apart; 0 where no image is."""
        if self.confidence_percent is None or self.accuracy_percent is None:
            return 0.0
        return abs(self.accuracy_percent - self.confidence_percent)


@dataclass(frozen=True)
class Calibration:
    """Whether what is said with 80 % is right 80 times in 100: the reliability diagram (arXiv 1706.04599 §2)."""

    bins: tuple[Bin, ...]

    @property
    def ece_percent(self) -> float:
        """The expected calibration error, equation 3: the bins' gaps, weighted by their images."""
        images = sum(bin.images for bin in self.bins)
        return sum(bin.images * bin.gap_percent for bin in self.bins) / images

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the error and the reliability table."""
        return {"ece_percent": self.ece_percent, "bins": [vars(bin) for bin in self.bins]}


def calibration(tally: Tally, bins: int = BINS) -> Calibration:
    """The reliability table: `bins` bins of equal width over the probability of the class that is named."""
    confidence, named = tally.logits.double().softmax(1).max(1)
    right = (named == tally.labels).double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # above i / bins, up to (i + 1) / bins
    counts = torch.bincount(place, minlength=bins)
    sums = (torch.bincount(place, weights, minlength=bins) for weights in (confidence, right))
    rows = zip(counts.tolist(), *(values.tolist() for values in sums), strict=True)
    return Calibration(tuple(_bin(index, bins, *row) for index, row in enumerate(rows)))


def topk_percent(logits: Tensor, labels: Tensor, k: int) -> float:
    """Of all images, in percent, those whose class is among the k highest logits. N classes, N → a number."""
    return 100 * float((logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean())


def confusion(tally: Tally) -> list[list[int]]:
    """[true class][named class] → images."""
    classes = tally.logits.shape[1]
    pairs = tally.labels * classes + tally.logits.argmax(1)
    table: list[list[int]] = torch.bincount(pairs, minlength=classes * classes).view(classes, classes).tolist()
    return table


def most_confused(table: Sequence[Sequence[int]], at_most: int) -> list[tuple[int, int, int]]:
    """Pairs of classes that are mistaken most often: (true class, named class, images), most often first."""
    pairs = [
        (true, named, images)
        for true, row in enumerate(table)
        for named, images in enumerate(row)
        if images and named != true
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))[:at_most]


def _bin(index: int, bins: int, images: int, confidence: float, right: float) -> Bin:
    means = (100 * confidence / images, 100 * right / images) if images else (None, None)
    return Bin(100 * index / bins, 100 * (index + 1) / bins, images, *means)
