"""Networks: features, dilation, freezing, initialisation, and the ways of torch they must run."""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from plusx import families
from plusx.design import BottleneckSpec, BuildingSpec, Design, Head, ImageNetStem, Order, SmallStem, Stage
from plusx.errors import DesignError, InputError
from plusx.network import Network, build, choose_device
from tests.golden import make_names
from tests.test_blocks import ORDERS, randomise
from tests.test_design import designs


def small(
    block: BuildingSpec | BottleneckSpec, *, width: int = 8, stem: Any = None, squeeze: int | None = None
) -> Design:
    """Four stages, strides 1 2 2 2, quick on one core; equal widths in stages 2 and 3, so that a shortcut changes
    nothing but the stride."""
    mid = 4 if block.kind == "bottleneck" else None
    widths = (width, 2 * width, 2 * width, 4 * width)
    stages = [
        Stage(depth=2, width=w, mid=mid, squeeze=squeeze, stride=1 if i == 0 else 2, block=block)
        for i, w in enumerate(widths)
    ]
    return Design(stem=stem or ImageNetStem(width=width), stages=tuple(stages), head=Head(classes=5))


def image(size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def randomised(design: Design, **options: Any) -> Network:
    net = build(design, seed=0, **options)
    randomise(net)
    return net


SPECS = [
    *(BuildingSpec(order=order) for order in ORDERS),
    *(BottleneckSpec(order=order) for order in ORDERS),
    *(BuildingSpec(shortcut=shortcut) for shortcut in ("A", "A-centred", "C", "D")),
    BottleneckSpec(shortcut="D", stride_on="1x1"),
    BottleneckSpec(stride_on="1x1"),
    BuildingSpec(skip=False),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_features_are_known_beforehand_and_lead_to_the_same_logits(spec: BuildingSpec | BottleneckSpec) -> None:
    net = randomised(small(spec))
    x = image()
    features = net.features(x)
    assert [(f.shape[1], 64 // f.shape[2]) for f in features] == list(net.feature_info)
    assert torch.equal(net.head(features[-1]), net(x))
    assert net(x).shape == (2, 5)


@pytest.mark.parametrize(("spec", "output_stride"), list(itertools.product(SPECS, [8, 16])), ids=repr)
def test_output_stride_keeps_the_function(spec: BuildingSpec | BottleneckSpec, output_stride: int) -> None:
    """The à-trous identity: at the old positions the finer network gives the old values, whatever the block."""
    design = small(spec)
    coarse, fine = randomised(design), build(design, output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    assert fine.feature_info[-1].stride == output_stride
    for old, new in zip(coarse.features(image()), fine.features(image()), strict=True):
        step = new.shape[2] // old.shape[2]
        torch.testing.assert_close(new[:, :, ::step, ::step], old, rtol=1e-4, atol=1e-4)


@given(designs(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_design_keeps_its_weights_and_function_on_a_finer_grid(design: Design, data: st.DataObject) -> None:
    reachable = sorted({design.stem.stride, *(feature.stride for feature in design.features)})
    output_stride = data.draw(st.sampled_from(reachable))
    coarse, fine = randomised(design), build(design, output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    if any(stage.squeeze for stage in design.stages):
        return  # a gate's mean over the finer grid is another one, as Design.with_output_stride says
    x = image(2 * design.output_stride, design.stem.in_channels)
    old, new = coarse.features(x)[-1], fine.features(x)[-1]
    step = new.shape[2] // old.shape[2]
    torch.testing.assert_close(
        new[:, :, ::step, ::step], old, rtol=1e-3, atol=1e-3 * float(old.detach().abs().max() + 1)
    )


def test_a_gate_sees_another_mean_on_a_finer_grid() -> None:
    """Stated in `Design.with_output_stride`: there the identity does not hold."""
    design = small(BuildingSpec(), squeeze=4)
    coarse, fine = randomised(design), build(design, output_stride=8).eval()
    fine.load_state_dict(coarse.state_dict())
    old, new = coarse.features(image())[-1], fine.features(image())[-1]
    assert not torch.allclose(new[:, :, ::4, ::4], old, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride_on", "expected"), [("3x3", [1, 2, 2, 4]), ("1x1", [2, 2, 4, 4])])
def test_the_block_that_would_subsample_dilates_first_or_not(stride_on: Any, expected: list[int]) -> None:
    """A 3×3 that carried the stride keeps the earlier dilation; one that follows it dilates at once."""
    net = build(families.resnet(50, stride_on=stride_on), output_stride=8, device="meta")
    dilations = [net.get_submodule(f"stages.{at}.branch.1.conv").dilation for at in ("2.0", "2.1", "3.0", "3.1")]
    assert dilations == [(d, d) for d in expected]


def test_output_stride_8_is_torchvisions_convention() -> None:
    from torchvision.models import resnet50

    peer = resnet50(replace_stride_with_dilation=[False, True, True])
    theirs = [(m.stride, m.dilation) for m in peer.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    net = build("resnet50", output_stride=8, device="meta")
    ours = [(m.stride, m.dilation) for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert ours == theirs


def test_freeze_holds_the_stem_the_stages_and_their_statistics() -> None:
    net = build(small(BuildingSpec()), seed=0).freeze(2).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(image()).sum().backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert trained == {n for n, _ in net.named_parameters() if n.startswith(("stages.2", "stages.3", "head"))}
    assert moved
    assert all(name.startswith(("stages.2", "stages.3")) for name in moved)
    assert net.training
    assert net.eval().train().stages[0][0].branch[0].norm.training is False  # type: ignore[index]


def test_freeze_norm_false_and_all() -> None:
    net = build(small(BuildingSpec()), seed=0)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net.freeze(1, norm=False).train()
    assert all(norm.training for norm in norms)
    net.freeze(1, norm="all").train()
    assert not any(norm.training for norm in norms)
    net.unfreeze().train()
    assert all(norm.training for norm in norms)
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(DesignError, match="stages 9 is not a whole number between 0 and 4"):
        net.freeze(9)


def test_a_wrong_freeze_changes_nothing() -> None:
    net = build(small(BuildingSpec()), seed=0)
    for wrong in ({"stages": 1.5}, {"stages": True}, {"stages": 1, "norm": "al"}):
        with pytest.raises(DesignError, match="freeze"):
            net.freeze(**wrong)
    net.get_parameter("stem.0.conv.weight").requires_grad_(False)
    net.freeze(1).unfreeze()
    assert not net.get_parameter("stem.0.conv.weight").requires_grad  # what the caller stopped stays stopped
    assert net.get_parameter("stages.0.0.branch.0.conv.weight").requires_grad


def test_freeze_outlives_a_copy_a_second_call_and_replaced_norms() -> None:
    net = build(small(BuildingSpec(stochastic_depth=0.5)), seed=0).freeze(2)
    changed = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net)).train()  # type: ignore[no-untyped-call]
    norm = changed.get_submodule("stages.1.0.branch.0.norm")
    assert isinstance(norm, nn.SyncBatchNorm)
    assert not norm.training
    assert changed.get_submodule("stages.2.0.branch.0.norm").training
    net.get_parameter("head.fc.bias").requires_grad_(False)
    net.freeze(4).train()
    assert torch.equal(net.features(image())[-1], net.features(image())[-1])  # nothing is dropped in what is frozen
    net.freeze(0)
    assert net.get_parameter("stages.0.0.branch.0.conv.weight").requires_grad
    assert not net.get_parameter("head.fc.bias").requires_grad  # what the caller stopped stays stopped


@pytest.mark.parametrize("order", ORDERS)
def test_zero_init_leaves_no_branch_dead(order: Order) -> None:
    """A ReLU behind zeros gives zero gradients for ever."""
    net = build(small(BuildingSpec(order=order)), seed=0, zero_init=True)
    net(image()).square().sum().backward()
    for block in net.blocks():
        grads = [p.grad for p in block.branch.parameters()]
        assert any(grad is not None and bool(grad.any()) for grad in grads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cud"}, "device 'cud'"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 2**64}, "is not a whole number between 0 and"),
        ({"seed": True}, "seed: True"),
        ({"seed": 1.5}, "seed: 1.5"),
    ],
)
def test_a_device_or_seed_that_is_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("resnet18", **options)


def test_seeds_give_bit_equal_networks_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    first, expected = build("cifar_resnet20", seed=3), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)
    again, other = build("cifar_resnet20", seed=3), build("cifar_resnet20", seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.get_parameter("head.fc.weight"), other.get_parameter("head.fc.weight"))


def test_kaiming_initialisation() -> None:
    """arXiv 1502.01852: normal, variance 2 / fan-out."""
    net = build("resnet18", seed=0)
    weight = net.get_parameter("stages.3.1.branch.1.conv.weight")
    assert abs(float(weight.detach().std()) / (2 / (512 * 9)) ** 0.5 - 1) < 0.01
    norm = net.get_submodule("stages.0.0.branch.0.norm")
    assert float(norm.weight.detach().min()) == 1.0  # type: ignore[operator]
    assert float(norm.running_var.max()) == 1.0  # type: ignore[operator]


@pytest.mark.parametrize("spec", [BuildingSpec(), BottleneckSpec(), BuildingSpec(order="full_preact")], ids=repr)
def test_zero_init_starts_every_block_as_its_shortcut(spec: BuildingSpec | BottleneckSpec) -> None:
    net = build(small(spec), seed=0, zero_init=True)
    for block in net.blocks():
        channels = next(m.in_channels for m in block.branch.modules() if isinstance(m, nn.Conv2d))
        x = image(8, channels)
        assert block.shortcut is not None
        pre = block.preact(x)
        assert torch.equal(block(x), block.act(block.shortcut(pre)))


def test_zero_init_passes_over_the_gate() -> None:
    net = build("seresnet18", seed=0, zero_init=True)
    assert not net.get_parameter("stages.0.0.branch.1.norm.weight").any()
    assert net.get_parameter("stages.0.0.branch.2.fc2.weight").any()


def test_the_names_and_shapes_of_all_tensors_are_golden() -> None:
    """Weights files outlive code: `python tests/golden/make_names.py` writes them anew, and nothing may change."""
    golden = json.loads((Path(__file__).parent / "golden" / "names.json").read_text())
    assert golden == make_names.names()


def test_parameter_names_are_frozen() -> None:
    """Those that the docs name."""
    names = set(build("resnetv2_50", device="meta").state_dict())
    assert {"stem.0.conv.weight", "stages.0.0.preact.norm.weight", "stages.0.0.branch.0.conv.weight"} <= names
    assert {"stages.0.0.branch.2.norm.running_mean", "stages.0.0.shortcut.conv.weight"} <= names
    assert {"head.norm.weight", "head.fc.weight", "head.fc.bias"} <= names
    names = set(build("resnet50d", device="meta").state_dict())
    assert {"stem.2.norm.bias", "stages.1.0.shortcut.conv.weight", "stages.1.0.shortcut.norm.weight"} <= names
    names = set(build("seresnet18", device="meta").state_dict())
    assert {"stages.0.1.branch.2.fc1.weight", "stages.0.1.branch.2.fc2.bias", "head.fc.weight"} <= names


def test_without_classes_the_network_gives_pooled_features() -> None:
    net = build(small(BuildingSpec()).with_classes(0), seed=0).eval()
    assert torch.equal(net(image()), net.features(image())[-1].mean((2, 3)))


def test_any_input_channels_and_any_number_of_stages() -> None:
    stage = Stage(depth=1, width=8, block=BuildingSpec())
    net = build(Design(stem=SmallStem(width=8, in_channels=7), stages=(stage,), head=Head(classes=2)))
    assert net(torch.randn(2, 7, 9, 9)).shape == (2, 2)


def test_stochastic_depth_grows_linearly() -> None:
    net = build(small(BuildingSpec(stochastic_depth=0.4)), device="meta")
    rates = [block.branch[-1].rate for block in net.blocks()]
    assert rates == pytest.approx([0.4 * i / 8 for i in range(1, 9)])


VARIED = [
    small(BuildingSpec(shortcut="A")),
    small(BottleneckSpec(shortcut="D", groups=2)),
    small(BottleneckSpec(order="full_preact")),
    small(BuildingSpec(skip=False)),
    small(BuildingSpec(order="bn_after_add", stochastic_depth=0.2), squeeze=4),
]


@pytest.mark.parametrize("design", VARIED, ids=repr)
def test_channels_last_and_autocast(design: Design) -> None:
    net = randomised(design)
    x = image()
    expected = net(x)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.bfloat16


@pytest.mark.parametrize("design", VARIED, ids=repr)
def test_torch_export_keeps_the_function_with_dynamic_sizes(design: Design) -> None:
    net = randomised(design.with_output_stride(16))
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(net, (image(),), dynamic_shapes={"x": {0: auto, 2: auto, 3: auto}})
    x = torch.randn(3, 3, 96, 128)
    assert torch.equal(exported.module()(x), net(x))


@pytest.mark.parametrize("design", VARIED, ids=repr)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_without_a_graph_break(design: Design, mode: str) -> None:
    """`fullgraph=True` fails on any break; the eager backend traces all the same and needs no C++ compiler."""
    net = randomised(design).train(mode == "train")
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    given = compiled(image())
    torch.manual_seed(0)
    if mode == "eval" or not design.stages[0].block.stochastic_depth:  # random draws are another backend's own
        torch.testing.assert_close(given, net(image()), rtol=1e-4, atol=1e-4)
    if mode == "eval":
        features = torch.compile(net.features, fullgraph=True, backend="aot_eager")(image())
        torch.testing.assert_close(features[-1], net.features(image())[-1], rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiles_with_inductor() -> None:
    """Needs a C++ compiler; a minute."""
    net = randomised(small(BottleneckSpec(groups=2)))
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(image()), net(image()), rtol=1e-3, atol=1e-3)


def test_the_device_is_the_best_there_is_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for best, chosen in (
        (None, "cpu"),
        (torch.device("meta"), "cpu"),
        (torch.device("mps"), "mps"),
        (torch.device("xpu"), "xpu"),
    ):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available, best=best: best)
        assert choose_device(None).type == choose_device("auto").type == chosen
    with pytest.raises(InputError, match="device 'cuda:99'"):
        choose_device("cuda:99")
