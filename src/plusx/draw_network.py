"""A whole network as SVG: stem, stages and head as rows, the shortcuts as arcs (as Figure 3 of arXiv 1512.03385).

A stage holds its blocks as cards, equal blocks as one stack of cards with "× n". What the layers are is folded from
`layers.network`; shapes and counts are those of `cost`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from plusx import layers
from plusx.cost import Cost
from plusx.design import Design
from plusx.layers import BlockPlan, Layer
from plusx.ledger import Part
from plusx.notation import (
    Step,
    blocks_in,
    box,
    count,
    depth,
    details,
    formula,
    operations,
    output,
    shape,
    share,
    shortcut_name,
    steps,
)
from plusx.svg import GREY, INK, RULE, Canvas, Drawing, Point, text_width

PANEL, TRACK, ARC = "#f4f5f7", "#d5dae0", "#a63c06"
MARGIN, LABELS, COSTS, LEAD = 28.0, 128.0, 138.0, 22.0
GAP, BOX, SUM, PAD, GUTTER = 20.0, 34.0, 8.0, 9.0, 34.0
SMALL, NORMAL = 11.0, 12.0
FILLS = {"conv3": "#cddff2", "conv1": "#eef4fb", "pool": "#ffffff", "gate": "#fbe8cc", "fc": "#dfe3e8"}
EDGES = {"conv3": "#2b5580", "conv1": "#2b5580", "pool": "#6b7480", "gate": "#98600f", "fc": "#3d4550"}


@dataclass(frozen=True, slots=True)
class Group:
    """Equal blocks in a row, drawn once with "× times"; `out` is the shape of what each gives."""

    block: BlockPlan
    times: int
    out: str


@dataclass(frozen=True, slots=True)
class Row:
    """Stem, stage or head: `groups` are a stage's blocks, `chain` and `shapes` the boxes of stem and head."""

    name: str
    notes: tuple[str, ...]
    params: int
    macs: int
    out: str
    groups: tuple[Group, ...] = ()
    chain: tuple[Layer, ...] = ()
    shapes: tuple[str, ...] = ()


@dataclass(slots=True)
class Sheet:
    """What is being drawn on, and where the columns are."""

    canvas: Canvas
    columns: tuple[float, ...]
    between: float
    arcs: bool
    macs: int
    right: float = 0.0
    y: float = 0.0
    exit: tuple[Point, Point] = ((0.0, 0.0), (0.0, 0.0))

    @property
    def flow(self) -> float:
        """Where the first arrow of each row begins."""
        return MARGIN + LABELS


def network_picture(design: Design, cost: Cost) -> Drawing:
    """The network of `design`, with the sizes and counts of `cost`."""
    plan, rows = layers.network(design), _rows(design, cost)
    blocks = [group.block for row in rows for group in row.groups]
    between = max(text_width(row.out, SMALL) for row in rows) + 30
    arcs = any(block.shortcut is not None for block in blocks)
    sheet = Sheet(Canvas(), _columns(blocks), between, arcs, cost.macs)
    sheet.right = sheet.flow + max(_length(row, sheet) for row in rows) + 24 + COSTS
    _title(sheet, design, cost, depth(plan))
    for index, row in enumerate(rows):
        _draw_row(sheet, row, rows[index - 1].out if index else "", last=index == len(rows) - 1)
    _legend(sheet, [group for row in rows for group in row.groups])
    return sheet.canvas.drawing(sheet.right + MARGIN, sheet.y + MARGIN, design.name or "a network", _spoken(cost, rows))


def _rows(design: Design, cost: Cost) -> tuple[Row, ...]:
    plan = layers.network(design)
    rows = [_chain_row("stem", plan.stem, cost.stem, shape(cost.input_shape))]
    for index, (stage, planned, part) in enumerate(zip(design.stages, plan.stages, cost.stages, strict=True)):
        out = shape(part.shape)
        groups = tuple(Group(block, len(list(same)), out) for block, same in groupby(planned))
        notes = (blocks_in(stage), f"width {stage.width}, stride {stage.stride}")
        rows.append(Row(f"stage {index}", notes, part.params, part.macs, out, groups))
    return (*rows, _chain_row("head", plan.head, cost.head, rows[-1].out))


def _chain_row(name: str, plan: tuple[Layer, ...], part: Part, start: str) -> Row:
    boxes = [(layer, costed.shape) for layer, costed in zip(plan, part.layers, strict=True) if steps([layer])[0]]
    shapes = [shape(output(layer, sizes)) for layer, sizes in boxes]
    return Row(name, (), part.params, part.macs, shapes[-1], chain=plan, shapes=(start, *shapes))


def _columns(blocks: Sequence[BlockPlan]) -> tuple[float, ...]:
    """The width of the first boxes of all blocks, of the second ones, …: so that they stand in columns."""
    texts = [[_box_width(step.layer) for step in steps(block.branch)[0]] for block in blocks]
    return tuple(max(row[i] for row in texts if i < len(row)) for i in range(max(map(len, texts), default=0)))


def _box_width(layer: Layer) -> float:
    return max(text_width(box(layer), NORMAL), text_width(details(layer), SMALL)) + 18


def _card_width(group: Group, sheet: Sheet) -> float:
    boxes = steps(group.block.branch)[0]
    row = 2 * PAD + GAP + sum(sheet.columns[: len(boxes)]) + GAP * len(boxes) + (2 * SUM if sheet.arcs else -GAP / 2)
    return max(row, text_width(_caption(group), SMALL) + 24)


def _caption(group: Group) -> str:
    return formula(group.block) + (f"     × {group.times}" if group.times > 1 else "")


def _length(row: Row, sheet: Sheet) -> float:
    """How long the row's flow is, from its first arrow to the corner where it leaves."""
    if row.groups:
        cards = sum(_card_width(group, sheet) for group in row.groups)
        return LEAD + cards + sheet.between * (len(row.groups) - 1) + 24
    boxes, after = steps(row.chain)
    gaps = [_gap(s, step.before) for s, step in zip(row.shapes, boxes, strict=False)]
    return sum(gaps) + sum(_box_width(step.layer) for step in boxes) + _gap(row.out, after) + 60


def _gap(above: str, below: Sequence[str]) -> float:
    """An arrow long enough for what is written along it."""
    return max(LEAD, text_width(above, SMALL) + 18, text_width(", ".join(below), SMALL) + 18)


def _title(sheet: Sheet, design: Design, cost: Cost, deep: int) -> None:
    name = design.name or "a network"
    sums = f"{count(cost.params)} params · {count(cost.macs)} macs · {deep} layers deep"
    sheet.right = max(sheet.right, MARGIN + text_width(name, 24, bold=True) + 30 + text_width(sums, 13))
    sheet.canvas.text((MARGIN, MARGIN + 18), name, "title", size=24, bold=True)
    sheet.canvas.text((sheet.right, MARGIN + 18), sums, "totals", size=13, anchor="end", fill=GREY)
    sheet.y = MARGIN + 36


def _draw_row(sheet: Sheet, row: Row, entering: str, *, last: bool) -> None:
    """The row's panel with its name and costs, the line that leads to it, and what it holds."""
    if entering:
        sheet.y += GUTTER
    above, below = _extent(row, sheet)
    middle = sheet.y + above
    sheet.canvas.box((MARGIN, sheet.y, sheet.right - MARGIN, above + below), "panel", fill=PANEL, radius=8)
    _name_and_costs(sheet, row, sheet.y + (above + below) / 2)
    points = _way_in(sheet, middle, entering)
    sheet.exit = _draw_cards(sheet, row, points) if row.groups else _draw_chain(sheet, row, points, last=last)
    sheet.y += above + below


def _extent(row: Row, sheet: Sheet) -> tuple[float, float]:
    """How far the row's panel reaches above and below the line that its boxes stand on."""
    if not row.groups:
        return 31.0, 31.0
    stack = 6 if any(group.times > 1 for group in row.groups) else 0
    return (36.0 if sheet.arcs else 10.0) + BOX / 2 + PAD, BOX / 2 + 28 + PAD + stack


def _way_in(sheet: Sheet, middle: float, entering: str) -> list[Point]:
    """The corners of the line from the row before, its shape written on it; for the first row a single point."""
    start = (sheet.flow, middle)
    if not entering:
        return [start]
    between = sheet.y - GUTTER / 2 + 5
    sheet.canvas.text((sheet.flow + 14, between - 6), entering, "shape", size=SMALL, fill=GREY)
    return [*sheet.exit, (sheet.exit[1][0], between), (sheet.flow, between), start]


def _name_and_costs(sheet: Sheet, row: Row, middle: float) -> None:
    canvas, left, y = sheet.canvas, MARGIN + 14, middle + 4 - 7.5 * len(row.notes)
    canvas.text((left, y), row.name, "name", size=14, bold=True)
    for line, note in enumerate(row.notes, start=1):
        canvas.text((left, y + 16 * line), note, "note", size=SMALL, fill=GREY)
    edge, left = sheet.right - 14, sheet.right - COSTS + 14
    for line, (number, unit) in enumerate(((row.params, "params"), (row.macs, "macs"))):
        canvas.text((left + 52, middle - 10 + 16 * line), count(number), unit, size=NORMAL, anchor="end")
        canvas.text((left + 58, middle - 10 + 16 * line), unit, "unit", size=SMALL, fill=GREY)
    part, whole = row.macs / max(sheet.macs, 1), edge - left - 50
    canvas.box((left, middle + 16, whole, 5), "track", fill=TRACK, radius=2.5)
    if part * whole >= 1:
        canvas.box((left, middle + 16, part * whole, 5), "bar", fill=EDGES["conv3"], radius=2.5)
    canvas.text((edge, middle + 22), share(row.macs, sheet.macs), "share", size=SMALL, anchor="end", fill=GREY)


def _draw_chain(sheet: Sheet, row: Row, points: list[Point], *, last: bool) -> tuple[Point, Point]:
    """Boxes in a row, shapes above the arrows, norms and activations below; gives where the line leaves and turns."""
    canvas, (x, y) = sheet.canvas, points[-1]
    boxes, after = steps(row.chain)
    above = "" if len(points) > 1 else row.shapes[0]
    for step, shape_after in zip(boxes, row.shapes[1:], strict=True):
        gap = _gap(above, step.before)
        _arrow(canvas, [*points, (x + gap, y)], (x + gap / 2, y), above, step.before)
        x, above = _draw_box(canvas, step, (x + gap, y), _box_width(step.layer)), shape_after
        points = [(x, y)]
    if last:
        canvas.line([(x, y), (x + LEAD, y)], "flow", arrow=True)
        canvas.text((x + LEAD + 8, y + 4), above, "shape", size=SMALL, fill=GREY)
    elif after:
        gap = _gap("", after)
        _arrow(canvas, [(x, y), (x + gap, y)], (x + gap / 2, y), "", after, head=False)
        x += gap
    return (x, y), (x + 18, y)


def _arrow(
    canvas: Canvas, points: list[Point], middle: Point, above: str, below: Sequence[str], *, head: bool = True
) -> None:
    canvas.line(points, "flow", arrow=head)
    if above:
        canvas.text((middle[0] - 3, middle[1] - 7), above, "shape", size=SMALL, anchor="middle", fill=GREY)
    if below:
        words = ", ".join(below)
        canvas.text((middle[0] - 3, middle[1] + 15), words, "mark", size=SMALL, anchor="middle", fill=GREY)


def _draw_box(canvas: Canvas, step: Step, left: Point, width: float) -> float:
    """One layer's box with its left edge's middle at `left`; gives its right edge."""
    (x, y), kind, more = left, kind_of(step.layer), details(step.layer)
    place = (x, y - BOX / 2, width, BOX)
    canvas.box(place, f"layer {kind}", fill=FILLS[kind], stroke=EDGES[kind])
    up = 6 if more else 0
    canvas.text((x + width / 2, y + 4 - up), box(step.layer), "label", size=NORMAL, anchor="middle")
    if more:
        canvas.text((x + width / 2, y + 11), more, "detail", size=10, anchor="middle", fill=GREY)
    return x + width


def kind_of(layer: Layer) -> str:
    """The key of a layer's colours."""
    match layer:
        case layers.Conv():
            return "conv3" if layer.kernel > 1 else "conv1"
        case layers.Gate():
            return "gate"
        case layers.Linear():
            return "fc"
        case _:
            return "pool"


def _draw_cards(sheet: Sheet, row: Row, points: list[Point]) -> tuple[Point, Point]:
    """The stage's blocks, the shape on the arrow between them; gives where the line leaves the last, and turns."""
    canvas, (x, y) = sheet.canvas, points[-1]
    x += LEAD
    for group in row.groups:
        leave, edge = _draw_card(sheet, group, points, (x, y)), x + _card_width(group, sheet)
        if group is not row.groups[-1]:
            middle = (edge + sheet.between / 2, y - 7)
            canvas.text(middle, row.out, "shape", size=SMALL, anchor="middle", fill=GREY)
        points, x = [(leave, y)], edge + sheet.between
    return (leave, y), (edge + 18, y)


def _draw_card(sheet: Sheet, group: Group, points: list[Point], left: Point) -> float:
    """One block on its card: the line goes in, through the boxes of its branch and the sum; the arc goes over them."""
    canvas, (x, y) = sheet.canvas, left
    top, width = y - BOX / 2 - (36 if sheet.arcs else 10), _card_width(group, sheet)
    height = y + BOX / 2 + 28 - top
    for sheets in (3, 0) if group.times > 1 else (0,):
        place = (x + 2 * sheets, top + 2 * sheets, width, height)
        canvas.box(place, "card", fill="white", stroke=RULE, radius=6, width=1)
    canvas.text((x + 12, y + BOX / 2 + 19), formula(group.block), "formula", size=SMALL, fill=GREY, formula=True)
    if group.times > 1:
        edge = (x + width - 12, y + BOX / 2 + 19)
        canvas.text(edge, f"× {group.times}", "times", size=13, anchor="end", bold=True)
    fork = x + PAD
    boxes, _ = steps(group.block.branch)
    x = fork + GAP
    for step, column in zip(boxes, sheet.columns, strict=False):
        canvas.line([*points, (x, y)], "flow", arrow=True)
        x = _draw_box(canvas, step, (x, y), column)
        points, x = [(x, y)], x + GAP
    return _draw_sum(sheet, group.block, points[0], fork) if group.block.shortcut is not None else points[0][0]


def _draw_sum(sheet: Sheet, block: BlockPlan, end: Point, fork: float) -> float:
    """The arc from the fork over the boxes to the addition: solid for the identity, dashed where the shape changes."""
    canvas, (x, y), kind = sheet.canvas, end, shortcut_name(block)
    centre, over = x + GAP + SUM, y - BOX / 2 - 14
    canvas.line([(x, y), (centre - SUM, y)], "flow", arrow=True)
    route = [(fork, y), (fork, over), (centre, over), (centre, y - SUM)]
    canvas.line(route, f"skip {kind}", arrow=True, dashed=bool(block.shortcut), stroke=ARC, width=1.6, radius=12)
    canvas.circle((fork, y), 2.4, "fork", fill=INK)
    plus(canvas, (centre, y), SUM)
    words = " → ".join(box(layer) for layer in block.shortcut or ()) or kind
    canvas.text(((fork + centre) / 2, over - 6), words, "shortcut", size=SMALL, anchor="middle", fill=ARC)
    return centre + SUM


def plus(canvas: Canvas, centre: Point, radius: float) -> None:
    """The addition: a circle with a plus in it."""
    x, y, arm = *centre, radius * 0.55
    canvas.circle(centre, radius, "sum")
    canvas.line([(x - arm, y), (x + arm, y)], "plus")
    canvas.line([(x, y - arm), (x, y + arm)], "plus")


def _legend(sheet: Sheet, groups: Sequence[Group]) -> None:
    """What the strokes and the shorthand mean, for what occurs."""
    canvas, x = sheet.canvas, MARGIN
    sheet.y += 28
    kinds = {shortcut_name(group.block) for group in groups}
    for kind in (kind for kind in _KINDS if kind in kinds):
        canvas.line([(x, sheet.y), (x + 30, sheet.y)], "key", stroke=ARC, width=1.6, dashed=kind != "identity")
        canvas.text((x + 38, sheet.y + 4), _KINDS[kind], "legend", size=SMALL, fill=GREY)
        x += 38 + text_width(_KINDS[kind], SMALL) + 20
    if x > MARGIN:
        plus(canvas, (x + SUM, sheet.y), SUM)
        canvas.text((x + 2 * SUM + 8, sheet.y + 4), "addition", "legend", size=SMALL, fill=GREY)
        sheet.y += 24
    for line in _wrapped(_notes(groups), sheet.right - MARGIN):
        canvas.text((MARGIN, sheet.y), line, "legend", size=SMALL, fill=GREY)
        sheet.y += 18
    sheet.y -= 18


_KINDS = {
    "identity": "identity shortcut",
    "projection": "shortcut with a 1×1 convolution W",
    "pad": "shortcut that subsamples and adds zero channels",
}


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = ["on the arrows: channels × height × width", "3×3, 64, /2: a 3×3 convolution to 64 channels, stride 2"]
    inner = {operations(group.block) for group in groups if not group.block.preact}
    if len(inner) == 1:
        but = "; where x goes through norm and relu first (z), F begins behind them"
        notes.append(f"F: {inner.pop()}{but if any(group.block.preact for group in groups) else ''}")
    if any(isinstance(layer, layers.Gate) for group in groups for layer in group.block.branch):
        notes.append("SE, 16: a squeeze-excitation gate, 16 channels inside")
    if any(group.times > 1 for group in groups):
        notes.append("× 2: two such blocks in a row, each with its own weights")
    return [*notes, "layers deep: convolutions and fc from input to output, shortcuts not counted"]


def _wrapped(notes: Sequence[str], width: float) -> list[str]:
    """The notes in as few lines as fit, a wide space between two."""
    lines: list[str] = []
    for note in notes:
        joined = f"{lines[-1]} · {note}" if lines else note
        if lines and text_width(joined, SMALL) <= width:
            lines[-1] = joined
        else:
            lines.append(note)
    return lines


def _spoken(cost: Cost, rows: Sequence[Row]) -> str:
    """The picture in words, for those who cannot see it, with the exact counts."""
    parts = [
        f"{', '.join([f'{row.name}: {row.params:,} params', f'{row.macs:,} macs', *row.notes])}, gives {row.out}"
        for row in rows
    ]
    return f"{cost.params:,} params and {cost.macs:,} macs in all. " + "; ".join(parts) + "."
