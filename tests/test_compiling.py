"""Whether compiling pays: by times that are measured once and kept."""

from pathlib import Path

import pytest
import torch

from plusx import compiling
from plusx.compiling import LEAST_S, Times, times
from plusx.families import cifar
from plusx.plan import _compiling_pays
from plusx.ranks import Ranks
from plusx.recipe import Recipe
from plusx.speed import LEAST_MACS, choose

CPU = torch.device("cpu")
DESIGN = cifar(8).with_classes(10)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "plusx" / "measured"


def test_it_pays_when_steps_save_more_than_compiling_takes() -> None:
    found = Times(eager_s=0.2, compiled_s=0.1, compiling_s=40)
    assert not found.pays(400)
    assert found.pays(401)
    assert not Times(eager_s=0.1, compiled_s=0.2, compiling_s=0).pays(10**9)
    assert not Times(eager_s=0.2).pays(10**9)
    assert found.words() == "a step takes 200 ms eagerly and 100 ms compiled, compiling 40 s"


def test_a_short_run_is_not_compiled_to_find_out(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    found = times(DESIGN, 16, 4, torch.bfloat16, CPU, steps=1)
    assert found.eager_s > 0
    assert found.compiled_s is None
    assert len(list(fresh.iterdir())) == 1


def test_measured_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda net: net)
    steps = 10**9
    found = times(DESIGN, 16, 4, None, CPU, steps)
    assert found.compiled_s is not None
    monkeypatch.setattr(compiling, "_measure", lambda *_: pytest.fail("measured again"))
    assert times(DESIGN, 16, 4, None, CPU, steps) == found
    assert times(DESIGN, 16, 4, None, CPU, steps=1) == found
    for path in fresh.iterdir():
        path.write_text("half a fi", encoding="utf-8")
    monkeypatch.setattr(compiling, "_measure", lambda *_: Times(1.0))
    assert times(DESIGN, 16, 4, None, CPU, steps) == Times(1.0)


def test_a_longer_run_of_the_same_is_measured_further(monkeypatch: pytest.MonkeyPatch) -> None:
    found = times(DESIGN, 16, 4, None, CPU, steps=1)
    monkeypatch.setattr(torch, "compile", lambda net: net)
    assert times(DESIGN, 16, 4, None, CPU, int(100 * LEAST_S / found.eager_s)).compiled_s is not None


def test_the_choice_on_a_gpu_is_the_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is asked: only what is chosen for one is looked at."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu, pays = torch.device("cuda"), (True, ", compiled (measured)")
    speed = choose(Recipe(), gpu, LEAST_MACS, lambda _: pays)
    assert (speed.compile, speed.fuse, speed.why) == (True, False, "bfloat16, channels last, compiled (measured)")
    assert choose(Recipe(compile="no"), gpu, LEAST_MACS, lambda _: pays).compile is False
    assert choose(Recipe(), CPU, LEAST_MACS, lambda _: pytest.fail("asked on a CPU")).compile is False


def test_a_plan_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plusx.plan.times", lambda *_: Times(0.2, 0.1, 40))
    assert _compiling_pays(DESIGN, 16, 4, 1000, Ranks(0, 1, CPU), None) == (
        True,
        ", compiled (a step takes 200 ms eagerly and 100 ms compiled, compiling 40 s)",
    )


@pytest.mark.slow
def test_compiling_is_really_measured() -> None:
    found = times(DESIGN, 16, 4, None, CPU, steps=10**9)
    assert found.compiled_s is not None
    assert found.compiling_s is not None
    assert found.compiling_s > found.compiled_s
