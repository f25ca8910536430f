"""The meter against torch: what autograd keeps, what is alive, what is read and written, to the byte."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plusx.cost import cost
from plusx.design import BottleneckSpec, BuildingSpec, DeepStem, Design, Head, ImageNetStem, Shortcut, SmallStem, Stage
from plusx.ledger import Dtype
from plusx.network import Network, build
from tests.test_blocks import ORDERS

SHORTCUTS: tuple[Shortcut, ...] = ("B", "C", "D", "A", "A-centred")
INPUT = (48, 64)


def design(
    block: BuildingSpec | BottleneckSpec,
    *,
    stem: Any = None,
    widths: tuple[int, ...] = (8, 16, 16),
    squeeze: int | None = None,
    classes: int = 5,
    output_stride: int | None = None,
) -> Design:
    """Three stages of two blocks; the second changes width and size, the third the size alone."""
    mid = 4 if block.kind == "bottleneck" else None
    stages = [
        Stage(depth=2, width=width, mid=mid, squeeze=squeeze, stride=2 if index else 1, block=block)
        for index, width in enumerate(widths)
    ]
    made = Design(stem=stem or ImageNetStem(width=8), stages=tuple(stages), head=Head(classes=classes))
    return made if output_stride is None else made.with_output_stride(output_stride)


def variety() -> Iterator[Any]:
    """Every order with every shortcut, both blocks; gates, plain twins, stems, dilation, stochastic depth, no head."""
    for order in ORDERS:
        for shortcut in SHORTCUTS:
            yield f"building {order} {shortcut}", design(BuildingSpec(order=order, shortcut=shortcut))
        yield f"bottleneck {order}", design(BottleneckSpec(order=order), squeeze=3, classes=0)
        yield f"bottleneck {order} D", design(BottleneckSpec(order=order, shortcut="D", stride_on="1x1"))
        yield f"plain building {order}", design(BuildingSpec(order=order, skip=False), stem=SmallStem(width=8))
        yield f"plain bottleneck {order}", design(BottleneckSpec(order=order, skip=False), squeeze=2)
        dropping = BuildingSpec(order=order, stochastic_depth=0.5)
        yield f"dropping {order}", design(dropping, stem=DeepStem(width=8, mid=(4, 6)))
        dilated = BottleneckSpec(order=order, shortcut="D", groups=2)
        yield f"dilated {order}", design(dilated, output_stride=4, widths=(8, 32, 64))
    pooled = BuildingSpec(shortcut="D")
    stages = [Stage(depth=1, width=8, dilation=2, block=pooled), Stage(depth=1, width=16, stride=2, block=pooled)]
    yield "pooling dilated and strided", Design(stem=SmallStem(width=8), stages=tuple(stages))
    yield "small stem", design(BuildingSpec(shortcut="A"), stem=SmallStem(width=8))
    yield "deep stem", design(BottleneckSpec(shortcut="D"), stem=DeepStem(width=8, mid=(4, 6)), widths=(8, 8, 8))
    yield "narrow after a wide stem", design(BuildingSpec(), stem=SmallStem(width=64))
    yield "wide late", design(BottleneckSpec(), stem=SmallStem(width=4), widths=(8, 64, 512))


VARIETY = dict(variety())


@pytest.fixture(params=VARIETY, ids=str)
def made(request: pytest.FixtureRequest) -> Design:
    found: Design = VARIETY[request.param]
    return found


def image(design: Design, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, design.stem.in_channels, *INPUT, dtype=dtype)


def kept_bytes(net: nn.Module, x: Tensor) -> int:
    """Bytes of the storages that autograd saves, each once, without the network's own."""
    own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = net(x)  # held until all is counted, so that no storage's address comes back
    assert logits.requires_grad
    return sum(kept.values())


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that torch's calls give: bytes alive at most, in all and in each module, and bytes moved."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
        self.alive: dict[int, tuple[int, weakref.WeakSet[Tensor]]] = {}
        self.peak = self.moved = 0
        self.peaks: dict[str, int] = {}
        self.running: list[str] = []
        for name, module in net.named_modules():
            module.register_forward_pre_hook(lambda _, __, name=name: self.running.append(name))
            module.register_forward_hook(lambda _, __, ___: self._leave())
        self._follow(x)

    def _leave(self) -> None:
        self.running.pop()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = list(tensors(args)), list(tensors(result))
        known = {tensor.untyped_storage()._cdata for tensor in read}
        if not all(tensor.untyped_storage()._cdata in known for tensor in written):  # a view moves nothing
            self.moved += sum(tensor.numel() * tensor.itemsize for tensor in (*read, *written))
        for tensor in written:
            self._follow(tensor)
        alive = self._alive()
        self.peak = max(self.peak, alive)
        for name in self.running:
            self.peaks[name] = max(self.peaks.get(name, 0), alive)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        _, holders = self.alive.get(storage._cdata, (0, None))
        if not holders:  # a new one, or one at a dead one's address
            holders = weakref.WeakSet()
        holders.add(tensor)
        if storage._cdata not in self.own:
            self.alive[storage._cdata] = storage.nbytes(), holders

    def _alive(self) -> int:
        return sum(size for size, holders in self.alive.values() if len(holders))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def watched(net: Network, x: Tensor) -> Watch:
    with torch.no_grad():
        watch = Watch(net, x)
        with watch:
            net(x)
    return watch


@pytest.mark.parametrize("batch", [2, 3])
def test_training_memory_is_what_autograd_keeps(made: Design, batch: int) -> None:
    assert cost(made, INPUT, batch=batch).training_bytes() == kept_bytes(build(made, seed=0), image(made, batch))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bottleneck original", "dilated full_preact", "deep stem"])
def test_training_memory_in_other_dtypes(name: str, dtype: Dtype) -> None:
    """A CPU keeps statistics as the norm's weights are; a GPU, at least in float32, which norms in float32 imitate."""
    made, of = VARIETY[name], getattr(torch, dtype)
    net = build(made, seed=0).to(of)
    if of.itemsize < 4:
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.float()
    assert cost(made, INPUT, batch=2).training_bytes(dtype) == kept_bytes(net, image(made, 2, of))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inference_peak_and_traffic_are_torchs(made: Design, dtype: Literal["float32", "float64"]) -> None:
    of = getattr(torch, dtype)
    watch = watched(build(made, seed=0).to(of).eval(), image(made, 2, of))
    expected = cost(made, INPUT, batch=2)
    assert (expected.inference_peak_bytes(dtype), expected.network.moved_bytes(dtype, 2)) == (watch.peak, watch.moved)


def test_every_parts_peak_is_torchs(made: Design) -> None:
    """Of all parts that are modules; a projection's convolution and norm are two of them where pooling precedes."""
    watch, expected = watched(build(made, seed=0).eval(), image(made, 2)), cost(made, INPUT, batch=2)
    parts = [*expected.network.parts, *expected.blocks, *expected.layers]
    peaks = {part.name: part.inference_peak_bytes("float32", 2) for part in parts}
    for name, peak in watch.peaks.items():
        if name in peaks and not name.endswith("shortcut.conv"):
            assert (name, peaks[name]) == (name, peak)
    assert set(peaks) & set(watch.peaks) >= {"stem", "stages.0", "stages.1.0.branch.0", "head"}


def test_weights_are_parameters_and_buffers(made: Design) -> None:
    net = build(made, seed=0).half()
    held = [*net.parameters(), *net.buffers()]
    assert cost(made, INPUT).weights_bytes("float16") == sum(tensor.nbytes for tensor in held)


def field_of(net: Network, x: Tensor, stage: int) -> int:
    """The width of what one middle pixel of a stage's output depends on, by the gradient it sends back."""
    x = x.requires_grad_()
    output = net.features(x)[stage]
    output[..., output.shape[2] // 2, output.shape[3] // 2].sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    columns = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    return int(columns[-1] - columns[0]) + 1


@pytest.mark.parametrize("name", [name for name in VARIETY if "original" in name or "stem" in name])
def test_receptive_field_is_what_a_pixel_depends_on(name: str) -> None:
    """All weights are positive, so that nothing cancels; gates, which see everything, are off."""
    made = VARIETY[name]
    net = build(made.replace(stages=tuple(stage.replace(squeeze=None) for stage in made.stages))).double().eval()
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.constant_(part.weight, 1.0 / part.weight[0].numel())
    for at, part in enumerate(net.stem):
        if isinstance(part, nn.MaxPool2d):  # of which a gradient would show the largest pixel alone
            net.stem[at] = nn.AvgPool2d(3, 2, 1)
    expected = cost(made, 224)
    for index, stage in enumerate(expected.stages):
        assert stage.receptive_field is not None
        side = 224 if stage.receptive_field < 200 else 448
        assert field_of(net, torch.ones(1, 3, 16 * 8, side, dtype=torch.float64), index) == stage.receptive_field
