"""Several processes that train together, started by torchrun as a user would: gloo between CPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plusx.checkpoint import read_weights
from plusx.data import open_data
from plusx.errors import InputError
from plusx.families import cifar
from plusx.plan import make_plan
from plusx.ranks import Ranks
from plusx.recipe import Augment, Ema, Finetune, Recipe, Split
from plusx.state import newest
from tests.sharing import once

pytestmark = pytest.mark.timeout(240)
RECIPE = Recipe(
    name="two", epochs=2, batch_size=100, augment=Augment(flip="random", auto="trivial"), ema=Ema(decay=0.9)
)


@pytest.mark.parametrize(("count", "world"), [(10, 1), (10, 3), (2, 2), (7, 4), (3, 5)])
def test_shares_neither_overlap_nor_leave_anything_out(count: int, world: int) -> None:
    shares = [range(count)[Ranks(rank, world, torch.device("cpu")).share(count)] for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def torchrun(processes: int, *arguments: str | Path, restarts: int = 0) -> "subprocess.Popen[str]":
    launch = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "-m", "plusx", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *launch, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return out, err


def files(folder: Path, recipe: Recipe) -> tuple[str, ...]:
    """Options for one small run."""
    (folder / "recipe.toml").write_text(recipe.to_toml())
    (folder / "net.toml").write_text(cifar(8).with_in_channels(1).to_toml())
    return ("digits", "--design", str(folder / "net.toml"), "--recipe", str(folder / "recipe.toml"))


def test_two_processes_do_what_one_does_batch_norm_aside(tmp_path: Path) -> None:
    """With the statistics of batch norm held still, nothing but the order of sums is left between them."""
    options = files(tmp_path, RECIPE)
    finish(torchrun(1, *options, "--out", tmp_path / "start", "--epochs", "3"))
    recipe = RECIPE.replace(finetune=Finetune(head_epochs=0.5), optimizer=RECIPE.optimizer.replace(lr=0.02), ema=None)
    (tmp_path / "tune.toml").write_text(recipe.to_toml())
    tuning = ("digits", "--weights", tmp_path / "start" / "model.safetensors", "--recipe", tmp_path / "tune.toml")
    out, _ = finish(torchrun(2, *tuning, "--out", tmp_path / "two", "--json"))
    finish(torchrun(1, *tuning, "--out", tmp_path / "one"))
    one, two, start = (read_weights(tmp_path / name).tensors for name in ("one", "two", "start"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(one["stages.0.0.branch.0.conv.weight"], start["stages.0.0.branch.0.conv.weight"])
    report = json.loads(out)  # one object, from one process
    last = json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[-1])
    assert report["accuracy_percent"] == pytest.approx(last["held_out_accuracy_percent"], abs=0.6)


LONG = RECIPE.replace(epochs=6)
CAREFUL = ("--checkpoint-minutes", "0.001")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights that two processes come to which nothing stops."""

    def make(folder: Path) -> dict[str, Tensor]:
        finish(torchrun(2, *files(folder, LONG), *CAREFUL, "--out", folder / "run"))
        return read_weights(folder / "run").tensors

    return once(tmp_path_factory, "two-whole", make)


def test_two_processes_that_are_stopped_go_on_to_the_same_bits(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    options = (*files(tmp_path, LONG), *CAREFUL)
    cut = torchrun(2, *options, "--out", tmp_path / "cut")
    end = time.monotonic() + 60
    while not any((tmp_path / "cut" / "checkpoints").glob("step-*")):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(cut.pid, signal.SIGINT)
    cut.communicate(timeout=100)
    found = newest(tmp_path / "cut")
    assert found is not None
    assert found[0].position.step < 6 * 15
    finish(torchrun(2, "--resume", tmp_path / "cut"))
    resumed = read_weights(tmp_path / "cut").tensors
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_one_process_killed_all_stop_and_go_on_from_the_checkpoint(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    options = (*files(tmp_path, LONG), *CAREFUL)
    process = torchrun(2, *options, "--out", tmp_path / "run", restarts=3)
    end = time.monotonic() + 60
    while not any((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < end
        time.sleep(0.02)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
    killed = time.monotonic()
    finish(process)
    assert time.monotonic() - killed < 60
    run = read_weights(tmp_path / "run").tensors
    assert all(torch.equal(whole[name], run[name]) for name in whole)


def test_several_processes_need_a_folder(tmp_path: Path) -> None:
    _, err = finish(torchrun(2, *files(tmp_path, RECIPE)), code=1)
    assert "several processes need --out" in err


def test_more_processes_than_images_held_out_are_refused() -> None:
    """One of them would have nothing to judge."""
    data, recipe = open_data("digits"), RECIPE.replace(split=Split(held_out=0.001))
    with pytest.raises(InputError, match="10 images held out"):
        make_plan(data, None, recipe, Ranks(0, 11, torch.device("cpu")))
