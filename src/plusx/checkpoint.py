"""The weights file: one `.safetensors` that carries its Design, so that it loads anywhere with no code of the user's.

    header   {"plusx": JSON of a `_Card`: design, classes, input size, channels, mean, std, versions}
    tensors  plusx names (`stem.0.conv.weight`, …), as `Network.state_dict()` gives them

No pickle anywhere. A file is written beside its place, flushed to the disk and renamed, so that there is always either
the old file or the whole new one. `replacing` does this for every file of a run.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plusx import __version__
from plusx.design import Channels, Design
from plusx.errors import InputError, PlusxError, WeightsError, WorkError
from plusx.files import written_whole
from plusx.network import Network, build
from plusx.values import Value

WEIGHTS_FILE = "model.safetensors"
"""The name of the weights file in a run folder."""

LARGEST_SIDE = 2**16 - 1
"""The largest input size, in pixels, that a weights file may ask for: a bound on what a hostile one costs."""

_KEY = "plusx"
_UNREADABLE = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError)


def _versions() -> dict[str, str]:
    return {"plusx": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network as a value: its Design, its tensors, and what it takes and gives.

    tensors: by plusx's names, shapes as in `Network.state_dict()`.
    classes: their names, in the order of the logits; () where unknown.
    input_size: height and width of the images it takes, in pixels; None where unknown.
    mean, std: per input channel, of pixel values from 0 to 1, to subtract and divide by; () where unknown.
    versions: of plusx and torch that wrote it.
    """

    design: Design
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    input_size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    versions: dict[str, str] = field(default_factory=_versions)

    def network(self) -> Network:
        """The network with these weights, on the CPU, in eval mode. Raises WeightsError when they do not fit."""
        net = _skeleton(self.design, len(self.tensors), "weights")
        _check_tensors(net.state_dict(), self.tensors, "weights")
        kinds = {name: tensor.dtype for name, tensor in net.state_dict().items()}
        own = {name: tensor.detach().to("cpu", kinds[name], copy=True) for name, tensor in self.tensors.items()}
        net.load_state_dict(own, strict=True, assign=True)
        return net.eval()


class _Card(Value):
    """What the header says about the tensors."""

    error: ClassVar[type[InputError]] = WeightsError
    format: Literal[1]
    design: Design
    in_channels: Channels
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    input_size: Annotated[int, Field(gt=0, le=LARGEST_SIDE)] | None = None
    mean: Annotated[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], Field(strict=False)] = ()
    std: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...], Field(strict=False)] = ()
    versions: dict[str, str]


def is_printable(name: str) -> bool:
    """Whether a name is safe to print: no controls, which a terminal obeys, none that turn or break lines, no halves.

    Wider than `str.isprintable`: joiners are part of words in several scripts.
    """
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return not any(sign in turning or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)


def write_weights(path: str | Path, weights: Weights) -> Path:
    """Write one `.safetensors` whose metadata holds all but the tensors; gives its path.

    Raises WeightsError when the parts of `weights` do not fit together (nothing is written then), WorkError when the
    disk refuses; a file already there stays whole.
    """
    path = Path(path)
    where = f"writing {path}"
    card = _card(weights, where)
    _check_facts(weights, where)
    _check_tensors_of(weights, where)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    # not to_json(): a weights file says every field, defaults too, because defaults may change
    with replacing(path) as beside:
        save_file(tensors, beside, metadata={_KEY: card.model_dump_json()})
    return path


def read_weights(path: str | Path) -> Weights:
    """Read a weights file, or the one in a run folder.

    Raises WeightsError for a file that is missing, truncated, not plusx's, or whose tensors are not those of its
    Design (the first that differs is named), or not finite.
    """
    path = weights_path(path)
    where = f"reading {path}"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise WeightsError(f"{where}: {_foreign(path)}")
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except WeightsError:
        raise
    except _UNREADABLE as problem:
        whole = path.suffix == ".safetensors"
        why = f"not a whole safetensors file ({_reason(problem)})" if whole else _foreign(path)
        raise WeightsError(f"{where}: {why}") from None
    card = _Card.from_json(metadata[_KEY], where)
    if card.in_channels != card.design.stem.in_channels:
        raise WeightsError(
            f"{where}: in_channels {card.in_channels} is not the Design's {card.design.stem.in_channels}"
        )
    weights = Weights(card.design, tensors, card.classes, card.input_size, card.mean, card.std, card.versions)
    _check_names(weights, where)
    _check_facts(weights, where)
    _check_tensors_of(weights, where)
    return weights


def _foreign(path: Path) -> str:
    """What to do with a file of other people's."""
    kind = "a safetensors file, but not" if path.suffix == ".safetensors" else "not a weights file"
    return (
        f"{kind} of plusx (no header names a Design); plusx convert {path} NEW.safetensors makes one of other people's"
    )


def is_plusx_file(path: str | Path) -> bool:
    """Whether this is a weights file of plusx, or a run folder with one, by its header alone. Never raises."""
    try:
        with safe_open(weights_path(path), framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (InputError, *_UNREADABLE):
        return False


def weights_path(path: str | Path) -> Path:
    """The weights file that `path` names: itself, or the one in that run folder. Raises WeightsError if missing."""
    path = Path(path)
    if path.is_dir():
        if not (path / WEIGHTS_FILE).is_file():
            raise WeightsError(f"reading {path}: a folder without {WEIGHTS_FILE}, so not a run of plusx train")
        return path / WEIGHTS_FILE
    if not path.is_file():
        found = "that is neither a file nor a folder" if path.exists() else "there is no such file or run folder"
        raise WeightsError(f"reading {path}: {found}")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`files.written_whole`, whose failures are a WorkError: what a person sees when the disk refuses."""
    try:
        with written_whole(path) as beside:
            yield beside
    except PlusxError:
        raise
    except (OSError, SafetensorError) as problem:
        raise WorkError(f"writing {path}: {_reason(problem)}") from None
    except RuntimeError as problem:
        if "inline_container" not in str(problem):  # else it is torch.save's writer, which does not tell why it failed
            raise
        raise WorkError(f"writing {path}: torch could not write it whole; is the disk full?") from None


def write_text(path: Path, text: str) -> None:
    """Write a small text file through `replacing`."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _reason(problem: BaseException) -> str:
    text = (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__
    line = " ".join(text.split())
    return (line if is_printable(line) else repr(line)[1:-1])[:300]  # a file's own words may be in it


def _card(weights: Weights, where: str) -> _Card:
    """What the header says of these weights. Raises WeightsError for what it must not say."""
    _check_names(weights, where)
    fields = {
        "format": 1,
        "design": weights.design.to_dict(),
        "in_channels": weights.design.stem.in_channels,
        "classes": weights.classes,
        "input_size": weights.input_size,
        "mean": weights.mean,
        "std": weights.std,
        "versions": weights.versions,
    }
    return _Card.from_dict(fields, where)


def checked(weights: Weights, where: str) -> Weights:
    """The same weights, once all that stands beside the tensors is what a weights file may say.

    Raises WeightsError naming what is not; tensors are not looked at.
    """
    card = _card(weights, where)
    known = replace(weights, classes=card.classes, input_size=card.input_size, mean=card.mean, std=card.std)
    _check_facts(known, where)
    return known


def _check_names(weights: Weights, where: str) -> None:
    """Names end on terminals. Raises WeightsError for one that cannot be printed."""
    for place, names in (("design.name", (weights.design.name,)), ("classes", weights.classes)):
        if odd := [name for name in names if isinstance(name, str) and not is_printable(name)]:
            raise WeightsError(f"{where}: {place}: {odd[0][:80]!r} holds characters that cannot be printed")


def _check_facts(weights: Weights, where: str) -> None:
    """What stands beside the tensors fits the Design. Raises WeightsError naming the first that does not."""
    design, channels = weights.design, weights.design.stem.in_channels
    if weights.classes and len(weights.classes) != design.head.classes:
        raise WeightsError(f"{where}: {len(weights.classes)} class names for a head of {design.head.classes} classes")
    for name, values in (("mean", weights.mean), ("std", weights.std)):
        if values and len(values) != channels:
            raise WeightsError(f"{where}: {name} has {len(values)} values for {channels} input channels")
    if weights.input_size is not None and weights.input_size < design.output_stride:
        raise WeightsError(
            f"{where}: input_size {weights.input_size} vanishes; at least {design.output_stride} is needed"
        )


def _check_tensors_of(weights: Weights, where: str) -> None:
    _check_tensors(_skeleton(weights.design, len(weights.tensors), where).state_dict(), weights.tensors, where)


_LEAST = {"building": 12, "bottleneck": 18}
"""Tensors of a block: of each convolution one, and five of the norm beside it."""


def _skeleton(design: Design, tensors: int, where: str) -> Network:
    """The network without memory. A Design from a hostile file must not cost more than the file holds."""
    blocks = sum(stage.depth for stage in design.stages)
    if tensors < sum(stage.depth * _LEAST[stage.block.kind] for stage in design.stages):
        raise WeightsError(f"{where}: {tensors} tensors cannot be those of a Design of {blocks} blocks")
    try:
        return build(design, device="meta")
    except (RuntimeError, OverflowError, TypeError):
        raise WeightsError(f"{where}: the Design is too large to be built") from None


def _is_tiny(tensor: Tensor) -> bool:
    """Of the eight-bit floats, which torch cannot tell whether they are finite."""
    return tensor.is_floating_point() and tensor.element_size() < 2


def _check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    for name, like in expected.items():
        if name not in given:
            raise WeightsError(f"{where}: tensor {name} of the Design is missing")
        tensor = given[name]
        if tensor.shape != like.shape:
            raise WeightsError(f"{where}: tensor {name} is {list(tensor.shape)}, the Design's is {list(like.shape)}")
        if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex() or _is_tiny(tensor):
            raise WeightsError(f"{where}: tensor {name} is {tensor.dtype}, the Design's is {like.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(like.dtype)).all()):  # float64 holds more
            raise WeightsError(f"{where}: tensor {name} holds values that are not finite")
    for name in given:
        if name not in expected:
            shown = name if name.isprintable() and len(name) <= 80 else repr(name[:80])
            raise WeightsError(f"{where}: tensor {shown} does not belong to the Design")
