"""Runs are listed and compared from their files alone, whole or not."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import plusx
from plusx.catalogue import compare_runs, list_runs
from plusx.errors import InputError
from plusx.families import design
from plusx.recipe import Recipe
from tests.commands import in_process


def make_run(folder: Path, accuracies: Sequence[float], recipe: Recipe, network: str = "cifar_resnet20") -> Path:
    """A run folder with as many whole epochs as accuracies; its weights file is empty."""
    folder.mkdir(parents=True)
    (folder / "design.toml").write_text(design(network).to_toml())
    (folder / "recipe.toml").write_text(recipe.to_toml())
    (folder / "model.safetensors").touch()
    lines = [{"run": {"data": "cifar10"}}] + [
        {"epoch": epoch, "held_out_loss": 0.5, "held_out_accuracy_percent": percent, "seconds": 2.5}
        for epoch, percent in enumerate(accuracies, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_old(folder: Path) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - 7200,) * 2)


def test_runs_are_listed_with_what_came_of_them(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, name="mine")
    make_run(tmp_path / "net-10", [10.0, 20.0, 30.25], recipe)
    make_run(tmp_path / "net-9", [10.0], recipe)
    make_run(tmp_path / "more" / "old", [10.0], recipe)
    make_old(tmp_path / "more" / "old")
    make_run(tmp_path / "more" / "new", [], recipe)
    (tmp_path / "notes").mkdir()
    found = list_runs(tmp_path)
    assert [str(run.folder.relative_to(tmp_path)) for run in found.runs] == ["more/new", "more/old", "net-9", "net-10"]
    assert [run.state for run in found.runs] == ["running", "interrupted", "running", "finished"]
    last = found.runs[-1].to_dict()
    assert last == {
        "folder": str(tmp_path / "net-10"),
        "state": "finished",
        "data": "cifar10",
        "design": "cifar_resnet20",
        "recipe": "mine",
        "epochs": 3,
        "epochs_wanted": 3,
        "accuracy_percent": 30.25,
        "held_out_loss": 0.5,
        "params": plusx.cost("cifar_resnet20").params,
        "seconds": 7.5,
    }
    assert found.runs[0].accuracy_percent is None
    text = str(found)
    assert "30.25 %" in text
    assert "1/3" in text
    assert str(tmp_path) not in text


def test_broken_runs_are_listed_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [10.0], Recipe())
    (run / "recipe.toml").write_text("epochs = ")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "held')
    (found,) = list_runs(tmp_path).runs
    assert (found.state, found.epochs) == ("broken", 1)
    assert found.problem
    assert "broken" in str(list_runs(tmp_path))
    (run / "recipe.toml").unlink()
    assert list_runs(tmp_path).runs[0].state == "broken"


def test_a_long_epoch_is_waited_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "slow", [10.0], Recipe(epochs=3))
    text = (run / "metrics.jsonl").read_text().replace("2.5", "3600")
    (run / "metrics.jsonl").write_text(text)
    make_old(run)  # two hours ago: less than three of its epochs
    assert list_runs(run).runs[0].state == "running"


def test_a_run_by_steps_is_finished_after_its_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "steps", [10.0], Recipe(epochs=90, steps=100))
    text = (run / "metrics.jsonl").read_text()
    for step, state in ((99, "running"), (100, "finished")):
        (run / "metrics.jsonl").write_text(text.replace('"epoch": 1', f'"epoch": 1, "step": {step}'))
        (found,) = list_runs(run).runs
        assert (found.state, found.epochs_wanted) == (state, None)


def test_a_comparison_shows_the_fields_that_differ_and_no_others(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, seed=1)
    first = make_run(tmp_path / "a", [50.0, 60.0], recipe)
    second = make_run(tmp_path / "b", [50.0, 70.5], recipe.replace(seed=2), "cifar_resnet32")
    found = compare_runs([first, second])
    differences = dict(found.differences)
    assert differences["recipe: seed"] == (1, 2)
    assert differences["design: name"] == ("cifar_resnet20", "cifar_resnet32")
    assert differences["design: stages.0.depth"] == (3, 5)
    assert not [field for field in differences if "epochs" in field or "width" in field]
    data = json.loads(json.dumps(found.to_dict()))
    assert [run["accuracy_percent"] for run in data["runs"]] == [60.0, 70.5]
    assert {"field": "recipe: seed", "values": [1, 2]} in data["differences"]
    assert "70.50 %" in str(found)
    assert "the same, field by field" in str(compare_runs([first, first]))


def test_runs_refuse(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [50.0], Recipe())
    with pytest.raises(InputError, match="there is no such folder"):
        list_runs(tmp_path / "none")
    with pytest.raises(InputError, match="that is a file"):
        list_runs(run / "recipe.toml")
    with pytest.raises(InputError, match="at least two"):
        compare_runs([run])
    with pytest.raises(InputError, match="that is no run"):
        compare_runs([run, tmp_path])
    (tmp_path / "empty").mkdir()
    assert "no runs in" in str(list_runs(tmp_path / "empty"))


def test_the_command(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs" / "a", [50.0], Recipe(epochs=1))
    second = make_run(tmp_path / "runs" / "b", [60.0], Recipe(epochs=1, seed=4))

    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        return in_process("runs", *words, cwd=tmp_path)

    assert [run["folder"] for run in json.loads(command("--json").stdout)["runs"]] == ["runs/a", "runs/b"]
    compared = json.loads(command(str(first), str(second), "--json").stdout)
    assert compared["differences"] == [{"field": "recipe: seed", "values": [0, 4]}]
    done = command("nowhere")
    assert (done.returncode, done.stderr) == (2, "plusx: runs nowhere: there is no such folder\n")
