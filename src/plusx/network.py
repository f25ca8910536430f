"""From a Design to a torch module: `build(design) -> Network`.

    Network
    ├── stem     Sequential of ConvBlocks and pooling
    ├── stages   ModuleList of Sequentials of blocks
    └── head     (norm, act,) pool, fc

Parameter names (`stem.0.conv.weight`, `stages.1.0.shortcut.conv.weight`, `head.fc.weight`) are frozen: weights files
outlive code. All tensors are N C H W.
"""

from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plusx import families, layers
from plusx.blocks import Bottleneck, BuildingBlock, ResidualBlock, SqueezeExcitation, StochasticDepth, assemble, module
from plusx.design import Design, Feature
from plusx.errors import DesignError, InputError

_BLOCKS: dict[str, type[Any]] = {"building": BuildingBlock, "bottleneck": Bottleneck}


class Network(nn.Module):
    """The network of a Design. Calling it gives logits: N in_channels H W → N classes."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        plan = layers.network(design)
        self.stem = nn.Sequential(*map(module, plan.stem))
        self.stages = nn.ModuleList(_stages(design))
        self.head = nn.Sequential(assemble(plan.head)) if len(plan.head) == 1 else assemble(plan.head)
        self._frozen: int | None = None
        self._norm: bool | Literal["all"] = True
        self._stopped: list[str] = []  # the parameters that `freeze` stopped; the caller's own stay as they are

    def forward(self, x: Tensor) -> Tensor:
        """Logits, N classes (pooled features, N channels, where the Design has no classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """Each stage's output, shallowest first: N C H/s W/s with the (C, s) of `feature_info`.

        `net.head(net.features(x)[-1])` equals `net(x)`. In pre-activation networks these are sums that no norm or
        activation has followed yet.
        """
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def blocks(self) -> Iterator[ResidualBlock]:
        """The residual blocks, in the order they run."""
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                assert isinstance(block, ResidualBlock)
                yield block

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        """Channels and stride of each of `features`, known from the Design before anything runs."""
        return self.design.features

    def freeze(self, stages: int, *, norm: bool | Literal["all"] = True) -> Self:
        """Stop training the stem and the first `stages` stages; `freeze(0)` stops the stem alone.

        `norm=True` also holds the frozen part still, even in `train()`: batch norms use and keep their statistics, and
        stochastic depth drops nothing; "all" does so in the whole network; False in none of it. A second call takes the
        first one's place, and `unfreeze()` undoes it. Raises DesignError.
        """
        if not (type(stages) is int and 0 <= stages <= len(self.stages)):
            raise DesignError(f"freeze: stages {stages!r} is not a whole number between 0 and {len(self.stages)}")
        if norm not in (True, False, "all"):
            raise DesignError(f"freeze: norm {norm!r} is not one of True, False, 'all'")
        self.unfreeze()
        self._frozen, self._norm = stages, norm
        self._stopped = [
            f"{name}.{key}"
            for name, part in self._frozen_parts()
            for key, parameter in part.named_parameters()
            if parameter.requires_grad
        ]
        for name in self._stopped:
            self.get_parameter(name).requires_grad_(False)
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Train again what `freeze` stopped, and let every batch norm follow its data."""
        for name in self._stopped:
            self.get_parameter(name).requires_grad_(True)
        self._frozen, self._stopped = None, []
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which what `freeze` holds still stays as it is."""
        super().train(mode)
        if self._frozen is not None and self._norm:
            for part in [self] if self._norm == "all" else [part for _, part in self._frozen_parts()]:
                _hold_still(part)
        return self

    def _frozen_parts(self) -> list[tuple[str, nn.Module]]:
        stages = [(f"stages.{index}", stage) for index, stage in enumerate(self.stages)]
        return [] if self._frozen is None else [("stem", self.stem), *stages[: self._frozen]]


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; "auto", the default, is cuda, mps or xpu where there is one, else cpu.

    Raises InputError for one that is not here.
    """
    if device is None or device == "auto":
        best = torch.accelerator.current_accelerator(check_available=True)
        return best if best is not None and best.type in ("cuda", "mps", "xpu") else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:  # a torch without CUDA asserts
        raise InputError(f"device {str(device)!r}: {str(problem).splitlines()[0]}") from None
    return chosen


def build(
    design: Design | str,
    *,
    seed: int | None = None,
    zero_init: bool = False,
    output_stride: int | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """A Design, or the published one of that name, as a Network with fresh weights.

    Convolutions are drawn as He et al. do (arXiv 1502.01852 §2.2, fan-out), the classifier uniformly within
    ±1/√in_features with a bias of zero. `zero_init` starts the last norm of each branch at zero, so that every residual
    block begins as its shortcut (arXiv 1706.02677 §5.1); where the branch ends in a convolution (pre-activation), that
    convolution; nothing where it ends in a ReLU, which would keep zeros for ever. The same `seed` gives bit-equal
    weights; without one, torch's global generator draws. `output_stride`: see `Design.with_output_stride`. `device`:
    the CPU unless given; "meta" gives shapes without weights. Raises DesignError, and InputError for a device or seed
    that is none.
    """
    design = families.find(design)
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**63):
        raise InputError(f"seed: {seed!r} is not a whole number between 0 and 2**63 - 1")
    if output_stride is not None:
        design = design.with_output_stride(output_stride)
    place = choose_device(device or "cpu")
    with torch.device("meta"):
        net = Network(design)
    if place.type == "meta":
        return net
    net.to_empty(device="cpu")  # drawn on the CPU, so that a seed gives the same weights on every device
    initialise(net, seed=seed, zero_init=zero_init)
    return net.to(place)


def initialise(net: Network, *, seed: int | None = None, zero_init: bool = False) -> None:
    """Draw every weight anew, in place; see `build`. Batch norms start as the identity with fresh statistics."""
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    for part in net.modules():
        match part:
            case nn.Conv2d():
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            case nn.Linear():
                bound = part.in_features**-0.5
                nn.init.uniform_(part.weight, -bound, bound, generator=generator)
                nn.init.zeros_(part.bias)
            case nn.BatchNorm2d():
                part.reset_parameters()
    for block in net.blocks() if zero_init else ():
        last = _last_weight(block)
        if last is not None and block.shortcut is not None:
            nn.init.zeros_(last)


def _hold_still(part: nn.Module) -> None:
    for inner in part.modules():
        if isinstance(inner, _BatchNorm | StochasticDepth):  # SyncBatchNorm too
            inner.eval()


def _last_weight(block: ResidualBlock) -> nn.Parameter | None:
    """The weight of the branch's last norm, or convolution where no norm follows; None where a ReLU ends the branch."""
    for part in reversed(list(block.branch.modules())):
        if isinstance(part, nn.BatchNorm2d | nn.Conv2d | nn.ReLU) and not _in_gate(block, part):
            return None if isinstance(part, nn.ReLU) else part.weight  # type: ignore[return-value]
    raise AssertionError("a branch without convolutions")


def _in_gate(block: ResidualBlock, part: nn.Module) -> bool:
    gates = [gate for gate in block.branch if isinstance(gate, SqueezeExcitation)]
    return any(part is inner for gate in gates for inner in gate.modules())


def _stages(design: Design) -> list[nn.Sequential]:
    """Blocks from the arguments that `layers` gives."""
    stages = []
    for number, (stage, first, rest) in enumerate(layers.stage_arguments(design)):
        rates = [layers.drop_rate(design, number, index) for index in range(stage.depth)]
        block = _BLOCKS[stage.block.kind]
        blocks = [block(**(rest if index else first), stochastic_depth=rate) for index, rate in enumerate(rates)]
        stages.append(nn.Sequential(*blocks))
    return stages
