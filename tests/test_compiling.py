"""Whether compiling pays: by times that are measured once and kept."""

from pathlib import Path

import pytest
import torch

from plusx import compiling
from plusx.compiling import LEAST_S, Times, Work, known, times
from plusx.families import cifar
from plusx.plan import _compiling_pays
from plusx.ranks import Ranks
from plusx.recipe import Progressive, Recipe
from plusx.speed import LEAST_MACS, Speed, choose

CPU = torch.device("cpu")
DESIGN = cifar(8).with_classes(10)
WORK = Work(DESIGN, 16, 4, None, True)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "plusx" / "measured"


def test_it_pays_when_steps_save_more_than_compiling_takes() -> None:
    found = Times(eager_s=0.2, compiled_s=0.1, compiling_s=40)
    assert not found.pays(400)
    assert found.pays(401)
    assert not Times(eager_s=0.1, compiled_s=0.01, compiling_s=1).pays(int(10 * LEAST_S) - 1)  # a short run: not tried
    assert not Times(eager_s=0.1, compiled_s=0.2, compiling_s=0).pays(10**9)
    assert not Times(eager_s=0.2).pays(10**9)
    assert found.words() == "a step takes 200 ms eagerly and 100 ms compiled, compiling 40 s"


def test_a_short_run_is_not_compiled_to_find_out(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    found = times(Work(DESIGN, 16, 4, torch.bfloat16, True), CPU, steps=1)
    assert found.eager_s > 0
    assert found.compiled_s is None
    assert len(list(fresh.iterdir())) == 1


def test_measured_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda net: net)
    steps = 10**9
    found = times(WORK, CPU, steps)
    assert found.compiled_s is not None
    monkeypatch.setattr(compiling, "_measure", lambda *_: pytest.fail("measured again"))
    assert times(WORK, CPU, steps) == found
    assert times(WORK, CPU, steps=1) == found
    for path in fresh.iterdir():
        path.write_text("half a fi", encoding="utf-8")
    monkeypatch.setattr(compiling, "_measure", lambda *_: Times(1.0))
    assert times(WORK, CPU, steps) == Times(1.0)


def test_a_longer_run_of_the_same_is_measured_further(monkeypatch: pytest.MonkeyPatch) -> None:
    found = times(WORK, CPU, steps=1)
    monkeypatch.setattr(torch, "compile", lambda net: net)
    assert times(WORK, CPU, int(100 * LEAST_S / found.eager_s)).compiled_s is not None


def test_the_choice_on_a_gpu_is_the_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is asked: only what is chosen for one is looked at."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu, pays = torch.device("cuda"), (True, ", compiled (measured)")
    speed = choose(Recipe(), gpu, LEAST_MACS, lambda _: pays)
    assert (speed.compile, speed.fuse, speed.why) == (True, False, "bfloat16, channels last, compiled (measured)")
    assert choose(Recipe(compile="no"), gpu, LEAST_MACS, lambda _: pays).compile is False
    assert choose(Recipe(), CPU, LEAST_MACS, lambda _: pytest.fail("asked on a CPU")).compile is False


def test_what_cannot_be_compiled_or_kept_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", refuse)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    assert times(WORK, CPU, 10**9).words() == "torch cannot compile it here"
    assert known(WORK, CPU) is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "place"))
    first = times(WORK, CPU, 10**9)
    assert not first.pays(10**12)
    monkeypatch.setattr(compiling, "_measure", lambda *_: pytest.fail("tried again"))
    assert times(WORK, CPU, 10**9) == first


def test_a_plan_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def measured(*given: object) -> Times:
        asked.append(given)
        return Times(0.2, 0.1, 40)

    monkeypatch.setattr("plusx.plan.times", measured)
    here, speed = Ranks(0, 1, CPU), Speed(torch.bfloat16, True, False, "")
    recipe = Recipe(accumulate=4)
    assert _compiling_pays(DESIGN, 16, 30, 1000, recipe, here, speed) == (
        True,
        ", compiled (a step takes 200 ms eagerly and 100 ms compiled, compiling 40 s)",
    )
    assert asked == [(Work(DESIGN, 16, 8, torch.bfloat16, True), CPU, 4000)]  # parts of 8, four to a step
    for unlike in (Recipe(checkpoint_blocks=True), Recipe(progressive=Progressive())):
        assert _compiling_pays(DESIGN, 16, 30, 1000, unlike, here, speed) == (False, ", not compiled")
    assert len(asked) == 1


def test_several_processes_do_not_wait_for_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plusx.plan.times", lambda *_: pytest.fail("measured"))
    here, speed = Ranks(0, 2, CPU), Speed(None, True, False, "")
    monkeypatch.setattr(Ranks, "agree", lambda _, number: number)
    words = ", not compiled (not measured; a run with one process does)"
    assert _compiling_pays(DESIGN, 16, 4, 1000, Recipe(), here, speed) == (False, words)
    monkeypatch.setattr("plusx.plan.known", lambda *_: Times(0.2, 0.1, 40))
    assert _compiling_pays(DESIGN, 16, 4, 1000, Recipe(), here, speed)[0] is True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_compiling_is_really_measured() -> None:
    found = times(WORK, CPU, steps=10**9)
    assert found.compiled_s is not None
    assert found.compiling_s is not None
    assert found.compiling_s > found.compiled_s
