"""From the shapes of plusx-named tensors to the Design, and to what the shapes cannot tell.

Strides, dilation, the convolution that strides, how a shortcut without weights pads: none of these is a tensor. Each is
taken by a stated default, by what stands beside the tensors, or as the caller says, and named as a Choice.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, get_args

from plusx import layers
from plusx.design import (
    BottleneckSpec,
    BuildingSpec,
    DeepStem,
    Design,
    Head,
    ImageNetStem,
    Order,
    Shortcut,
    SmallStem,
    Stage,
    Stem,
    StrideOn,
)
from plusx.dialects import names
from plusx.dialects.configs import Facts
from plusx.dialects.limits import dialect_of
from plusx.dialects.names import Table, some
from plusx.errors import DesignError, WeightsError, did_you_mean


class Hints(TypedDict, total=False):
    """What the caller knows beyond the tensors; None and missing leave it to the default.

    stride_on: the convolution of a bottleneck that subsamples, "1x1" (v1) or "3x3" (v1.5).
    shortcut: how shapes change on the shortcut; see `plusx.design.Shortcut`.
    order: the order of operations; see `plusx.design.Order`.
    skip: False: no additions, the plain twin.
    strides: of each stage's first block.
    output_stride: input pixels per pixel of the last stage, where strides gave way to dilation.
    """

    stride_on: StrideOn | None
    shortcut: Shortcut | None
    order: Order | None
    skip: bool | None
    strides: tuple[int, ...] | None
    output_stride: int | None


@dataclass(frozen=True)
class Choice:
    """Something tensors cannot tell: what was taken, what else it may be, the flag that changes it, and why this."""

    what: str
    taken: str
    others: tuple[str, ...]
    flag: str
    why: str = "default"


@dataclass(frozen=True)
class Shapes:
    """Shapes by plusx's name, and for messages the file's own names, and the table that has those of the missing."""

    shapes: Mapping[str, tuple[int, ...]]
    theirs: Mapping[str, str]
    where: str
    table: Table = names.PLUSX

    def of(self, name: str, dims: int = 4) -> tuple[int, ...]:
        """The shape of a tensor. Raises WeightsError when it is missing or has other than `dims` dimensions."""
        shape = self.shapes.get(name)
        if shape is None:
            raise WeightsError(f"{self.where}: tensor {self.their(name)} is missing")
        if len(shape) != dims:
            raise WeightsError(f"{self.where}: tensor {self.their(name)} is {list(shape)}, not of {dims} dimensions")
        return shape

    def their(self, name: str) -> str:
        """The file's own name of a tensor, for messages; of a missing one, the name it would have there."""
        return some([self.theirs.get(name) or self.table.their(name)])


def infer(seen: Shapes, table: Table, hints: Hints, facts: Facts) -> tuple[Design, str, tuple[Choice, ...]]:
    """The Design, whose dialect it is in, and the choices taken.

    Raises WeightsError for shapes of no residual network, and for a hint that they do not leave open.
    """
    return _Inference(seen, table, hints, facts).run()


_T = TypeVar("_T")
_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")


class _Inference:
    def __init__(self, seen: Shapes, table: Table, hints: Hints, facts: Facts) -> None:
        self.seen, self.table, self.facts = seen, table, facts
        self.hints: dict[str, Any] = {name: value for name, value in hints.items() if value is not None}
        self.used: set[str] = set()
        self.choices: list[Choice] = []
        self.blocks = _blocks(seen)
        self.stem = _stem(seen)

    def run(self) -> tuple[Design, str, tuple[Choice, ...]]:
        if self.table.preact and not self._projects(0, 0):
            # arXiv 1603.05027, Appendix: the first block's two paths part behind its activation; so they do in plusx
            raise WeightsError(
                f"{self.seen.where}: {self.table.name} without a projection in the first block (its 18 and 34): there "
                f"the shortcut takes x before the activation; in plusx, after it"
            )
        design = self._design(self._strides(), self._order())
        dialect = dialect_of(self.table, design)
        design = self._with_shortcut(design, dialect)
        design = self._with_stride_on(design, dialect)
        design = self._with_dilation(design, dialect)
        for hint in self.hints.keys() - self.used:
            raise WeightsError(
                f"{self.seen.where}: {hint} {self.hints[hint]!r} is of no use: this network ({dialect}'s) leaves no "
                f"choice of it"
            )
        return design, dialect, tuple(self.choices)

    def _design(self, strides: tuple[int, ...], order: Order) -> Design:
        """The Design as far as shapes tell it, without shortcuts yet."""
        stages = []
        width = self.stem.width
        for index, stride in enumerate(strides):
            stage = _stage(self.seen, index, len(self.blocks[index]), width, order)
            stages.append(stage.replace(stride=stride))
            width = stage.width
        headed = any(name.startswith("head.fc.") for name in self.seen.shapes)
        classes = self.seen.of("head.fc.weight", 2)[0] if headed else 0
        head = Head(classes=classes, pool="window" if self.table.window else "adaptive")
        return Design(stem=self.stem, stages=tuple(stages), head=head)

    def _strides(self) -> tuple[int, ...]:
        """A stage subsamples where its width changes or a projection starts it, but the first only for the latter."""
        taken, width = [], self.stem.width
        everywhere = all(self._projects(s, b) for s, blocks in enumerate(self.blocks) for b in blocks)
        for index in range(len(self.blocks)):
            before, width = width, _width(self.seen, index)
            projects = self._projects(index, 0) and (index > 0 or not everywhere)
            taken.append(2 if (width != before and index > 0) or (width == before and projects) else 1)
        strides, why = self._asked("strides", tuple(taken), self.facts.strides)
        if len(strides) != len(taken) or any(stride not in (1, 2) for stride in strides):
            raise WeightsError(f"{self.seen.where}: strides {strides} are not {len(taken)} numbers out of 1, 2")
        widths = (self.stem.width, *(_width(self.seen, index) for index in range(len(taken))))
        open_ = [index for index in range(len(taken)) if widths[index] != widths[index + 1]]
        if self.table in (names.HUB, names.HUB_BARE):
            open_ = [index for index in open_ if index == 0]
        if open_ and self.table in (names.PLUSX, names.HUB, names.HUB_BARE):
            other = tuple(3 - stride if index == open_[-1] else stride for index, stride in enumerate(strides))
            what = "1 or 2 where widths change" if self.table is names.PLUSX else "2 in the first stage"
            self._choice("strides of the stages", _numbers(strides), (what,), f"--strides {_numbers(other)}", why)
        else:
            self.used.discard("strides")
        return strides

    def _projects(self, stage: int, block: int) -> bool:
        return f"stages.{stage}.{block}.shortcut.conv.weight" in self.seen.shapes

    def _order(self) -> Order:
        shapes = self.seen.shapes
        if "stages.0.0.act.norm.weight" in shapes:
            return "bn_after_add"
        if "head.norm.weight" in shapes:
            return "full_preact"
        if self.table is not names.PLUSX:
            return "original"
        same: tuple[Order, ...] = ("original", "relu_before_add", "relu_preact")
        order, why = self._asked("order", same[0], None)
        self._among("order", order, same)
        others = tuple(other for other in same if other != order)
        self._choice("order of operations", order, others, f"--order {others[0]}", why)
        return order

    def _with_shortcut(self, design: Design, dialect: str) -> Design:
        """The shortcuts that put projections where the file has them; the likeliest first."""
        found = {(s, b) for s, blocks in enumerate(self.blocks) for b in blocks if self._projects(s, b)}
        fits = [other for other in self._candidates(design, dialect, found) if _projections(other) == found]
        if not fits:
            where = [f"stages.{s}.{b}.shortcut.conv.weight" for s, b in sorted(found)]
            raise WeightsError(
                f"{self.seen.where}: no kind of shortcut has projections just here: "
                f"{some(map(self.seen.their, where)) or 'nowhere, while widths shrink'}"
            )
        skip, why = self._asked("skip", fits[0].stages[0].block.skip, None)
        self._among("skip", skip, tuple(other.stages[0].block.skip for other in fits))
        both = [other for other in fits if other.stages[0].block.skip == skip]
        names_ = tuple(other.stages[0].block.shortcut for other in both)
        shortcut, because = self._asked("shortcut", names_[0], None) if skip else (names_[0], why)
        self._among("shortcut", shortcut, names_)
        taken = both[names_.index(shortcut)]
        plan = layers.network(taken)
        differ = [other for other in fits if layers.network(other) != plan]  # B and C may come to the same
        others = {_shortcut_words(other): _shortcut_flag(other) for other in differ}
        if others:
            why = because if because != "default" else why
            self._choice("shortcut", _shortcut_words(taken), tuple(others), next(iter(others.values())), why)
        return taken

    def _candidates(self, design: Design, dialect: str, found: set[tuple[int, int]]) -> Iterator[Design]:
        kinds: tuple[Shortcut, ...]
        if found:
            likely: tuple[Shortcut, ...] = ("D", "B", "C") if design.stem.kind == "deep" else ("B", "D", "C")
            kinds = (self.table.shortcut, "C") if self.table.shortcut else likely
        elif _changes(design):
            kinds = ("A-centred", "A") if dialect == "akamaster" else ("A", "A-centred")
        else:
            kinds = (self.table.shortcut or "B",)
        for kind in kinds:
            try:
                yield _with_block(design, shortcut=kind)
            except DesignError:
                continue
        preact = design.stages[0].block.order == "full_preact"
        if not found and not (preact and "stages.0.0.preact.norm.weight" in self.seen.shapes):
            yield _with_block(design, skip=False)

    def _with_stride_on(self, design: Design, dialect: str) -> Design:
        """v1 or v1.5. Files converted from other frameworks carry v1 under torchvision's names."""
        striding = [stage for stage in design.stages if stage.stride > 1 and stage.block.kind == "bottleneck"]
        if self.table.preact or not striding:
            return design
        stride_on, why = self._asked("stride_on", "3x3", self.facts.stride_on)
        self._among("stride_on", stride_on, ("1x1", "3x3"))
        other = "1x1" if stride_on == "3x3" else "3x3"
        self._choice(
            "stride of the bottlenecks", _stride_words(stride_on), (_stride_words(other),), f"--stride-on {other}", why
        )
        return _with_block(design, BottleneckSpec, stride_on=stride_on)

    def _with_dilation(self, design: Design, dialect: str) -> Design:
        """Dilation in place of strides, which torchvision has, and timm.

        But where timm dilates, it pools in front of a projection over neighbours, not over taps that lie apart.
        """
        pooled = dialect == "timm" and design.stages[0].block.shortcut == "D"
        if dialect not in ("plusx", "timm", "torchvision") or pooled:
            return design
        least = 1 if dialect == "plusx" else 8
        reachable = tuple(dict.fromkeys(f.stride for f in design.features if f.stride >= least))
        if len(reachable) < 2:
            return design
        wanted, why = self._asked("output_stride", design.output_stride, None)
        self._among("output_stride", wanted, reachable)
        others = tuple(f"{stride} (dilated)" for stride in reversed(reachable) if stride != wanted)
        flag = f"--output-stride {reachable[-2] if wanted == reachable[-1] else reachable[-1]}"
        self._choice("output stride", f"{wanted}", others, flag, why)
        return design if wanted == design.output_stride else design.with_output_stride(wanted)

    def _asked(self, name: str, default: _T, fact: _T | None) -> tuple[_T, str]:
        """The caller's word, else the folder's, else the default; and which of them it was."""
        self.used.add(name)
        if name in self.hints:
            return self.hints[name], "as asked"
        return (default, "default") if fact is None else (fact, "config.json")

    def _among(self, name: str, value: Any, possible: tuple[Any, ...]) -> None:
        if value not in possible:
            known = ", ".join(map(str, dict.fromkeys(possible)))
            near = did_you_mean(str(value), map(str, possible))
            raise WeightsError(f"{self.seen.where}: {name} {value!r} does not fit the tensors; possible: {known}{near}")

    def _choice(self, what: str, taken: str, others: tuple[str, ...], flag: str, why: str) -> None:
        self.choices.append(Choice(what, taken, others, flag, why))


def _blocks(seen: Shapes) -> list[range]:
    """The blocks of each stage. Both must be counted from 0 without gaps."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for name in seen.shapes:
        if match := _BLOCK.fullmatch(name):
            found[int(match[1])].add(int(match[2]))
    if not found:
        raise WeightsError(f"{seen.where}: no block of any stage is among the tensors")
    for stage in range(max(found) + 1):
        if found[stage] != set(range(len(found[stage]))) or not found[stage]:
            raise WeightsError(f"{seen.where}: stage {stage} (counted from 0) has gaps in its blocks")
    return [range(len(found[stage])) for stage in range(len(found))]


def _stem(seen: Shapes) -> Stem:
    shapes = _weights_of_convs(seen, "stem.")
    kernels = [shape[2:] for shape in shapes]
    match kernels:
        case [(7, 7)]:
            return ImageNetStem(width=shapes[0][0], in_channels=shapes[0][1])
        case [(3, 3)]:
            return SmallStem(width=shapes[0][0], in_channels=shapes[0][1])
        case [(3, 3), (3, 3), (3, 3)]:
            mid = (shapes[0][0], shapes[1][0])
            return DeepStem(width=shapes[2][0], mid=mid, in_channels=shapes[0][1])
    found = ", ".join(f"{kernel[0]}×{kernel[1]}" for kernel in kernels)
    raise WeightsError(f"{seen.where}: a stem is one 7×7, one 3×3 or three 3×3 convolutions; found {found}")


def _weights_of_convs(seen: Shapes, prefix: str) -> list[tuple[int, ...]]:
    """The shapes of the convolutions numbered behind a prefix, at least one. Raises WeightsError naming one missing.

    Each stands beside its norm, so that a norm, or a later convolution, tells of one that is not there.
    """
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.(?:conv|norm)\..+")
    last = max((int(found[1]) for name in seen.shapes if (found := numbered.fullmatch(name))), default=0)
    return [seen.of(f"{prefix}{index}.conv.weight") for index in range(last + 1)]


def _width(seen: Shapes, stage: int) -> int:
    return seen.of(f"stages.{stage}.0.branch.{_convs(seen, stage) - 1}.conv.weight")[0]


def _convs(seen: Shapes, stage: int) -> int:
    """The convolutions in a stage's first block: 2 in a building block, 3 in a bottleneck."""
    kernels = [shape[2:] for shape in _weights_of_convs(seen, f"stages.{stage}.0.branch.")]
    if kernels in ([(3, 3)] * 2, [(1, 1), (3, 3), (1, 1)]):
        return len(kernels)
    found = ", ".join(f"{kernel[0]}×{kernel[1]}" for kernel in kernels)
    raise WeightsError(
        f"{seen.where}: stage {stage} (counted from 0): a block is 3×3, 3×3 or 1×1, 3×3, 1×1; found {found}"
    )


def _stage(seen: Shapes, index: int, depth: int, in_channels: int, order: Order) -> Stage:
    """A stage by its first block; whether the others are like it is checked against the whole Design."""
    first, convs, width = f"stages.{index}.0.branch.", _convs(seen, index), _width(seen, index)
    inner = seen.of(f"{first}1.conv.weight")
    grouped = width if convs == 2 else inner[0]
    block: Callable[..., BuildingSpec | BottleneckSpec] = BuildingSpec if convs == 2 else BottleneckSpec
    if grouped % inner[1]:
        raise WeightsError(
            f"{seen.where}: tensor {seen.their(f'{first}1.conv.weight')} is {list(inner)}: no groups fit"
        )
    gate = f"{first}{convs}.fc1.weight"
    return Stage(
        depth=depth,
        width=width,
        mid=None if convs == 2 else inner[0],
        squeeze=seen.of(gate)[0] if gate in seen.shapes else None,
        block=block(order=order, groups=grouped // inner[1], skip=False),
    )


def _with_block(design: Design, kind: type = object, **changes: Any) -> Design:
    """All blocks of a kind changed alike. A shortcut brings the addition with it."""
    skip = {"skip": True} if "shortcut" in changes else {}
    old = [stage.block for stage in design.stages]
    blocks = [block.replace(**skip, **changes) if isinstance(block, kind) else block for block in old]
    return design.replace(
        stages=tuple(stage.replace(block=block) for stage, block in zip(design.stages, blocks, strict=True))
    )


def _projections(design: Design) -> set[tuple[int, int]]:
    """The blocks, as (stage, block), whose shortcut has a convolution."""
    plan = layers.network(design)
    return {
        (s, b)
        for s, stage in enumerate(plan.stages)
        for b, block in enumerate(stage)
        if any(isinstance(layer, layers.Conv) for layer in block.shortcut or ())
    }


def _changes(design: Design) -> bool:
    widths = [design.stem.width, *(stage.width for stage in design.stages)]
    return len(set(widths)) > 1 or any(stage.stride > 1 for stage in design.stages)


_WORDS = {
    "identity": "identity",
    "A": "A, zeros at the end (the paper's)",
    "A-centred": "A, zeros on both sides",
    "B": "B, a projection where shapes change",
    "C": "C, projections everywhere",
    "D": "D, pooling and a projection where shapes change",
}
assert set(_WORDS) == set(get_args(Shortcut))


def _shortcut_words(design: Design) -> str:
    block = design.stages[0].block
    return _WORDS[block.shortcut] if block.skip else "none (a plain twin)"


def _shortcut_flag(design: Design) -> str:
    block = design.stages[0].block
    return f"--shortcut {block.shortcut}" if block.skip else "--no-skip"


def _stride_words(stride_on: str) -> str:
    return {"1x1": "on the 1×1 (v1, the paper's)", "3x3": "on the 3×3 (v1.5, PyTorch's)"}[stride_on]


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
