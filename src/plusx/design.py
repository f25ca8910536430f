"""The Design: a residual network as a small immutable value. No torch here.

    Design
    ├── stem    Stem: the layers before the first stage     kinds: imagenet, deep, small
    ├── stages  Stage, Stage, …: blocks of one width        each with its Block
    │           └── block  Block: what F is                 kinds: building, bottleneck
    └── head    Head: pooling and the classifier

A Design says what a network computes, in the words of "Deep Residual Learning for Image Recognition"
(arXiv 1512.03385). It can be written as TOML or JSON, compared, hashed and searched; `plusx.build` makes it a network.

Files and digests leave defaults out, so a default is part of the file format: new fields may come, with a default that
keeps the meaning of old files, but no default ever changes. Tests hold every published network's digest.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from plusx.errors import DesignError, InputError
from plusx.values import Value

Shortcut = Literal["identity", "A", "A-centred", "B", "C", "D"]
"""What x passes on its way to the addition (arXiv 1512.03385 §3.3, §4.1; D: arXiv 1812.01187 §4.2).

identity    x as it is; shapes must match.
A           where shapes change: subsample, and pad with zero channels at the end (the paper's own code).
A-centred   the same with half of the zero channels on either side (a widespread CIFAR repository does this).
B           where shapes change: a 1×1 convolution.
C           a 1×1 convolution in every block.
D           where shapes change: 2×2 average pooling, then a 1×1 convolution of stride 1.
"""

Order = Literal["original", "bn_after_add", "relu_before_add", "relu_preact", "full_preact"]
"""The order of operations in a block (arXiv 1603.05027, Table 2 and Figure 4).

original         conv-BN-ReLU-conv-BN, add, ReLU      (a) the residual block of 2015
bn_after_add     conv-BN-ReLU-conv, add, BN-ReLU      (b)
relu_before_add  conv-BN-ReLU-conv-BN-ReLU, add       (c)
relu_preact      ReLU-conv-BN-ReLU-conv-BN, add       (d)
full_preact      BN-ReLU-conv-BN-ReLU-conv, add       (e) the "v2" networks
"""

StrideOn = Literal["1x1", "3x3"]
"""Which convolution of a bottleneck subsamples: the first 1×1 (the paper), or the 3×3 (PyTorch's "v1.5")."""

Channels = Annotated[int, Field(gt=0, le=2**20)]
Dilation = Annotated[int, Field(gt=0, le=2**10)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Part(Value):
    error: ClassVar[type[InputError]] = DesignError


class ImageNetStem(_Part):
    """A 7×7 convolution of stride 2 and 3×3 max pooling of stride 2 (arXiv 1512.03385, Table 1). Stride 4 in all."""

    kind: Literal["imagenet"] = "imagenet"
    width: Channels = 64
    in_channels: Channels = 3
    stride: ClassVar[int] = 4


class DeepStem(_Part):
    """Three 3×3 convolutions, the first of stride 2, and 3×3 max pooling of stride 2: ResNet-C and -D.

    `mid` are the channels after the first and the second convolution. Source: arXiv 1812.01187 §4.2, Figure 2b.
    """

    kind: Literal["deep"] = "deep"
    width: Channels = 64
    mid: Annotated[tuple[Channels, Channels], Field(strict=False)] = (32, 32)
    in_channels: Channels = 3
    stride: ClassVar[int] = 4


class SmallStem(_Part):
    """One 3×3 convolution of stride 1, for small images (arXiv 1512.03385 §4.2)."""

    kind: Literal["small"] = "small"
    width: Channels = 16
    in_channels: Channels = 3
    stride: ClassVar[int] = 1


Stem = Annotated[ImageNetStem | DeepStem | SmallStem, Field(discriminator="kind")]


class _BlockSpec(_Part):
    """What both kinds of block share."""

    order: Order = "original"
    shortcut: Shortcut = "B"
    skip: bool = True
    groups: Channels = 1
    stochastic_depth: Rate = 0.0

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        idle = [name for name in ("shortcut", "stochastic_depth") if name in self.model_fields_set]
        if not self.skip and any(getattr(self, name) != type(self).model_fields[name].default for name in idle):
            raise ValueError(f"skip = false has no use for {' and '.join(idle)}: a plain block has no addition")
        return self


class BuildingSpec(_BlockSpec):
    """Two 3×3 convolutions (arXiv 1512.03385, Figure 5 left): the block of the shallow networks, 18 and 34.

    `skip = False` leaves the addition out: the plain twin. `groups` are those of every 3×3. `stochastic_depth` is the
    probability of dropping the last block's branch; earlier blocks' grow linearly up to it (arXiv 1603.09382 §3).
    """

    kind: Literal["building"] = "building"


class BottleneckSpec(_BlockSpec):
    """1×1 down, 3×3, 1×1 up (arXiv 1512.03385, Figure 5 right): the block of the deep networks, 50, 101 and 152.

    `stride_on` names the convolution that subsamples. The other options are those of `BuildingSpec`.
    """

    kind: Literal["bottleneck"] = "bottleneck"
    stride_on: StrideOn = "3x3"


Block = Annotated[BuildingSpec | BottleneckSpec, Field(discriminator="kind")]


class Stage(_Part):
    """`depth` blocks of output channels `width`; the first subsamples by `stride`.

    `mid`: the inner channels of a bottleneck (needed there, unknown elsewhere).
    `squeeze`: the inner channels of a squeeze-excitation gate at the branch's end (arXiv 1709.01507); None: no gate.
    `dilation`: of every 3×3 convolution.
    `first_dilation`: says that a stride of the first block gave way to dilation, and what the 3×3 dilates by that
    carried it (see `Design.with_output_stride`); None: no stride was removed.
    """

    depth: Annotated[int, Field(gt=0, le=10_000)]
    width: Channels
    mid: Channels | None = None
    squeeze: Channels | None = None
    stride: Literal[1, 2] = 1
    dilation: Dilation = 1
    first_dilation: Dilation | None = None
    block: Block

    @model_validator(mode="after")
    def _mid_and_groups_fit(self) -> Self:
        if self.block.kind == "bottleneck" and self.mid is None:
            raise ValueError("mid is missing: a bottleneck needs its inner channels")
        if self.block.kind == "building" and self.mid is not None:
            raise ValueError("mid is not used by a building block")
        if self.first_dilation is not None and self.stride != 1:
            raise ValueError("first_dilation stands for a stride that was removed, but the stride is 2")
        grouped = self.width if self.mid is None else self.mid
        if grouped % self.block.groups:
            raise ValueError(f"block.groups: {self.block.groups} does not divide {grouped} channels")
        return self


class Head(_Part):
    """Global average pooling and one linear layer. `classes = 0` leaves the linear layer out: the network then gives
    the pooled features.

    `pool` is the order in which the mean is summed. "window": by avg_pool2d over the whole map, as the CIFAR
    repositories akamaster's and kuangliu's do, so that logits agree to the last bit.
    """

    classes: Annotated[int, Field(ge=0, le=2**24)] = 1000
    pool: Literal["adaptive", "window"] = "adaptive"


class Feature(NamedTuple):
    """What one stage gives: `channels`, and `stride`, the input pixels per pixel of its output."""

    channels: int
    stride: int


class Design(_Part):
    """A residual network: stem, stages, head. Immutable; equal when all fields are.

    In TOML, JSON and keyword arguments a top-level `block` serves every stage that has none of its own. Raises
    DesignError, naming the field, for anything that does not make a network.
    """

    name: str = ""
    stem: Stem
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, strict=False)]
    head: Head = Head()

    @model_validator(mode="before")
    @classmethod
    def _share_block(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "block" not in data:
            return data
        data = dict(data)
        shared, stages = data.pop("block"), data.get("stages")
        if not isinstance(stages, list | tuple):
            return data
        if all(isinstance(stage, Stage) or "block" in stage for stage in stages if isinstance(stage, dict | Stage)):
            raise ValueError("block: every stage has its own, so the shared one is not used")
        data["stages"] = [{"block": shared, **stage} if isinstance(stage, dict) else stage for stage in stages]
        return data

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        in_channels = self.stem.width
        for index, stage in enumerate(self.stages):
            if problem := _misfit(stage, in_channels, index):
                raise ValueError(f"stages[{index}].{problem}")
            in_channels = stage.width
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a block that all stages have in common stands once, as `block`."""
        data = super().to_dict()
        blocks = [stage["block"] for stage in data["stages"]]
        if any(block != blocks[0] for block in blocks):
            return data
        shared = {"block": blocks[0]}
        stages = {"stages": [{k: v for k, v in stage.items() if k != "block"} for stage in data["stages"]]}
        before = {key: data[key] for key in ("name", "stem") if key in data}
        return before | shared | stages | {key: data[key] for key in data if key not in (*before, "stages")}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the Design computes: everything but its name. Stable across versions of plusx."""
        data = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    @property
    def features(self) -> tuple[Feature, ...]:
        """Channels and stride of each stage's output, as `Network.features` gives them."""
        return tuple(self._features())

    def _features(self) -> Iterator[Feature]:
        stride = self.stem.stride
        for stage in self.stages:
            stride *= stage.stride
            yield Feature(stage.width, stride)

    @property
    def output_stride(self) -> int:
        """Input pixels per pixel of the last stage's output; on a smaller input that output is a single pixel."""
        return self.features[-1].stride

    def with_output_stride(self, output_stride: int) -> "Design":
        """The same weights on a finer grid: strides that would exceed `output_stride` become dilation.

        Each removed stride doubles the dilation of every later 3×3 convolution. The convolution that carried the
        stride, and those before it in its block, keep the dilation of the stage before: for a stride on the 3×3 (and
        for building blocks) the first 3×3 of the stage's first block dilates as the previous stage did; for a stride
        on the 1×1 it already dilates anew. Sampled at the old positions, the result equals the original network's
        (the "à trous" identity, arXiv 1412.7062 §3.1; the convention is DeepLab's and torchvision's), except behind
        squeeze-excitation: a gate's mean over the finer grid is another one. Raises DesignError for a stride that the
        Design does not pass through, and for a Design that is dilated already.
        """
        if output_stride == self.output_stride:
            return self
        reachable = sorted({self.stem.stride, *(feature.stride for feature in self.features)})
        if output_stride not in reachable:
            raise DesignError(f"output_stride: {output_stride} is not one of {', '.join(map(str, reachable))}")
        if any(stage.dilation != 1 for stage in self.stages):
            raise DesignError("output_stride: the design is dilated already; start from the one without dilation")
        stages, stride, removed = [], self.stem.stride, 1
        for stage in self.stages:
            before = removed
            if stride * stage.stride <= output_stride:
                stride *= stage.stride
            else:
                removed *= stage.stride
            gave_way = removed != before
            stages.append(
                stage.replace(
                    stride=1 if gave_way else stage.stride,
                    dilation=removed,
                    first_dilation=before if gave_way else None,
                )
            )
        return self.replace(stages=tuple(stages))

    def with_classes(self, classes: int) -> "Design":
        """The same network for another number of classes."""
        return self.replace(head=self.head.replace(classes=classes))

    def with_in_channels(self, in_channels: int) -> "Design":
        """The same network for another number of input channels."""
        return self.replace(stem=self.stem.replace(in_channels=in_channels))

    def plain_twin(self, name: str = "") -> "Design":
        """The same layers without the additions (arXiv 1512.03385 §3.3), and so without shortcuts."""
        stages = tuple(stage.replace(block=_plain_block(stage.block)) for stage in self.stages)
        return self.replace(name=name, stages=stages)


def _plain_block(block: BuildingSpec | BottleneckSpec) -> BuildingSpec | BottleneckSpec:
    kept = {name: value for name, value in block if name not in ("shortcut", "stochastic_depth")}
    return type(block)(**{**kept, "skip": False})


def _misfit(stage: Stage, in_channels: int, index: int) -> str:
    """Why a stage's first block cannot follow `in_channels`, or the empty string."""
    changes = stage.stride != 1 or stage.width != in_channels
    block = stage.block
    if block.kind == "building" and in_channels % block.groups:
        return f"block.groups: {block.groups} does not divide the {in_channels} channels coming in"
    if block.skip and block.shortcut == "identity" and changes:
        return f"block.shortcut: identity cannot take {in_channels} channels to {stage.width} at stride {stage.stride}"
    if block.skip and block.shortcut in ("A", "A-centred") and stage.width < in_channels:
        return f"block.shortcut: {block.shortcut} pads channels and cannot take {in_channels} to {stage.width}"
    return ""
