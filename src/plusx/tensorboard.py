"""A run's metrics for TensorBoard, an extra: pip install 'plusx[tensorboard]', then tensorboard --logdir runs.

with Board(folder) as board:       while it trains: one call an epoch
    board.add(record)
write(folder, read_epochs(folder)) afterwards: all at once
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plusx.errors import InputError, WorkError

FOLDER = "tensorboard"
"""In the run folder."""

_GROUPS = ("train", "held_out")


class Board:
    """Adds records, one an epoch, to RUN/tensorboard. Raises InputError where the extra is missing."""

    def __init__(self, folder: Path, *, purge_from: int | None = None) -> None:
        """purge_from: of a resumed run, the epoch from which on what is there is not to be shown."""
        check()
        from torch.utils.tensorboard import SummaryWriter

        self._place = folder / FOLDER
        try:
            self._writer: Any = SummaryWriter(str(self._place), purge_step=purge_from)
        except OSError as problem:
            raise WorkError(f"writing {self._place}: {problem.strerror}") from None

    def add(self, record: Mapping[str, Any]) -> None:
        """The numbers of a record (`run_folder.read_epochs`), at its epoch. Raises WorkError when the disk refuses."""
        epoch = int(record["epoch"])
        try:
            for name, value in record.items():
                if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(_tag(name), value, epoch)
            self._writer.flush()
        except OSError as problem:
            raise WorkError(f"writing {self._place}: {problem.strerror}") from None

    def close(self) -> None:
        """Nothing is added any more."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write(folder: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """All records of a run at once; gives the folder to look at. Raises InputError where the extra is missing."""
    with Board(folder) as board:
        for record in records:
            board.add(record)
    return folder / FOLDER


def check() -> None:
    """Raise InputError, with the way to install it, where TensorBoard is missing: before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("TensorBoard is an extra: pip install 'plusx[tensorboard]'") from None


def _tag(name: str) -> str:
    """`train_loss` as `train/loss`, so that TensorBoard shows what belongs together together."""
    for group in _GROUPS:
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return f"run/{name}"
