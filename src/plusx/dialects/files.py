"""Reading other people's files: tensors by name out of whatever they are wrapped in, and no code of theirs run.

`.safetensors` goes through safetensors; a pickle only through torch's `weights_only` reader. Beside the tensors stands
what a folder's `config.json` says (transformers, timm).
"""

import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from plusx.checkpoint import is_printable
from plusx.dialects.configs import Facts, read_facts
from plusx.dialects.names import some
from plusx.errors import WeightsError

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""What other people call files of `torch.save`."""

_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds: its tensors, the wrappers they were taken out of, what else was there, and known facts."""

    path: Path
    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    facts: Facts = field(default_factory=Facts)


def read(path: Path, *, ema: bool = True) -> Checkpoint:
    """Read a weights file, or a folder of transformers or timm.

    Where a file holds weights averaged over training beside the last ones, `ema` says which are taken. Raises
    WeightsError.
    """
    where = f"reading {path}"
    file = file_in(path)
    content = _read_safetensors(file, where) if file.suffix == ".safetensors" else _read_pickle(file, where)
    state, wrappers, ignored = _unwrapped(content, ema, where)
    named, strays = _tensors(state)
    tensors, prefixes = _without_prefixes(named)
    if not tensors:
        raise WeightsError(f"{where}: no tensors in it, but {some(map(str, content)) or 'nothing at all'}")
    for name, tensor in tensors.items():
        if problem := _unusable(name, tensor):
            raise WeightsError(f"{where}: tensor {some([name])} {problem}")
    facts = read_facts(path, where) if path.is_dir() else Facts()
    return Checkpoint(path, tensors, (*wrappers, *prefixes), (*ignored, *strays), facts)


def file_in(path: Path) -> Path:
    """The file of weights that `path` is or, for a folder, has. Raises WeightsError; opens nothing."""
    where = f"reading {path}"
    try:
        found = path.is_file(), path.is_dir()
    except (OSError, ValueError) as problem:  # a name that no file can have
        raise WeightsError(f"{where[:200]}: {_one_line(problem)}") from None
    if not any(found):
        raise WeightsError(f"{where}: there is no such file or folder")
    if path.is_dir():
        for name in _IN_FOLDER:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"{where}: a folder without {' or '.join(_IN_FOLDER)}")
    if path.suffix not in (".safetensors", *PICKLES):
        raise WeightsError(f"{where}: {path.suffix or 'no suffix'} is not one of .safetensors, {', '.join(PICKLES)}")
    if path.stat().st_size == 0:
        raise WeightsError(f"{where}: the file is empty")
    return path


def _read_safetensors(path: Path, where: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as problem:  # the reader's own errors, and whatever torch says to odd dtypes and shapes
        why = _other_kind(path) or f"not a whole safetensors file: {_one_line(problem)}"
        raise WeightsError(f"{where}: {why}") from None


def _read_pickle(path: Path, where: str) -> Mapping[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storages: nothing a user could do
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # a broken or hostile pickle may raise anything
        raise WeightsError(f"{where}: {_refusal(problem, path)}") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{where}: expected a dictionary of tensors (a state dict), found {type(content).__name__}")
    return content


def _refusal(problem: Exception, path: Path) -> str:
    """Why torch would not read a pickle, in one line that names the global it would have had to call."""
    text = str(problem)
    if found := re.search(r"(?:GLOBAL|class) ([\w]+\.[\w.]+)", text):
        return _would_run(found[1])
    if "TorchScript" in text:
        return "a TorchScript archive, which holds a program; save the module's state_dict() instead"
    if other := _other_kind(path):
        return other
    if globals_ := _globals(path):
        return _would_run(globals_[0])
    if "Weights only load failed" in text:
        return "damaged, or a pickle with more in it than tensors, so it was not opened"
    return "not a whole file of torch.save: it is cut off or damaged"


def _other_kind(path: Path) -> str:
    """What a file that would not open is by its first bytes, where that is not what its name says."""
    with path.open("rb") as file:
        start = file.read(64)
    pickled = path.suffix in PICKLES
    kinds = (
        (start.startswith(b"version https://git-lfs"), "a pointer of Git LFS, not the weights: git lfs pull gets them"),
        (start.lstrip().startswith(b"<"), "a web page, not weights: perhaps the answer to a failed download"),
        (pickled and start[8:9] == b"{", "a safetensors file by its content: call it .safetensors"),
        (not pickled and start.startswith(b"PK\3\4"), "a file of torch.save by its content: call it .pth"),
        (pickled and not start.startswith((b"PK\3\4", b"\x80")), "neither a zip archive nor a pickle of torch.save"),
    )
    return next((kind for holds, kind in kinds if holds), "")


def _would_run(name: str) -> str:
    return (
        f"a pickle that needs {some([name])}, which could run code, so it was not opened; save a state_dict() instead"
    )


def _globals(path: Path) -> list[str]:
    """The globals a bare pickle names, read without running it."""
    found, strings = [], [""]
    try:
        for operation, argument, _ in pickletools.genops(path.read_bytes()):
            if operation.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # not a pickle after all; what was found before still holds
        return found
    return found


def _one_line(problem: BaseException) -> str:
    text = (isinstance(problem, OSError) and problem.strerror) or str(problem)
    line = " ".join(text.split())
    return (line if is_printable(line) else repr(line)[1:-1])[:160] or type(problem).__name__


def _unwrapped(content: Mapping[Any, Any], ema: bool, where: str) -> tuple[Mapping[Any, Any], list[str], list[str]]:
    """The state dict inside, the entries passed on the way to it, and the entries left aside."""
    wrappers: list[str] = []
    ignored: list[str] = []
    order = (*_AVERAGED, *_PLAIN) if ema else (*_PLAIN, *_AVERAGED)
    while True:
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping) and _leads(value)}
        known = [key for key in order if key in inner]
        if not known and not _is_state(content) and len(inner) > 1:
            raise WeightsError(f"{where}: several networks in one file: {some(map(str, inner))}")
        chosen = known[0] if known else next(iter(inner), None) if not _is_state(content) else None
        if chosen is None:
            return content, wrappers, ignored
        wrappers.append(str(chosen))
        ignored += [str(key) for key in content if key != chosen]
        content = inner[chosen]


def _leads(value: Mapping[Any, Any], depth: int = 4) -> bool:
    """Whether a state dict lies somewhere inside. An optimiser's state has no dotted names, and so is none."""
    if _is_state(value):
        return True
    inner = (part for part in value.values() if isinstance(part, Mapping))
    return depth > 0 and any(_leads(part, depth - 1) for part in inner)


def _is_state(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and "." in key and isinstance(part, Tensor) for key, part in value.items())


def _tensors(state: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors, and the entries that are none; a bare counter (`n_averaged`, `step`) is none of a layer."""
    named, strays = {}, []
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, Tensor) and ("." in key or value.dim()):
            named[key] = value.detach()
        else:
            strays.append(str(key))
    return named, strays


def _without_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names without the parts that all of them share: no residual network keeps everything in one child."""
    prefixes = []
    while len(tensors) > 1:
        first = {name.partition(".")[0] for name in tensors}
        if len(first) > 1 or not all("." in name for name in tensors):
            break
        prefix = f"{first.pop()}."
        prefixes.append(prefix)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors, prefixes


def _unusable(name: str, tensor: Tensor) -> str:
    """Why a tensor is not one of a network's, or the empty string."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
        return f"is no plain tensor in memory ({tensor.layout}, {tensor.dtype}, {tensor.device.type})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims the shape {list(tensor.shape)}, but the file holds less"
    if 0 in tensor.shape:
        return f"has the empty shape {list(tensor.shape)}"
    if name.endswith("num_batches_tracked"):
        return "" if not tensor.is_floating_point() and tensor.numel() == 1 else "is not one whole number"
    return "" if tensor.dtype in _FLOATS else f"is {tensor.dtype}, not one of {', '.join(map(str, _FLOATS))}"
