"""Costs: against torch's counter and the built network for every published design, and as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plusx import families
from plusx.cost import Cost, cost, costs
from plusx.design import BottleneckSpec, BuildingSpec, Design, SmallStem, Stage
from plusx.errors import DesignError, InputError
from plusx.ledger import Dtype, Part
from plusx.network import Network, build
from tests.golden.make_costs import FILE, golden

RANDOM_INPUTS = [(32, 32), (33, 47), (224, 160), (97, 301)]


def counted(net: Network, size: tuple[int, int]) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(torch.empty(1, net.design.stem.in_channels, *size, device="meta"))
    return counter


def test_the_golden_file_covers_every_published_design() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == golden()
    assert list(golden()) == list(families.names())


LONG = {"cifar_resnet1202", "cifar_preact1001"}
"""Of families whose shorter networks are counted in any case."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in families.names()]
)
def test_params_and_macs_are_torchs(name: str) -> None:
    net, expected = build(name, device="meta").eval(), json.loads(FILE.read_text(encoding="utf-8"))[name]
    assert sum(parameter.numel() for parameter in net.parameters()) == expected["params"]
    assert counted(net, cost(name).input).get_total_flops() == 2 * expected["macs"]


@pytest.mark.parametrize("size", RANDOM_INPUTS)
@pytest.mark.parametrize("name", ["resnet50d", "seresnet18", "resnetv2_50", "cifar_resnet20"])
def test_any_input_is_counted_exactly(name: str, size: tuple[int, int]) -> None:
    net, expected = build(name, device="meta").eval(), cost(name, size)
    assert counted(net, size).get_total_flops() == 2 * expected.macs
    features = net.features(torch.empty(1, 3, *size, device="meta"))
    assert [stage.shape for stage in expected.stages] == [tuple(feature.shape[1:]) for feature in features]


@pytest.mark.parametrize("name", ["resnet50d", "seresnet18", "resnetv2_50", "cifar_resnet20", "plain18"])
def test_every_part_is_counted_exactly(name: str) -> None:
    """A part's name is its module's; the addition has none, and a projection's norm is counted with its convolution."""
    net, expected = build(name, device="meta").eval(), cost(name)
    flops = counted(net, expected.input).get_flop_counts()
    parts: list[Part] = [*expected.network.parts, *expected.blocks, *expected.layers]
    for part in parts:
        if part.name.endswith("add"):
            continue
        module = net.get_submodule(part.name)
        assert sum(flops.get(f"Network.{part.name}", {}).values()) == 2 * part.macs, part.name
        params = sum(parameter.numel() for parameter in module.parameters())
        if part.name.endswith("shortcut.conv"):
            norm = net.get_submodule(part.name.replace("conv", "norm"))
            params += sum(parameter.numel() for parameter in norm.parameters())
        assert params == part.params, part.name


def test_activations_are_the_outputs_of_convolutions_and_linear_layers() -> None:
    net = build("seresnet18", device="meta").eval()
    outputs: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, output: outputs.append(output.numel()))
    net(torch.empty(1, 3, 224, 224, device="meta"))
    assert cost("seresnet18").activations == sum(outputs)


def test_table_1_of_the_paper() -> None:
    """34 with shortcuts that have no weights, as in its plain twin; 50 cut off, not rounded; see `cost.py`."""
    macs = {name: cost(name).macs / 1e9 for name in ("plain18", "plain34", "resnet34", "resnet50_v1")}
    assert (round(macs["plain18"], 1), round(macs["plain34"], 1)) == (1.8, 3.6)
    assert round(cost("resnet18").macs / 1e9, 1) == 1.8
    assert round(cost("resnet101_v1").macs / 1e9, 1) == 7.6
    assert round(cost("resnet152_v1").macs / 1e9, 1) == 11.3
    assert round(macs["resnet34"], 3) == 3.664  # 3.6 only when cut off, with projections
    assert round(macs["resnet50_v1"], 3) == 3.858
    assert int(10 * macs["resnet50_v1"]) == 38


@pytest.mark.parametrize(
    ("name", "field"),
    [("resnet18", 435), ("resnet34", 899), ("resnet50_v1", 483), ("resnet101_v1", 1027), ("resnet152_v1", 1507)],
)
def test_receptive_fields_that_others_published(name: str, field: int) -> None:
    """The three v1: Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019."""
    assert cost(name).receptive_field == field


def test_the_usual_input_depends_on_the_stem() -> None:
    assert (cost("resnet18").input, cost("cifar_resnet20").input) == ((224, 224), (32, 32))


def test_memory_scales_with_batch_and_dtype() -> None:
    one, eight = cost("resnet50"), cost("resnet50", batch=8)
    assert eight.inference_peak_bytes() == 8 * one.inference_peak_bytes()
    assert 7.9 * one.training_bytes() < eight.training_bytes() < 8 * one.training_bytes()
    assert one.training_bytes("bfloat16") > one.training_bytes() // 2  # indices and statistics do not shrink
    assert eight.macs == one.macs
    assert eight.macs_per_byte() > one.macs_per_byte()  # the weights are read once for all eight


def test_parts_add_up_to_the_whole() -> None:
    whole = cost("seresnet50", batch=3)
    for parts in (whole.network.parts, whole.layers):
        assert sum(part.params for part in parts) == whole.params
        assert sum(part.macs for part in parts) == whole.macs
        assert sum(part.activations for part in parts) == whole.activations
        assert sum(part.training_bytes(batch=3) for part in parts) == whole.training_bytes()
        assert max(part.inference_peak_bytes(batch=3) for part in parts) == whole.inference_peak_bytes()
    assert len(whole.blocks) == 16
    assert whole.stages[1].blocks == whole.blocks[3:7]


def small(block: BuildingSpec | BottleneckSpec) -> Design:
    mid = 8 if block.kind == "bottleneck" else None
    return Design(name="mine", stem=SmallStem(), stages=(Stage(depth=1, width=32, mid=mid, block=block),))


WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (
        "resnet50",
        16,
        InputError,
        "cost of resnet50: input 16 vanishes: the network divides it by 32; give at least 32, or a small stem",
    ),
    (
        "resnet50",
        (224, 31),
        InputError,
        "cost of resnet50: input 224×31 vanishes: the network divides it by 32; give at least 32, or a small stem",
    ),
    (
        "cifar_resnet20",
        3,
        InputError,
        "cost of cifar_resnet20: input 3 vanishes: the network divides it by 4; give at least 4",
    ),
    *(
        (
            "resnet18",
            wrong,
            InputError,
            f"cost of resnet18: input {wrong!r} is not a positive whole number of pixels, or two: height and width",
        )
        for wrong in (0, -32, True, 22.4, "224", (224,), (224, 0), (1, 2, 3))
    ),
    (
        "resnet5",
        224,
        DesignError,
        "no design is named 'resnet5'; did you mean 'resnet50'? (plusx list shows all)",
    ),
]


@pytest.mark.parametrize(("name", "size", "error", "message"), WRONG, ids=str)
def test_wrong_input_is_one_clear_line(name: str, size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        cost(name, size)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: 0 is not a positive whole number"),
        ({"detail": "layers"}, "detail: 'layers' is not one of stage, block, layer; did you mean 'layer'?"),
    ],
)
def test_wrong_options_are_one_clear_line(options: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        cost("resnet18", **options)
    assert str(caught.value) == message
    with pytest.raises(InputError, match="dtype: 'float8' is not one of float32, bfloat16"):
        cost("resnet18").training_bytes("float8")  # type: ignore[arg-type]


def test_a_table_shows_the_parts_and_the_whole() -> None:
    text = str(cost("resnet50"))
    assert all(part in text for part in ("stem", "stages.0", "stages.3", "head", "in all"))
    assert "25.6 M" in text
    assert "4.09 G" in text
    assert "3 × bottleneck" in text
    assert "stages.2.5" in str(cost("resnet50", detail="block"))
    layers = str(cost("resnet50d", detail="layer"))
    assert "stages.1.0.shortcut.pool" in layers
    assert max(map(len, layers.splitlines())) <= 120


def test_several_networks_stand_side_by_side() -> None:
    table = costs(["resnet18", small(BuildingSpec())])
    text = str(table)
    assert "resnet18" in text
    assert "mine" in text
    networks = table.to_dict()["networks"]
    assert [network["name"] for network in networks] == ["resnet18", "mine"]
    assert networks[0]["params"] == 11689512


@pytest.mark.parametrize("detail", ["stage", "block", "layer"])
def test_plain_data_is_json_with_units(detail: Any) -> None:
    known = cost("resnet18", (224, 192), detail=detail, batch=2)
    data = json.loads(json.dumps(known.to_dict()))
    assert data["input_shape"] == [3, 224, 192]
    assert data["training_bytes"]["bfloat16"] == known.training_bytes("bfloat16")
    assert set(data["inference_peak_bytes"]) == set(get_args(Dtype))
    assert [part["name"] for part in data["parts"]] == [part.name for part in known.rows()]
    assert sum(part["macs"] for part in data["parts"]) == data["macs"]
    assert data["parts"][-1]["receptive_field_px"] is None  # the head sees the whole image


def test_equal_costs_are_equal() -> None:
    assert cost("resnet18") == cost(families.design("resnet18"), 224)
    assert cost("resnet18") != cost("resnet18", 192)
    assert isinstance(cost("resnet18"), Cost)


def test_a_cost_is_known_without_torch() -> None:
    """And within 0.3 s of the import, on an idle machine; here with room for a busy one."""
    script = (
        "import sys, time, plusx; start = time.perf_counter(); print(plusx.cost('resnet50').macs);"
        "print(time.perf_counter() - start); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path("/"))
    macs, seconds, torch_too = ran.stdout.split()
    assert (macs, torch_too) == ("4089184256", "False")
    assert float(seconds) < 2
