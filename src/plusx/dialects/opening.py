"""A file of any dialect, opened: read, recognised, its Design inferred and checked, its tensors under plusx's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plusx import families, layers, notation
from plusx.checkpoint import Weights, is_plusx_file, read_weights
from plusx.design import Design, Head
from plusx.dialects import names, published
from plusx.dialects.configs import Facts
from plusx.dialects.files import Checkpoint, file_in, read
from plusx.dialects.infer import Choice, Hints, Shapes, infer
from plusx.dialects.limits import dialect_of
from plusx.dialects.names import recognise, some
from plusx.dialects.remote import fetched
from plusx.dialects.reports import Identification
from plusx.dialects.reports import Tensor as Kept
from plusx.errors import WeightsError, did_you_mean
from plusx.network import build


@dataclass(frozen=True, eq=False)
class Opened:
    """A file's network: what it is, its weights in float32 under plusx's names, and where each came from."""

    identification: Identification
    weights: Weights
    tensors: tuple[Kept, ...]


def open_weights(path: str | Path, *, ema: bool, design: Design | str | None, hints: Hints) -> Opened:
    """Open a weights file, run folder, or folder of transformers or timm; of an hf://owner/name its weights file.

    A Design insists that the file holds just that network; a published name leaves classes and input channels to the
    file. Raises WeightsError.
    """
    _known(hints, f"reading {path}")
    path = fetched(path)
    if file_in(path).suffix == ".safetensors" and is_plusx_file(path):
        return _own(path, design, hints)
    checkpoint, where = read(path, ema=ema), f"reading {path}"
    table, ours = recognise(checkpoint.tensors, where)
    tensors = _renamed(checkpoint.tensors, ours, table.conv_head)
    seen = Shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, _inverse(ours), where, table)
    choices: tuple[Choice, ...] = ()
    if design is not None:
        _no_hints(hints, where, "the design given says everything")
        design = _insisted(design, seen, Head(pool="window" if table.window else "adaptive"))
        dialect = dialect_of(table, design)
    else:
        design, dialect, choices = infer(seen, table, hints, checkpoint.facts)
        design = published.named(design)
    filled, made = _with_counters(tensors)
    expected = build(design, device="meta").state_dict()
    _check(design, expected, filled, seen)
    weights = _weights(design, _in_float32(expected, filled, seen), checkpoint.facts)
    kept = tuple(
        _kept(checkpoint.tensors[theirs], theirs, name, table.conv_head) for theirs, name in sorted(ours.items())
    )
    fresh = tuple(Kept("", name, "fresh", "0: the file does not count batches") for name in made)
    notes = _notes(checkpoint, table, design, len(made))
    return Opened(_identification(checkpoint, design, dialect, choices, notes), weights, (*kept, *fresh))


def _own(path: Path, design: Design | str | None, hints: Hints) -> Opened:
    """A file that carries its Design: nothing is left to infer."""
    where = f"reading {path}"
    _no_hints(hints, where, "this file carries its Design")
    weights = read_weights(path)
    if design is not None:
        seen = Shapes({name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}, {}, where)
        wanted = _insisted(design, seen, weights.design.head)
        if wanted.digest != weights.design.digest:
            wrong = f"{weights.design.name or 'another network'}"
            raise WeightsError(f"{where}: the file carries the Design of {wrong}, which is not the one insisted on")
    checkpoint = Checkpoint(path, weights.tensors)
    known = _identification(checkpoint, weights.design, "plusx", (), ("the file carries its Design",))
    return Opened(known, weights, tuple(Kept(name, name, "kept") for name in sorted(weights.tensors)))


def _known(hints: Hints, where: str) -> None:
    """Raise WeightsError for keywords that are no hints: Python checks them for no one."""
    for name in hints:
        if name not in Hints.__annotations__:
            raise WeightsError(
                f"{where}: unknown option {name!r}{did_you_mean(name, (*Hints.__annotations__, *_OPTIONS))}"
            )


_OPTIONS = ("num_classes", "in_channels", "design", "ema", "classes", "input_size", "mean", "std", "overwrite")


def _no_hints(hints: Hints, where: str, why: str) -> None:
    given = [name for name, value in hints.items() if value is not None]
    if given:
        raise WeightsError(f"{where}: {some(given)} of no use: {why}")


def _insisted(design: Design | str, seen: Shapes, head: Head) -> Design:
    """The Design insisted on, pooling as the file's network does: published Designs leave that order open."""
    wanted = families.design(design) if isinstance(design, str) else design
    if isinstance(design, str):
        classes = seen.of("head.fc.weight", 2)[0] if "head.fc.weight" in seen.shapes else 0
        wanted = wanted.with_classes(classes).with_in_channels(max(1, seen.of("stem.0.conv.weight")[1]))
    return wanted if wanted.head.pool != "adaptive" else wanted.replace(head=wanted.head.replace(pool=head.pool))


def _inverse(ours: Mapping[str, str]) -> dict[str, str]:
    return {name: theirs for theirs, name in ours.items()}


def _renamed(tensors: Mapping[str, Tensor], ours: Mapping[str, str], conv_head: bool) -> dict[str, Tensor]:
    found = {name: tensors[theirs] for theirs, name in ours.items()}
    head = found.get("head.fc.weight")
    if conv_head and head is not None and head.dim() == 4 and head.shape[2:] == (1, 1):
        found["head.fc.weight"] = head.flatten(1)
    return found


def _with_counters(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors, with a zero for each batch counter that files from before 2018 lack; and those made."""
    needed = [f"{name.removesuffix('running_mean')}num_batches_tracked" for name in tensors if "running_mean" in name]
    made = [name for name in needed if name not in tensors]
    return {**tensors, **{name: torch.zeros((), dtype=torch.int64) for name in made}}, made


def _check(design: Design, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], seen: Shapes) -> None:
    """Every tensor of the network is there, in its shape, and no other. Raises WeightsError."""
    if not any(name.endswith("running_mean") for name in tensors):
        raise WeightsError(
            f"{seen.where}: the norms have no running statistics (group or layer norms?); plusx's are batch norms"
        )
    if odd := [name for name in tensors if name not in expected]:
        raise WeightsError(f"{seen.where}: no place in {_called(design)} for {some(map(seen.their, odd))}")
    if missing := [name for name in expected if name not in tensors]:
        raise WeightsError(f"{seen.where}: {_called(design)} needs {some(map(seen.their, missing))}, missing here")
    if wrong := [name for name, like in expected.items() if _shape(tensors[name]) != _shape(like)]:
        shapes = f"{list(tensors[wrong[0]].shape)}, where {_called(design)} has {list(expected[wrong[0]].shape)}"
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise WeightsError(f"{seen.where}: tensor {seen.their(wrong[0])} is {shapes}{more}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """A shape, in which one number by itself and a list of one are the same: batch counters come as both."""
    return () if tuple(tensor.shape) == (1,) else tuple(tensor.shape)


def _in_float32(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], seen: Shapes) -> dict[str, Tensor]:
    """Each tensor in memory of its own, as the network has it. Raises WeightsError for what is not finite then."""
    own = {
        name: tensors[name].to(like.dtype, copy=True, memory_format=torch.contiguous_format).reshape(like.shape)
        for name, like in expected.items()
    }
    for name, tensor in own.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{seen.where}: tensor {seen.their(name)} holds values that are not finite in float32")
    return own


def _called(design: Design) -> str:
    name, _ = published.nearest(design)
    return design.name or (f"this network (nearly {name})" if name else "this network")


def _weights(design: Design, tensors: dict[str, Tensor], facts: Facts) -> Weights:
    """The tensors, and those facts beside them that fit the Design."""
    channels = len(facts.mean) == design.stem.in_channels
    return Weights(
        design,
        tensors,
        classes=facts.classes if len(facts.classes) == design.head.classes else (),
        input_size=facts.input_size if (facts.input_size or 0) >= design.output_stride else None,
        mean=facts.mean if channels else (),
        std=facts.std if channels else (),
    )


def _kept(tensor: Tensor, theirs: str, ours: str, conv_head: bool) -> Kept:
    how = []
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        how.append(f"{str(tensor.dtype).removeprefix('torch.')} to float32")
    if conv_head and ours == "head.fc.weight":
        how.append("a 1×1 convolution as a linear layer")
    return Kept(theirs, ours, "kept", ", ".join(how))


def _notes(checkpoint: Checkpoint, table: names.Table, design: Design, made: int) -> tuple[str, ...]:
    found = []
    if made:
        found.append(f"{made} batch counters are missing (a file of an old torch) and taken as 0")
    if any(tensor.dtype == torch.float64 for tensor in checkpoint.tensors.values()):
        found.append("float64 is rounded to float32")
    if table.name in ("torchvision", "timm") and design.stem.kind != "small":
        found.append("timm's resnetaa and resnetblur have the same tensors, but anti-aliasing, which plusx has not")
    if table is names.RESNET and design.stem.kind != "small" and not any(stage.squeeze for stage in design.stages):
        found.append("timm's resnets have the same names as torchvision's")
    if design.stem.kind == "small" and table is names.RESNET:
        found.append("whether max pooling follows the 3×3 stem, tensors do not say; none is taken")
    return tuple(found)


def _identification(
    checkpoint: Checkpoint, design: Design, dialect: str, choices: tuple[Choice, ...], notes: tuple[str, ...]
) -> Identification:
    name, differ = published.nearest(design)
    tensors = checkpoint.tensors.values()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    params = sum(t.numel() for key, t in checkpoint.tensors.items() if not key.endswith(statistics))
    return Identification(
        path=str(checkpoint.path),
        name=_words(design, name, differ),
        published=name,
        dialect=dialect,
        design=design,
        wrappers=checkpoint.wrappers,
        ignored=checkpoint.ignored,
        tensors=len(checkpoint.tensors),
        params=params,
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})),
        choices=choices,
        notes=notes,
    )


def _words(design: Design, name: str, differ: tuple[str, ...]) -> str:
    """A Design's own name, unless that is a published one, which says too little: the nearest, and what differs."""
    if design.name not in ("", name, *families.names()):
        return design.name
    if not name:
        return f"a residual network of {notation.depth(layers.network(design))} layers, in no published family"
    return f"{name} with {', '.join(differ)}" if differ else name
