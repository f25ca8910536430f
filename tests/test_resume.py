"""Runs that are stopped go on to the same weights, to the last bit; and no way of dying leaves nothing behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plusx import run_folder
from plusx.checkpoint import read_weights
from plusx.display import Display
from plusx.errors import InputError, WeightsError, WorkError
from plusx.families import cifar
from plusx.learner import Learner
from plusx.ranks import Ranks
from plusx.recipe import AdamW, Augment, Ema, Progressive, Recipe, Steps
from plusx.records import Run
from plusx.resume import old_plan
from plusx.state import Checkpoints, Position, State, newest, read_state, write_state
from plusx.train import train
from tests.commands import in_process
from tests.images import colour_folders

train_module = import_module("plusx.train")  # the module; `plusx.train` is the function
PLAIN = Recipe(name="plain", epochs=3, batch_size=100)
EVERYTHING = Recipe(
    name="everything",
    epochs=3,
    batch_size=100,
    accumulate=2,
    clip_norm=1.0,
    checkpoint_blocks=True,
    augment=Augment(flip="alternating", auto="trivial", erasing=0.5, mixup=0.2, cutmix=1.0),
    ema=Ema(decay=0.9),
    progressive=Progressive(start=0.5, until=0.9),
)
RECIPES = {
    "plain": PLAIN,
    "everything": EVERYTHING,
    "adamw": PLAIN.replace(optimizer=AdamW(), precision="bfloat16"),
    "steps": PLAIN.replace(steps=35, schedule=Steps(warmup_factor=0.1)),
}
DESIGN = cifar(8).with_in_channels(1)
DROPPED = DESIGN.replace(stages=tuple(s.replace(block=s.block.replace(stochastic_depth=0.3)) for s in DESIGN.stages))


class PowerCutError(Exception):
    """A power cut, as a test has it."""


def run(out: Path, recipe: Recipe, **options: Any) -> Run:
    return train("digits", design=DROPPED, recipe=recipe, out=out, show=False, **options)


def final(folder: Path) -> State:
    found = newest(folder)
    assert found is not None
    return found[0]


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def cut_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner dies at the start of the step after `steps` more."""
    step, done = Learner.step, iter(range(steps))

    def dying(self: Learner, *args: Any, **options: Any) -> Any:
        if next(done, None) is None:
            raise PowerCutError
        return step(self, *args, **options)

    monkeypatch.setattr(Learner, "step", dying)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("at", [7, 15, 22])  # inside the first epoch of 15 steps, at its end, inside the second
def test_a_stopped_run_ends_in_the_same_bits(
    name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name]
    whole = run(tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        cut_after(at, patch)
        with pytest.raises(PowerCutError):
            run(tmp_path / "cut", recipe, checkpoint_minutes=1e-9)
    assert 0 < final(tmp_path / "cut").position.step <= at
    resumed = train(resume=tmp_path / "cut", show=False)
    ends = [final(tmp_path / folder) for folder in ("whole", "cut")]
    assert same(ends[0].tensors, ends[1].tensors)
    assert any("optimizer." in key for key in ends[0].tensors)
    files = [read_weights(tmp_path / folder).tensors for folder in ("whole", "cut")]
    assert same(*files)
    timeless = [
        [
            {k: v for k, v in vars(e).items() if k not in ("seconds", "images_per_second", "waiting_percent")}
            for e in r.history
        ]
        for r in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [None, 1, 2, 3]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "plusx", "train", *map(str, arguments)]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_the_run_goes_on(number: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("digits", "--epochs", "6", "--seed", "3")
    process = subprocess.Popen(command(*options, "--out", out), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any((out / "checkpoints").glob("step-*")))
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"plusx train --resume {out}" in words.replace("\n", "")
    assert "Traceback" not in words
    assert final(out).position.step < 6 * 23
    done = in_process("train", "--resume", out, "--json")
    assert json.loads(done.stdout)["epochs"] == 6
    train("digits", epochs=6, seed=3, out=tmp_path / "whole", show=False)
    assert same(read_weights(out).tensors, read_weights(tmp_path / "whole").tensors)


def some_state(step: int) -> State:
    return State(Position(step=step), {f"model.{i}": torch.full((64, 1024), float(step)) for i in range(8)})


def save_for_ever(folder: Path) -> None:
    step = 1
    with Checkpoints(folder) as checkpoints:
        while True:
            checkpoints.save(some_state(step))
            step += 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_200_sigkills_within_saves_never_leave_nothing(tmp_path: Path) -> None:
    draw, reached = random.Random(0), 0
    write_state(tmp_path / "checkpoints" / "step-00000000.safetensors", some_state(0))
    for _ in range(200):
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(tmp_path)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.002, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = newest(tmp_path)
        assert found is not None
        assert found[1] == ()  # none had to be passed over: a file with the name of a checkpoint is whole
        step = found[0].position.step
        assert all(bool((tensor == step).all()) for tensor in found[0].tensors.values())
        reached = max(reached, step)
    assert reached > 3


def test_a_spoilt_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_state(tmp_path / "checkpoints" / f"step-{step:08}.safetensors", some_state(step))
    three, two = (tmp_path / "checkpoints" / f"step-{step:08}.safetensors" for step in (3, 2))
    three.write_bytes(three.read_bytes()[:-100])
    spoilt = bytearray(two.read_bytes())
    spoilt[-5] ^= 1
    two.write_bytes(spoilt)
    found = newest(tmp_path)
    assert found is not None
    assert found[0].position.step == 1
    assert "not a whole checkpoint" in found[1][0]
    assert "not as it was written" in found[1][1]
    with pytest.raises(WeightsError):
        read_state(three)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(State(Position(step=step, best_step=2 if step >= 2 else None), some_state(step).tensors))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08}.safetensors" for step in (2, 5, 6)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["mount", "-o", "remount,rw", place], check=False)
    subprocess.run(["umount", place], check=True)


def fill(path: Path) -> None:
    """Write until nothing more can be written."""
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"\0" * 65536)
        except OSError:
            return


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint_whole(small_disk: Path) -> None:
    process = subprocess.Popen(
        command("digits", "--out", small_disk / "run", "--epochs", "500"), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: any(small_disk.glob("run/checkpoints/step-*")))
    fill(small_disk / "filler")
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in words
    assert "No space left" in words
    assert final(small_disk / "run").position.step > 0


def test_a_disk_that_turns_read_only(small_disk: Path) -> None:
    process = subprocess.Popen(
        command("digits", "--out", small_disk / "run", "--epochs", "500"), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: any(small_disk.glob("run/checkpoints/step-*")))
    wait_for(lambda: not subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True).returncode)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in words
    assert "Read-only file system" in words
    assert final(small_disk / "run").position.step > 0


def poison(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of these steps hold something that is not finite."""
    images, count = Learner.images, iter(range(10**9))

    def poisoned(self: Learner, x: Tensor) -> Tensor:
        pixels = images(self, x)
        if next(count) in steps:
            pixels[0, 0, 0, 0] = float("nan")
        return pixels

    monkeypatch.setattr(Learner, "images", poisoned)


def test_a_step_that_is_not_finite_is_undone_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[State] = []
    step = Learner.step

    def watched(self: Learner, *args: Any, **options: Any) -> Any:
        seen.append(self.capture(Position()))
        outcome = step(self, *args, **options)
        seen.append(self.capture(Position()))
        return outcome

    monkeypatch.setattr(Learner, "step", watched)
    poison({4}, monkeypatch)
    done = run(tmp_path / "run", PLAIN.replace(epochs=1, ema=Ema(decay=0.9)))
    assert done.history[0].undone == 1
    assert same(seen[8].tensors, seen[9].tensors)  # before and after step 4 (each has two records)
    assert not same(seen[10].tensors, seen[11].tensors)
    assert all(bool(t.isfinite().all()) for t in read_weights(tmp_path / "run").tensors.values())


def test_three_such_steps_in_a_row_stop_the_run_and_name_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison({16, 18, 19, *range(21, 99)}, monkeypatch)
    with pytest.raises(WorkError, match=r"3 steps in a row, up to step 24, .* layer stem\.0\.conv; lower lr"):
        run(tmp_path / "run", PLAIN)
    assert all(bool(t.isfinite().all()) for t in final(tmp_path / "run").tensors.values())


def test_what_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no run of plusx train in it"):
        train(resume=tmp_path / "empty", show=False)
    run(tmp_path / "run", PLAIN.replace(epochs=1))
    with pytest.raises(InputError, match="a run goes on with its own epochs"):
        train(resume=tmp_path / "run", epochs=3, show=False)
    about = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(about.replace('"images_digest": "', '"images_digest": "0'))
    with pytest.raises(InputError, match="are not the same as when the run began"):
        train(resume=tmp_path / "run", show=False)


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path) -> None:
    done = run(tmp_path / "run", PLAIN.replace(epochs=2))
    before = read_weights(tmp_path / "run").tensors
    again = train(resume=tmp_path / "run", show=False)
    assert same(before, read_weights(tmp_path / "run").tensors)
    assert again.accuracy_percent == done.accuracy_percent
    assert run_folder.CHECKPOINTS_FOLDER in {path.name for path in (tmp_path / "run").iterdir()}


def test_a_power_cut_between_the_last_checkpoint_and_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights file is then an epoch behind; going on brings it up, though nothing is left to train."""
    run(tmp_path / "whole", PLAIN.replace(epochs=2))
    calls, keep = iter((1, 2)), train_module._keep

    def dying(*arguments: Any) -> None:
        if next(calls) == 2:
            raise PowerCutError
        keep(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_keep", dying)
        with pytest.raises(PowerCutError):
            run(tmp_path / "cut", PLAIN.replace(epochs=2))
    train(resume=tmp_path / "cut", show=False)
    assert same(*(read_weights(tmp_path / folder).tensors for folder in ("whole", "cut")))
    curves = [(tmp_path / folder / "curves.svg").read_text() for folder in ("whole", "cut")]
    assert curves[0] == curves[1]


def test_without_a_whole_checkpoint_nothing_is_begun_anew(tmp_path: Path) -> None:
    """It would write over what is there, and, after --weights, start from others."""
    run(tmp_path / "run", PLAIN.replace(epochs=1))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"spoilt")
    with pytest.raises(InputError, match="no whole checkpoint"):
        train(resume=tmp_path / "run", show=False)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics


def test_a_run_that_goes_on_takes_no_changes(tmp_path: Path) -> None:
    run(tmp_path / "run", PLAIN.replace(epochs=1))
    with pytest.raises(InputError, match="a run goes on with its own set"):
        train(resume=tmp_path / "run", set=["optimizer.lr=0.5"], show=False)


@pytest.mark.parametrize("at", [14, 15, 16])
def test_a_signal_at_or_beside_the_last_step_of_an_epoch(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 15 of 15 nothing is left of the epoch but to judge and record it."""
    whole = run(tmp_path / "whole", PLAIN)
    step, done = Learner.step, iter(range(1, 99))

    def signalled(self: Learner, *arguments: Any, **options: Any) -> Any:
        outcome = step(self, *arguments, **options)
        if next(done) == at - 1:  # the next step is the last one
            os.kill(os.getpid(), signal.SIGTERM)
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", signalled)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", PLAIN)
    assert final(tmp_path / "cut").position.step == at
    resumed = train(resume=tmp_path / "cut", show=False)
    assert same(*(read_weights(tmp_path / folder).tensors for folder in ("whole", "cut")))
    assert [epoch.lr for epoch in resumed.history] == [epoch.lr for epoch in whole.history]


def test_images_that_were_moved_to_another_class_are_other_data(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=10)
    recipe = Recipe(name="t", epochs=1, batch_size=8)
    train(data, design=cifar(8), recipe=recipe, out=tmp_path / "run", show=False)
    about = run_folder.read_about(tmp_path / "run")["images_digest"]
    plan = old_plan(tmp_path / "run", Ranks(0, 1, torch.device("cpu")), Display(False))
    assert plan.digest == about
    labels = plan.images.labels[::-1].copy()
    assert replace(plan, images=replace(plan.images, labels=labels)).digest != about


def test_a_run_that_cannot_go_on_as_it_was_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = colour_folders(tmp_path / "photos", images=10)
    recipe = Recipe(name="t", epochs=1, batch_size=8)
    train(data, design=cifar(8), recipe=recipe, out=tmp_path / "run", show=False)
    lines: list[str] = []
    monkeypatch.setattr(Display, "line", lambda _, text: lines.append(text))
    here, metrics = Ranks(0, 1, torch.device("cpu")), tmp_path / "run" / run_folder.METRICS_FILE
    before = old_plan(tmp_path / "run", here, Display(False)).speed
    assert lines == []
    for said, words in ({"device": "cuda"}, "on cuda then"), ({"native": not before.native}, "images by C++"):
        first, *rest = metrics.read_text().splitlines(keepends=True)
        about = json.loads(first)
        about["run"]["running"] |= said
        metrics.write_text("".join([json.dumps(about) + "\n", *rest]))
        assert old_plan(tmp_path / "run", here, Display(False)).speed == before
        assert "not to the same bits" in lines[-1]
        assert words in lines[-1]
        about["run"]["running"] = before.record()
        metrics.write_text("".join([json.dumps(about) + "\n", *rest]))
