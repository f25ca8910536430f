"""One block as SVG, as Figures 2 and 5 of arXiv 1512.03385 draw it: x at the top, y at the bottom.

On the arrows stand the shapes (left) and the norms and activations that run there (right); the shortcut goes around
the branch to the addition. The layers are those of a BlockPlan, whatever its order, gate and shortcut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plusx.draw_network import ARC, EDGES, FILLS, kind_of, plus
from plusx.layers import BlockPlan, Gate, Layer, Pad
from plusx.notation import box, count, details, formula, label, shape, shortcut_name, steps, total
from plusx.svg import GREY, INK, RULE, Canvas, Drawing, Point, text_width

MARGIN, BOX, STEP, SHORT, SUM, SIDE = 30.0, 38.0, 46.0, 30.0, 11.0, 9.0
BIG, NORMAL, SMALL = 17.0, 14.0, 12.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A block to draw: its name, what it costs, its input shape, and those after each layer of its two paths.

    drop: the rate of stochastic depth at the branch's end.
    """

    name: str
    block: BlockPlan
    params: int
    macs: int
    start: tuple[int, ...]
    branch: tuple[tuple[int, ...], ...]
    shortcut: tuple[tuple[int, ...], ...]
    drop: float = 0.0


@dataclass(frozen=True, slots=True)
class Lane:
    """Boxes from top to bottom: `marks[i]` and `shapes[i]` stand on the arrow before box i, the last ones after all."""

    boxes: tuple[Layer, ...]
    marks: tuple[tuple[str, ...], ...]
    shapes: tuple[str, ...]
    width: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The heights that blocks side by side have in common: from x to the fork, and from there to the first box."""

    top: float
    lead: float
    enter: float


def block_picture(title: str, subjects: Sequence[Subject]) -> Drawing:
    """One or more blocks side by side."""
    canvas = Canvas()
    canvas.text((MARGIN, MARGIN + 17), title, "title", size=22, bold=True)
    skips = any(subject.block.shortcut is not None for subject in subjects)
    lead = STEP if any(subject.block.preact for subject in subjects) else SHORT + 6 if skips else 8
    enters = any(steps(subject.block.branch)[0][0].before for subject in subjects)
    frame = Frame(MARGIN + 72, lead, STEP if enters else SHORT)
    x, bottom = MARGIN, 0.0
    for index, subject in enumerate(subjects):
        x, y = _draw(canvas, subject, frame, x + (48 if index else 0))
        bottom = max(bottom, y)
    width = max(x, MARGIN + text_width(title, 22, bold=True)) + MARGIN
    return canvas.drawing(width, bottom + MARGIN - 6, title, _spoken(subjects))


def _lane(plan: Sequence[Layer], start: tuple[int, ...], after: Sequence[tuple[int, ...]]) -> Lane:
    boxes, trailing = steps(plan)
    shapes = [shape(start), *(shape(s) for layer, s in zip(plan, after, strict=True) if steps([layer])[0])]
    marks = (*(step.before for step in boxes), trailing)
    along = max(text_width(words, SMALL) for words in [*shapes, *map(", ".join, marks)])
    inside = [text_width(label(step.layer), NORMAL) for step in boxes]
    inside += [text_width(_more(step.layer), SMALL) for step in boxes]
    width = max(2 * (along + SIDE + 5), *(w + 24 for w in inside)) if boxes else 0.0
    return Lane(tuple(step.layer for step in boxes), marks, tuple(shapes), width)


def _draw(canvas: Canvas, subject: Subject, frame: Frame, left: float) -> Point:
    """One block from `left` on; gives its lower right corner."""
    lane, whole = _lane(subject.block.branch, subject.start, subject.branch), f"y = {formula(subject.block)}"
    half = text_width(whole, NORMAL) / 2
    spine = left + max(lane.width / 2 + 58, text_width(total(subject.block), NORMAL) + SUM + 10, half)
    _heading(canvas, subject, spine, frame.top - 16)
    fork = _draw_input(canvas, subject, spine, frame)
    last = _draw_boxes(canvas, lane, spine, fork, frame.enter)
    draw = _draw_plain_end if subject.block.shortcut is None else _draw_residual_end
    edge, end = draw(canvas, subject, lane, (spine, fork), (fork + frame.enter, last))
    canvas.text((spine, end + 18), "y", "variable", size=BIG, anchor="middle", formula=True)
    canvas.text((spine, end + 46), whole, "formula", size=NORMAL, anchor="middle", formula=True)
    return max(edge, spine + half), end + 52


def _draw_plain_end(canvas: Canvas, subject: Subject, lane: Lane, fork: Point, span: Point) -> Point:
    """From the last box to y; the boxes stand over the heights `span`. Gives the lower right corner."""
    spine, edge = fork[0], fork[0] + lane.width / 2
    _bracket(canvas, spine - lane.width / 2, span, total(subject.block))
    marks = (*lane.marks[-1], *steps(subject.block.after)[1])
    return edge, _arrow(canvas, (spine, span[1]), STEP, lane.shapes[-1], marks)


def _draw_residual_end(canvas: Canvas, subject: Subject, lane: Lane, fork: Point, span: Point) -> Point:
    """The same with the shortcut and the addition between."""
    spine, edge, inner = fork[0], fork[0] + lane.width / 2, total(subject.block)
    drop = (f"drop {100 * subject.drop:.3g} %",) if subject.drop else ()
    height = _arrow(canvas, (spine, span[1]), STEP, lane.shapes[-1], (*lane.marks[-1], *drop)) + SUM
    _bracket(canvas, spine - lane.width / 2, (fork[1] + 10, height - SUM - 8), inner.split(" + ")[0])
    edge = _draw_shortcut(canvas, subject, fork, height, edge)
    plus(canvas, (spine, height), SUM)
    canvas.text((spine - SUM - 9, height + 5), inner, "formula", size=NORMAL, anchor="end", formula=True)
    after = steps(subject.block.after)[1]
    return edge, _arrow(canvas, (spine, height + SUM), STEP if after else SHORT, lane.shapes[-1], after)


def _heading(canvas: Canvas, subject: Subject, spine: float, y: float) -> None:
    canvas.text((spine, y), subject.name, "name", size=NORMAL, anchor="middle", bold=True)
    costs = f"{count(subject.params)} params · {count(subject.macs)} macs"
    canvas.text((spine, y + 18), costs, "costs", size=SMALL, anchor="middle", fill=GREY)


def _draw_input(canvas: Canvas, subject: Subject, spine: float, frame: Frame) -> float:
    """x and the line down to the fork, through the activation that both paths share; gives the fork's height."""
    top = frame.top + 42
    canvas.text((spine, top - 6), "x", "variable", size=BIG, anchor="middle", formula=True)
    fork = top + frame.lead
    canvas.line([(spine, top), (spine, fork)], "flow")
    _, marks = steps(subject.block.preact)
    end = fork if subject.block.shortcut is not None else fork + frame.enter
    _along(canvas, (spine, (top + end) / 2), shape(subject.start), marks)
    if subject.block.shortcut is not None:
        canvas.circle((spine, fork), 2.6, "fork", fill=INK)
    if marks:
        canvas.text((spine - SIDE, fork + 5), "z", "variable", size=NORMAL, anchor="end", formula=True)
    return fork


def _draw_boxes(canvas: Canvas, lane: Lane, x: float, y: float, enter: float) -> float:
    """The branch's boxes and the arrows between them; gives the last one's lower edge."""
    for index, layer in enumerate(lane.boxes):
        above = lane.shapes[index] if index else ""
        y = _arrow(canvas, (x, y), STEP if index else enter, above, lane.marks[index])
        y = _draw_box(canvas, layer, (x, y), lane.width)
    return y


def _draw_box(canvas: Canvas, layer: Layer, top: Point, width: float) -> float:
    (x, y), kind, more = top, kind_of(layer), _more(layer)
    place = (x - width / 2, y, width, BOX)
    canvas.box(place, f"layer {kind}", fill=FILLS[kind], stroke=EDGES[kind])
    baseline = y + BOX / 2 + (-2 if more else 5)
    canvas.text((x, baseline), label(layer), "label", size=NORMAL, anchor="middle")
    if more:
        canvas.text((x, baseline + 14), more, "detail", size=11, anchor="middle", fill=GREY)
    return y + BOX


def _more(layer: Layer) -> str:
    """The second line of a box."""
    if isinstance(layer, Gate):
        return f"{layer.channels} → {layer.squeeze} → {layer.channels}"
    if isinstance(layer, Pad) and layer.in_channels != layer.out_channels:
        return "zeros on both sides" if layer.centred else "zeros at the end"
    return details(layer)


def _arrow(canvas: Canvas, start: Point, length: float, left: str, right: Sequence[str]) -> float:
    """An arrow downwards with what stands on either side of it; gives its tip's height."""
    x, y = start
    canvas.line([start, (x, y + length)], "flow", arrow=True)
    _along(canvas, (x, y + length / 2 - 2), left, right)
    return y + length


def _along(canvas: Canvas, middle: Point, left: str, right: Sequence[str]) -> None:
    x, y = middle[0], middle[1] + 4
    if left:
        canvas.text((x - SIDE, y), left, "shape", size=SMALL, anchor="end", fill=GREY)
    if right:
        canvas.text((x + SIDE, y), ", ".join(right), "mark", size=SMALL)


def _bracket(canvas: Canvas, edge: float, span: tuple[float, float], words: str) -> None:
    """A bracket to the left of the boxes over `span`, and what it holds together."""
    x, (top, bottom) = edge - 8, span
    canvas.line([(x, top), (x - 7, top), (x - 7, bottom), (x, bottom)], "bracket", stroke=RULE, radius=6)
    canvas.text((x - 14, (top + bottom) / 2 + 5), words, "formula", size=NORMAL, anchor="end", formula=True)


def _draw_shortcut(canvas: Canvas, subject: Subject, fork: Point, sum_at: float, edge: float) -> float:
    """From the fork around the branch, whose right edge is `edge`, to the addition; gives the rightmost point."""
    lane = _lane(subject.block.shortcut or (), subject.start, subject.shortcut)
    x, y = edge + 30 + lane.width / 2, fork[1]
    kind = shortcut_name(subject.block)

    def draw_line(points: list[Point]) -> None:
        canvas.line(points, f"skip {kind}", arrow=True, dashed=bool(lane.boxes), stroke=ARC, width=1.8, radius=14)

    points, room = [fork, (x, y)], (sum_at - y - BOX * len(lane.boxes)) / (len(lane.boxes) + 1)
    for index, layer in enumerate(lane.boxes):
        draw_line([*points, (x, y + room)])
        if index:
            _along(canvas, (x, y + room / 2 - 2), lane.shapes[index], lane.marks[index])
        y = _draw_box(canvas, layer, (x, y + room), lane.width)
        points = [(x, y)]
    draw_line([*points, (x, sum_at), (fork[0] + SUM, sum_at)])
    if lane.boxes:
        _along(canvas, (x, y + room / 2 - 2), lane.shapes[-1], lane.marks[-1])
        return x + lane.width / 2
    middle, name = (fork[1] + sum_at) / 2, "z" if subject.block.preact else "x"
    canvas.text((x + 12, middle - 2), name, "variable", size=BIG, formula=True)
    canvas.text((x + 12, middle + 15), kind, "shortcut", size=SMALL, fill=ARC)
    return x + 12 + text_width(kind, SMALL)


def _spoken(subjects: Sequence[Subject]) -> str:
    """The picture in words, with the exact counts."""
    parts = []
    for subject in subjects:
        names = ", ".join(box(layer) for layer in subject.block.branch)
        counts = f"{subject.params:,} params, {subject.macs:,} macs"
        parts.append(
            f"{subject.name}: y = {formula(subject.block)}, F = {names}; x is {shape(subject.start)}; {counts}."
        )
    return " ".join(parts)
