"""The Design as a value: round trips, equality, digest, errors that name the place, and no torch."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusx import families, layers
from plusx.design import (  # every name a pasted repr may use
    BottleneckSpec,
    BuildingSpec,
    DeepStem,
    Design,
    Feature,
    Head,
    ImageNetStem,
    SmallStem,
    Stage,
)
from plusx.errors import DesignError

PASTE = {
    part.__name__: part
    for part in (BottleneckSpec, BuildingSpec, DeepStem, Design, Head, ImageNetStem, SmallStem, Stage)
}


@st.composite
def designs(draw: st.DrawFn) -> Design:
    """Valid designs of every kind: each stage with a block of its own."""
    stem: Any = draw(
        st.sampled_from([ImageNetStem(width=16), DeepStem(width=16, mid=(8, 24)), SmallStem(width=16, in_channels=1)])
    )
    stages = []
    for _ in range(draw(st.integers(1, 4))):
        block: BuildingSpec | BottleneckSpec
        order = draw(st.sampled_from(["original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact"]))
        shared: dict[str, Any] = {"order": order, "groups": draw(st.sampled_from([1, 2]))}
        skip = draw(st.booleans())
        shared |= {"shortcut": draw(st.sampled_from(["B", "C", "D"]))} if skip else {"skip": False}
        narrow = draw(st.booleans())
        block = (
            BottleneckSpec(**shared, stride_on=draw(st.sampled_from(["1x1", "3x3"])))
            if narrow
            else BuildingSpec(**shared)
        )
        stages.append(
            Stage(
                depth=draw(st.integers(1, 3)),
                width=draw(st.sampled_from([16, 32])),
                mid=8 if narrow else None,
                squeeze=draw(st.sampled_from([None, 4])),
                stride=draw(st.sampled_from([1, 2])),
                block=block,
            )
        )
    return Design(
        name=draw(st.text(max_size=8)), stem=stem, stages=tuple(stages), head=Head(classes=draw(st.integers(0, 5)))
    )


@given(designs())
def test_toml_json_and_repr_give_the_design_back(design: Design) -> None:
    assert Design.from_toml(design.to_toml()) == design
    assert Design.from_json(design.to_json()) == design
    assert eval(repr(design), PASTE) == design
    assert hash(Design.from_json(design.to_json())) == hash(design)


def test_a_shared_block_stands_once_in_toml() -> None:
    text = families.design("resnet50").to_toml()
    assert text.count("kind =") == 2
    assert '[block]\nkind = "bottleneck"' in text
    mixed = families.resnet(18)
    mixed = mixed.replace(
        stages=(*mixed.stages[:3], mixed.stages[3].replace(mid=64, block=BottleneckSpec(shortcut="C")))
    )
    assert "[stages.block]" in mixed.to_toml()
    assert Design.from_toml(mixed.to_toml()) == mixed


def test_the_example_of_the_readme_reads() -> None:
    design = Design.from_toml(
        """
        name = "mine"
        [stem]
        kind = "small"
        width = 32
        [block]
        kind = "building"
        [[stages]]
        depth = 2
        width = 32
        [[stages]]
        depth = 2
        width = 64
        stride = 2
        block = { kind = "bottleneck", shortcut = "D" }
        mid = 16
        """
    )
    assert [stage.block.kind for stage in design.stages] == ["building", "bottleneck"]
    assert design.features == (Feature(32, 1), Feature(64, 2))


def test_the_digest_is_frozen_and_ignores_the_name() -> None:
    """Files carry digests: these may never change."""
    golden = json.loads((Path(__file__).parent / "golden" / "digests.json").read_text())
    assert {name: families.design(name).digest for name in families.names()} == golden
    assert families.resnet(50, name="other").digest == families.resnet(50).digest
    assert len(set(golden.values())) == len(golden)


STEM = '[stem]\nkind = "imagenet"\n'
STAGE = '[block]\nkind = "building"\n[[stages]]\ndepth = 2\nwidth = 64\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STEM + STAGE + "stride = 3", "stages[0].stride: 3 is not one of 1, 2"),
        (STEM + STAGE + "strid = 2", "stages[0].strid: is not a known field; did you mean 'stride'?"),
        (STEM + STAGE + "mid = 16", "stages[0]: mid is not used by a building block"),
        (STEM + STAGE + "depth = 2", "not TOML"),
        (STAGE, "stem: is missing"),
        ('[stem]\nkind = "imagnet"\n' + STAGE, "stem: kind 'imagnet' is not one of"),
        ('[stem]\nkind = "imagenet"\nwdth = 3\n' + STAGE, "stem.wdth: is not a known field; did you mean 'width'?"),
        ('[stem]\nkind = "small"\nmid = [1, 2]\n' + STAGE, "stem.mid: is not a known field"),
        ("[stem]\nwidth = 3\n" + STAGE, "stem: needs a kind"),
        (STEM + STAGE.replace('"building"', '"bottleneck"'), "mid is missing: a bottleneck needs its inner channels"),
        (STEM + STAGE.replace('"building"', '"bilding"'), "did you mean 'building'?"),
        (STEM + STAGE.replace("width = 64", "width = -64"), "stages[0].width: -64: input should be greater than 0"),
        (STEM + STAGE.replace("width = 64", 'width = "64"'), "stages[0].width: '64': input should be a valid integer"),
        (STEM + STAGE.replace("width = 64", "width = true"), "stages[0].width: True"),
        (STEM + STAGE.replace('"building"', '"building"\nskip = false\nshortcut = "A"'), "no use for shortcut"),
        (STEM + STAGE.replace('"building"', '"building"\ngroups = 3'), "groups: 3 does not divide 64"),
        (
            STEM + STAGE.replace('"building"', '"building"\nshortcut = "identity"') + "stride = 2",
            "identity cannot take",
        ),
        (STEM + STAGE.replace('"building"', '"building"\nshortcut = "A"').replace("64", "32"), "cannot take 64 to 32"),
        (STEM + STAGE.replace('"building"', '"building"\nstochastic_depth = 1.0'), "stochastic_depth: 1.0"),
        (STEM + STAGE.replace('"building"', '"building"\norder = "preact"'), "order: 'preact' is not one of"),
        (STEM + STAGE.replace("depth = 2", "depth = 3000000"), "less than or equal to 10000"),
        (STEM + STAGE.replace("width = 64", "width = 9999999"), "less than or equal to 1048576"),
        (STEM + STAGE + "stride = 2\nfirst_dilation = 1", "first_dilation stands for a stride that was removed"),
        (STEM + "stages = []", "stages"),
        (STEM + "stages = 3", "stages"),
        (STEM + STAGE + '[stages.block]\nkind = "building"', "the shared one is not used"),
    ],
)
def test_a_wrong_design_is_one_line_that_names_the_place(text: str, message: str) -> None:
    with pytest.raises(DesignError) as caught:
        Design.from_toml(text, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_construction_raises_the_same_error() -> None:
    with pytest.raises(DesignError, match=r"Stage: stride: 3 is not one of 1, 2"):
        Stage(depth=1, width=8, stride=3, block=BuildingSpec())  # type: ignore[arg-type]
    with pytest.raises(DesignError, match=r"Design: stages\[0\].block"):
        Design(stem=SmallStem(), stages=(Stage(depth=1, width=8, block=BuildingSpec(shortcut="A")),))


def test_reading_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"reading .*nothing\.toml: No such file"):
        Design.read(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DesignError, match="not UTF-8"):
        Design.read(tmp_path / "binary.toml")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DesignError, match="expected a table"):
        Design.read(tmp_path / "list.json")


@given(st.text(max_size=60))
def test_any_text_gives_a_design_or_a_design_error(text: str) -> None:
    for read in (Design.from_toml, Design.from_json):
        with suppress(DesignError):
            assert isinstance(read(text), Design)


def test_designs_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        families.resnet(18).name = "other"


def test_output_stride_turns_stride_into_dilation() -> None:
    design = families.resnet(50)
    assert [f.stride for f in design.features] == [4, 8, 16, 32]
    at8 = design.with_output_stride(8)
    assert [(stage.stride, stage.dilation) for stage in at8.stages] == [(1, 1), (2, 1), (1, 2), (1, 4)]
    assert [f.stride for f in at8.features] == [4, 8, 8, 8]
    assert design.with_output_stride(32) == design
    assert [stage.first_dilation for stage in at8.stages] == [None, None, 1, 2]
    assert at8.with_output_stride(8) == at8
    with pytest.raises(DesignError, match="output_stride: 12 is not one of 4, 8, 16, 32"):
        design.with_output_stride(12)
    with pytest.raises(DesignError, match="dilated already"):
        at8.with_output_stride(4)


def test_dilation_by_hand_reaches_every_3x3_and_adds_no_projection() -> None:
    stages = tuple(stage.replace(dilation=2) for stage in families.resnet(18).stages[:1])
    plan = layers.network(families.resnet(18).replace(stages=stages)).stages[0].first
    assert [conv.dilation for conv in plan.branch if isinstance(conv, layers.Conv)] == [2, 2]
    assert plan.shortcut == ()


def test_designs_and_families_import_no_torch() -> None:
    code = "import sys, plusx.families, plusx.layers, plusx.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[stem]\nkind = "small"\n'
            '[block]\nkind = "building"\nskip = false\nshortcut = "A"\n[[stages]]\ndepth = 1\nwidth = 8',
            r"\.block: skip",
        ),
        ("[stem]\nkind = 2020-01-01", "2020-01-01 is a date, which no field takes"),
    ],
)
def test_the_place_in_an_error_is_one_the_user_wrote(text: str, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        Design.from_toml(text)
