"""The tree of a network: its shapes and counts are the network's, equal blocks stand once, and it fits a terminal."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

import plusx
from plusx import families
from plusx.design import BottleneckSpec, BuildingSpec, Design, SmallStem, Stage
from plusx.errors import DesignError, InputError
from plusx.notation import count, shape
from plusx.show import Node, Tree

NAMES = families.names()


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from nodes(part)


def line(tree: Tree, what: str) -> str:
    """The printed line that holds `what`, its white space made single."""
    return next(" ".join(row.split()) for row in str(tree).splitlines() if what in row)


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_cost_on_every_level(name: str) -> None:
    cost, root = plusx.cost(name), plusx.show(name).root
    assert (root.params, root.macs) == (cost.params, cost.macs)
    assert [(part.params, part.macs) for part in root.parts] == [
        (part.params, part.macs) for part in (cost.stem, *cost.stages, cost.head)
    ]
    for node in nodes(root):
        if node.parts:
            assert node.params == node.times * sum(part.params for part in node.parts)
            assert node.macs == node.times * sum(part.macs for part in node.parts)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("resnetv2_50", 161), ("cifar_resnet20", 32)])
def test_shapes_are_those_of_the_real_network(name: str, size: int) -> None:
    import torch

    net = plusx.build(name, device="meta")
    features = net.features(torch.empty(1, 3, size, size, device="meta"))
    root = plusx.show(name, size).root
    assert [list(part.output) for part in root.parts[1:-1]] == [list(out.shape[1:]) for out in features]
    assert root.output == (net.design.head.classes,)


def test_a_tree_reads_as_the_field_writes() -> None:
    tree = plusx.show("resnet50")
    assert line(tree, "50 layers deep").startswith("resnet50, 50 layers deep, on 3×224×224 1000 25.6 M 4.09 G 100.0 %")
    assert line(tree, "7×7") == "│ ├─ 7×7 conv, 3 → 64, stride 2, norm, relu 64×112×112 9.54 K 118 M"
    assert line(tree, "stage 2") == "├─ stage 2: 6 bottlenecks, stride 2 1024×14×14 7.10 M 1.46 G 35.8 %"
    assert line(tree, "128 → 128, stride 2").startswith("│ │ ├─ 3×3 conv, 128 → 128, stride 2, norm, relu 128×28×28")
    assert line(tree, "shortcut: 1×1 conv, 256").startswith("│ │ ├─ shortcut: 1×1 conv, 256 → 512, stride 2, norm")
    assert line(tree, "blocks 1 to 5").startswith("│ └─ blocks 1 to 5: relu(F(x) + x) × 5 1024×14×14")
    assert line(tree, "block 0: relu(F(x) + W x)")
    assert line(tree, "fc, 2048").startswith("└─ fc, 2048 → 1000 1000 2.05 M 2.05 M")


@pytest.mark.parametrize(
    ("name", "formulas"),
    [
        ("resnet18", {"relu(F(x) + x)", "relu(F(x) + W x)"}),
        ("resnet50d", {"relu(F(x) + x)", "relu(F(x) + W x)", "relu(F(x) + W pool(x))"}),
        ("cifar_resnet20", {"relu(F(x) + x)", "relu(F(x) + pad(x))"}),
        ("plain34", {"relu(F(x))"}),
        ("resnetv2_50", {"F(x) + x", "F(z) + W z, z = relu(norm(x))"}),
        ("cifar_preact110", {"F(z) + z, z = relu(norm(x))", "F(x) + x", "F(x) + pad(x)"}),
    ],
)
def test_each_block_has_its_formula(name: str, formulas: set[str]) -> None:
    blocks = [node.what for stage in plusx.show(name, detail="block").root.parts[1:-1] for node in stage.parts]
    assert {what.split(": ", 1)[1].split("  ×")[0] for what in blocks} == formulas


@pytest.mark.parametrize(
    ("order", "formula"),
    [("bn_after_add", "relu(norm(F(x) + x))"), ("relu_before_add", "F(x) + x"), ("relu_preact", "F(x) + x")],
)
def test_the_ablations_have_their_formulas(order: str, formula: str) -> None:
    block = BuildingSpec.from_dict({"order": order})
    design = Design(stem=SmallStem(), stages=(Stage(depth=2, width=16, block=block),))
    assert formula in str(plusx.show(design))


def test_unusual_layers_are_named() -> None:
    block = BottleneckSpec(groups=4, shortcut="A-centred", stochastic_depth=0.2)
    stages = (
        Stage(depth=2, width=32, mid=16, squeeze=8, block=block),
        Stage(depth=1, width=64, mid=16, dilation=2, stride=2, block=block),
        Stage(depth=1, width=64, mid=16, dilation=2, stride=2, block=block),
    )
    text = str(plusx.show(Design(stem=SmallStem(), stages=stages)))
    for words in (
        "3×3 conv, 16 → 16, 4 groups",
        "squeeze-excitation, 32 → 8 → 32",
        "shortcut: zeros on both sides, 16 → 32",
        "shortcut: zeros on both sides, 32 → 64, stride 2",
        "stride 2, 4 groups, dilation 2",
        "shortcut: subsample, stride 2",
        "stochastic depth",
    ):
        assert words in text


def test_equal_blocks_stand_once() -> None:
    tree = plusx.show("cifar_resnet1202")
    assert [part.times for stage in tree.root.parts[1:-1] for part in stage.parts] == [200, 1, 199, 1, 199]
    assert len(str(tree).splitlines()) < 60
    assert "1202 layers deep" in str(tree)


@pytest.mark.parametrize("name", ["resnet18", "resnet152", "seresnet50", "resnext101_64x4d", "wrn28_10", "plain34"])
def test_it_fits_80_columns_with_every_number_whole(name: str) -> None:
    tree = plusx.show(name)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(tree)
    narrow, every = capture.get().splitlines(), list(nodes(tree.root))
    assert max(map(len, narrow)) <= 80
    assert max(map(len, str(tree).splitlines())) <= 110
    for row, node in zip(narrow[1:-1], every, strict=True):
        numbers = [shape(node.output), *(count(number) for number in (node.params, node.macs) if number)]
        assert all(f" {number} " in f"{row} " for number in numbers)


@pytest.mark.parametrize("detail", ["stage", "block", "layer"])
def test_json_holds_the_tree(detail: Any) -> None:
    data = plusx.show("resnet18", detail=detail).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert (data["params"], data["macs"], data["layers_deep"]) == (11_689_512, 1_814_073_344, 18)
    assert data["output_shape"] == [1000]
    depth, part = 0, data
    while part["parts"]:
        depth, part = depth + 1, part["parts"][1 if depth == 0 else 0]
    assert depth == {"stage": 1, "block": 2, "layer": 3}[detail]


def test_the_lines_of_stem_stages_and_head_add_up_to_the_whole() -> None:
    root = plusx.show("resnet50", detail="stage").root
    assert sum(part.params for part in root.parts) == root.params == 25_557_032
    assert count(root.macs) == "4.09 G"


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"show: detail 'layers' is not one of stage, block, layer; did you mean 'layer'\?"
    ):
        plusx.show("resnet18", detail="layers")  # type: ignore[arg-type]
    with pytest.raises(DesignError, match="resnet18"):
        plusx.show("resnet81")
    with pytest.raises(InputError, match="vanishes"):
        plusx.show("resnet18", 8)


def test_showing_needs_no_torch() -> None:
    code = "import sys, plusx; str(plusx.show('resnet50')); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_cannot_command_the_terminal_or_the_markup() -> None:
    design = plusx.design("resnet18").replace(name="[red]a\x1b[31m\nb")
    text = str(plusx.show(design))
    assert "[red]a\ufffd[31m\ufffdb, 18 layers deep" in text
    assert "\x1b" not in text
