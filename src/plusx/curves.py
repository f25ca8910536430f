"""A run's curves as one small SVG: the loss, and the accuracy on the held-out images, over the epochs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 48, 36
TRAINING, HELD_OUT = "#1f6fb4", "#d1662a"
"""The colours of what was trained on and what was held out, the same in every panel."""


class Line(NamedTuple):
    """One curve: its name, a value for each epoch, the first epoch being 1, and its colour."""

    name: str
    values: Sequence[float]
    colour: str


class Panel(NamedTuple):
    """One pair of axes: a title with its unit, the lines in it, and what must be known to compare them."""

    title: str
    lines: Sequence[Line]
    note: str = ""


def curves_svg(panels: Sequence[Panel]) -> str:
    """The panels side by side. Every line of a panel has as many values as the others, at least one."""
    parts = [_panel(panel, index * WIDTH) for index, panel in enumerate(panels)]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#333"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{_background(len(panels))}{"".join(parts)}</svg>\n'
    )


def run_panels(records: Sequence[Mapping[str, Any]], note: str = "") -> tuple[Panel, ...]:
    """The panels of a run, from its records (`run_folder.read_epochs`): the values that every epoch has, if finite.

    note: what must be known to compare the losses of training and held-out images.
    """
    found = (
        Panel("loss (nats)", _lines(records, ("training", "train_loss", TRAINING), _LOSS), note),
        Panel("accuracy (%)", _lines(records, _ACCURACY)),
        Panel("learning rate", _lines(records, ("", "lr", TRAINING))),
    )
    return tuple(panel for panel in found if panel.lines)


_LOSS = ("held out", "held_out_loss", HELD_OUT)
_ACCURACY = ("held out", "held_out_accuracy_percent", HELD_OUT)


def _lines(records: Sequence[Mapping[str, Any]], *wanted: tuple[str, str, str]) -> list[Line]:
    columns = [(name, _finite(record.get(key) for record in records), colour) for name, key, colour in wanted]
    return [Line(name, values, colour) for name, values, colour in columns if values and len(values) == len(records)]


def _finite(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values that cover low to high: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-3 * max(abs(high), 1))
    power = 10.0 ** int(f"{span:e}".partition("e")[2])
    step = next(power * s for s in (0.1, 0.2, 0.5, 1, 2, 5) if span / (power * s) <= 4)
    first = int(low // step)
    count = max(2, -int(-(high - first * step) // step))
    return [round((first + i) * step, 12) for i in range(count + 1)]


def _background(panels: int) -> str:
    return f'<rect width="{WIDTH * panels}" height="{HEIGHT}" fill="#fff"/>\n'


def _panel(panel: Panel, left: int) -> str:
    values = [value for line in panel.lines for value in line.values]
    marks = ticks(min(values), max(values))
    epochs = len(panel.lines[0].values)

    def x(epoch: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - marks[0]) / (marks[-1] - marks[0])

    text = [f'<text x="{_LEFT}" y="18" font-weight="600">{escape(panel.title)}</text>']
    if panel.note:
        text.append(f'<text x="{_LEFT}" y="34" font-size="11" fill="#555">{escape(panel.note)}</text>')
    for mark in marks:
        text.append(f'<path d="M{_LEFT} {y(mark):.1f}H{WIDTH - _RIGHT}" stroke="#ddd"/>')
        text.append(f'<text x="{_LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for epoch in sorted({1, epochs}):
        text.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{epoch}</text>')
    text.append(f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>')
    for index, line in enumerate(panel.lines):
        colour = line.colour
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in enumerate(line.values, 1))
        text.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        text += [f'<circle cx="{x(1):.1f}" cy="{y(line.values[0]):.1f}" r="3" fill="{colour}"/>'] * (epochs == 1)
        place = f'x="{WIDTH - _RIGHT - 90 * (len(panel.lines) - 1 - index)}" y="18" text-anchor="end"'
        text.append(f'<text {place} fill="{colour}">{escape(line.name)}</text>')
    return f'<g transform="translate({left} 0)">\n' + "\n".join(text) + "\n</g>\n"
