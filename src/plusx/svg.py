"""A small SVG writer: boxes, lines, arrows and text on white, and the Drawing they make.

Coordinates are absolute, in pixels, x to the right and y down. Nothing is transformed, so that what a drawing looks
like can be computed from its text alone (tests/test_draw.py does). Elements carry a class that says what they are.
"""

import os
import re
import tempfile
import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from plusx.errors import InputError, WorkError

INK, GREY, RULE = "#1b1f24", "#5b6470", "#aab2bd"
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture: `svg` is its text, `width` and `height` its size in pixels. Jupyter shows it as it is."""

    svg: str
    width: float
    height: float

    def save(self, path: str | Path) -> Path:
        """Write the picture to a `.svg` file, whole or not at all; an SVG that is there is replaced.

        Raises InputError for another suffix, and for an existing file that is no SVG: nothing else is written over.
        Raises WorkError where the folder cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise InputError(f"drawing to {path}: {path.suffix or 'no suffix'!r} is not .svg, which is what is written")
        if path.exists() and not _is_svg(path):
            raise InputError(f"drawing to {path}: it exists and is no SVG; name another file, or remove it first")
        if not path.parent.is_dir():
            raise InputError(f"drawing to {path}: there is no folder {path.parent}")
        try:
            _write_whole(path, self.svg)
        except OSError as problem:
            raise WorkError(f"drawing to {path}: {problem.strerror}") from None
        return path

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Drawing, {self.width:g}×{self.height:g} pixels, {len(self.svg):,} characters of SVG>"

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass
class Canvas:
    """Collects elements in the order they are drawn; `drawing` makes the picture of them."""

    elements: list[ElementTree.Element] = field(default_factory=list)

    def box(
        self,
        at: tuple[float, float, float, float],
        kind: str,
        *,
        fill: str = "white",
        stroke: str = "none",
        radius: float = 4,
        width: float = 1.2,
    ) -> None:
        """A rounded rectangle; `at` is x, y, width, height."""
        x, y, w, h = at
        edge = {} if stroke == "none" else {"stroke": stroke, "stroke-width": _number(width)}
        sizes = {"x": x, "y": y, "width": w, "height": h, "rx": radius}
        self._add("rect", kind, {k: _number(v) for k, v in sizes.items()} | {"fill": fill} | edge)

    def circle(self, centre: Point, radius: float, kind: str, *, fill: str = "white", stroke: str = INK) -> None:
        """A circle."""
        sizes = {"cx": _number(centre[0]), "cy": _number(centre[1]), "r": _number(radius)}
        self._add("circle", kind, sizes | {"fill": fill, "stroke": stroke, "stroke-width": "1.4"})

    def line(
        self,
        points: list[Point],
        kind: str,
        *,
        arrow: bool = False,
        dashed: bool = False,
        stroke: str = INK,
        width: float = 1.4,
        radius: float = 10,
    ) -> None:
        """A line through `points` with rounded corners, ending in an arrowhead where `arrow`."""
        end, before = points[-1], points[-2]
        if arrow:  # the line ends inside its head, so that its square end does not show
            points = [*points[:-1], _towards(end, before, 4)]
        dash = {"stroke-dasharray": "5 4"} if dashed else {}
        style = {"fill": "none", "stroke": stroke, "stroke-width": _number(width)}
        self._add("path", kind, {"d": _path(points, radius)} | style | dash)
        if arrow:
            self._add("path", "head", {"d": _head(end, before), "fill": stroke})

    def text(
        self,
        at: Point,
        words: str,
        kind: str,
        *,
        size: float = 12,
        anchor: Anchor = "start",
        fill: str = INK,
        bold: bool = False,
        formula: bool = False,
    ) -> None:
        """One line of text, its baseline at `at`; in a `formula` the letters F, W, x, y, z stand in italics."""
        place = {"x": _number(at[0]), "y": _number(at[1]), "font-size": _number(size)}
        style = {"fill": fill} | ({} if anchor == "start" else {"text-anchor": anchor})
        element = self._add("text", kind, place | style | ({"font-weight": "bold"} if bold else {}))
        if not formula:
            element.text = printable(words)
            return
        element.set("xml:space", "preserve")  # else librsvg drops the spaces between the parts
        for part in filter(None, re.split(r"\b([FWxyz])\b", words)):
            italic = {"font-style": "italic"} if part in "FWxyz" else {}
            ElementTree.SubElement(element, "tspan", italic).text = part

    def drawing(self, width: float, height: float, title: str, description: str) -> Drawing:
        """The picture of what was drawn; `title` and `description` are what a screen reader says."""
        attributes = {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _number(width),
            "height": _number(height),
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "role": "img",
            "aria-labelledby": "title description",
            "font-family": FONT,
        }
        root = ElementTree.Element("svg", attributes)
        for tag, name, words in (("title", "title", title), ("desc", "description", description)):
            ElementTree.SubElement(root, tag, {"id": name}).text = printable(words)
        paper = {"width": "100%", "height": "100%", "fill": "white"}
        ElementTree.SubElement(root, "rect", {"class": "paper"} | paper)
        root.extend(self.elements)
        for element in root:
            element.tail = "\n"
        root.text = "\n"
        return Drawing(ElementTree.tostring(root, encoding="unicode") + "\n", width, height)

    def _add(self, tag: str, kind: str, attributes: dict[str, str]) -> ElementTree.Element:
        element = ElementTree.Element(tag, {"class": kind} | attributes)
        self.elements.append(element)
        return element


def text_width(words: str, size: float = 12, *, bold: bool = False) -> float:
    """About how wide a line of text is, in pixels, in the widest of the usual sans-serif fonts."""
    return sum(map(_character_width, printable(words))) * size * (1.08 if bold else 1.0)


def printable(words: str) -> str:
    """A name as one line of visible text: what terminals obey and XML cannot hold is replaced."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" else c for c in words)


def _character_width(character: str) -> float:
    """In ems; Helvetica's and Arial's are about a tenth narrower."""
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in " .,:;'|!ijlI()[]·/ft":
        return 0.37
    return 0.9 if character in "mwMW@%→×+=" else 0.72 if character.isupper() else 0.6


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _towards(start: Point, goal: Point, distance: float) -> Point:
    """The point `distance` from `start` on the way to `goal`, no further than `goal`."""
    length = ((goal[0] - start[0]) ** 2 + (goal[1] - start[1]) ** 2) ** 0.5
    part = min(distance / length, 1.0) if length else 0.0
    return start[0] + (goal[0] - start[0]) * part, start[1] + (goal[1] - start[1]) * part


def _path(points: list[Point], radius: float) -> str:
    """Straight pieces joined by quarter turns that start `radius` before each corner, or half-way to the next."""
    lengths = [abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in pairwise(points)]
    steps = [f"M{_pair(points[0])}"]
    for index, corner in enumerate(points[1:-1], start=1):
        turn = min(radius, lengths[index - 1] / 2, lengths[index] / 2)
        into, out = _towards(corner, points[index - 1], turn), _towards(corner, points[index + 1], turn)
        steps.append(f"L{_pair(into)} Q{_pair(corner)} {_pair(out)}")
    return " ".join([*steps, f"L{_pair(points[-1])}"])


def _head(end: Point, before: Point) -> str:
    """A triangle whose tip is at `end`, pointing away from `before`."""
    back = _towards(end, before, 7)
    across = ((end[1] - back[1]) * 0.45, (end[0] - back[0]) * 0.45)
    left, right = (back[0] - across[0], back[1] + across[1]), (back[0] + across[0], back[1] - across[1])
    return f"M{_pair(end)} L{_pair(left)} L{_pair(right)} Z"


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _is_svg(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<svg" in file.read(4096)
    except OSError:
        return False


def _write_whole(path: Path, text: str) -> None:
    """Write beside the file, then rename: a reader never sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".plusx-", suffix=".svg")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
