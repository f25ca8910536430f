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

from plusx import families, layers
from plusx.blocks import Bottleneck, BuildingBlock, ResidualBlock, SqueezeExcitation, assemble, module
from plusx.design import Design, Feature
from plusx.errors import DesignError

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
        self._still: list[nn.Module] = []

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

        `norm=True` also holds the batch norm statistics of the frozen part still, even in `train()`; "all" those of the
        whole network; False lets them follow the data. `unfreeze()` undoes it. Raises DesignError.
        """
        if not 0 <= stages <= len(self.stages):
            raise DesignError(f"freeze: stages {stages} is not between 0 and {len(self.stages)}")
        self.unfreeze()
        frozen = [self.stem, *list(self.stages)[:stages]]
        for part in frozen:
            part.requires_grad_(False)
        self._still = _norms([self] if norm == "all" else frozen) if norm else []
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Train every parameter again, and let every batch norm follow its data."""
        self.requires_grad_(True)
        self._still = []
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which the batch norms that `freeze` holds still stay as they are."""
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self


def build(
    design: Design | str,
    *,
    seed: int | None = None,
    zero_init: bool = False,
    output_stride: int | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """A Design, or the published one of that name, as a Network with fresh weights.

    Convolutions are drawn as He et al. do (arXiv 1502.01852 §2.2, fan-out). `zero_init` starts the last norm of each
    branch at zero, so that every residual block begins as its shortcut (arXiv 1706.02677 §5.1); where the branch ends
    in a convolution (pre-activation), that convolution. The same `seed` gives bit-equal weights; without one, torch's
    global generator draws. `output_stride`: see `Design.with_output_stride`. Raises DesignError.
    """
    design = families.design(design) if isinstance(design, str) else design
    if output_stride is not None:
        design = design.with_output_stride(output_stride)
    with torch.device("meta"):
        net = Network(design)
    if torch.device(device or "cpu").type == "meta":
        return net
    net.to_empty(device="cpu")  # drawn on the CPU, so that a seed gives the same weights on every device
    initialise(net, seed=seed, zero_init=zero_init)
    return net.to(device) if device is not None else net


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
    if zero_init:
        for block in net.blocks():
            if block.shortcut is not None:
                nn.init.zeros_(_last_weight(block))


def _last_weight(block: ResidualBlock) -> nn.Parameter:
    """The weight of the branch's last norm, or of its last convolution where no norm follows that."""
    for part in reversed(list(block.branch.modules())):
        if isinstance(part, nn.BatchNorm2d | nn.Conv2d) and not _in_gate(block, part):
            assert isinstance(part.weight, nn.Parameter)
            return part.weight
    raise AssertionError("a branch without convolutions")


def _in_gate(block: ResidualBlock, part: nn.Module) -> bool:
    gates = [gate for gate in block.branch if isinstance(gate, SqueezeExcitation)]
    return any(part is inner for gate in gates for inner in gate.modules())


def _norms(parts: list[nn.Module]) -> list[nn.Module]:
    return [norm for part in parts for norm in part.modules() if isinstance(norm, nn.BatchNorm2d)]


def _stages(design: Design) -> list[nn.Sequential]:
    """Blocks from the arguments that `layers` gives; the drop rate grows linearly with depth (arXiv 1603.09382 §3)."""
    total = sum(stage.depth for stage in design.stages)
    stages, position = [], 0
    for stage, first, rest in layers.stage_arguments(design):
        blocks = []
        for index in range(stage.depth):
            position += 1
            rate = stage.block.stochastic_depth * position / total
            blocks.append(_BLOCKS[stage.block.kind](**(first if index == 0 else rest), stochastic_depth=rate))
        stages.append(nn.Sequential(*blocks))
    return stages
