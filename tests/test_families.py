"""The families: every name of the published tables, depths that do not fit, and the paper's numbers of layers."""

from collections.abc import Callable

import pytest

import plusx
from plusx import families, layers
from plusx.errors import DesignError

NAMES = """
resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_v1 resnet101_v1 resnet152_v1
resnet18d resnet34d resnet50d resnet101d resnet152d wide_resnet50_2 wide_resnet101_2
resnext50_32x4d resnext101_32x8d resnext101_64x4d seresnet18 seresnet34 seresnet50 seresnet101 seresnet152
resnetv2_50 resnetv2_101 resnetv2_152 plain18 plain34
cifar_resnet20 cifar_resnet32 cifar_resnet44 cifar_resnet56 cifar_resnet110 cifar_resnet1202
cifar_plain20 cifar_plain32 cifar_plain44 cifar_plain56 cifar_plain110
cifar_preact110 cifar_preact164 cifar_preact1001 wrn28_10 wrn16_8 wrn40_2
""".split()  # noqa: SIM905


def weighted_layers(name: str) -> int:
    """Convolutions and linear layers on the longest path: what a network's depth counts."""
    plan = layers.network(families.design(name))
    blocks = [layer for stage in plan.stages for block in stage for layer in block.branch]
    return sum(isinstance(layer, layers.Conv | layers.Linear) for layer in (*plan.stem, *blocks, *plan.head))


def test_every_published_name_is_there() -> None:
    assert list(families.names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_counts_its_layers_and_names_its_paper(name: str) -> None:
    design = families.design(name)
    assert design.name == name
    assert "arXiv" in families.citation(name)
    digits = "".join(c if c.isdigit() else " " for c in name.replace("resnetv2", "").replace("_v1", "")).split()
    depth, deep_stem = int(digits[0]), 2 if design.stem.kind == "deep" else 0
    # a wide network's depth counts its three projections, and not the classifier (arXiv 1605.07146 §2.2: 6n + 4)
    assert weighted_layers(name) == depth + deep_stem - (2 if name.startswith("wrn") else 0)


def test_names_take_patterns() -> None:
    assert families.names("wrn*") == ("wrn28_10", "wrn16_8", "wrn40_2")
    assert families.names("preact") == ("cifar_preact110", "cifar_preact164", "cifar_preact1001")
    assert families.names("nothing") == ()


def test_any_depth_of_a_family_by_number() -> None:
    assert [stage.depth for stage in families.cifar(depth=26).stages] == [4, 4, 4]
    assert [stage.depth for stage in families.cifar_preact(depth=29).stages] == [3, 3, 3]
    assert families.wrn(22, 4).name == "wrn22_4"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families.cifar(27), r"depth 27 is not 6n\+2; the nearest are 26 and 32"),
        (lambda: families.cifar(1), r"depth 1 is not 6n\+2; the nearest are 8 and 14"),
        (lambda: families.cifar_preact(111), r"depth 111 is not 9n\+2; the nearest are 110 and 119"),
        (lambda: families.wrn(29, 2), r"depth 29 is not 6n\+4; the nearest are 28 and 34"),
        (lambda: families.resnet(51), "depth: 51 is not one of 18, 34, 50, 101, 152"),
        (lambda: families.resnet(7), "depth: 7 is not one of 18, 34, 50, 101, 152"),
        (lambda: families.wide_resnet(18), "depth: 18 is not one of 50, 101, 152"),
        (lambda: families.design("resnet51"), "no design is named 'resnet51'; did you mean"),
        (lambda: families.design("zzz"), "no design is named 'zzz' "),
    ],
)
def test_a_depth_or_name_that_does_not_exist(call: object, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        call()  # type: ignore[operator]


def test_an_option_of_no_use_is_an_error() -> None:
    with pytest.raises(DesignError, match="stride_on: '1x1' is of no use"):
        families.resnet(18, stride_on="1x1")
    with pytest.raises(DesignError, match="block: 'x' is not one of building, bottleneck"):
        families.cifar_preact(110, block="x")  # type: ignore[arg-type]


def test_citations_tell_v1_from_v1_5_and_names_take_any_case() -> None:
    assert families.citation("resnet50") != families.citation("resnet50_v1")
    assert not any("`" in families.citation(name) for name in families.FAMILIES)
    assert families.names("RESNET50*")[0] == "resnet50"
    with pytest.raises(DesignError, match="did you mean 'resnet50'"):
        families.design("ResNet50")


@pytest.mark.parametrize("verb", [plusx.cost, plusx.build, plusx.show, plusx.draw, plusx.design])
def test_what_is_no_design_is_refused_by_every_verb(verb: Callable[[object], object]) -> None:
    with pytest.raises(DesignError, match=r"design: 3|named 3"):
        verb(3)
