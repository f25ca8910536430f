"""The article's point as a table."""

import json
from typing import Any

import pytest
import torch

from plusx.blocks import Bottleneck, BuildingBlock
from plusx.compare import STEP, Candidate, compare
from plusx.errors import DesignError


def built(candidate: Candidate) -> torch.nn.Module:
    if candidate.kind == "building":
        return BuildingBlock(candidate.width)
    return Bottleneck(candidate.width, candidate.width // 4)


def test_at_equal_width_a_bottleneck_takes_a_seventeenth() -> None:
    pair = compare(width=256).pairings[0]
    assert (pair.first.width, pair.second.width, pair.second.mid) == (256, 256, 64)
    assert pair.first.cost.macs == 14 * 14 * 2 * 9 * 256 * 256
    assert pair.second.cost.macs == 14 * 14 * (2 * 256 * 64 + 9 * 64 * 64)
    assert round(pair.first.cost.macs / pair.second.cost.macs) == 17


@pytest.mark.parametrize("kinds", [("building", "bottleneck"), ("bottleneck", "building")])
@pytest.mark.parametrize("width", [64, 100, 256, 1024])
def test_the_other_width_is_the_nearest_one(kinds: tuple[str, str], width: int) -> None:
    for pair in compare(*kinds, width=width, input=7).pairings[1:]:
        target = getattr(pair.first.cost, pair.equal)
        found = getattr(pair.second.cost, pair.equal)
        assert pair.ratio == found / target
        for other in (pair.second.width - STEP, pair.second.width + STEP):
            if other >= STEP:
                near = compare(kinds[1], kinds[1], width=other, input=7).pairings[0].first
                assert abs(getattr(near.cost, pair.equal) - target) >= abs(found - target)


def test_params_are_those_of_the_blocks() -> None:
    for pair in compare(width=64).pairings:
        for candidate in (pair.first, pair.second):
            assert candidate.cost.params == sum(p.numel() for p in built(candidate).parameters())


def test_it_says_so_in_one_line() -> None:
    known = compare()
    line = "At 256 channels a bottleneck block takes 1/17 of the macs and params of a building block; for the same macs"
    assert known.reading == f"{line} it has 1056 channels."
    backwards = compare("bottleneck", "building", width=64).reading
    assert "takes 17 times the macs and 16 times the params of a bottleneck block" in backwards


def test_it_reads_as_a_table_and_as_json() -> None:
    known = compare()
    text = str(known)
    assert all(shown in text for shown in ("1.18 M", "70.4 K", "13.6 M", "231 M", "1056", "264"))
    data = json.loads(json.dumps(known.to_dict()))
    assert [pairing["equal"] for pairing in data["pairings"]] == ["width", "macs", "params"]
    assert data["pairings"][0]["second"]["params"] == 70400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": "bulding"}, "compare: block 'bulding' is not one of building, bottleneck; did you mean 'building'?"),
        ({"second": "x"}, "compare: block 'x' is not one of building, bottleneck"),
        ({"width": 0}, "compare: width 0 is not a positive whole number"),
        ({"width": 30}, "compare: width 30 is not a multiple of 4: a bottleneck's inner width is a quarter"),
        ({"input": 0}, "compare: input 0 is not a positive whole number of pixels, or two: height and width"),
        (
            {"input": (7, 7, 7)},
            "compare: input (7, 7, 7) is not a positive whole number of pixels, or two: height and width",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DesignError) as caught:
        compare(**arguments)
    assert str(caught.value) == message
