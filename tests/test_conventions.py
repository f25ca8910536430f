"""The conventions against the tools that have them."""

import json
import logging
from typing import Any

import pytest
import torch

from plusx.conventions import explain
from plusx.network import build

NAMES = [
    "resnet18",
    "resnet50",
    "resnet50d",
    "seresnet18",
    "resnetv2_50",
    "resnext50_32x4d",
    "plain18",
    "cifar_resnet20",
]


def number(name: str, key: str) -> int:
    data = explain(name).to_dict()
    value: int = (data["counts"] | data["memory_bytes"])[key]
    return value


def image(name: str) -> torch.Tensor:
    return torch.zeros(1, *explain(name).cost.input_shape)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # fvcore traces with a deprecated torch.jit
def test_fvcore_prints_this(name: str, training: bool) -> None:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    batch = torch.cat([image(name)] * 2)  # batch norm trains on no single pixel
    theirs = FlopCountAnalysis(build(name, seed=0).train(training), batch).total()
    assert theirs == 2 * number(name, "fvcore_training" if training else "fvcore")


@pytest.mark.parametrize("name", NAMES)
def test_torchinfo_prints_this(name: str) -> None:
    from torchinfo import summary

    theirs = summary(build(name, seed=0).eval(), input_data=image(name), verbose=0)
    assert theirs.total_mult_adds == number(name, "torchinfo")
    assert theirs.total_output_bytes == number(name, "torchinfo_pass")


def test_torchvision_documents_macs() -> None:
    """Its `_ops`, in 10⁹, with three digits."""
    from torchvision.models import get_model_weights

    shared = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    shared += ["wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
    for name in shared:
        printed: Any = next(iter(get_model_weights(name))).meta["_ops"]
        assert printed == round(number(name, "macs") / 1e9, 3), name


def test_both_strides_of_resnet50() -> None:
    ours, papers = explain("resnet50").to_dict(), explain("resnet50_v1").to_dict()
    assert ours["counts"]["stride_on_1x1"] == papers["macs"] == 3857973248
    assert papers["counts"]["stride_on_3x3"] == ours["macs"] == 4089184256
    assert ours["params"] == papers["params"]
    assert "stride_on_1x1" not in explain("resnet18").to_dict()["counts"]


def test_without_projections_resnet18_is_its_plain_twin() -> None:
    assert number("resnet18", "without_projections") == number("plain18", "macs")
    assert "without_projections" not in explain("plain18").to_dict()["counts"]


def test_it_reads_as_a_table_and_as_json() -> None:
    known = explain("resnet50")
    text = str(known)
    assert all(shown in text for shown in ("4.09 G", "8.18 G", "4.11 G", "3.86 G", "fvcore", "torchinfo", "82.1 MiB"))
    assert json.loads(json.dumps(known.to_dict()))["counts"]["flop_counter_mode"] == 2 * 4089184256


@pytest.mark.parametrize(
    ("name", "printed"),
    [("resnet18", 1.8), ("resnet34", 3.6), ("resnet50", 3.8), ("resnet101_v1", 7.6), ("resnet152", 11.3)],
)
def test_what_table_1_prints_is_reconciled(name: str, printed: float) -> None:
    explained = explain(name)
    assert explained.to_dict()["counts"]["paper_table_1"] == round(printed * 1e9)
    assert "as printed" in str(explained)
    assert "paper_table_1" not in explain(name, 256).to_dict()["counts"]
