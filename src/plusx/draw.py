"""Drawing: a Design as an SVG picture of the whole network, or of its block.

draw("resnet50").save("net.svg")                  stem, stages, head (draw_network.py)
draw("resnet50", block=True).save("block.svg")    one block, as the paper's Figure 2 and 5 (draw_block.py)
"""

from collections.abc import Iterator

from plusx import families, layers
from plusx.cost import Cost, cost
from plusx.design import Design
from plusx.draw_block import Subject, block_picture
from plusx.draw_network import network_picture
from plusx.errors import DesignError
from plusx.layers import BlockPlan
from plusx.svg import Drawing

Place = tuple[int, int]
"""A block by its stage and its index there, from 0, as in `stages.1.0`."""


def draw(
    design: Design | str, input: int | tuple[int, int] | None = None, *, block: bool | str | Place = False
) -> Drawing:
    """The network as a picture, or with `block` one of its blocks.

    `input` is the height and width of the images in pixels, as in `cost`. `block=True` draws the first block whose
    shortcut is the identity and, beside it, the first whose shortcut changes the shape; `block=(1, 0)` or `"1.0"` draws
    the first block of the second stage. Shapes stand on the arrows as C×H×W. Raises DesignError for an unknown name or
    block, InputError for an input that vanishes in the network.
    """
    design = families.find(design)
    costs = cost(design, input)
    if block is False:
        return network_picture(design, costs)
    every = dict(_blocks(design))
    places = _both_shortcuts(every) if block is True else (_place(block, every),)
    name = design.name or "a network"
    kinds = {"building": "building block", "bottleneck": "bottleneck"}
    title = f"{name}: {kinds[every[places[0]].kind]}"
    return block_picture(title, [_subject(place, every[place], costs) for place in places])


def _blocks(design: Design) -> Iterator[tuple[Place, BlockPlan]]:
    for stage, plan in enumerate(layers.network(design).stages):
        for index, block in enumerate(plan):
            yield (stage, index), block


def _both_shortcuts(every: dict[Place, BlockPlan]) -> tuple[Place, ...]:
    """The first block with an identity shortcut, and the first with the most layers on its shortcut.

    A network's first block may begin with an activation that the others lack: the identity of a later one comes first.
    """
    if every[0, 0].shortcut is None:
        return ((0, 0),)
    lengths = {place: len(block.shortcut or ()) for place, block in every.items()}
    identity = [place for place, length in lengths.items() if not length]
    changing = [place for place, length in lengths.items() if length and length == max(lengths.values())]
    identity.sort(key=lambda place: bool(every[place].preact))
    return (*identity[:1], *changing[:1])


def _place(given: str | Place, every: dict[Place, BlockPlan]) -> Place:
    """A block's place, checked."""
    parts = tuple(given.removeprefix("stages.").split(".")) if isinstance(given, str) else given
    try:
        stage, index = map(int, parts)
    except (TypeError, ValueError):
        raise DesignError(f"draw: block {given!r} is not a stage and a block in it, such as 1.0") from None
    if (stage, index) in every:
        return stage, index
    stages = max(every)[0]
    if not 0 <= stage <= stages:
        raise DesignError(f"draw: block {stage}.{index}: stage {stage} is not one of 0 to {stages}")
    last = max(place for place in every if place[0] == stage)[1]
    raise DesignError(f"draw: block {stage}.{index}: block {index} is not one of 0 to {last}, those of stage {stage}")


def _subject(place: Place, block: BlockPlan, costs: Cost) -> Subject:
    stage, index = place
    part = costs.stages[stage].parts[index]
    before = costs.stages[stage].parts[index - 1] if index else costs.stages[stage - 1] if stage else costs.stem
    named = {kind: [layer for layer in part.layers if f".{kind}" in layer.name] for kind in ("branch", "shortcut")}
    branch = tuple(layer.shape for layer in named["branch"] if layer.plan)  # stochastic depth has none
    shortcut = tuple(layer.shape for layer in named["shortcut"])
    name = f"stage {stage}, block {index}"
    drop = layers.drop_rate(costs.design, stage, index)
    return Subject(name, block, part.params, part.macs, before.shape, branch, shortcut, drop)
