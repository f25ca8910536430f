"""Other people's checkpoints: `identify` what a file holds, `load` it as a Network, `convert` it into another dialect.

    names      their names for the layers, beside plusx's         infer      the Design, from shapes
    files      reading, without running anyone's code             limits     what each dialect can express
    configs    what stands beside the tensors in a folder         writing    files in a dialect
    opening    all of that for one file                           adapt      other classes, other channels
    remote     a file of the Hugging Face hub

A plusx file carries its Design, and `load` takes it as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from plusx.design import Design
from plusx.dialects import adapt, writing
from plusx.dialects.infer import Choice, Hints
from plusx.dialects.limits import TARGETS, Target
from plusx.dialects.opening import open_weights
from plusx.dialects.reports import Conversion, Identification, LoadReport
from plusx.network import Network

__all__ = [
    "TARGETS",
    "Choice",
    "Conversion",
    "Hints",
    "Identification",
    "LoadReport",
    "Loaded",
    "Target",
    "convert",
    "identify",
    "load",
]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network out of a file, in float32 on the CPU and in eval mode, and what the file says beside its tensors.

    classes, input_size (pixels), mean and std (per channel, of values from 0 to 1): () and None where it says nothing.
    """

    network: Network
    report: LoadReport
    classes: tuple[str, ...]
    input_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def design(self) -> Design:
        """The network's Design."""
        return self.network.design


def identify(path: str | Path, *, ema: bool = True, **hints: Unpack[Hints]) -> Identification:
    """What network a weights file holds, and what its tensors cannot tell.

    `path`: a `.safetensors`, a `.pth` (.pt, .bin, .ckpt, .tar; opened with `weights_only=True`), a run folder, a
    folder of transformers or timm, or "hf://owner/name" (and "@revision") on the Hugging Face hub, of which only
    `model.safetensors` is read. `ema`: where a file has weights averaged over training, take those. `hints` say what
    tensors cannot; see `Hints`. Raises WeightsError.
    """
    return open_weights(path, ema=ema, design=None, hints=hints).identification


def load(
    path: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    design: Design | str | None = None,
    seed: int = 0,
    ema: bool = True,
    classes: str | Path | Sequence[str] | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **hints: Unpack[Hints],
) -> Loaded:
    """A weights file of any dialect as a Network; see `identify` for `path`, `ema` and `hints`.

    `num_classes` other than the file's drops its head for a fresh one, drawn with `seed` (0 leaves none). `in_channels`
    other than the file's sums the stem's weights to one channel, or repeats them in turn and rescales, as timm does.
    `design` insists: the file must hold exactly this Design, or the published network of this name (with the file's
    classes and channels). Half precision is widened to float32.

    What the file does not say can be said: `classes`, their names in the order of the logits, or a file with one per
    line; `input_size` in pixels; `mean` and `std` per channel. Raises WeightsError.
    """
    facts = adapt.stated(classes, input_size, mean, std)
    opened = open_weights(path, ema=ema, design=design, hints=hints)
    weights, moved = opened.weights, opened.tensors
    if num_classes is not None:
        weights, moved = adapt.with_classes(weights, moved, num_classes, seed)
    if in_channels is not None:
        weights, moved = adapt.with_in_channels(weights, moved, in_channels)
    weights = adapt.with_stated(weights, facts, f"reading {path}")
    report = LoadReport(opened.identification, moved, adapt.unknown(weights))
    return Loaded(weights.network(), report, weights.classes, weights.input_size, weights.mean, weights.std)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Target = "plusx",
    design: Design | str | None = None,
    overwrite: bool = False,
    ema: bool = True,
    classes: str | Path | Sequence[str] | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **hints: Unpack[Hints],
) -> Conversion:
    """Write a weights file anew in the dialect `to`; see `load` for `source` and all options not told here.

    `target` is a `.safetensors`, a `.pth`, or, for transformers, a folder for `from_pretrained`. Weights are written in
    float32. An existing target stays, unless `overwrite`. Beside the tensors, a plusx file keeps `classes`,
    `input_size`, `mean` and `std`, a folder of transformers `classes`, and no other file anything.

    Raises WeightsError, also for a Design that `to` cannot express; WorkError when the disk refuses.
    """
    target = Path(target)
    writing.check_target(target, to, overwrite)
    facts = adapt.stated(classes, input_size, mean, std)
    writing.check_stated(target, to, facts)
    opened = open_weights(source, ema=ema, design=design, hints=hints)
    weights = adapt.with_stated(opened.weights, facts, f"reading {source}")
    files = writing.write(weights, target, to)
    notes = (*writing.advice(weights.design, to), *(adapt.unknown(weights) if to == "plusx" else ()))
    return Conversion(opened.identification, to, tuple(map(str, files)), len(weights.tensors), notes)
