"""The dialects are proved against the peers themselves: random weights there, the same logits here, and back again.

Equality is bit for bit in fp32 on the CPU. The large networks are marked slow.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import plusx
from plusx import dialects, families
from plusx.design import BuildingSpec, Design, Head, Order, SmallStem
from plusx.dialects import Target
from plusx.dialects.configs import Facts
from plusx.dialects.infer import Hints, Shapes, infer
from plusx.dialects.names import PLUSX
from plusx.dialects.published import named
from plusx.errors import WeightsError
from plusx.network import Network
from tests import peers, test_meter

Maker = Callable[[], nn.Module]


def images(network: Network, side: int) -> Tensor:
    return torch.randn(2, network.design.stem.in_channels, side, side, generator=torch.Generator().manual_seed(7))


def proves(peer: nn.Module, to: Target, folder: Path, side: int = 64, **hints: Any) -> dialects.Loaded:
    """Load the scrambled peer's file: the same logits. Convert it back: the peer loads that and gives them again."""
    file, back = folder / "peer.pth", folder / "back.safetensors"
    torch.save(peers.scramble(peer).state_dict(), file)
    loaded = dialects.load(file, **hints)
    x = images(loaded.network, side)
    with torch.inference_mode():
        theirs = peer(x)
        assert torch.equal(loaded.network(x), theirs)
        dialects.convert(file, back, to=to, **hints)
        peers.wipe(peer)
        peer.load_state_dict(load_file(back), strict=True)
        assert torch.equal(peer.eval()(x), theirs)
    assert torch.isfinite(theirs).all()
    assert theirs.std() > 1e-3, "the logits say nothing"
    return loaded


def _some_slow(quick: list[str], slow: list[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(name, marks=pytest.mark.slow) for name in slow]
    return pytest.mark.parametrize("name", [*quick, *marked])


@_some_slow(
    ["resnet18", "resnet34", "resnet50", "resnext50_32x4d"],
    ["resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext101_32x8d", "resnext101_64x4d"],
)
def test_torchvision_is_bit_equal_both_ways(name: str, tmp_path: Path) -> None:
    loaded = proves(peers.torchvision(name), "torchvision", tmp_path)
    assert loaded.design == families.design(name)
    assert loaded.report.identification.dialect == "torchvision"


@_some_slow(
    ["resnet18", "resnet18d", "resnet50d", "seresnet18", "seresnet50"],
    [
        *("resnet34", "resnet50", "resnet101", "resnet152", "resnet34d", "resnet101d", "resnet152d"),
        *("seresnet34", "seresnet101", "seresnet152", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    ],
)
def test_timm_is_bit_equal_both_ways(name: str, tmp_path: Path) -> None:
    loaded = proves(peers.timm(name), "timm", tmp_path)
    assert loaded.design == families.design(name)
    own = name.startswith("se") or (name.endswith("d") and "x" not in name)
    assert loaded.report.identification.dialect == ("timm" if own else "torchvision")


@pytest.mark.parametrize("name", ["resnet26t", "resnet50c", "seresnet50t", "test_resnet"])
def test_timm_networks_that_plusx_has_no_name_for_load_too(name: str, tmp_path: Path) -> None:
    """A tiered stem, a deep stem without pooling shortcuts, gates on both, and stages of different blocks."""
    peer = peers.scramble(peers.timm(name))
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    network = dialects.load(tmp_path / "peer.pth").network
    x = images(network, 64)
    with torch.inference_mode():
        assert torch.equal(network(x), peer(x))


@_some_slow(["resnetv2_50", "resnetv2_50d"], ["resnetv2_101", "resnetv2_152", "resnetv2_101d", "resnetv2_152d"])
def test_timm_resnetv2_is_bit_equal_both_ways(name: str, tmp_path: Path) -> None:
    loaded = proves(peers.timm(name), "timm", tmp_path)
    if not name.endswith("d"):
        assert loaded.design == families.design(name)


@pytest.mark.parametrize(
    ("name", "source", "to", "output_stride"),
    [
        (
            "resnet50",
            partial(peers.torchvision, "resnet50", replace_stride_with_dilation=[False, True, True]),
            "torchvision",
            8,
        ),
        (
            "resnext50_32x4d",
            partial(peers.torchvision, "resnext50_32x4d", replace_stride_with_dilation=[False, False, True]),
            "torchvision",
            16,
        ),
        ("resnet18", partial(peers.timm, "resnet18", output_stride=8), "timm", 8),
        ("seresnet50", partial(peers.timm, "seresnet50", output_stride=16), "timm", 16),
    ],
)
def test_dilated_networks_are_bit_equal(
    name: str, source: Maker, to: Target, output_stride: int, tmp_path: Path
) -> None:
    loaded = proves(source(), to, tmp_path, output_stride=output_stride)
    assert loaded.design.output_stride == output_stride
    assert loaded.design.with_output_stride(output_stride).replace(name=name) == families.design(
        name
    ).with_output_stride(output_stride)


HUB = {
    "resnet18": ("basic", (2, 2, 2, 2), False),
    "resnet34": ("basic", (3, 4, 6, 3), False),
    "resnet50": ("bottleneck", (3, 4, 6, 3), False),
    "resnet50_v1": ("bottleneck", (3, 4, 6, 3), True),
    "resnet101": ("bottleneck", (3, 4, 23, 3), False),
    "resnet101_v1": ("bottleneck", (3, 4, 23, 3), True),
    "resnet152": ("bottleneck", (3, 8, 36, 3), False),
}


@_some_slow(["resnet18", "resnet50_v1"], ["resnet34", "resnet50", "resnet101", "resnet101_v1", "resnet152"])
def test_transformers_is_bit_equal_both_ways(name: str, tmp_path: Path) -> None:
    """The files are folders here: transformers writes one and, after conversion, reads one."""
    from transformers import ResNetForImageClassification

    layer_type, depths, v1 = HUB[name]
    peer = peers.scramble(peers.transformers(layer_type, depths, downsample_in_bottleneck=v1, num_labels=1000))
    peer.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    loaded = dialects.load(tmp_path / "theirs")
    assert loaded.design == families.design(name), "config.json says which convolution strides"
    x = images(loaded.network, 64)
    with torch.inference_mode():
        theirs = peers.HubLogits(peer)(x)
        assert torch.equal(loaded.network(x), theirs)
        dialects.convert(tmp_path / "theirs", tmp_path / "ours", to="transformers")
        again, info = ResNetForImageClassification.from_pretrained(
            tmp_path / "ours", local_files_only=True, output_loading_info=True
        )
        assert not any(info.values())
        assert torch.equal(peers.HubLogits(again.eval())(x), theirs)


def test_a_single_file_of_transformers_needs_the_flag_that_its_folder_does_not(tmp_path: Path) -> None:
    peer = peers.transformers("bottleneck", (1, 1, 1, 1), downsample_in_bottleneck=True, num_labels=3)
    state = peers.scramble(peer).state_dict()
    torch.save(state, tmp_path / "net.bin")
    assert dialects.identify(tmp_path / "net.bin").design.stages[0].block.stride_on == "3x3"  # type: ignore[union-attr]
    network = dialects.load(tmp_path / "net.bin", stride_on="1x1").network
    x = images(network, 64)
    with torch.inference_mode():
        assert torch.equal(network(x), peers.HubLogits(peer)(x))


@pytest.mark.parametrize(("layer_type", "widths"), [("basic", (64, 128)), ("bottleneck", (128, 256))])
def test_transformers_first_stage_may_subsample(layer_type: str, widths: tuple[int, ...], tmp_path: Path) -> None:
    peer = peers.transformers(
        layer_type, (2, 1), hidden_sizes=widths, downsample_in_first_stage=True, num_labels=3, num_channels=1
    )
    peers.scramble(peer).save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    loaded = dialects.load(tmp_path / "theirs")
    assert [stage.stride for stage in loaded.design.stages] == [2, 2]
    x = images(loaded.network, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), peers.HubLogits(peer)(x))


def test_a_bare_transformers_model_gives_pooled_features(tmp_path: Path) -> None:
    from transformers import ResNetModel

    peer = peers.scramble(peers.transformers("basic", (1, 1), hidden_sizes=(32, 64), embedding_size=32, head=False))
    torch.save(peer.state_dict(), tmp_path / "bare.pth")
    loaded = dialects.load(tmp_path / "bare.pth")
    x = images(loaded.network, 64)
    dialects.convert(tmp_path / "bare.pth", tmp_path / "back", to="transformers")
    again = ResNetModel.from_pretrained(tmp_path / "back", local_files_only=True)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), peers.HubLogits(peer)(x))
        assert torch.equal(peers.HubLogits(again.eval())(x), peers.HubLogits(peer)(x))
    assert loaded.design.head.classes == 0


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_chenyaofo_is_bit_equal_both_ways(depth: int, tmp_path: Path) -> None:
    loaded = proves(peers.chenyaofo(depth), "chenyaofo", tmp_path, side=32)
    assert loaded.report.identification.name == f"cifar_resnet{depth} with shortcut B"
    assert loaded.report.identification.dialect == "chenyaofo"


@pytest.mark.parametrize(
    ("source", "to"),
    [
        *((partial(peers.akamaster, depth), "akamaster") for depth in (20, 32, 44, 56, 110)),
        pytest.param(partial(peers.akamaster, 1202), "akamaster", marks=pytest.mark.slow),
        *((partial(peers.kuangliu, depth), "kuangliu") for depth in (18, 50)),
        *(pytest.param(partial(peers.kuangliu, depth), "kuangliu", marks=pytest.mark.slow) for depth in (34, 101, 152)),
    ],
)
def test_akamaster_and_kuangliu_are_bit_equal_both_ways(source: Maker, to: Target, tmp_path: Path) -> None:
    loaded = proves(source(), to, tmp_path, side=32)
    assert loaded.report.identification.dialect == to
    assert loaded.design.head.pool == "window"


# Their pooling: the same mean in another order


def akamaster_file(folder: Path) -> Path:
    torch.save(peers.scramble(peers.akamaster(20)).state_dict(), folder / "peer.pth")
    return folder / "peer.pth"


def test_pooling_by_a_window_does_not_change_what_a_network_is_called(tmp_path: Path) -> None:
    file = akamaster_file(tmp_path)
    found = dialects.identify(file, shortcut="A")
    assert (found.name, found.design.name, found.design.head.pool) == ("cifar_resnet20", "cifar_resnet20", "window")
    dialects.convert(file, tmp_path / "b.safetensors", shortcut="A")
    for path in (file, tmp_path / "b.safetensors"):
        for design in ("cifar_resnet20", families.design("cifar_resnet20")):
            assert dialects.load(path, design=design).design == found.design


def test_a_dialect_that_pools_otherwise_is_written_all_the_same_and_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "peer.pth"
    torch.save(peers.scramble(peers.chenyaofo(20)).state_dict(), file)
    report = dialects.convert(file, tmp_path / "a.pth", to="akamaster")
    assert ["rounding" in note for note in report.notes] == [True]
    assert dialects.load(tmp_path / "a.pth").design.head.pool == "window"
    assert "rounding" in dialects.convert(tmp_path / "a.pth", tmp_path / "b.pth", to="chenyaofo").notes[0]
    assert dialects.convert(tmp_path / "a.pth", tmp_path / "c.pth", to="akamaster").notes == ()
    assert dialects.convert(file, tmp_path / "d.pth", to="chenyaofo").notes == ()
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in torch.load(file, weights_only=True).items())


def windowed(design: Design) -> Design:
    return design.replace(head=Head(classes=5, pool="window"))


def test_pooling_by_a_window_exports_and_compiles_for_any_size() -> None:
    network, auto = plusx.build(windowed(families.cifar(8))).eval(), torch.export.Dim.AUTO
    exported = torch.export.export(network, (images(network, 32),), dynamic_shapes={"x": {0: auto, 2: auto, 3: auto}})
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=True)
    for x in (torch.randn(3, 3, 24, 40), torch.randn(5, 3, 17, 16)):
        torch.testing.assert_close(exported.module()(x), network(x))
        torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("order", get_args(Order))
def test_pooling_by_a_window_costs_the_same_and_what_autograd_keeps_is_counted(order: Order) -> None:
    adaptive = test_meter.design(BuildingSpec(order=order), stem=SmallStem(width=8))
    network, x = plusx.build(windowed(adaptive), seed=0), test_meter.image(adaptive, 2)
    counted, other = (plusx.cost(one, test_meter.INPUT, batch=2) for one in (windowed(adaptive), adaptive))
    watch = test_meter.watched(network.eval(), x)
    assert (counted.inference_peak_bytes(), counted.network.moved_bytes("float32", 2)) == (watch.peak, watch.moved)
    assert counted.training_bytes() == test_meter.kept_bytes(network.train(), x)
    assert (counted.network.params, counted.network.macs) == (other.network.params, other.network.macs)
    if order == "original":
        assert counted.training_bytes() == other.training_bytes()


@pytest.mark.parametrize("name", families.names())
def test_plusx_names_alone_tell_what_they_can(name: str) -> None:
    """Every published network is known again from bare shapes; where they cannot tell, with the flags that say so."""
    design = families.design(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in plusx.build(design, device="meta").state_dict().items()}
    hints: Hints = {"stride_on": "1x1"} if name.endswith("_v1") else {"skip": False} if "plain" in name else {}
    found, dialect, _ = infer(Shapes(shapes, {}, "here"), PLUSX, hints, Facts())
    assert named(found) == design
    assert dialect == "plusx"


@pytest.mark.parametrize("to", ["torchvision", "timm", "transformers"])
def test_a_chain_of_conversions_changes_nothing(to: Target, tmp_path: Path) -> None:
    peer = peers.scramble(peers.torchvision("resnet18", num_classes=6))
    torch.save(peer.state_dict(), tmp_path / "a.pth")
    dialects.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", to="plusx")
    dialects.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", to=to)
    dialects.convert(tmp_path / "c.pt", tmp_path / "d.safetensors", to="plusx")
    dialects.convert(tmp_path / "d.safetensors", tmp_path / "e.safetensors", to="torchvision")
    back = load_file(tmp_path / "e.safetensors")
    assert set(back) == set(peer.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in peer.state_dict().items())


def test_a_plusx_file_says_everything(tmp_path: Path) -> None:
    peer = peers.scramble(peers.torchvision("resnet50", num_classes=4))
    torch.save(peer.state_dict(), tmp_path / "a.pth")
    dialects.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", stride_on="1x1")
    found = dialects.identify(tmp_path / "b.safetensors")
    assert (found.name, found.dialect, found.choices) == ("resnet50_v1 with 4 classes", "plusx", ())
    with pytest.raises(WeightsError, match="carries its Design"):
        dialects.identify(tmp_path / "b.safetensors", stride_on="3x3")
