"""Pictures: their numbers and shapes are the network's, nothing overlaps, and files that are no pictures are kept."""

import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from PIL import ImageFont
from torch import Tensor, nn

import plusx
from plusx import families
from plusx.design import BottleneckSpec, BuildingSpec, DeepStem, Design, Head, Order, Shortcut, SmallStem, Stage
from plusx.errors import DesignError, InputError, PlusxError
from plusx.notation import count, shape, share
from plusx.svg import Canvas, Drawing

NAMES = families.names()
SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def elements(drawing: Drawing, kind: str) -> list[ElementTree.Element]:
    """The elements that have `kind` among their classes."""
    root = ElementTree.fromstring(drawing.svg)
    return [element for element in root.iter() if kind in element.get("class", "").split()]


def texts(drawing: Drawing, kind: str) -> list[str]:
    return ["".join(element.itertext()) for element in elements(drawing, kind)]


# ---- geometry: what a reader would see as a collision ------------------------------------------------------------


def text_box(element: ElementTree.Element) -> Box:
    """Measured with Pillow's own font, not with the estimate that the layout uses."""
    size, x, y = (float(element.get(key, "nan")) for key in ("font-size", "x", "y"))
    width = ImageFont.load_default(size).getlength("".join(element.itertext()))
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")]
    return left, y - 0.76 * size, left + width, y + 0.22 * size


def rect_box(element: ElementTree.Element) -> Box:
    x, y, w, h = (float(element.get(key, "nan")) for key in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a: Box, b: Box) -> bool:
    return b[0] <= a[0] and a[2] <= b[2] and b[1] <= a[1] and a[3] <= b[3]


def strokes(element: ElementTree.Element) -> list[Box]:
    """The boxes of the path's straight pieces; its quarter turns count as their corners."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.get("d", ""))]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])) for a, b in pairwise(points)]


def collisions(drawing: Drawing) -> list[str]:
    """Texts that meet each other, a line, the edge of a box or of the picture; lines that run through boxes."""
    root = ElementTree.fromstring(drawing.svg)
    words = [(text_box(e), "".join(e.itertext())) for e in root.iter(f"{SVG}text")]
    rects = [(rect_box(e), e.get("class", "")) for e in root.iter(f"{SVG}rect") if e.get("class") != "paper"]
    lines = [(line, e.get("class", "")) for e in root.iter(f"{SVG}path") for line in strokes(e)]
    found = [f"{a!r} on {b!r}" for (p, a), (q, b) in combinations(words, 2) if overlap(p, q)]
    found += [
        f"{a!r} over the edge of {b}" for (p, a), (q, b) in product(words, rects) if overlap(p, q) and not inside(p, q)
    ]
    found += [f"{a!r} on a line ({b})" for (p, a), (q, b) in product(words, lines) if overlap(p, q)]
    paper = (0.0, 0.0, drawing.width, drawing.height)
    found += [f"{a!r} off the paper" for p, a in [*words, *rects, *lines] if not inside(p, paper)]
    solid = [((x + 1, y + 1, z - 1, w - 1), kind) for (x, y, z, w), kind in rects if kind.startswith("layer")]
    return found + [f"a line ({b}) through {a}" for (p, a), (q, b) in product(solid, lines) if overlap(p, q)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_in_the_picture_of_a_network(name: str) -> None:
    assert collisions(plusx.draw(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_in_the_picture_of_a_block(name: str) -> None:
    assert collisions(plusx.draw(name, block=True)) == []


VARIANTS = [
    kind(order=order, shortcut=shortcut)
    for kind, order, shortcut in product((BuildingSpec, BottleneckSpec), get_args(Order), get_args(Shortcut))
    if shortcut != "identity"
]


def varied(block: BuildingSpec | BottleneckSpec, *, squeeze: int | None = None, name: str = "") -> Design:
    mid = 32 if block.kind == "bottleneck" else None
    stages = [
        Stage(depth=1, width=32, squeeze=squeeze, block=block, mid=mid),
        Stage(depth=3, width=64, stride=2, squeeze=squeeze, block=block, mid=mid),
        Stage(depth=2, width=128, stride=2, dilation=2, squeeze=squeeze, block=block, mid=mid),
    ]
    return Design(name=name, stem=DeepStem(width=32), stages=tuple(stages), head=Head(classes=7))


@pytest.mark.parametrize("block", VARIANTS, ids=lambda b: f"{b.kind}-{b.order}-{b.shortcut}")
def test_nothing_overlaps_in_any_order_and_shortcut(block: BuildingSpec | BottleneckSpec) -> None:
    for squeeze in (None, 8):
        design = varied(block.replace(groups=4), squeeze=squeeze)
        places = [(stage, index) for stage, depth in enumerate((1, 3, 2)) for index in range(depth)]
        pictures = [plusx.draw(design), *(plusx.draw(design, block=place) for place in places)]
        assert [collisions(picture) for picture in pictures] == [[]] * len(pictures)


def test_the_overlap_check_sees_planted_faults() -> None:
    drawing = plusx.draw("resnet18")
    canvas = Canvas()
    canvas.text((60, 100), "some words", "label")
    canvas.text((100, 104), "more words", "label")
    canvas.box((100, 200, 80, 30), "layer conv3")
    canvas.text((90, 220), "over the edge", "label")
    canvas.line([(50, 300), (200, 300)], "flow")
    canvas.text((60, 303), "struck through", "label")
    canvas.line([(50, 215), (200, 215)], "flow")
    canvas.text((280, 40), "off", "label")
    found = " ".join(collisions(canvas.drawing(290, 400, "", "")))
    for fault in ("'more words'", "over the edge of layer", "'struck through' on a line", "through layer", "'off' off"):
        assert fault in found
    larger = drawing.svg.replace('font-size="11" fill="#a63c06"', 'font-size="20" fill="#a63c06"', 1)
    assert larger != drawing.svg
    assert collisions(Drawing(larger, drawing.width, drawing.height))


# ---- numbers and shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_cost(name: str) -> None:
    cost, picture = plusx.cost(name), plusx.draw(name)
    parts = [cost.stem, *cost.stages, cost.head]
    assert texts(picture, "params") == [count(part.params) for part in parts]
    assert texts(picture, "macs") == [count(part.macs) for part in parts]
    assert texts(picture, "share") == [share(part.macs, cost.macs) for part in parts]
    description = ElementTree.fromstring(picture.svg).findtext(f"{SVG}desc") or ""
    assert description.startswith(f"{cost.params:,} params and {cost.macs:,} macs in all.")


def hooked(name: str, size: int) -> dict[str, str]:
    """The shape that each module of the real network gives, without the batch; run on torch's meta device."""
    import torch

    net, seen = plusx.build(name, device="meta"), dict[str, str]()

    def note(path: str) -> None:
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            seen[path] = shape(out.shape[1:])

        net.get_submodule(path).register_forward_hook(hook)

    for path, _ in net.named_modules():
        note(path)
    net(torch.empty(1, 3, size, size, device="meta"))
    return seen


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 224), ("resnet50d", 161), ("resnetv2_50", 224), ("cifar_resnet20", 32), ("plain34", 97)],
)
def test_shapes_on_the_arrows_are_those_of_the_real_network(name: str, size: int) -> None:
    real, design = hooked(name, size), plusx.design(name)
    drawn = texts(plusx.draw(name, size), "shape")
    stem = [f"3×{size}×{size}", *(real[f"stem.{i}"] for i in range(len(plusx.build(name, device="meta").stem)))]
    stages = []
    for index, stage in enumerate(design.stages):
        out = real[f"stages.{index}"]
        first_differs = stage.stride == 2 or (index == 0 and f"stages.{index}.0.shortcut.conv" in real)
        stages += [out, out] if first_differs else [out]
    assert drawn == [*stem, *stages, real["head.pool"], real["head.fc"]]


@pytest.mark.parametrize(
    ("name", "place"),
    [("resnet18", "1.0"), ("resnet50", "1.0"), ("resnet50d", "1.0"), ("seresnet50", "3.2"), ("plain18", "1.0")],
)
def test_shapes_in_a_block_are_those_of_the_real_network(name: str, place: str) -> None:
    real, block = hooked(name, 224), f"stages.{place}"
    drawn = texts(plusx.draw(name, 224, block=place), "shape")
    stage, index = map(int, place.split("."))
    start = real[f"stages.{stage}.{index - 1}"] if index else real[f"stages.{stage - 1}"]
    branch = [real[f"{block}.branch.{i}"] for i in range(6) if f"{block}.branch.{i}" in real]
    shortcut = [real[p] for p in (f"{block}.shortcut.pool", f"{block}.shortcut.conv") if p in real]
    ends = [] if name.startswith("plain") else [real[block]]
    assert Counter(drawn) == Counter([start, *branch, *shortcut, *ends])
    assert drawn[0] == start


def test_a_block_states_its_params_and_macs() -> None:
    part = plusx.cost("resnet50").stages[2].parts[0]
    assert texts(plusx.draw("resnet50", block=(2, 0)), "costs") == [
        f"{count(part.params)} params · {count(part.macs)} macs"
    ]


# ---- what is drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "boxes", "identity", "projection", "times"),
    [
        # stem 2, head 2; in each stage of building blocks 2 + 2, of bottlenecks 3 + 3
        ("resnet18", 4 + 2 + 3 * 4, 4, 3, ["× 2"]),
        ("resnet34", 4 + 2 + 3 * 4, 4, 3, ["× 3", "× 3", "× 5", "× 2"]),
        ("resnet50", 4 + 4 * 6, 4, 4, ["× 2", "× 3", "× 5", "× 2"]),
        ("resnet152", 4 + 4 * 6, 4, 4, ["× 2", "× 7", "× 35", "× 2"]),
        ("seresnet50", 4 + 4 * 8, 4, 4, ["× 2", "× 3", "× 5", "× 2"]),
        ("plain34", 4 + 2 + 3 * 4, 0, 0, ["× 3", "× 3", "× 5", "× 2"]),
    ],
)
def test_equal_blocks_are_drawn_once(name: str, boxes: int, identity: int, projection: int, times: list[str]) -> None:
    picture = plusx.draw(name)
    assert len(elements(picture, "layer")) == boxes
    assert len(elements(picture, "identity")) == identity
    assert len(elements(picture, "projection")) == projection
    assert texts(picture, "times") == times


def test_identity_arcs_are_solid_and_the_others_dashed() -> None:
    for name in ("resnet50", "cifar_resnet110", "resnet50d"):
        arcs = elements(plusx.draw(name), "skip")
        assert {("identity" in arc.get("class", ""), "stroke-dasharray" in arc.attrib) for arc in arcs} == {
            (True, False),
            (False, True),
        }


def test_the_deepest_network_is_no_larger_a_picture_than_a_shallow_one() -> None:
    assert plusx.draw("cifar_resnet1202").height == plusx.draw("cifar_resnet20").height


def test_a_block_is_drawn_as_in_the_papers_figure() -> None:
    picture = plusx.draw("resnet50", block=True)
    assert texts(picture, "label") == ["1×1, 64", "3×3, 64", "1×1, 256", "1×1, 64", "3×3, 64", "1×1, 256", "1×1, 256"]
    assert texts(picture, "mark")[:4] == ["norm, relu", "norm, relu", "norm", "relu"]
    formulas = texts(picture, "formula")
    assert "F(x) + x" in formulas
    assert "y = relu(F(x) + W x)" in formulas
    assert len(elements(picture, "sum")) == 2


def test_a_preactivated_block_activates_before_its_convolutions() -> None:
    identity, projecting = (plusx.draw("resnetv2_50", block=place) for place in ((0, 1), (0, 0)))
    assert texts(identity, "mark") == ["norm, relu"] * 3
    assert "y = F(x) + x" in texts(identity, "formula")
    assert "y = F(z) + W z, z = relu(norm(x))" in texts(projecting, "formula")


def test_both_shortcuts_stand_side_by_side() -> None:
    def drawn(name: str) -> list[str]:
        return texts(plusx.draw(name, block=True), "name")

    assert drawn("resnet18") == ["stage 0, block 0", "stage 1, block 0"]
    assert drawn("resnet50") == ["stage 0, block 1", "stage 0, block 0"]
    assert drawn("resnet50d") == ["stage 0, block 1", "stage 1, block 0"]  # where it pools
    assert drawn("cifar_preact110") == ["stage 0, block 1", "stage 1, block 0"]  # not the one that starts the network
    assert drawn("plain18") == ["stage 0, block 0"]


def test_a_plain_block_has_no_addition() -> None:
    picture = plusx.draw("plain18", block=True)
    assert elements(picture, "sum") == elements(picture, "skip") == []
    assert "y = relu(F(x))" in texts(picture, "formula")


def test_shortcut_d_shows_its_pooling_and_a_its_padding() -> None:
    assert "2×2 avg pool, /2" in texts(plusx.draw("resnet50d", block=True), "label")
    assert "pad to 32, /2" in texts(plusx.draw("cifar_resnet20", block=True), "label")


def test_the_same_design_gives_the_same_bytes() -> None:
    assert plusx.draw("resnet50") == plusx.draw(plusx.design("resnet50"))


# ---- names, files, wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["<b>&\"'", "]]>", "残差网络", "tab\tnew\nline\x00\x1b", "x" * 80, "\ud800"])
def test_any_name_gives_valid_xml_without_overlaps(name: str) -> None:
    design = plusx.design("resnet18").replace(name=name)
    for picture in (plusx.draw(design), plusx.draw(design, block=True)):
        assert collisions(picture) == []
        picture.svg.encode()
    clean = "".join(c if c.isprintable() else "\ufffd" for c in name)
    assert texts(plusx.draw(design), "title") == [clean]


def test_a_design_of_one_stage_without_classes_or_name() -> None:
    design = Design(stem=SmallStem(), stages=(Stage(depth=1, width=16, block=BuildingSpec()),), head=Head(classes=0))
    assert collisions(plusx.draw(design)) == collisions(plusx.draw(design, block=True)) == []
    assert texts(plusx.draw(design), "shape")[-1] == "16"


def test_save_writes_and_replaces_pictures_only(tmp_path: Path) -> None:
    drawing, path, design = plusx.draw("resnet18"), tmp_path / "net.svg", tmp_path / "design.toml"
    assert drawing.save(path) == path
    assert path.read_text(encoding="utf-8") == drawing.svg
    plusx.draw("resnet34").save(path)
    assert path.read_text(encoding="utf-8") != drawing.svg
    design.write_text("name = 'mine'\n")
    notes = tmp_path / "notes.svg"
    notes.write_text("my notes")
    for wrong in (design, notes, tmp_path / "net.png", tmp_path / "net", tmp_path / "no" / "net.svg", tmp_path):
        with pytest.raises(InputError, match=re.escape(f"drawing to {wrong}")) as caught:
            drawing.save(wrong)
        assert "\n" not in str(caught.value)
    assert design.read_text() == "name = 'mine'\n"
    assert notes.read_text() == "my notes"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["design.toml", "net.svg", "notes.svg"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(PlusxError, match=r"drawing to .*net\.svg: No space left on device"):
        plusx.draw("resnet18").save(tmp_path / "net.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((4, 0), "stage 4 is not one of 0 to 3"),
        ((0, 2), "block 2 is not one of 0 to 1"),
        ("x", "is not a stage and a block"),
        ("1", "is not a stage and a block"),
        ((-1, 0), "stage -1 is not one of"),
    ],
)
def test_a_block_that_is_not_there_is_named(block: str | tuple[int, int], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        plusx.draw("resnet18", block=block)


def test_unknown_names_and_vanishing_inputs_are_named() -> None:
    with pytest.raises(DesignError, match="resnet50"):
        plusx.draw("resnet5O")
    with pytest.raises(InputError, match="vanishes"):
        plusx.draw("resnet50", 16)


def test_drawing_needs_no_torch() -> None:
    draws = "plusx.draw('resnet50'); plusx.draw('resnet50', block=True)"
    code = f"import sys, plusx; {draws}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_blocks_that_differ_are_drawn_differently() -> None:
    """Where the zeros go, and how often a branch is dropped."""
    stages = families.cifar(20).stages

    def drawn(**block: Any) -> str:
        changed = tuple(stage.replace(block=stage.block.replace(**block)) for stage in stages)
        return plusx.draw(families.cifar(20).replace(stages=changed), block="1.0").svg

    assert "zeros at the end" in drawn()
    assert "zeros on both sides" in drawn(shortcut="A-centred")
    assert "drop 8.89 %" in drawn(stochastic_depth=0.2)
