"""A trained network in a format that other runtimes read, with proof that it is still the same network.

    run ──fold──▶ lower (ONNX, OpenVINO, torch.export, AOTInductor) ──int8?──▶ write beside ──verify──▶ in its place

Nothing is left behind of an export that does not give what the network gives.
"""

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from plusx.artefact import KEY, SUFFIXES, Card, Format, detect_format
from plusx.checkpoint import Weights, is_plusx_file
from plusx.engines import Array, Engine, open_engine
from plusx.errors import InputError, PlusxError, WorkError, check_one_of
from plusx.inference import Model, given_path, logits, open_model
from plusx.lowering import OPSET, card_of, lower_onnx, lower_openvino, metadata, openvino, program
from plusx.placing import beside, put
from plusx.quantise import Quantised, quantise
from plusx.reports import Report
from plusx.samples import gather
from plusx.surgery import fold, norms
from plusx.triton import repository_name, write_repository

if TYPE_CHECKING:
    from rich.console import RenderableType

TOLERANCE = 1e-3
"""Of a float32 export: the largest difference of a logit, as a share of the largest logit, that is no failure."""

CHECKED = 64
"""Real images on which every export is compared with the network, where there are so many."""

_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch-export": (),
    "aoti": (),
}
"""What writes a format, as it is installed and as it is imported."""

_MARK = b"\nwritten by plusx\n"
"""Ends OpenVINO's weights, where no reader looks: they are known as plusx's though no .xml stands beside them."""


@dataclass(frozen=True)
class Difference:
    """How far logits are from the network's own, over `images` real images.

    largest, mean: of the absolute differences of logits. scale: the largest absolute logit. same_class_percent: images
    for which the likeliest class is the same.
    """

    images: int
    largest: float
    mean: float
    scale: float
    same_class_percent: float

    def __str__(self) -> str:
        return (
            f"logits differ by {self.largest:.2g} at most, {self.mean:.2g} on average (the largest is "
            f"{self.scale:.3g}); the same class for {self.same_class_percent:.1f} % of {self.images:,} images"
        )


@dataclass(frozen=True)
class Exported(Report):
    """What was written, and how it compares with the network.

    files: all that were written. bytes: of them together. opset: of ONNX, else None. versions: of what wrote it.
    folded: norms taken into convolutions; folding: what that changed. difference: of the file from the network.
    quantised: of an int8 export, the accuracies and what stayed in floating point.
    """

    weights: str
    to: str
    files: tuple[str, ...]
    bytes: int
    card: Card
    opset: int | None
    versions: dict[str, str]
    checked_on: str
    folded: int
    folding: Difference
    difference: Difference
    quantised: Quantised | None

    @property
    def path(self) -> Path:
        """The file to open."""
        return Path(self.files[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        card = self.card.model_dump(mode="json", exclude={"design", "versions", "format"})
        return {
            **{name: getattr(self, name) for name in ("weights", "to", "bytes", "opset", "versions", "checked_on")},
            "files": list(self.files),
            "card": card,
            "folded_norms": self.folded,
            "folding": asdict(self.folding),
            "difference": asdict(self.difference),
            "int8": None if self.quantised is None else self.quantised.to_dict(),
        }

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        batch = {None: "any number of images", 1: "one image"}.get(self.card.batch, f"{self.card.batch} images")
        side = self.card.input_size
        size = "any number of" if self.card.takes == "uint8 NHWC" else f"{side} by {side}"
        rows = [
            ("wrote", f"{', '.join(self.files)} ({self.bytes / 2**20:.1f} MiB)"),
            ("takes", f"{batch} at once, {self.card.takes}, {size} pixels, {self.card.channels} channels"),
            ("with", ", ".join(f"{name} {number}" for name, number in self.versions.items())),
            ("folded", f"{self.folded} batch norms; {self.folding}"),
            ("verified", f"on {self.checked_on}: {self.difference}"),
        ]
        if self.opset is not None:
            rows.insert(3, ("opset", str(self.opset)))
        if self.quantised is not None:
            rows.append(("int8", str(self.quantised)))
        for name, text in rows:
            table.add_row(Text(name), Text(text, overflow="fold"))
        return table


def export(
    run: str | Path | Weights,
    to: str,
    *,
    output: str | Path | None = None,
    int8: bool = False,
    calibrate: str | Path | None = None,
    max_drop: float | None = None,
    data: str | Path | None = None,
    dynamic_batch: bool = False,
    batch: int | None = None,
    input: int | None = None,
    preprocessing: bool = False,
) -> Exported:
    """Write a trained network as ONNX, OpenVINO's files, torch.export's, AOTInductor's, or a Triton model repository.

    run: a run folder, a weights file, or Weights. to: "onnx", "openvino", "torch-export", "aoti", or "triton".
    output: the file (for "triton" the folder) to write; by default model.onnx, model.xml, … in the run folder.
    int8: with 8-bit weights and activations ("onnx" and "openvino"), calibrated on images of `calibrate`: files,
        folders, or a data set as in `train`; by default the run's own training images. Where more than `max_drop`
        (0.5) points of top-1 are lost on `data`, blocks go back to floating point until that holds.
    data: the labelled images on which the export is verified and int8 judged; by default as in `evaluate`.
    dynamic_batch: any number of images at once, else `batch` (1). input: height and width in pixels; as trained by
        default.
    preprocessing: the network takes uint8 images N H W C of any size, and cuts, resizes and normalises them itself.

    Batch norms are folded first. The file is opened by its own runtime and compared with the network in float32 on real
    images; where a float32 export differs by more than `TOLERANCE`, or an int8 one loses too much, WorkError is raised
    and nothing is left. Raises InputError, WeightsError, DataError for what is given.
    """
    check_one_of("to", to, (*get_args(Format), "triton"))
    check_options(to, int8=int8, calibrate=calibrate, max_drop=max_drop, dynamic_batch=dynamic_batch, batch=batch)
    batch, max_drop = 1 if batch is None else batch, 0.5 if max_drop is None else max_drop
    kind: Format = "onnx" if to == "triton" else to  # type: ignore[assignment]
    _check_packages(kind, int8=int8)
    model = open_model(run, "cpu")
    if input is not None:
        model = replace(model, size=_size(input, model))
    path = _place(model, to, output, int8=int8)
    samples = gather(model, data, calibrate, CHECKED, wanted=int8)
    card = card_of(model).replace(
        takes="uint8 NHWC" if preprocessing else "float32 NCHW",
        precision="int8" if int8 else "float32",
        batch=None if dynamic_batch or to == "triton" else batch,
    )
    versions = {"plusx": version("plusx"), "torch": str(torch.__version__)}
    versions |= {name: version(name) for name in _PACKAGES[kind]}
    if int8 and kind == "openvino":
        versions["nncf"] = version("nncf")
    card = card.replace(versions=versions)
    own = logits(model.net, samples.images, card.mean, card.std).numpy()
    folded = fold(model.net)
    folding = _difference(own, logits(folded, samples.images, card.mean, card.std).numpy())
    quantised = None
    with beside(path) as folder:
        file = folder / (path.name if to != "triton" else "model.onnx")
        try:
            if int8:
                quantised = quantise(model, folded, card, kind, samples, file, max_drop)
            else:
                write(folded, card, kind, file)
            if kind == "openvino":
                with file.with_suffix(".bin").open("ab") as weights:
                    weights.write(_MARK)
        except (PlusxError, OSError):
            raise
        except Exception as problem:  # each format's writer fails in its own way
            raise WorkError(f"export to {to}: {' '.join(str(problem).split())[:200]}") from None
        difference = _difference(own, _answers(open_engine(file), samples.images))
        _refuse_far(path, folding, difference, int8=int8)
        if to == "triton":
            write_repository(folder, file, card)
        files = put(folder, path, whole=to == "triton")
    size = sum(file.stat().st_size for file in files)
    opset = OPSET if kind == "onnx" else None
    return Exported(
        model.name,
        to,
        tuple(map(str, files)),
        size,
        card,
        opset,
        versions,
        samples.words,
        norms(model.net) - norms(folded),
        folding,
        difference,
        quantised,
    )


def check_options(
    to: str,
    *,
    int8: bool,
    calibrate: str | Path | None,
    max_drop: float | None,
    dynamic_batch: bool,
    batch: int | None,
) -> None:
    """Raise InputError for options that do not fit together."""
    if int8 and to not in ("onnx", "openvino", "triton"):
        raise InputError(f"int8: {to} is not quantised; onnx, openvino and triton are")
    if calibrate is not None and not int8:
        raise InputError("calibrate: only int8 is calibrated; add --int8")
    if max_drop is not None and not int8:
        raise InputError("max_drop: only int8 loses accuracy; add --int8")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise InputError(f"max_drop {max_drop!r} is not from 0 to 100 points")
    if batch is not None and (dynamic_batch or to == "triton"):
        raise InputError("batch: there is no such number where any number of images may come at once")
    if batch is not None and (type(batch) is not int or not 1 <= batch <= 4096):
        raise InputError(f"batch {batch!r} is not a whole number from 1 to 4096")


def write(net: nn.Module, card: Card, kind: Format, file: Path) -> None:
    """Write a folded network, with its card, to `file`; OpenVINO's weights lie beside it."""
    if kind == "onnx":
        file.write_bytes(lower_onnx(net, card).SerializeToString())
    elif kind == "openvino":
        openvino().save_model(lower_openvino(net, card), file, compress_to_fp16=False)
    elif kind == "torch-export":
        torch.export.save(program(net, card), file, extra_files={f"{KEY}.json": card.model_dump_json()})
    else:
        _write_aoti(net, card, file)


def _write_aoti(net: nn.Module, card: Card, file: Path) -> None:
    if shutil.which("g++") is None:
        raise InputError("aoti: AOTInductor needs a C++ compiler (g++)")
    settings = {"aot_inductor.metadata": metadata(card), "freezing": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own past
        torch._inductor.aoti_compile_and_package(program(net, card), package_path=str(file), inductor_configs=settings)


def _check_packages(kind: Format, *, int8: bool) -> None:
    from importlib.util import find_spec

    needed = (
        *_PACKAGES[kind],
        *((*_PACKAGES["onnx"], "nncf") if int8 and kind == "openvino" else ()),
    )
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise InputError(f"export to {kind}: {', '.join(missing)} not installed; pip install 'plusx[export]' brings it")


def _size(input: int, model: Model) -> int:
    least = model.weights.design.output_stride
    if type(input) is not int or not least <= input <= 4096:
        raise InputError(f"input {input!r} is not a whole number of pixels from {least} to 4096")
    return input


def _place(model: Model, to: str, output: str | Path | None, *, int8: bool) -> Path:
    """Where to write. Raises InputError for a place that is somebody's."""
    suffix = "" if to == "triton" else SUFFIXES[to]  # type: ignore[index]
    if output is None:
        if model.folder is None:
            raise InputError("export: say where to write (output)")
        folder = model.folder if model.folder.is_dir() else model.folder.parent
        path = folder / ("triton" if to == "triton" else f"model{'-int8' if int8 else ''}{suffix}")
    else:
        path = given_path("output", output)
    if to != "triton" and detect_format(path.name) != to:
        raise InputError(f"output {path}: a file for {to} ends in {suffix}")
    if not path.parent.is_dir():
        raise InputError(f"output {path}: there is no folder {path.parent}")
    placed = path / repository_name(card_of(model)) if to == "triton" else path
    theirs = [placed] if placed.exists() and not _is_export(placed, to) else []
    weights = path.with_suffix(".bin")
    if to == "openvino" and not path.exists() and weights.exists() and not _is_marked(weights):
        theirs.append(weights)
    if to == "triton" and path.exists() and not path.is_dir():
        theirs.append(path)
    if theirs:
        raise InputError(f"output {theirs[0]}: that is there already, and is no export of plusx")
    return path


def _is_export(path: Path, to: str) -> bool:
    if to == "triton":
        return (path / f".{KEY}").is_file()
    if is_plusx_file(path):
        return False
    try:
        open_engine(path)
    except PlusxError:
        return False
    return True


def _is_marked(weights: Path) -> bool:
    if not weights.is_file():
        return False
    with weights.open("rb") as file:
        file.seek(max(0, weights.stat().st_size - len(_MARK)))
        return file.read() == _MARK


def _answers(engine: Engine, images: Tensor) -> Array:
    """The engine's logits for uint8 N C S S."""
    return np.concatenate([engine.logits(part.numpy()) for part in torch.split(images, 16)])


def _difference(own: Array, other: Array) -> Difference:
    apart = np.abs(own - other)
    same = float((own.argmax(1) == other.argmax(1)).mean())
    return Difference(len(own), float(apart.max()), float(apart.mean()), float(np.abs(own).max()), 100 * same)


def _refuse_far(path: Path, folding: Difference, difference: Difference, *, int8: bool) -> None:
    checked: Sequence[tuple[str, Difference]] = [("folding", folding)]
    checked = checked if int8 else (*checked, (str(path), difference))
    for what, found in checked:
        if not found.largest <= TOLERANCE * max(1.0, found.scale):  # not-a-number too
            raise WorkError(f"export: {what} is not the same network: {found}; nothing was written")
