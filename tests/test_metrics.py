"""Metrics: exact on small tables that can be worked out by hand."""

import math

import pytest
import torch

from plusx.metrics import Tally, calibration, confusion, most_confused


def tally(*rows: tuple[float, int, int]) -> Tally:
    """Two classes: for each image the probability of the named class, that class, and the true one."""
    probabilities = torch.tensor([[p, 1 - p] if named == 0 else [1 - p, p] for p, named, _ in rows], dtype=torch.double)
    return Tally(probabilities.log(), torch.tensor([true for _, _, true in rows]))


def test_the_calibration_error_by_hand() -> None:
    """Bins of a tenth: two images at 0.75, one of them right; two at 0.95, both right."""
    found = calibration(tally((0.75, 0, 0), (0.75, 1, 0), (0.95, 0, 0), (0.95, 1, 1)), bins=10)
    assert [bin.images for bin in found.bins] == [0, 0, 0, 0, 0, 0, 0, 2, 0, 2]
    assert found.bins[7].accuracy_percent == 50
    assert found.bins[7].confidence_percent == pytest.approx(75)
    assert found.ece_percent == pytest.approx((25 + 5) / 2)
    assert (found.bins[0].accuracy_percent, found.bins[0].gap_percent) == (None, 0)


def test_bins_are_closed_above_and_certainty_has_one() -> None:
    found = calibration(Tally(torch.tensor([[0.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 0])), bins=2)
    assert [bin.images for bin in found.bins] == [1, 1]
    assert [(bin.above_percent, bin.up_to_percent) for bin in found.bins] == [(0, 50), (50, 100)]


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    assert tally((0.75, 0, 0), (0.75, 1, 0)).loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_confusion_counts_and_its_worst_pairs() -> None:
    table = confusion(Tally(torch.eye(3)[[0, 1, 1, 2, 0]], torch.tensor([0, 0, 0, 2, 1])))
    assert table == [[1, 2, 0], [1, 0, 0], [0, 0, 1]]
    assert most_confused(table, 5) == [(0, 1, 2), (1, 0, 1)]
    assert most_confused(table, 1) == [(0, 1, 2)]
