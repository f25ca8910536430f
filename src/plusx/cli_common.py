"""What the commands of `cli` and `cli_ship` share: their options' types, and how results and words are printed."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token

from plusx.errors import InputError

if TYPE_CHECKING:
    from plusx.design import Design
    from plusx.reports import Report

OneDesign = Annotated[str, Parameter(name="NAME|FILE", show_default=False)]
Designs = Annotated[str, Parameter(name="NAME|FILE", show_default=False)]
Input = Annotated[str | None, Parameter(name="--input")]
Detail = Literal["stage", "block", "layer"]
ImageSize = Annotated[
    str | None,
    Parameter(name="--input", help="Height and width of the images in pixels, 224 or 224x160; 32 or 224 by default."),
]
Device = Annotated[str | None, Parameter(help="auto (cuda, mps or xpu where there is one, else cpu), or its name.")]
OnBadImage = Annotated[
    Literal["fail", "skip"],
    Parameter(help="What is no image ends the command, or is named on standard error and left out."),
]
TrainedRun = Annotated[Path, Parameter(help="A run folder or a weights file.")]
Ema = Annotated[bool, Parameter(help="Where a file has weights averaged over training, take those.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object instead.")]


def numbers(_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """`1,2,2,2` as whole numbers."""
    parts = tokens[0].value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{tokens[0].value!r} is not numbers with commas between them, such as 1,2,2,2")
    return tuple(map(int, parts))


def given_design(name: str) -> "Design":
    """A published network's name, a design file, or a run folder."""
    from plusx import families
    from plusx.design import Design

    path = Path(name)
    if name in families.FAMILIES:
        return families.design(name)
    if path.is_dir():
        return Design.read(path / "design.toml")
    if path.suffix.lower() in (".toml", ".json"):
        return Design.read(path)
    if path.is_file():
        raise InputError(f"{name}: a design file ends in .toml or .json")
    return families.design(name)


def given_size(text: str | None) -> int | tuple[int, int] | None:
    """`224` or `224x160` (height, width) as numbers."""
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"input: {text!r} is not a number of pixels, or height x width such as 224x160")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def show_report(report: "Report", as_json: bool) -> None:
    """A result, on standard output."""
    if as_json:
        print_json(report.to_dict())
        return
    from rich.console import Console

    # not a terminal: no colours, and wide enough that no table is cut
    console = Console() if sys.stdout.isatty() else Console(width=shutil.get_terminal_size((120, 24)).columns)
    console.print(report)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object, on standard output."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


def say(message: str) -> None:
    """One line on standard error."""
    # what a file says may be in it: no control character of it reaches the terminal
    shown = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in " ".join(message.split()))
    print(f"plusx: {shown}", file=sys.stderr)
