"""The tables of `cost.py` in a terminal: one network part by part, or several side by side. No torch here."""

from collections.abc import Iterable

from rich.console import Group
from rich.table import Table
from rich.text import Text

from plusx import notation, reports
from plusx.cost import Cost
from plusx.layers import BlockPlan
from plusx.ledger import Part
from plusx.notation import count, shape
from plusx.reports import FirstThatFits
from plusx.svg import printable

MIB = 2**20


def one(cost: Cost) -> Group:
    """A row for each part that `cost.detail` asks for, and the whole below; without words where there is no room."""
    narrower = [_parts(cost, words=False, columns=columns) for columns in _FEWER]
    return Group(FirstThatFits(_parts(cost, words=True), *narrower), _notes([cost]))


def several(costs: tuple[Cost, ...]) -> Group:
    """A row for each network."""
    return Group(FirstThatFits(*(_networks(costs, columns) for columns in _FEWER)), _notes(costs))


def _networks(costs: tuple[Cost, ...], columns: int) -> Table:
    table = reports.table()
    table.add_column("network", overflow="fold", min_width=max(len(_name(cost)) for cost in costs))
    table.add_column("input", justify="right", no_wrap=True)
    for heading in _HEADINGS[:columns]:
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(Text(_name(cost)), shape(cost.input_shape), *_numbers(cost.network, cost.batch)[:columns])
    return table


def _parts(cost: Cost, words: bool, columns: int = 7) -> Table:
    table = reports.table(f"{_name(cost)} on {shape(cost.input_shape)}", show_footer=True)
    whole = cost.network
    table.add_column("part", footer="in all", no_wrap=True)
    if words:
        table.add_column("what", no_wrap=cost.detail == "stage")
    table.add_column("output", footer=shape(whole.shape), justify="right", no_wrap=True)
    for heading, footer in [*zip(_HEADINGS, _numbers(whole, cost.batch), strict=True)][:columns]:
        table.add_column(heading, footer=footer, justify="right", no_wrap=True)
    for part in cost.rows():
        what = (_what(part),) if words else ()
        table.add_row(part.name, *what, shape(part.shape), *_numbers(part, cost.batch)[:columns])
    return table


def _name(cost: Cost) -> str:
    return printable(cost.design.name) or "a design"


_HEADINGS = ("params", "macs", "activa-\ntions", "train\nMiB", "peak\nMiB", "field\npx", "macs/\nbyte")
_FEWER = (7, 5, 2, 1)
"""How many of them are shown, by what the terminal has room for; a number is never cut."""


def _numbers(part: Part, batch: int) -> tuple[str, ...]:
    return (
        count(part.params),
        count(part.macs),
        count(part.activations),
        mib(part.training_bytes(batch=batch)),
        mib(part.inference_peak_bytes(batch=batch)),
        "all" if part.receptive_field is None else str(part.receptive_field),
        f"{part.macs_per_byte(batch=batch):.2f}",
    )


def mib(size: int) -> str:
    """Bytes as MiB, three digits or so."""
    value = size / MIB
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _what(part: Part) -> str:
    match part.kind:
        case "layer" if part.plan is None:
            return "branch + shortcut" if part.name.endswith("add") else "stochastic depth"
        case "layer":
            assert not isinstance(part.plan, BlockPlan | None)
            return notation.words(part.plan)
        case "block":
            assert isinstance(part.plan, BlockPlan)
            return ", ".join(filter(None, [part.plan.kind, notation.shortcut_name(part.plan)]))
        case "stage":
            return f"{len(part.parts)} × {_what(part.parts[-1]).split(',')[0]}"
        case _:
            return " → ".join(
                notation.box(layer.plan) for layer in part.layers if not isinstance(layer.plan, BlockPlan | None)
            )


def _notes(costs: Iterable[Cost]) -> str:
    """What the columns mean, and of one network the memory in half precision and of the weights."""
    costs = tuple(costs)
    batch = costs[0].batch if costs else 1
    images = "one image" if batch == 1 else f"{batch} images"
    notes = [
        "macs: multiply-adds of convolutions and linear layers, activations: elements they give, both for one image.",
        f"MiB: {images} in float32. Training: kept for the backward pass; peak: alive at once in inference.",
    ]
    if len(costs) == 1:
        half = costs[0]
        notes += [
            f"In bfloat16: training {mib(half.training_bytes('bfloat16'))} MiB, peak "
            f"{mib(half.inference_peak_bytes('bfloat16'))} MiB. Weights: {mib(half.weights_bytes())} MiB in float32, "
            f"{mib(half.weights_bytes('bfloat16'))} MiB in bfloat16."
        ]
    return "\n".join(notes)
