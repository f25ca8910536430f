"""Kernels of our own for training in bfloat16: the same function and gradients, on every kind of block."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import plusx
from plusx import fused, native
from plusx.design import Order, Shortcut
from plusx.network import Network
from plusx.recipe import Recipe
from plusx.speed import choose

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")

LAST = torch.channels_last
SHAPES = [(4, 16, 6, 6), (3, 16, 5, 5), (2, 64, 9, 9), (2, 128, 3, 3), (5, 24, 7, 7), (2, 3, 8, 8), (2, 100, 1, 1)]
"""Among them rows that fold, that do not, and channels that are no multiple of sixteen."""


def images(shape: tuple[int, ...], seed: int) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3
    return made.bfloat16().to(memory_format=LAST)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
    nn.init.uniform_(norm.bias, -1, 1, generator=generator)
    return norm


def close(ours: Tensor | None, exact: Tensor | None, within: float) -> None:
    assert ours is not None
    assert exact is not None
    exact = exact.detach()
    torch.testing.assert_close(ours.detach().double(), exact, rtol=within, atol=within * float(exact.abs().max()))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_give_what_float64_gives(shape: tuple[int, ...], adds: bool, relu: bool) -> None:
    norm = norm_of(shape[1])
    exact = copy.deepcopy(norm).double()
    x, shortcut = (images(shape, seed).requires_grad_() for seed in (1, 2))
    x64, shortcut64 = (given.detach().double().requires_grad_() for given in (x, shortcut))
    y = fused._norm(norm, x, shortcut if adds else None, relu)
    y64 = exact(x64) + shortcut64 if adds else exact(x64)
    # ReLU as our rounded output has it: where it is within rounding of zero, float64 may fall on the other side
    y64 = y64 * (y.detach() > 0) if relu else y64
    close(y, y64, 2**-8)
    gradient = images(shape, 3)
    y.backward(gradient)  # type: ignore[no-untyped-call]
    y64.backward(gradient.double())
    close(x.grad, x64.grad, 2**-7)
    close(norm.weight.grad, exact.weight.grad, 1e-4)
    close(norm.bias.grad, exact.bias.grad, 1e-4)
    if adds:
        close(shortcut.grad, shortcut64.grad, 2**-8)
    close(norm.running_mean, exact.running_mean, 1e-5)
    close(norm.running_var, exact.running_var, 1e-5)
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_a_far_mean_costs_no_digits() -> None:
    norm, x = norm_of(16), (images((8, 16, 16, 16), 0).float() / 8 + 1000).bfloat16().contiguous(memory_format=LAST)
    fused._norm(norm, x.requires_grad_(), None, relu=False)
    close(norm.running_var, 0.9 + 0.1 * x.detach().double().var((0, 2, 3)), 1e-5)


def test_one_value_far_out_costs_few_digits() -> None:
    norm, x = norm_of(16), images((8, 16, 16, 16), 0)
    x[0, :, 0, 0] = 1000
    fused._norm(norm, x.requires_grad_(), None, relu=False)
    close(norm.running_var, 0.9 + 0.1 * x.detach().double().var((0, 2, 3)), 1e-4)


def test_no_second_derivatives_in_silence() -> None:
    norm, x = norm_of(16), images((2, 16, 4, 4), 0).requires_grad_()
    (first,) = torch.autograd.grad(fused._norm(norm, x, None, relu=False).float().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()  # type: ignore[no-untyped-call]


def test_any_number_of_threads_gives_the_same_bits() -> None:
    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        norm, x = norm_of(64), images((16, 64, 32, 32), 1).requires_grad_()
        y = fused._norm(norm, x, None, relu=True)
        y.backward(images((16, 64, 32, 32), 2))  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return [y.detach(), x.grad, norm.weight.grad, norm.running_var]  # type: ignore[list-item]

    before = torch.get_num_threads()
    try:
        one, many = run(1), run(3)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_what_is_not_a_number_is_not_hidden() -> None:
    norm, x = norm_of(16), images((4, 16, 6, 6), 0)
    x[1, 3, 2, 2] = float("nan")
    y = fused._norm(norm, x.requires_grad_(), None, relu=True)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()
    assert norm.running_var is not None
    assert norm.running_var.isnan().nonzero().tolist() == [[3]]


def gradients(net: Network, dtype: torch.dtype, size: int = 16) -> Tensor:
    """Of every parameter, and the running statistics, as one vector."""
    x = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(5)).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = net(x)
    nn.functional.cross_entropy(logits.float(), torch.arange(8)).backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in net.parameters()] + [b for b in net.buffers() if b.is_floating_point()]
    return torch.cat([value.flatten() for value in found if value is not None])


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("shortcut", [*get_args(Shortcut), None])
def test_every_kind_of_block_learns_as_before(order: str, shortcut: str | None) -> None:
    """Against float32, no further from it than torch's own bfloat16 by more than a little; None: a plain block."""
    block = {"kind": "building", "order": order} | ({"shortcut": shortcut} if shortcut else {"skip": False})
    wider = {"width": 16} if shortcut == "identity" else {"width": 32, "stride": 2}
    stages = [{"depth": 1, "width": 16}, {"depth": 2, "squeeze": 4, **wider}]
    design = plusx.Design.from_dict({"stem": {"kind": "small"}, "block": block, "stages": stages})
    design = design.with_classes(10)
    net = plusx.build(design, seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    exact = gradients(copy.deepcopy(net), torch.float32)
    plain = gradients(copy.deepcopy(net), torch.bfloat16)
    calls: list[str] = []
    fused.fuse(net)
    function = native.function

    def counted(symbol: native.Symbol) -> Callable[..., None]:
        calls.append(symbol.name)
        return function(symbol)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "function", counted)
        ours = gradients(net, torch.bfloat16)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    assert [call for call in calls if "norm" in call] == ["norm_forward"] * norms + ["norm_backward"] * norms
    convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d) and part.bias is None]
    fitting = [part for part in convolutions if part.in_channels % fused.LANES == 0]
    # each twice: whether it can be had, and what it gives
    assert calls.count("weights_gradient") == 2 * len(fitting) * torch.cpu._is_avx512_bf16_supported()
    assert (ours - exact).norm() < 1.1 * (plain - exact).norm()
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize("other", ["bfloat16 weights", "meta", "one value a channel"])
def test_what_the_kernels_cannot_run_is_torchs(other: str) -> None:
    net = plusx.build("cifar_resnet20", seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    fused.fuse(net)
    norm, x = net.stem[0].norm, images((2, 16, 4, 4), 0)
    if other == "bfloat16 weights":
        norm.to(torch.bfloat16)
    elif other == "meta":
        norm, x = norm.to("meta"), x.to("meta")
    else:
        x = x[:1, :, :1, :1]
    assert not fused._fits(norm, x)


def test_in_use_and_without_gradients_nothing_changes() -> None:
    net = plusx.build("cifar_resnet20", seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    fast, x = copy.deepcopy(net), images((2, 3, 32, 32), 0).float()
    fused.fuse(fast)
    assert list(fast.state_dict()) == list(net.state_dict())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(fast.eval()(x), net.eval()(x))
        assert torch.equal(fast.train()(x), net.train()(x))
    for ours, theirs in zip(fast.buffers(), net.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_of_a_fused_network_is_one_of_its_own() -> None:
    net = plusx.build("cifar_resnet20", seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    fused.fuse(net)
    other = copy.deepcopy(net)
    gradients(other, torch.bfloat16)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in other.parameters())


needs_bf16 = pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="no AVX512-bf16")


def convolution(inputs: int, outputs: int, side: int, stride: int) -> nn.Conv2d:
    torch.manual_seed(inputs)
    layer = nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2, bias=False)
    return layer.to(memory_format=LAST)  # type: ignore[call-overload, no-any-return]


MAPS = [
    (3, 16, 16, 9, 7),  # odd both ways
    (2, 16, 48, 1, 1),
    (2, 80, 32, 2, 33),
    (5, 144, 160, 5, 6),  # more than one task, none of them full
    (2, 32, 48, 40, 50),  # an image in several bands
    (40, 16, 32, 8, 8),  # several images in a band, and pieces of batches
    (1, 48, 16, 3, 500),
]
"""Images, channels in and out, height and width."""


@needs_bf16
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("shape", MAPS)
def test_a_convolution_learns_what_float64_says(shape: tuple[int, ...], side: int, stride: int) -> None:
    batch, inputs, outputs, height, width = shape
    layer, x = convolution(inputs, outputs, side, stride), images((batch, inputs, height, width), 1).requires_grad_()
    assert fused._by_kernel(layer, x)
    exact, x64 = copy.deepcopy(layer).to(torch.bfloat16).double(), x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = fused._run([layer], x)
    gradient = images(tuple(y.shape), 2)
    y.backward(gradient)  # type: ignore[no-untyped-call]
    exact(x64).backward(gradient.double())
    close(layer.weight.grad, exact.weight.grad, 1e-5)
    close(x.grad, x64.grad, 2**-7)
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous(memory_format=LAST)


@needs_bf16
@pytest.mark.parametrize("size", [5, 24])
def test_a_convolution_learns_the_same_with_any_number_of_threads(size: int) -> None:
    def run(threads: int) -> Tensor:
        torch.set_num_threads(threads)
        layer, x = convolution(160, 144, 3, 1), images((9, 160, size, size), 1)
        fused._run([layer], x).backward(images((9, 144, size, size), 2))  # type: ignore[no-untyped-call]
        assert layer.weight.grad is not None
        return layer.weight.grad

    before = torch.get_num_threads()
    try:
        one, many = run(1), run(3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, many)


@needs_bf16
def test_a_convolution_hides_nothing_that_is_not_finite() -> None:
    for value in (float("nan"), float("inf")):
        layer, x, gradient = convolution(16, 16, 3, 1), images((2, 16, 6, 6), 1), images((2, 16, 6, 6), 2)
        x[1, 3, 5, 5] = value
        fused._run([layer], x).backward(gradient)  # type: ignore[no-untyped-call]
        assert layer.weight.grad is not None
        assert not layer.weight.grad[:, 3, 1, 1].isfinite().any()
        assert layer.weight.grad[:, 4].isfinite().all()


def test_other_convolutions_are_torchs() -> None:
    x = images((2, 32, 5, 6), 1)
    for other in (
        nn.Conv2d(32, 32, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, bias=False, padding_mode="circular"),
        nn.Conv2d(32, 32, 3, bias=False),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(32, 32, 5, padding=2, bias=False),
        nn.Conv2d(32, 32, 3, padding=1, stride=(2, 1), bias=False),
        nn.Conv2d(32, 24, 1, bias=False),
        nn.Conv2d(32, 32, 3, padding=1, bias=False).requires_grad_(False),
        nn.Conv2d(32, 32, 3, padding=1, bias=False).eval(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False).bfloat16(),
    ):
        assert not fused._by_kernel(other, x)
    assert not fused._by_kernel(nn.Conv2d(24, 32, 1, bias=False), images((2, 24, 5, 6), 1))


def test_without_the_kernel_a_convolution_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda _: None)
    assert not fused._by_kernel(convolution(32, 32, 3, 1), images((2, 32, 5, 6), 1))


@pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2), (2, 3, 0)])
@pytest.mark.parametrize("shape", [(3, 32, 9, 11), (2, 16, 8, 8), (1, 16, 5, 6)])
def test_max_pooling_gives_what_torch_gives(shape: tuple[int, ...], window: tuple[int, int, int]) -> None:
    """Rounded, so that many are equal: the first of them gets the gradient."""
    layer = nn.MaxPool2d(*window)
    x = images(shape, 1).round().requires_grad_()
    assert fused._pools(layer, x)
    x32 = x.detach().float().requires_grad_()
    y, y32 = fused._run([layer], x), layer(x32)
    assert torch.equal(y.float(), y32)
    assert y.is_contiguous(memory_format=LAST)
    gradient = images(tuple(y.shape), 2)
    y.backward(gradient)  # type: ignore[no-untyped-call]
    y32.backward(gradient.float())
    assert x32.grad is not None
    close(x.grad, x32.grad.double(), 2**-8)


def test_max_pooling_hides_no_not_a_number() -> None:
    x = images((1, 16, 6, 6), 1)
    x[0, 2, 3, 3], x[0, 3, 0, 0] = float("nan"), float("-inf")
    y = fused._run([nn.MaxPool2d(3, 2, 1)], x.requires_grad_())
    assert torch.equal(y.isnan(), nn.functional.max_pool2d(x, 3, 2, 1).isnan())


def test_other_poolings_are_torchs() -> None:
    x = images((2, 16, 8, 8), 1).requires_grad_()
    for other in (
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, dilation=2),
        nn.MaxPool2d((3, 2)),
        nn.MaxPool2d(17, padding=8),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2),
    ):
        assert not fused._pools(other, x)
    assert not fused._pools(nn.MaxPool2d(2), x.detach())
    assert not fused._pools(nn.MaxPool2d(2), images((2, 24, 8, 8), 1).requires_grad_())


def test_shortcut_a_keeps_gradients_channels_last() -> None:
    net = plusx.build("cifar_resnet20", seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    fused.fuse(net)
    x, seen = images((2, 16, 8, 8), 0).requires_grad_(), []
    x.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=LAST)))  # type: ignore[no-untyped-call]
    y = net.stages[1][0].shortcut(x * 1)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    y.backward(images((2, 32, 4, 4), 1))
    assert seen == [True]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_an_imagenet_network_learns_as_before(name: str) -> None:
    """The last stage's convolutions among it."""
    net = plusx.build(plusx.design(name).with_classes(10), seed=0).to(memory_format=LAST)  # type: ignore[call-overload]
    exact = gradients(copy.deepcopy(net), torch.float32, 64)
    plain = gradients(copy.deepcopy(net), torch.bfloat16, 64)
    fused.fuse(net)
    ours = gradients(net, torch.bfloat16, 64)
    assert (ours - exact).norm() < 1.2 * (plain - exact).norm()
    assert not torch.equal(ours, plain)


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch, fresh: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    speed = choose(Recipe(precision="bfloat16"), torch.device("cpu"), 1)
    words = "bfloat16, channels last, norms not fused: there is no C++ compiler (no-such-compiler)"
    assert (speed.fuse, speed.why) == (False, words)


def test_a_run_says_that_norms_are_fused() -> None:
    speed = choose(Recipe(precision="bfloat16"), torch.device("cpu"), 1)
    assert (speed.fuse, speed.why) == (True, "bfloat16, channels last, norms fused")
    assert choose(Recipe(precision="bfloat16", compile="no"), torch.device("cpu"), 1).fuse is False
    assert choose(Recipe(precision="float32"), torch.device("cpu"), 1).fuse is False
