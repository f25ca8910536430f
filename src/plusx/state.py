"""The training state on the disk: what a run needs to go on as if nothing had stopped it.

    checkpoints/step-00001200.safetensors
        header    {"plusx-state": JSON of a `Position`, "crc": checksums of the tensors}
        tensors   model.<name>, ema.<name>, optimizer.<parameter>.<slot>

Each file is written beside its place, flushed to the disk and renamed, so that a file with that name is whole; its
checksums tell one that the disk has spoilt since. Random numbers need no state: every step's are drawn from the seed
and the step's number (`data.chance`). No pickle.
"""

import json
import re
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from plusx.checkpoint import is_printable, replacing
from plusx.errors import WeightsError
from plusx.run_folder import CHECKPOINTS_FOLDER

KEEP = 2
"""Checkpoints kept beside the best one."""

_KEY, _CRC = "plusx-state", "crc"
_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Position:
    """Where a run stands, between two steps.

    step: steps done in all. epoch, in_epoch: whole epochs done, and steps done in the one under way.
    sums: what the epoch under way has added up so far.
    bad_steps: steps in a row, up to here, that were undone because something was not finite.
    history: one record for each whole epoch. best_step: the checkpoint of the best epoch, where there is one.
    updates: steps that changed the weights. warmed: whether a warm-up until an error is over (`recipe.Steps`).
    """

    step: int = 0
    epoch: int = 0
    in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    bad_steps: int = 0
    history: tuple[dict[str, Any], ...] = ()
    best_step: int | None = None
    updates: int = 0
    warmed: bool = False


@dataclass(frozen=True, eq=False)
class State:
    """A position, and the tensors of model, optimiser and average there, by name."""

    position: Position
    tensors: dict[str, Tensor]


def capture(position: Position, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None) -> State:
    """A copy of everything, in the CPU's memory: what happens to the model afterwards does not reach it."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{slot}"] = value
    return State(position, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()})


def restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None) -> None:
    """Put everything back in place. Raises WeightsError where the state is another network's."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
    parameters = dict(model.named_parameters())
    for name, tensor in state.tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in parts or (kind == "optimizer" and rest.rpartition(".")[0] not in parameters):
            raise WeightsError(f"resuming: the checkpoint is another network's: it has {_shown(name)}")
        parts[kind][rest] = tensor
    try:
        model.load_state_dict(parts["model"], strict=True)
        if ema is not None:
            ema.load_state_dict(parts["ema"], strict=True)
    except RuntimeError as problem:
        raise WeightsError(f"resuming: the checkpoint is another network's: {' '.join(str(problem).split())}") from None
    for name, tensor in parts["optimizer"].items():
        parameter, _, slot = name.rpartition(".")
        like = parameters[parameter]
        # a scalar (a step count) stays where the optimiser keeps it; the others lie as their parameter does
        value = tensor.clone() if tensor.dim() == 0 else tensor.to(like.device).to(memory_format=_format(like))
        optimizer.state[like][slot] = value


def _format(like: Tensor) -> torch.memory_format:
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


class Checkpoints:
    """The checkpoints of one run. Saving copies the state and writes it in the background; leaving waits for that.

    A disk that refuses raises WorkError at the next `save` or on leaving; the checkpoints already there stay whole.
    """

    def __init__(self, run: Path, keep: int = KEEP) -> None:
        self.folder, self.keep = run / CHECKPOINTS_FOLDER, keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="plusx-checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)
        if kind is None:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether one is still being written."""
        return self._pending is not None and not self._pending.done()

    def save(self, state: State) -> None:
        """Write a captured state in the background, after the one before. Raises WorkError for what that one met."""
        self.wait()
        self._pending = self._writer.submit(self._write, state)

    def wait(self) -> None:
        """Until everything saved is on the disk. Raises WorkError."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, state: State) -> None:
        write_state(self.folder / f"step-{state.position.step:08}.safetensors", state)
        self._prune(state.position.best_step)

    def _prune(self, best: int | None) -> None:
        found = _steps(self.folder)
        for step in sorted(found)[: -self.keep]:
            if step != best:
                found[step].unlink(missing_ok=True)
        for left in self.folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)


def newest(run: Path) -> tuple[State, tuple[str, ...]] | None:
    """The newest whole state of a run, and why newer ones were passed over; None where there is none."""
    found = _steps(run / CHECKPOINTS_FOLDER)
    passed: list[str] = []
    for step in sorted(found, reverse=True):
        try:
            return read_state(found[step]), tuple(passed)
        except WeightsError as problem:
            passed.append(str(problem))
    return None


def has_checkpoints(run: Path) -> bool:
    """Whether a run has any, whole or not."""
    return bool(_steps(run / CHECKPOINTS_FOLDER))


def _steps(folder: Path) -> dict[int, Path]:
    names = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.safetensors")]
    return {int(match[1]): path for match, path in names if match}


def write_state(path: Path, state: State) -> None:
    """Write one state, whole or not at all. Raises WorkError when the disk refuses."""
    sums = {name: _crc(tensor) for name, tensor in state.tensors.items()}
    metadata = {_KEY: json.dumps(asdict(state.position)), _CRC: json.dumps(sums)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, beside, metadata=metadata)


def read_state(path: Path) -> State:
    """Read one state. Raises WeightsError for a file that is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        sums, known = dict(json.loads(metadata[_CRC])), _POSITION.validate_python(json.loads(metadata[_KEY]))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as problem:
        raise WeightsError(f"reading {path}: not a whole checkpoint: {_shown(str(problem))}") from None
    if min(known.step, known.epoch, known.in_epoch, known.bad_steps, known.updates) < 0 or known.step >= 2**63:
        raise WeightsError(f"reading {path}: not a whole checkpoint: it stands at no step of a run")
    if odd := [name for name, tensor in tensors.items() if sums.get(name) != _crc(tensor)]:
        raise WeightsError(f"reading {path}: tensor {_shown(odd[0])} is not as it was written")
    return State(known, tensors)


_POSITION = TypeAdapter(Position)


def _shown(words: str) -> str:
    """A file's own words in one short line."""
    line = " ".join(words.split())
    return (line if is_printable(line) else repr(line)[1:-1])[:200]


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
