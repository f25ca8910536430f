"""The command line: one thin command per verb. Arguments in, one public function called, its result printed.

Results go to standard output (`--json`: exactly one JSON object), progress and errors to standard error.
Exit codes: 0 done, 1 the work failed, 2 the arguments or the input are wrong, 130 interrupted.
Each verb is imported when its command runs, so that `plusx --help` is quick.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from plusx import __version__
from plusx.errors import InputError, PlusxError

if TYPE_CHECKING:
    from plusx.design import Design
    from plusx.reports import Report

app = App(
    name="plusx",
    help="Residual networks, y = act(F(x) + x): design one, know its cost, train it, trust it, ship it.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help_epilogue="NAME is a published network (`plusx list`), FILE a design in TOML or JSON, or a run folder.",
)

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object instead.")]


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as problem:
        return _fail(str(problem), 2)
    except InputError as problem:
        return _fail(str(problem), 2)
    except PlusxError as problem:
        return _fail(str(problem), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader went away: `plusx list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        return _fail(str(problem), 1)
    return 0


@app.command(name="list")
def list_(pattern: str = "*", *, json: Json = False) -> None:
    """List the published networks, each with its paper.

    Parameters
    ----------
    pattern
        Part of a name, or a shell pattern such as 'cifar*'.
    """
    from plusx import families

    found = {name: families.citation(name) for name in families.names(pattern)}
    if json:
        _print_json({"designs": [{"name": name, "family": family} for name, family in found.items()]})
        return
    if not found:
        raise InputError(f"no published network matches {pattern!r} (plusx list shows all)")
    width = max(map(len, found))
    print("\n".join(f"{name:<{width}}  {family}" for name, family in found.items()))


def _design(name: str) -> "Design":
    """A published network's name, a design file, or a run folder."""
    from plusx import families
    from plusx.design import Design

    path = Path(name)
    if path.is_dir():
        return Design.read(path / "design.toml")
    if path.suffix in (".toml", ".json"):
        return Design.read(path)
    return families.design(name)


def _show(report: "Report", as_json: bool) -> None:
    if as_json:
        _print_json(report.to_dict())
        return
    from rich.console import Console

    # not a terminal: no colours, and wide enough that no table is cut
    console = Console() if sys.stdout.isatty() else Console(width=int(os.environ.get("COLUMNS", 120)))
    console.print(report)


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False))


def _fail(message: str, code: int) -> int:
    print(f"plusx: {' '.join(message.split())}", file=sys.stderr)
    return code
