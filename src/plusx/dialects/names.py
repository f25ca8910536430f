"""Other people's names for the layers of a residual network, beside plusx's: one table per naming, read both ways.

A row pairs a layer's name in the peer's state dict with plusx's. The letters stand for numbers:

    {s} {S}   the stage, counted from 0, from 1          {b}   the block in its stage
    {c} {C}   the convolution in its branch, likewise    {g}   the squeeze-excitation gate's place in its branch

A new dialect is one more table here, and one more entry in `limits.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from plusx.design import Shortcut
from plusx.errors import WeightsError

Rows = tuple[tuple[str, str], ...]

_LEAVES = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
_NUMBER = r"(?:0|[1-9]\d{0,3})"


@dataclass(frozen=True)
class Table:
    """One naming. Where two rows of plusx share a name of theirs, the first one reads, and both write.

    shortcut: the kind of a projection, where the names tell it.
    preact: their pre-activation norm has one name, whether or not the shortcut starts behind it.
    conv_head: the classifier is a 1×1 convolution, its weight classes × channels × 1 × 1.
    window: they pool by avg_pool2d over the whole map; see `plusx.design.Head`.
    """

    name: str
    rows: Rows
    shortcut: Shortcut | None = None
    preact: bool = False
    conv_head: bool = False
    window: bool = False

    def to_plusx(self, names: Iterable[str]) -> dict[str, str]:
        """{theirs: plusx's} for the names that fit this table; the others are left out."""
        found = {}
        for name in names:
            if (ours := _translate(name, _readers(self.rows))) is not None:
                found[name] = ours
        return _settled(found, self.preact)

    def their(self, name: str) -> str:
        """Their name for a tensor of plusx; plusx's own where they have none."""
        return _translate(name, _writers(self.rows)) or name

    def from_plusx(self, names: Iterable[str]) -> dict[str, str]:
        """{plusx's: theirs}. Every name must fit; `limits.problem` says beforehand whether they do."""
        theirs = {name: _translate(name, _writers(self.rows)) for name in names}
        assert all(theirs.values()), f"{self.name}: no name for {[name for name, to in theirs.items() if not to][:3]}"
        return {name: to for name, to in theirs.items() if to}


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w)\\\}", lambda found: f"(?P<{found[1]}>{_NUMBER})", re.escape(template)))


@cache
def _readers(rows: Rows) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(theirs), ours) for theirs, ours in rows)


@cache
def _writers(rows: Rows) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(ours), theirs) for theirs, ours in rows)


def _translate(name: str, rows: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    """The name by the first row that fits its layer; None when none does."""
    layer, _, leaf = name.rpartition(".")
    if leaf not in _LEAVES:
        return None
    for pattern, template in rows:
        if found := pattern.fullmatch(layer):
            numbers = {letter.lower(): int(digits) - letter.isupper() for letter, digits in found.groupdict().items()}
            if min(numbers.values(), default=0) >= 0:
                return f"{_fill(template, numbers)}.{leaf}"
    return None


def _fill(template: str, numbers: Mapping[str, int]) -> str:
    one_based = {letter.upper(): number + 1 for letter, number in numbers.items()}
    return template.format(**{"g": "gate", **numbers}, **one_based)


_IN_BLOCK = re.compile(r"(stages\.\d+\.\d+\.)(.+)")


def _settled(names: dict[str, str], preact: bool) -> dict[str, str]:
    """The two plusx names that depend on the rest of their block, once all of the block is known.

    A gate stands after the block's convolutions. A pre-activation norm is the block's `preact`, not its branch's, where
    the shortcut starts behind it: in front of a projection, and in the network's first block.
    """
    blocks = [(found[1], found[2]) for name in names.values() if (found := _IN_BLOCK.fullmatch(name))]
    convs = Counter(block for block, rest in blocks if re.fullmatch(r"branch\.\d+\.conv\.weight", rest))
    shared = {block for block, rest in blocks if rest == "shortcut.conv.weight"} | {"stages.0.0."}

    def settle(name: str) -> str:
        found = _IN_BLOCK.fullmatch(name)
        if not found:
            return name
        block, rest = found[1], found[2].replace("branch.gate.", f"branch.{convs[found[1]]}.")
        if preact and block in shared:
            rest = rest.replace("branch.0.norm.", "preact.norm.")
        return block + rest

    return {theirs: settle(ours) for theirs, ours in names.items()}


_STEM: Rows = (("conv1", "stem.0.conv"), ("bn1", "stem.0.norm"))
_DEEP_STEM: Rows = (
    *(("conv1.0", "stem.0.conv"), ("conv1.1", "stem.0.norm"), ("conv1.3", "stem.1.conv"), ("conv1.4", "stem.1.norm")),
    *(("conv1.6", "stem.2.conv"), ("bn1", "stem.2.norm")),
)
_BRANCH: Rows = (
    ("layer{S}.{b}.conv{C}", "stages.{s}.{b}.branch.{c}.conv"),
    ("layer{S}.{b}.bn{C}", "stages.{s}.{b}.branch.{c}.norm"),
)
_GATE: Rows = (
    ("layer{S}.{b}.se.fc1", "stages.{s}.{b}.branch.{g}.fc1"),
    ("layer{S}.{b}.se.fc2", "stages.{s}.{b}.branch.{g}.fc2"),
)


def _projection(conv: str, norm: str) -> Rows:
    return (
        (f"layer{{S}}.{{b}}.{conv}", "stages.{s}.{b}.shortcut.conv"),
        (f"layer{{S}}.{{b}}.{norm}", "stages.{s}.{b}.shortcut.norm"),
    )


_PROJECTED = _projection("downsample.0", "downsample.1")
_POOLED = _projection("downsample.1", "downsample.2")  # downsample.0 is the pooling
_FC: Rows = (("fc", "head.fc"),)

_V2: Rows = (
    ("stages.{s}.blocks.{b}.conv{C}", "stages.{s}.{b}.branch.{c}.conv"),
    ("stages.{s}.blocks.{b}.norm{C}", "stages.{s}.{b}.branch.{c}.norm"),
    ("stages.{s}.blocks.{b}.norm1", "stages.{s}.{b}.preact.norm"),
    ("stages.{s}.blocks.{b}.downsample.conv", "stages.{s}.{b}.shortcut.conv"),
    ("norm", "head.norm"),
    ("head.fc", "head.fc"),
)
_V2_DEEP: Rows = (
    *(("stem.conv1", "stem.0.conv"), ("stem.norm1", "stem.0.norm"), ("stem.conv2", "stem.1.conv")),
    *(("stem.norm2", "stem.1.norm"), ("stem.conv3", "stem.2.conv")),
)


def _hub_rows(prefix: str) -> Rows:
    stage = prefix + "encoder.stages.{s}.layers.{b}."
    return (
        (prefix + "embedder.embedder.convolution", "stem.0.conv"),
        (prefix + "embedder.embedder.normalization", "stem.0.norm"),
        (stage + "layer.{c}.convolution", "stages.{s}.{b}.branch.{c}.conv"),
        (stage + "layer.{c}.normalization", "stages.{s}.{b}.branch.{c}.norm"),
        (stage + "shortcut.convolution", "stages.{s}.{b}.shortcut.conv"),
        (stage + "shortcut.normalization", "stages.{s}.{b}.shortcut.norm"),
    )


PLUSX = Table("plusx", ())
RESNET = Table("torchvision", (*_STEM, *_BRANCH, *_GATE, *_PROJECTED, *_FC), shortcut="B")
RESNET_POOLED = Table("timm", (*_STEM, *_BRANCH, *_GATE, *_POOLED, *_FC), shortcut="D")
RESNET_DEEP = Table("timm", (*_DEEP_STEM, *_BRANCH, *_GATE, *_PROJECTED, *_FC), shortcut="B")
RESNET_DEEP_POOLED = Table("timm", (*_DEEP_STEM, *_BRANCH, *_GATE, *_POOLED, *_FC), shortcut="D")
RESNETV2 = Table("timm's resnetv2", (("stem.conv", "stem.0.conv"), *_V2), preact=True, conv_head=True)
RESNETV2_DEEP = Table("timm's resnetv2", (*_V2_DEEP, *_V2), preact=True, conv_head=True)
HUB = Table("transformers", (*_hub_rows("resnet."), ("classifier.1", "head.fc")), shortcut="B")
HUB_BARE = Table("transformers", _hub_rows(""), shortcut="B")
LINEAR = Table(
    "kuangliu",
    (*_STEM, *_BRANCH, *_projection("shortcut.0", "shortcut.1"), ("linear", "head.fc")),
    shortcut="B",
    window=True,
)

TABLES = (RESNET, RESNET_DEEP_POOLED, RESNET_DEEP, RESNET_POOLED, RESNETV2, RESNETV2_DEEP, HUB, HUB_BARE, LINEAR)

_OWN = re.compile(r"stem\.\d\.(conv|norm)\.\w+|stages\.\d+\.\d+\.(preact|branch|shortcut|act)\..+|head\.(norm|fc)\.\w+")


def recognise(names: Iterable[str], where: str) -> tuple[Table, dict[str, str]]:
    """The table that fits every name, and {theirs: plusx's}.

    Raises WeightsError naming the nearest dialect, and what does not fit it, where none does.
    """
    names = list(names)
    own = [name for name in names if _OWN.fullmatch(name)]
    fits = [(PLUSX, dict(zip(own, own, strict=True))), *((table, table.to_plusx(names)) for table in TABLES)]
    table, found = max(fits, key=lambda fit: len(fit[1]))
    if len(found) < len(names):
        raise WeightsError(f"{where}: {_stranger(table, found, names)}")
    if len(set(found.values())) < len(found):
        raise WeightsError(f"{where}: two tensors stand for one layer of {table.name}")
    return table, found


def _stranger(table: Table, found: Mapping[str, str], names: list[str]) -> str:
    odd = [name for name in names if name not in found]
    if not found:
        return f"no residual network that plusx knows has tensors called {some(odd)}"
    return f"{len(odd)} of {len(names)} tensors do not fit {table.name}, the nearest dialect: {some(odd)}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are. Names of a file are cut: they may be of any length."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(_short(name) for name in names[:most]) + more


def _short(name: str) -> str:
    name = name if len(name) <= 80 else f"{name[:77]}…"
    return name if name.isprintable() else repr(name)
