"""The peers that the dialects are proved against: torchvision, timm, transformers, and the CIFAR repositories.

The CIFAR modules are written here anew from those repositories' layouts, so that their names and arithmetic are theirs:

    akamaster   https://github.com/akamaster/pytorch_resnet_cifar10   shortcut A, zeros on both sides; `linear`
    chenyaofo   https://github.com/chenyaofo/pytorch-cifar-models     torchvision's names on a 3×3 stem
    kuangliu    https://github.com/kuangliu/pytorch-cifar             four stages on a 3×3 stem; `shortcut`, `linear`
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class CifarBlock(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1; the shortcut is the child called `projection`, where it is one."""

    def __init__(self, channels: int, planes: int, stride: int, expansion: int, projection: str) -> None:
        super().__init__()
        sizes = [(3, stride), (3, 1)] if expansion == 1 else [(1, 1), (3, stride), (1, 1)]
        width, before = planes * expansion, channels
        for number, (kernel, step) in enumerate(sizes, start=1):
            out = width if number == len(sizes) else planes
            self.add_module(f"conv{number}", nn.Conv2d(before, out, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(out))
            before = out
        self.convs, self.stride, self.projection, self.grow = len(sizes), stride, projection, width - channels
        if projection and (stride != 1 or self.grow):
            self.add_module(
                projection,
                nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.convs + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            y = functional.relu(y) if number < self.convs else y
        if hasattr(self, self.projection or "-"):
            x = self.get_submodule(self.projection)(x)
        elif self.grow:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow // 2, self.grow // 2))
        return functional.relu(y + x)


class CifarNetwork(nn.Module):
    """conv1, bn1, layer1 to layer3 or 4, and `fc` (after adaptive pooling) or `linear` (after avg_pool2d)."""

    def __init__(
        self, depths: tuple[int, ...], width: int, expansion: int, projection: str, head: str, classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.head = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), head
        channels, self.layers = width, len(depths)
        for index, depth in enumerate(depths):
            planes, blocks = width << index, []
            for block in range(depth):
                stride = 2 if index and block == 0 else 1
                blocks.append(CifarBlock(channels, planes, stride, expansion, projection))
                channels = planes * expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.pool(self.maps(x)))

    def maps(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for index in range(1, self.layers + 1):
            x = self.get_submodule(f"layer{index}")(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1) if self.head == "fc" else functional.avg_pool2d(x, x.shape[3])
        return pooled.flatten(1)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self.head)(x)
        return logits


def akamaster(depth: int) -> CifarNetwork:
    return CifarNetwork(((depth - 2) // 6,) * 3, 16, 1, projection="", head="linear")


def chenyaofo(depth: int) -> CifarNetwork:
    return CifarNetwork(((depth - 2) // 6,) * 3, 16, 1, projection="downsample", head="fc")


_KUANGLIU = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def kuangliu(depth: int) -> CifarNetwork:
    return CifarNetwork(_KUANGLIU[depth], 64, 1 if depth < 50 else 4, projection="shortcut", head="linear")


class HubLogits(nn.Module):
    """A transformers network that returns its logits, or its pooled features, as a tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        logits: Tensor = out.logits if hasattr(out, "logits") else out.pooler_output.flatten(1)
        return logits


def transformers(layer_type: str, depths: tuple[int, ...], *, head: bool = True, **options: Any) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    widths = options.pop("hidden_sizes", (64, 128, 256, 512) if layer_type == "basic" else (256, 512, 1024, 2048))
    config = ResNetConfig(depths=list(depths), hidden_sizes=list(widths), layer_type=layer_type, **options)
    net: nn.Module = (ResNetForImageClassification if head else ResNetModel)(config)
    return net


def torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    return _blank(lambda: models.get_model(name, weights=None, **options))


def timm(name: str, **options: Any) -> nn.Module:
    from timm import create_model

    return _blank(lambda: create_model(name, pretrained=False, **options))


def _blank(make: Callable[[], nn.Module]) -> nn.Module:
    """A network without the time that its own initialisation takes; `scramble` fills it."""
    with torch.device("meta"):
        return make().to_empty(device="cpu")


def wipe(net: nn.Module) -> None:
    """Forget every weight and statistic."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()


def scramble(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, every weight, bias and running statistic drawn at random, at sizes that keep logits
    finite: norms about 1, and those that end a branch small."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                assert part.num_batches_tracked is not None
                part.weight.copy_(draw(part.weight, 0.2, 0.8))
                part.bias.copy_(draw(part.bias, -0.3, 0.3))
                part.running_mean.copy_(draw(part.running_mean, -0.3, 0.3))
                part.running_var.copy_(draw(part.running_var, 0.5, 1.5))
                part.num_batches_tracked.fill_(int(torch.randint(1, 1000, (), generator=generator)))
            elif isinstance(part, nn.Conv2d | nn.Linear):
                bound = (3.0 / (part.weight[0].numel())) ** 0.5
                part.weight.copy_(draw(part.weight, -bound, bound))
                if part.bias is not None:
                    part.bias.copy_(draw(part.bias, -0.5, 0.5))
    return net.eval()


def small_state() -> dict[str, Tensor]:
    """A state dict of the smallest network that a dialect has a name for: chenyaofo's, of 8 layers, 10 classes."""
    return {name: tensor.clone() for name, tensor in scramble(chenyaofo(8)).state_dict().items()}
