"""Pieces of a page: text that is safe, tables, facts, pictures as data, and the page around them.

Whatever is not made here is escaped: class names, file names and recipes are other people's.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plusx.svg import printable

_STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is fetched and nothing runs, whatever a page holds."""


class Section(NamedTuple):
    """A part of the page: its heading, and HTML."""

    heading: str
    body: str


def text(words: object) -> str:
    """Words as HTML that shows them and does nothing else; lines stay lines."""
    return "\n".join(html.escape(printable(line)) for line in str(words).split("\n"))


def note(words: str) -> str:
    """A paragraph of explanation."""
    return f'<p class="note">{text(words)}</p>'


def verbatim(words: str) -> str:
    """A file or a command, as it is."""
    return f"<pre>{text(words.strip())}</pre>"


def wide(inner: str, kind: str = "") -> str:
    """What scrolls sideways where the screen is narrow."""
    return f'<div class="{f"wide {kind}".strip()}">{inner}</div>'


def halves(*parts: str) -> str:
    """Side by side where there is room, else one below the other."""
    return f'<div class="halves">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """The numbers that matter, large: (number, what it is)."""
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{text(a)}</b><span>{text(b)}</span></div>' for a, b in facts)
        + "</div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and what they stand for."""
    body = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, whole: Sequence[str] = ()) -> str:
    """Rows below headings; the first `words` columns are words, the others numbers. `whole`: a last row in bold."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if index < words else ' class="number"' for index in range(len(cells))]
        return "".join(f"<{tag}{kind}>{text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    last = f'<tr class="whole">{row(whole, "td")}</tr>' if whole else ""
    return wide(
        f'<table class="ruled"><thead><tr>{row(headings, "th")}</tr></thead><tbody>{body}{last}</tbody></table>'
    )


def inline(svg: str) -> str:
    """An SVG made here as part of the page, which needs no namespace."""
    return svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)


def png(pixels: NDArray[np.uint8]) -> str:
    """H W, H W 1, H W 3 or H W 4 → the address of a PNG that holds its own bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def page(title: str, subtitle: str, top: str, sections: Iterable[Section]) -> str:
    """A whole page in one file, that needs no other."""
    parts = "\n".join(f"<section><h2>{text(part.heading)}</h2>\n{part.body}\n</section>" for part in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{text(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{text(title)}</h1>
<p class="note">{text(subtitle)}</p>
{top}
{parts}
</main>
</body>
</html>
"""
