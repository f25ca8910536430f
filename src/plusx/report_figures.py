"""The figures of a report that come from an evaluation: confusion of classes, reliability diagram, worst mistakes."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.nn import functional

from plusx.data.decode import Pixels
from plusx.evaluate import Evaluation, Judged
from plusx.html import halves, png, table, text, wide
from plusx.metrics import Bin, Calibration, most_confused
from plusx.notation import percent

LARGEST_TABLE = 24
"""Classes. More are shown as a picture of a pixel for each pair."""

MISTAKES = 24
LARGEST_PICTURE = 128
"""Pixels; larger ones are made smaller, so that the file stays small."""

_SMALL_PICTURE = 64
_CONFUSED_PAIRS = 10
_WORST_CLASSES = 15
_RIGHT, _WRONG = (31, 111, 180), (200, 86, 26)


def confusion_figure(result: Evaluation) -> str:
    """The confusion of classes as a heat map, and the pairs that are mistaken most often."""
    if len(result.classes) <= LARGEST_TABLE:
        return halves(_heat_table(result), _pairs(result))
    return halves(_heat_map(result), _worst_classes(result) + "<p></p>" + _pairs(result))


class _Plot(NamedTuple):
    """A square of 100 by 100 percent, and below it a strip for counts. Pixels."""

    left: float = 44
    top: float = 12
    side: float = 300
    strip: float = 46

    def x(self, percent: float) -> float:
        return self.left + self.side * percent / 100

    def y(self, percent: float) -> float:
        return self.top + self.side * (1 - percent / 100)

    @property
    def base(self) -> float:
        """Where the strip begins."""
        return self.top + self.side + 6


def reliability_figure(found: Calibration) -> str:
    """How often what is said with some probability is right, and below it how many images that is."""
    plot = _Plot()
    width, most = plot.side / len(found.bins), max(bin.images for bin in found.bins)
    parts = [_axes(plot)]
    for index, bin in enumerate(found.bins):
        if bin.images:
            parts.append(_bars(bin, plot.left + index * width + 1, width - 2, plot, plot.strip * bin.images / most))
    parts.append(f'<path class="ideal" d="M{plot.x(0)} {plot.y(0)}L{plot.x(100)} {plot.y(100)}"/>')
    size = f'viewBox="0 0 {plot.x(100) + 16} {plot.base + plot.strip + 40}" role="img" aria-label="reliability diagram"'
    return halves(f'<svg class="reliability" {size}>{"".join(parts)}</svg>', _reliability_table(found))


def _reliability_table(found: Calibration) -> str:
    rows = [
        (
            f"{bin.above_percent:.0f}–{bin.up_to_percent:.0f}",
            f"{bin.images:,}",
            percent(bin.confidence_percent),
            percent(bin.accuracy_percent),
        )
        for bin in found.bins
        if bin.images
    ]
    return table(("given, %", "images", "given, mean", "right"), rows)


def _axes(plot: _Plot) -> str:
    parts, below = [], plot.base + plot.strip + 16
    for mark in (0, 25, 50, 75, 100):
        parts.append(f'<path class="axis" d="M{plot.left} {plot.y(mark)}h{plot.side}"/>')
        parts.append(f'<text x="{plot.left - 6}" y="{plot.y(mark) + 4}" text-anchor="end">{mark}</text>')
        parts.append(f'<text x="{plot.x(mark)}" y="{below}" text-anchor="middle">{mark}</text>')
    parts.append(f'<text x="{plot.x(50)}" y="{below + 18}" text-anchor="middle">probability given, %</text>')
    upright = f'transform="translate(11 {plot.y(50)}) rotate(-90)" text-anchor="middle"'
    return "".join([*parts, f"<text {upright}>named right, %</text>"])


def mistakes_figure(judged: Judged, at_most: int = MISTAKES) -> str:
    """The images of whose true class the network thinks least, worst first, and what it names instead."""
    tally, names = judged.tally, judged.model.classes
    probabilities = tally.logits.softmax(1)
    named = tally.logits.argmax(1)
    losses = functional.cross_entropy(tally.logits, tally.labels, reduction="none").where(named != tally.labels, -1.0)
    worst = losses.argsort(descending=True)[: min(at_most, int((named != tally.labels).sum()))]
    images, _ = judged.loader[judged.chosen[worst]]
    figures = []
    for index, pixels in zip(worst.tolist(), images.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
        true, guess = int(tally.labels[index]), int(named[index])
        shares = [100 * float(probabilities[index, which]) for which in (guess, true)]
        said = f'<span class="named">{text(names[guess])}</span> {shares[0]:.1f} %'
        truth = f'is <span class="true">{text(names[true])}</span> {_small(shares[1])}'
        file = f'<span class="file">{text(judged.loader.images.keys[judged.chosen[index]])}</span>'
        figures.append(f"<figure>{_image(pixels)}<figcaption>{said}<br>{truth}<br>{file}</figcaption></figure>")
    return f'<div class="gallery">{"".join(figures)}</div>'


def _image(pixels: Pixels) -> str:
    side = max(pixels.shape[:2])
    if side > LARGEST_PICTURE:
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
        pixels = np.asarray(picture)
    kind = ' class="small"' if side <= _SMALL_PICTURE else ""
    return f'<img{kind} alt="" src="{png(pixels)}">'


def _bars(bin: Bin, x: float, width: float, plot: "_Plot", high: float) -> str:
    """How often right, the gap to the probability given, and below how many images."""
    assert bin.accuracy_percent is not None
    assert bin.confidence_percent is not None
    between = f"{bin.above_percent:.0f} to {bin.up_to_percent:.0f} %"
    words = f"given {between}: {bin.images:,} images, {bin.accuracy_percent:.1f} % right"
    low, up = sorted((bin.accuracy_percent, bin.confidence_percent))
    return (
        f"<g><title>{words}</title>"
        f"{_bar('bar', x, width, plot.y(low), plot.y(0))}"
        f"{_bar('gap', x, width, plot.y(up), plot.y(low))}"
        f'<path class="level" d="M{x:.1f} {plot.y(bin.accuracy_percent):.1f}h{width:.1f}"/>'
        f"{_bar('many', x, width, plot.base, plot.base + high)}</g>"
    )


def _bar(kind: str, x: float, width: float, top: float, bottom: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'


def _heat_table(result: Evaluation) -> str:
    head = "".join(f'<th title="{text(c.name)}">{text(c.name)}</th>' for c in result.classes)
    first = f'<tr><td class="sum"></td>{head}<td class="sum">right</td></tr>'
    rows = "".join(_heat_row(result, index) for index in range(len(result.classes)))
    return wide(f'<table class="heat"><thead>{first}</thead><tbody>{rows}</tbody></table>')


def _heat_row(result: Evaluation, true: int) -> str:
    of_class, name = result.classes[true], text(result.classes[true].name)
    cells = "".join(_cell(count, of_class.images, named == true) for named, count in enumerate(result.confusion[true]))
    right = "" if of_class.accuracy_percent is None else f"{of_class.accuracy_percent:.1f} %"
    return f'<tr><th title="{name}">{name}</th>{cells}<td class="sum">{right}</td></tr>'


def _cell(count: int, of: int, right: bool) -> str:
    if not count:
        return "<td></td>"
    share = count / of
    strength = share if right else min(1.0, 0.15 + share * 2.5)  # mistakes are few: they would not be seen
    full = " full" if strength > 0.55 else ""
    return f'<td class="{"right" if right else "wrong"}{full}" style="--share:{strength:.2f}">{count:,}</td>'


def _heat_map(result: Evaluation) -> str:
    """A pixel for each pair of classes: blue on the diagonal, orange beside it."""
    counts = np.asarray(result.confusion, dtype=float)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    right = np.eye(len(counts), dtype=bool)
    strength = np.where(right, shares, np.minimum(1, (shares > 0) * 0.15 + shares * 2.5))
    colours = np.where(right[:, :, None], _RIGHT, _WRONG)
    pixels = np.concatenate([colours, (255 * strength)[:, :, None].round()], axis=2).astype(np.uint8)
    return f'<img class="map" alt="confusion of {len(counts)} classes" src="{png(pixels)}">'


def _worst_classes(result: Evaluation) -> str:
    known = [(c.accuracy_percent, c) for c in result.classes if c.accuracy_percent is not None]
    worst = sorted(known, key=lambda pair: pair[0])[:_WORST_CLASSES]
    rows = [(c.name, f"{c.images:,}", f"{percent:.1f} %") for percent, c in worst]
    return table(("recognised least", "images", "right"), rows)


def _pairs(result: Evaluation) -> str:
    pairs = most_confused(result.confusion, _CONFUSED_PAIRS)
    if not pairs:
        return "<p>No image is taken for another class.</p>"
    rows = [
        (result.classes[true].name, result.classes[named].name, f"{count:,} of {result.classes[true].images:,}")
        for true, named, count in pairs
    ]
    return table(("class", "taken for", "images"), rows, words=2)


def _small(percent: float) -> str:
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
