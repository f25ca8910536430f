"""One face over the runtimes: an `Engine` takes images and gives logits, whatever computes them.

    open_engine("runs/flowers")                     a run folder or weights file, on the best runtime that is installed
    open_engine("model.onnx", threads=2)            an exported network, its card read from it

    engine.logits(uint8 N C S S)  →  float32 N classes        prepares the images, then `run`
    engine.run(inputs)            →  float32 N classes        inputs as `engine.card.takes` says

Engines may be called from several threads at once.
"""

import importlib.util
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plusx.artefact import INPUT, KEY, Card, Precision, detect_format
from plusx.checkpoint import Weights, is_plusx_file
from plusx.errors import InputError, WeightsError, check_one_of
from plusx.files import cache_folder
from plusx.inference import Model, full_precision, open_model
from plusx.lowering import card_of, lower_onnx, lower_openvino, openvino, without_warnings
from plusx.surgery import fold

EngineName = Literal["torch", "torch-compiled", "aoti", "onnxruntime", "openvino"]

Array = npt.NDArray[Any]

_NEEDS: dict[EngineName, tuple[str, ...]] = {
    "torch": (),
    "torch-compiled": (),
    "aoti": (),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
_FROM_RUN: dict[EngineName, tuple[str, ...]] = {"onnxruntime": ("onnx", "onnxscript")}


class Engine(ABC):
    """A network ready to run. `name`: of the runtime. `card`: what it takes and gives. `threads`: it may use."""

    name: EngineName

    def __init__(self, card: Card, threads: int) -> None:
        self.card, self.threads = card, threads

    @abstractmethod
    def _run(self, inputs: Array) -> Array: ...

    def run(self, inputs: Array) -> Array:
        """float32 N classes. `inputs`: as `card.takes` says. A fixed batch is filled up, or cut in parts."""
        batch = self.card.batch
        if batch is None or len(inputs) == batch:
            return self._run(inputs)
        found = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)]) if len(part) < batch else part
            found.append(self._run(filled)[: len(part)])
        return np.concatenate(found)

    def prepare(self, images: Array) -> Array:
        """uint8 N C S S → inputs as `card.takes` says."""
        return prepared(images, self.card)

    def logits(self, images: Array) -> Array:
        """uint8 N C S S → float32 N classes."""
        return self.run(self.prepare(images))


class TorchEngine(Engine):
    """Torch on the CPU or a GPU: eager, or compiled with its weights frozen in."""

    def __init__(self, net: nn.Module, card: Card, threads: int, device: torch.device, *, compiled: bool) -> None:
        super().__init__(card, threads)
        self.name = "torch-compiled" if compiled else "torch"
        self.device = device
        self.net = net.to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.call: Callable[..., Any] = _compiled(self.net) if compiled else self.net

    def _run(self, inputs: Array) -> Array:
        images = _tensor(inputs).to(self.device)
        if images.dim() == 4 and self.card.takes == "float32 NCHW":
            images = images.contiguous(memory_format=torch.channels_last)
        half = self.card.precision == "bfloat16"
        precise = full_precision(self.device)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=half)
        with _at_most(self.threads), torch.inference_mode(), precise, autocast:
            found: Array = self.call(images).float().cpu().numpy()
        return found


class ExportedEngine(Engine):
    """A program of torch.export or AOTInductor."""

    def __init__(self, call: Callable[..., Any], card: Card, threads: int, name: EngineName) -> None:
        super().__init__(card, threads)
        self.name, self.call = name, call

    def _run(self, inputs: Array) -> Array:
        with _at_most(self.threads), torch.inference_mode():
            found = self.call(_tensor(inputs))
        array: Array = (found[0] if isinstance(found, list | tuple) else found).float().numpy()
        return array


class OnnxEngine(Engine):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, model: str | bytes, threads: int, card: Card | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # its errors share no base of their own
            raise WeightsError(f"reading {_short(model)}: {_line(problem)}") from None
        super().__init__(
            card or _card(self.session.get_modelmeta().custom_metadata_map.get(KEY), _short(model)), threads
        )

    def _run(self, inputs: Array) -> Array:
        found: Array = self.session.run(None, {INPUT: inputs})[0]
        return found


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU. `batch`: compile for just so many images, which is faster, where the network takes any."""

    name = "openvino"

    def __init__(
        self,
        model: Any,
        threads: int,
        card: Card | None = None,
        precision: Precision | None = None,
        *,
        cache: bool = False,
    ) -> None:
        ov = openvino()
        core = ov.Core()
        try:
            opened = core.read_model(model) if isinstance(model, str) else model
        except RuntimeError as problem:
            raise WeightsError(f"reading {model}: {_line(problem)}") from None
        if card is None:
            card = _card(opened.get_rt_info([KEY]).value if opened.has_rt_info([KEY]) else None, str(model))
        if precision is not None and card.precision == "int8" != precision:
            raise InputError(f"precision {precision}: {model} is in int8 already")
        card = card if precision is None else card.replace(precision=precision)
        super().__init__(card, threads)
        # float32 unless bfloat16 was asked for: left alone, OpenVINO takes bfloat16 where the processor has it
        hint = {"bfloat16": "bf16"}.get(card.precision, "f32")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = threads
        if cache and isinstance(model, str):
            with suppress(OSError):  # where nothing can be kept, it is compiled each time
                place = cache_folder() / "openvino"
                place.mkdir(parents=True, exist_ok=True)
                settings["CACHE_DIR"] = str(place)
        self.own = threading.local()  # a request is not to be shared by threads
        self.compiled = core.compile_model(opened, "CPU", settings)

    def _run(self, inputs: Array) -> Array:
        if not hasattr(self.own, "request"):
            self.own.request = self.compiled.create_infer_request()
        # an array, not a list of it: that would be copied first, 0.15 ms for one image of 224 pixels
        found: Array = self.own.request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy()
        return found


def prepared(images: Array, card: Card) -> Array:
    """uint8 N C S S → inputs as the card says."""
    if card.takes == "uint8 NHWC":
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    mean, std = (255 * np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    # by one thread: those of torch would go on spinning beside those of the runtime, which then takes twice as long
    ready = np.ascontiguousarray(images).astype(np.float32)
    ready -= mean
    ready /= std
    return ready


def installed(name: EngineName, *, from_run: bool = False) -> bool:
    """Whether an engine can be had here; from_run: for a run, which must first be written in its format."""
    needed = (*_NEEDS[name], *(_FROM_RUN.get(name, ()) if from_run else ()))
    return all(importlib.util.find_spec(module) is not None for module in needed)


def open_engine(
    source: str | Path | Weights,
    engine: EngineName | Literal["auto"] = "auto",
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    cache: bool = False,
) -> Engine:
    """An exported file, a run folder, a weights file, or Weights, ready to run.

    engine: "auto" takes the file's own runtime, and for a run OpenVINO, ONNX Runtime or torch, the first installed.
    precision: of a run's arithmetic, float32 unless told. threads: on the CPU, all it has unless told. cache: keep what
    OpenVINO compiles of a file, so that it opens sooner the next time.
    Raises WeightsError for what cannot be read and InputError for an engine that is not installed or does not fit.
    """
    check_one_of("engine", engine, ("auto", *get_args(EngineName)))
    threads = torch.get_num_threads() if threads is None else threads
    if type(threads) is not int or threads < 1:
        raise InputError(f"threads {threads!r} is not a whole number of at least 1")
    if isinstance(source, Weights) or is_plusx_file(source) or detect_format(str(source)) is None:
        return _of_run(open_model(source, "cpu" if device is None else device), engine, precision, threads)
    if device is not None and torch.device(device).type != "cpu":
        raise InputError(f"{source}: an exported file runs on the CPU, not on {device}")
    return _of_file(Path(source), engine, precision, threads, cache)


def _of_file(path: Path, engine: str, precision: Precision | None, threads: int, cache: bool) -> Engine:
    if not path.is_file():
        raise WeightsError(f"reading {path}: there is no such file")
    kind = detect_format(str(path))
    own: dict[str, EngineName] = {
        "onnx": "onnxruntime",
        "openvino": "openvino",
        "torch-export": "torch",
        "aoti": "aoti",
    }
    assert kind is not None
    chosen = own[kind] if engine == "auto" else engine
    if precision not in (None, "float32") and chosen != "openvino":
        raise InputError(f"precision {precision}: {path} runs in its own; only openvino chooses when it opens a file")
    if chosen == own[kind] or (kind, chosen) == ("onnx", "openvino"):
        _check_installed(chosen)  # type: ignore[arg-type]
        if chosen == "onnxruntime":
            return OnnxEngine(str(path), threads)
        if chosen == "openvino":
            card = _onnx_card(path) if kind == "onnx" else None
            return OpenVinoEngine(str(path), threads, card, precision, cache=cache)
        return _open_aoti(path, threads) if kind == "aoti" else _open_exported(path, threads)
    able = "onnxruntime and openvino do" if kind == "onnx" else f"{own[kind]} does"
    raise InputError(f"{path}: engine {engine} does not run this; {able}")


def _of_run(model: Model, engine: str, precision: Precision | None, threads: int) -> Engine:
    card = card_of(model).replace(precision=precision or "float32")
    if card.precision == "int8":
        raise InputError(
            "precision: int8 needs images to calibrate on; plusx export RUN --int8 --calibrate DATA does it"
        )
    names: tuple[EngineName, ...] = ("openvino", "onnxruntime", "torch")
    on_gpu = next(model.net.parameters()).device.type != "cpu"
    chosen = next(n for n in names if installed(n, from_run=True)) if engine == "auto" else engine
    chosen = "torch" if engine == "auto" and on_gpu else chosen
    _check_installed(chosen, from_run=True)  # type: ignore[arg-type]
    if chosen == "onnxruntime":
        if card.precision != "float32":
            raise InputError("engine onnxruntime: no bfloat16 on a CPU")
        return OnnxEngine(lower_onnx(fold(model.net), card).SerializeToString(), threads, card)
    if chosen == "openvino":
        return OpenVinoEngine(lower_openvino(fold(model.net), card), threads, card, precision)
    if chosen == "aoti":
        raise InputError("engine aoti: plusx export RUN --to aoti writes what it runs")
    device = next(model.net.parameters()).device
    return TorchEngine(fold(model.net), card, threads, device, compiled=chosen == "torch-compiled")


def _check_installed(name: EngineName, *, from_run: bool = False) -> None:
    if not installed(name, from_run=from_run):
        raise InputError(f"engine {name} is not installed; pip install 'plusx[export]' brings it")


def _open_exported(path: Path, threads: int) -> Engine:
    files = {f"{KEY}.json": ""}
    try:
        with without_warnings("torch.export"):
            program = torch.export.load(path, extra_files=files)
    except Exception as problem:  # of many kinds, for a damaged archive
        told = _line(problem).split(" Please check the warnings")[0]  # which are not shown
        raise WeightsError(f"reading {path}: {told}") from None
    return ExportedEngine(program.module(), _card(files[f"{KEY}.json"], str(path)), threads, "torch")


def _open_aoti(path: Path, threads: int) -> Engine:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = torch._inductor.aoti_load_package(str(path))
        card = package.get_metadata().get(KEY)
    except Exception as problem:
        raise WeightsError(f"reading {path}: {_line(problem)}") from None
    return ExportedEngine(package, _card(card, str(path)), threads, "aoti")


def _onnx_card(path: Path) -> Card:
    import onnx

    try:
        held = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    except Exception as problem:  # protobuf's, which share no base
        raise WeightsError(f"reading {path}: {_line(problem)}") from None
    return _card(held.get(KEY), str(path))


def _card(text: str | None, where: str) -> Card:
    if not text:
        raise WeightsError(f"reading {where}: not an export of plusx (no card says what it takes)")
    return Card.from_json(text, f"reading {where}")


@contextmanager
def _at_most(threads: int) -> Iterator[None]:
    """Torch's operations here by so many threads; afterwards as before."""
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensor(inputs: Array) -> Tensor:
    return torch.from_numpy(np.require(inputs, requirements=["C", "W"]))


def _compiled(net: nn.Module) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._inductor.compile_fx  # which warns of torch's own past
    compiled: Callable[..., Any] = torch.compile(net, options={"freezing": True})
    return compiled


def _short(model: str | bytes) -> str:
    return model if isinstance(model, str) else "the network"


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
