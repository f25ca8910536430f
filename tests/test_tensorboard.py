"""TensorBoard's own reader finds the numbers that were written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plusx import tensorboard
from plusx.errors import InputError
from plusx.families import cifar
from plusx.recipe import Recipe
from plusx.train import train

RECORDS: list[dict[str, Any]] = [
    {"epoch": 1, "lr": 0.1, "train_loss": 2.0, "held_out_accuracy_percent": 30, "note": "text"},
    {"epoch": 2, "lr": 0.05, "train_loss": 1.0, "held_out_accuracy_percent": 60},
]

READ = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1]); found.Reload()
for tag in sorted(found.Tags()["scalars"]):
    print(tag, *[(event.step, round(event.value, 4)) for event in found.Scalars(tag)])
"""


def read(folder: Path) -> str:
    """In a process of its own: the reader's imports warn."""
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout


def test_records_are_scalars_at_their_epoch(tmp_path: Path) -> None:
    folder = tensorboard.write(tmp_path, RECORDS)
    assert folder == tmp_path / "tensorboard"
    assert read(folder).splitlines() == [
        "held_out/accuracy_percent (1, 30.0) (2, 60.0)",
        "run/lr (1, 0.1) (2, 0.05)",
        "train/loss (1, 2.0) (2, 1.0)",
    ]


def test_each_epoch_is_there_at_once(tmp_path: Path) -> None:
    with tensorboard.Board(tmp_path) as board:
        for record in RECORDS:
            board.add(record)
        assert "run/lr (1, 0.1) (2, 0.05)" in read(tmp_path / "tensorboard")


def test_a_resumed_run_replaces_what_came_after(tmp_path: Path) -> None:
    tensorboard.write(tmp_path, RECORDS)
    with tensorboard.Board(tmp_path, purge_from=2) as board:
        board.add({"epoch": 2, "lr": 0.07})
    assert "run/lr (1, 0.1) (2, 0.07)" in read(tmp_path / "tensorboard")


def test_without_tensorboard_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'plusx\[tensorboard\]'"):
        tensorboard.write(tmp_path, RECORDS)


def test_training_writes_it_and_a_run_that_goes_on_takes_it_up(tmp_path: Path) -> None:
    recipe = Recipe(name="t", epochs=2, batch_size=400)
    design = cifar(8).with_in_channels(1)
    made = train("digits", design=design, recipe=recipe, out=tmp_path / "run", tensorboard=True, show=False)
    found = {line.partition(" ")[0]: line for line in read(tmp_path / "run" / "tensorboard").splitlines()}
    expected = [(epoch.epoch, round(epoch.train_loss, 4)) for epoch in made.history]
    assert found["train/loss"] == f"train/loss {' '.join(map(str, expected))}"
    train(resume=tmp_path / "run", tensorboard=True, show=False)


def test_without_the_extra_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="TensorBoard is an extra"):
        train("digits", out=tmp_path / "run", tensorboard=True, show=False)
    assert not (tmp_path / "run").exists()
