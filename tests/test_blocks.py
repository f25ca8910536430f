"""The blocks: the article's calls as written, the paper's formula, every option, and hooks on every module."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plusx.blocks import (
    AveragePool,
    Bottleneck,
    BuildingBlock,
    ConvBlock,
    ResidualBlock,
    SqueezeExcitation,
    StochasticDepth,
)
from plusx.design import Order, Shortcut
from plusx.errors import DesignError

ORDERS: tuple[Order, ...] = ("original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact")


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, statistics and affine parameters off their defaults, so that a missing norm shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return net.eval()


def image(channels: int = 8, size: int = 10, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_the_articles_calls_work_as_written() -> None:
    x = image(64, 8)
    conv = ConvBlock(64, 32, k_size=5, activation=False)
    assert [name for name, _ in conv.named_children()] == ["conv", "norm"]
    assert isinstance(conv.conv, nn.Conv2d)
    assert conv.conv.padding == (2, 2)
    assert conv.conv.bias is None
    assert ConvBlock(64, 32)(x).shape == (2, 32, 8, 8)
    assert float(ConvBlock(64, 32)(x).detach().min()) == 0.0
    assert BuildingBlock(64)(x).shape == x.shape
    assert Bottleneck(64, 16)(x).shape == x.shape


def test_building_block_is_figure_2() -> None:
    block = randomise(BuildingBlock(8))
    x = image()
    s = block.state_dict()

    def conv_norm(x: Tensor, i: int) -> Tensor:
        x = functional.conv2d(x, s[f"branch.{i}.conv.weight"], padding=1)
        at = f"branch.{i}.norm."
        return functional.batch_norm(
            x, s[at + "running_mean"], s[at + "running_var"], s[at + "weight"], s[at + "bias"], eps=1e-5
        )

    expected = functional.relu(conv_norm(functional.relu(conv_norm(x, 0)), 1) + x)
    assert torch.equal(block(x), expected)
    assert set(s) == {f"branch.{i}.{p}" for i in (0, 1) for p in ("conv.weight", *(f"norm.{n}" for n in BN))}


BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_bottleneck_reduces_and_restores() -> None:
    shapes = {n: tuple(p.shape) for n, p in Bottleneck(256, 64).named_parameters() if n.endswith("conv.weight")}
    assert shapes == {
        "branch.0.conv.weight": (64, 256, 1, 1),
        "branch.1.conv.weight": (64, 64, 3, 3),
        "branch.2.conv.weight": (256, 64, 1, 1),
    }


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
def test_stride_sits_where_it_is_said(stride_on: str) -> None:
    block = Bottleneck(8, 4, out_channels=16, stride=2, stride_on=stride_on)  # type: ignore[arg-type]
    strides = [part.stride[0] for part in block.branch.modules() if isinstance(part, nn.Conv2d)]
    assert strides == ([2, 1, 1] if stride_on == "1x1" else [1, 2, 1])
    assert block(image()).shape == (2, 16, 5, 5)


def test_groups_and_dilation_reach_every_3x3_of_both_blocks() -> None:
    for block in (BuildingBlock(8, groups=4, dilation=2), Bottleneck(8, 8, groups=4, dilation=2)):
        threes = [p for p in block.modules() if isinstance(p, nn.Conv2d) and p.kernel_size == (3, 3)]
        assert all((p.groups, p.dilation, p.padding) == (4, (2, 2), (2, 2)) for p in threes)
        assert len(threes) == (2 if isinstance(block, BuildingBlock) else 1)
        assert block(image()).shape == (2, 8, 10, 10)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_that_of_table_2(order: Order) -> None:
    """The kinds of the modules in the order they run, of one block whose shortcut is the identity."""
    block = BuildingBlock(8, order=order)
    ran: list[str] = []
    kinds: dict[type, str] = {nn.Conv2d: "conv", nn.BatchNorm2d: "BN", nn.ReLU: "ReLU"}
    for part in block.modules():
        if type(part) in kinds:
            part.register_forward_hook(lambda m, _i, _o: ran.append(kinds[type(m)]))
    block.branch.register_forward_hook(lambda *_: ran.append("add"))  # the identity is ready when the branch is
    block(image())
    assert (
        "-".join(ran)
        == {
            "original": "conv-BN-ReLU-conv-BN-add-ReLU",
            "bn_after_add": "conv-BN-ReLU-conv-add-BN-ReLU",
            "relu_before_add": "conv-BN-ReLU-conv-BN-ReLU-add",
            "relu_preact": "ReLU-conv-BN-ReLU-conv-BN-add",
            "full_preact": "BN-ReLU-conv-BN-ReLU-conv-add",
        }[order]
    )


def test_preactivation_is_shared_where_the_shortcut_has_weights() -> None:
    """arXiv 1603.05027, Appendix, and the released code: BN-ReLU, then both paths; the projection has no norm."""
    block = randomise(BuildingBlock(8, out_channels=16, stride=2, order="full_preact"))
    assert isinstance(block, ResidualBlock)
    assert block.shortcut is not None
    x = image()
    active = block.preact(x)
    assert torch.equal(block(x), block.branch(active) + block.shortcut(active))
    assert "shortcut.norm.weight" not in block.state_dict()
    assert "preact.norm.weight" in block.state_dict()
    raw = BuildingBlock(8, order="full_preact")
    assert isinstance(raw.preact, nn.Identity)


@pytest.mark.parametrize(("shortcut", "front", "back"), [("A", 0, 8), ("A-centred", 4, 4)])
def test_shortcut_a_subsamples_and_pads(shortcut: Shortcut, front: int, back: int) -> None:
    block = BuildingBlock(8, out_channels=16, stride=2, shortcut=shortcut)
    assert block.shortcut is not None
    x = image()
    y = block.shortcut(x)
    assert torch.equal(y[:, front : front + 8], x[:, :, ::2, ::2])
    assert not y[:, :front].any()
    assert not y[:, 16 - back :].any()


def test_shortcuts_b_c_d() -> None:
    def convs(**options: object) -> list[str]:
        block = BuildingBlock(8, **options)  # type: ignore[arg-type]
        return [name for name in block.state_dict() if name.startswith("shortcut") and name.endswith("conv.weight")]

    assert convs(shortcut="B") == []
    assert convs(shortcut="B", out_channels=16) == ["shortcut.conv.weight"]
    assert convs(shortcut="C") == ["shortcut.conv.weight"]
    assert convs(shortcut="D", stride=2) == ["shortcut.conv.weight"]
    pooled = BuildingBlock(8, shortcut="D", stride=2).shortcut
    assert isinstance(pooled, nn.Sequential)
    assert isinstance(pooled[0], AveragePool)
    assert pooled.conv.stride == (1, 1)


def test_average_pool_averages_what_is_there_at_the_edge() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    expected = torch.tensor([[[[2.0, 3.5], [6.5, 8.0]]]])
    assert torch.equal(AveragePool(2)(x), expected)
    assert torch.equal(AveragePool(1)(x)[:, :, ::2, ::2], expected)


def test_plain_twin_has_the_same_layers_and_no_addition() -> None:
    residual, twin = BuildingBlock(8), BuildingBlock(8, skip=False)
    twin.load_state_dict(residual.state_dict())
    x = image()
    assert twin.shortcut is None
    assert torch.equal(twin.eval()(x), twin.act(twin.branch(x)))
    assert not torch.equal(twin(x), residual.eval()(x))


def test_squeeze_excitation_gates_the_branch_before_the_addition() -> None:
    block = randomise(BuildingBlock(8, squeeze=2))
    assert isinstance(block, BuildingBlock)
    x = image()
    pre = block.branch[1](block.branch[0](x))
    gate = block.branch[2]
    assert isinstance(gate, SqueezeExcitation)
    scale = torch.sigmoid(gate.fc2(torch.relu(gate.fc1(pre.mean((2, 3), keepdim=True)))))
    assert torch.equal(block(x), torch.relu(pre * scale + x))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    drop = StochasticDepth(0.25)
    torch.manual_seed(0)
    x = torch.ones(4000, 3, 2, 2)
    y = drop(x)
    per_image = y.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    assert sorted({round(float(v), 4) for v in per_image[:, 0]}) == [0.0, 1.3333]
    assert abs(float(y.mean()) - 1.0) < 0.05
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize(
    ("kind", "order", "shortcut"),
    list(itertools.product([BuildingBlock, Bottleneck], ORDERS, ["A", "B", "C", "D"])),
)
def test_full_backward_hooks_work_on_every_module(kind: type, order: Order, shortcut: Shortcut) -> None:
    """An in-place activation, or one module called twice, would break them; every ReLU call has its own module."""
    args = (8,) if kind is BuildingBlock else (8, 4)
    block = kind(*args, out_channels=16, stride=2, order=order, shortcut=shortcut, squeeze=4, stochastic_depth=0.1)
    calls: dict[nn.Module, int] = {}
    backward: set[nn.Module] = set()
    for part in block.modules():
        part.register_forward_hook(lambda m, _i, _o: calls.update({m: calls.get(m, 0) + 1}))
        part.register_full_backward_hook(lambda m, _i, _o: backward.add(m))
    block(image().requires_grad_()).sum().backward()
    assert set(calls.values()) == {1}
    assert backward == set(block.modules())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BuildingBlock(8, shortcut="identity", stride=2), "identity cannot take 8 channels to 8 at stride 2"),
        (lambda: BuildingBlock(8, out_channels=4, shortcut="A"), "A pads channels and cannot take 8 to 4"),
        (lambda: BuildingBlock(8, order="fullpreact"), "did you mean 'full_preact'"),  # type: ignore[arg-type]
        (lambda: BuildingBlock(8, groups=3), "groups: 3 does not divide 8"),
        (lambda: BuildingBlock(8, stride=0), "stride: 0 is not a positive whole number"),
        (lambda: Bottleneck(8, 0), "0 is not a positive whole number"),
        (lambda: Bottleneck(8, 4, stride_on="2x2"), "stride_on: '2x2' is not one of"),  # type: ignore[arg-type]
        (lambda: BuildingBlock(8, squeeze=0), "squeeze: 0"),
        (lambda: BuildingBlock(8, out_channels=0), "out_channels: 0"),
        (lambda: BuildingBlock(8, first_dilation=0), "first_dilation: 0"),
        (lambda: BuildingBlock(8, first_dilation=1, stride=2), "but the stride is 2"),
        (lambda: BuildingBlock(8, stochastic_depth=1.0), "stochastic_depth: 1.0 does not fit"),
        (lambda: BuildingBlock(8, stochastic_depth=0.5, skip=False), "0 in a plain block"),
        (lambda: BuildingBlock(8, shortcut="E", skip=False), "shortcut: 'E'"),  # type: ignore[arg-type]
        (lambda: ConvBlock(8, 8, order="foo"), "order: 'foo'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options_are_named(build: object, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BuildingBlock(64, strid=2), "no option 'strid'; did you mean 'stride'"),  # type: ignore[call-arg]
        (lambda: BuildingBlock(64, skip=False, shortcut="A"), "shortcut: A is of no use"),
        (lambda: BuildingBlock(64, skip="no"), "skip: 'no' is not True or False"),  # type: ignore[arg-type]
        (lambda: Bottleneck(64, 0), "mid_channels: 0 is not a positive whole number"),
        (lambda: ConvBlock(64, 32, k_size=0), "kernel: 0"),
        (lambda: ConvBlock(64, 32, stride=0), "stride: 0"),
        (lambda: ConvBlock(0, 32), "in_channels: 0"),
    ],
)
def test_options_that_do_not_fit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        call()
