"""The scaling model: its arithmetic, and the published measurements in docs/scale.md that it is set beside."""

import re
from pathlib import Path
from typing import Any

import pytest

from plusx.errors import InputError
from plusx.scale import Point, Scaling, scale

DOC = (Path(__file__).parent.parent / "docs" / "scale.md").read_text(encoding="utf-8")


def last(**options: Any) -> Point:
    return scale("resnet50", **{"devices": 32, "batch": 128, **options}).points[-1]


def efficiency(table: Scaling, devices: int, than: int = 1) -> float:
    rates = {point.devices: point.images_per_second / point.devices for point in table.points}
    return 100 * rates[devices] / rates[than]


def test_the_arithmetic() -> None:
    """25.6 M gradients of 4 bytes, 3/4 of them twice over each link of 12.5 GB/s, and 6 messages of 20 µs."""
    point = last()
    assert point.all_reduce_ms == pytest.approx(2 * 3 / 4 * 4 * 25_557_032 / 12.5e9 * 1e3 + 6 * 0.02)
    assert point.compute_ms == pytest.approx(3 * 4_089_184_256 * 128 / 4.5e12 * 1e3)
    assert point.step_ms == pytest.approx(point.compute_ms + point.waiting_ms + point.exposed_ms)
    assert point.exposed_ms < point.all_reduce_ms / 3  # the backward pass hides all but the last bucket
    slow = last(bandwidth="1Gb")
    assert slow.exposed_ms == pytest.approx(slow.all_reduce_ms - slow.compute_ms * 2 / 3)
    assert last(devices=1).efficiency_percent == 100
    assert last(devices=8).all_reduce_ms == 0  # one machine


def test_the_documents_figures_are_the_models() -> None:
    v100 = scale("resnet50", devices=32, batch=128)
    p100 = scale("resnet50", devices=256, bandwidth="50Gb", batch=32, macs_per_second=1.7e12)
    pascal = scale(
        "resnet101", devices=512, bandwidth="25Gb", batch=64, per_machine=4, macs_per_second=103.5 * 3 * 7.8e9
    )
    expected = [efficiency(v100, n) for n in (8, 16, 32, 32)] + [efficiency(p100, 256, 8), efficiency(pascal, 512)]
    written = [float(found) for found in re.findall(r"\| (\d+\.\d) % \|$", DOC, re.MULTILINE)]
    assert written == pytest.approx(expected, abs=0.06)


def test_the_figures_beside_mlperfs_are_the_models() -> None:
    rows = re.findall(r"^\| (\d+) .*?\| (\d+) % \| (\d+) % \| (\d+) % \|$", DOC, re.MULTILINE)
    assert len(rows) == 3
    for images, *written in rows:
        table = scale("resnet50", devices=3584, bandwidth="3200Gb", batch=int(images), macs_per_second=8.5e13)
        assert [round(efficiency(table, devices, 8)) for devices in (64, 512, 3584)] == [int(each) for each in written]
    minutes = {8: 13.466, 64: 2.664, 512: 0.509, 3584: 0.183}
    ideal = [round(100 * minutes[8] * 8 / devices / took) for devices, took in minutes.items()]
    assert ideal == [100, 63, 41, 16]


def test_published_measurements_are_within_six_points() -> None:
    rows = re.findall(r"(?:about )?([\d.]+) % \| (\d+\.\d) % \|$", DOC, re.MULTILINE)
    assert len(rows) == 6
    assert max(abs(float(measured) - float(model)) for measured, model in rows) < 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 0}, "devices 0"),
        ({"bandwidth": "fast"}, "'fast' is not bits per second"),
        ({"bandwidth": "0Gb"}, "'0Gb' is not bits per second"),
        ({"macs_per_second": 0.0}, "macs_per_second 0.0"),
    ],
)
def test_what_cannot_be_scaled(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        last(**options)
