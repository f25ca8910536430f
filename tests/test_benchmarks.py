"""The benchmarks of training run, small, and say what they must."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.images import colour_folders

FOLDER = Path(__file__).parent.parent / "benchmarks"


def results(name: str, *options: str) -> Any:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_the_training_step_gives_its_ratio() -> None:
    row = results("train_step", "--only", "cifar_resnet20", "--turns", "2", "--shrink", "16")["results"][0]
    assert row["ratio"] == row["peer_ms"] / row["ours_ms"]
    assert 0 < row["share_of_peak"] < 1.5


def test_saving_gives_its_shares() -> None:
    row = results("saving", "--only", "cifar_resnet20", "--shrink", "16", "--rounds", "1", "--steps", "1")["results"][0]
    assert row["taking_percent"] == pytest.approx(100 * row["taking_ms"] / row["step_ms"])
    assert 1 < row["checkpoint_mib"] < 10


def test_the_gpus_runs_without_one() -> None:
    step = results("gpu", "--network", "resnet18", "--size", "32", "--batch", "4", "--turns", "1", "--eager")["step"]
    assert step["ratio"] == pytest.approx(step["plusx_images_per_s"] / step["timm_images_per_s"])


def test_studies_gives_its_ratios() -> None:
    found = results("studies", "--epochs", "1", "--seeds", "1", "--turns", "1", "--rounds", "1")
    assert found["study"]["ratio"] > 1
    assert found["signals"]["ratio"] > 0


@pytest.mark.slow
def test_time_to_accuracy_counts_both(tmp_path: Path) -> None:
    for part in ("train", "test"):
        colour_folders(tmp_path / part, images=50)  # timm leaves out what fills no batch of 128
    options = ("--epochs", "1", "--peer-epochs", "1", "2", "--seeds", "1", "--target", "101")
    found = results("time_to_accuracy", "--data", str(tmp_path), *options)
    assert [run["epochs"] for run in found["timm"]] == [1, 2]
    assert found["ratio"] == pytest.approx(found["timm"][-1]["seconds"] / found["plusx"][0]["seconds"])
    assert (found["plusx_reaches_it"], found["timm_reaches_it"]) == (False, False)
