"""Why people print different numbers for one network: `explain(design, input) -> Explanation`. No torch here.

Each convention is a sum over the same counts that `cost` makes. Those of torch, fvcore and torchinfo are tested against
the tools themselves.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plusx import reports
from plusx.cost import Cost, cost
from plusx.design import Design
from plusx.notation import count, shape, share
from plusx.reports import FirstThatFits, Report

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


class Reading(NamedTuple):
    """One way to count: `key` for programs, who counts so, what is counted, and the number for one image."""

    key: str
    who: str
    counts: str
    value: int


@dataclass(frozen=True)
class Explanation(Report):
    """The numbers that are printed for one network, and what stands between them.

    `readings`: ways to count the whole. `left_out`: operations that macs leave out, in operations. `memory`: what
    torchinfo calls the size of a forward and backward pass, beside what autograd keeps, in bytes.
    """

    cost: Cost
    readings: tuple[Reading, ...]
    left_out: tuple[Reading, ...]
    memory: tuple[Reading, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: each group's numbers by key, counts for one image, memory in bytes."""
        return {
            "name": self.cost.design.name,
            "input_shape": list(self.cost.input_shape),
            "macs": self.cost.macs,
            "params": self.cost.params,
            "counts": {reading.key: reading.value for reading in self.readings},
            "left_out_operations": {reading.key: reading.value for reading in self.left_out},
            "memory_bytes": {reading.key: reading.value for reading in self.memory},
        }

    def __rich__(self) -> "Group":
        from rich.console import Group

        macs, name = self.cost.macs, self.cost.design.name or "a design"
        return Group(
            _table(
                f"{name} on {shape(self.cost.input_shape)}: one network, many numbers", "of macs", self.readings, macs
            ),
            _table("operations that macs leave out", "of 2 × macs", self.left_out, 2 * macs),
            _table("bytes in float32, one image", "", self.memory, 0),
        )


def explain(design: Design | str, input: int | tuple[int, int] | None = None) -> Explanation:
    """Reconcile the counts that plusx, the papers, torch, fvcore and torchinfo give of a design. Raises as `cost` does.

    3.8 or 4.1 G for ResNet-50: the same parameters, with the stride on the 1×1 as in arXiv 1512.03385, or on the 3×3.
    """
    known = cost(design, input)
    return Explanation(known, _readings(known), _left_out(known), _memory(known))


def _readings(known: Cost) -> tuple[Reading, ...]:
    tally, macs = known.network.tally, known.macs
    project = sum(layer.macs for layer in known.layers if ".shortcut" in layer.name)
    rows = [
        Reading(
            "macs", "plusx, torchvision; the papers' FLOPs", "multiply-adds of convolutions and linear layers", macs
        ),
        Reading("flop_counter_mode", "torch FlopCounterMode", "each multiply-add as two", 2 * macs),
        Reading(
            "fvcore",
            "fvcore, after eval()",
            "macs, 2 for each element of a batch norm, 1 for each of the global pooling",
            macs + 2 * tally.normed + tally.averaged,
        ),
        Reading(
            "fvcore_training",
            "fvcore, in train()",
            "the same with 5 for each element of a batch norm",
            macs + 5 * tally.normed + tally.averaged,
        ),
        Reading(
            "torchinfo",
            "torchinfo, mult-adds",
            "macs, and 1 for each bias and each parameter of a batch norm",
            macs + tally.vectors,
        ),
    ]
    if project:
        rows.append(
            Reading(
                "without_projections", "shortcuts left out", "macs without the shortcuts' convolutions", macs - project
            )
        )
    return (*rows, *_other_stride(known), *_printed(known))


def _other_stride(known: Cost) -> tuple[Reading, ...]:
    """The same parameters with the stride of every bottleneck on its other convolution, where that changes a count."""
    placed = {stage.block.stride_on for stage in known.design.stages if stage.block.kind == "bottleneck"}
    if len(placed) != 1:
        return ()
    other = "1x1" if placed == {"3x3"} else "3x3"
    stages = [
        stage.replace(block=stage.block.replace(stride_on=other)) if stage.block.kind == "bottleneck" else stage
        for stage in known.design.stages
    ]
    macs = cost(known.design.replace(stages=tuple(stages)), known.input).macs
    who = "the paper's v1" if other == "1x1" else 'PyTorch\'s "v1.5"'
    text = f"macs with the stride on the {other.replace('x', '×')}: other macs, the same params"
    return (Reading(f"stride_on_{other}", who, text, macs),)


_TABLE_1 = {
    "resnet18": (1_800_000_000, "rounded"),
    "resnet34": (3_600_000_000, "3.644 without projections (shortcut A); 3.664 with them, cut off"),
    "resnet50": (3_800_000_000, "3.858 with the stride on the 1×1, cut off; no choice of shortcut rounds to it"),
    "resnet101": (7_600_000_000, "7.570 with the stride on the 1×1, rounded"),
    "resnet152": (11_300_000_000, "11.282 with the stride on the 1×1, rounded"),
}
"""What Table 1 of arXiv 1512.03385 prints, and how that comes out of exact counts."""


def _printed(known: Cost) -> tuple[Reading, ...]:
    """The number in the paper's Table 1, for its own five networks (either stride) at its own size."""
    name = known.design.name.removesuffix("_v1")
    if name not in _TABLE_1 or known.input != (224, 224):
        return ()
    value, how = _TABLE_1[name]
    return (Reading("paper_table_1", "arXiv 1512.03385, Table 1", f"as printed: {how}", value),)


def _left_out(known: Cost) -> tuple[Reading, ...]:
    tally = known.network.tally
    rows = (
        Reading("batch_norm", "batch norm", "multiply and add per element; nothing once folded", 2 * tally.normed),
        Reading("activation", "ReLU, sigmoid", "1 per element", tally.rectified),
        Reading("addition", "branch + shortcut", "1 per element", tally.added),
        Reading("gate", "gates", "1 per element scaled", tally.scaled),
        Reading("pooling", "pooling", "1 per element that goes in", tally.pooled + tally.averaged),
        Reading("bias", "biases", "1 per output of a layer that has one", tally.biased),
    )
    return tuple(row for row in rows if row.value)


def _memory(known: Cost) -> tuple[Reading, ...]:
    tally = known.network.tally
    return (
        Reading("kept", "plusx, training", "tensors that autograd keeps, each once", known.training_bytes()),
        Reading(
            "torchinfo_pass",
            "torchinfo, forward/backward pass size",
            "twice the outputs of convolutions, batch norms and linear layers",
            8 * (tally.activations + tally.normed),
        ),
    )


def _table(title: str, of: str, rows: tuple[Reading, ...], whole: int) -> FirstThatFits:
    """With the exact numbers where there is room."""
    return FirstThatFits(_columns(title, of, rows, whole, True), _columns(title, of, rows, whole, False))


def _columns(title: str, of: str, rows: tuple[Reading, ...], whole: int, exactly: bool) -> "Table":
    from plusx.cost_table import mib

    table = reports.table(title)
    table.add_column("who or what", no_wrap=True)
    table.add_column("counts", min_width=40 if exactly else None)
    for heading in ("number", *(["exactly"] if exactly else []), *([of] if whole else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, who, counts, value in rows:
        short = count(value) if whole else f"{mib(value)} MiB"
        exact, of_whole = [f"{value:,}"] if exactly else [], [share(value, whole)] if whole else []
        table.add_row(who, counts, short, *exact, *of_whole)
    return table
