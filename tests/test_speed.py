"""How a run is run: by its recipe, device and size alone; and compiled where that is asked for and can be."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plusx.recipe import Recipe
from plusx.speed import LEAST_MACS, Speed, choose, recorded

CPU = torch.device("cpu")


def chosen(recipe: Recipe, step_macs: int = LEAST_MACS) -> Speed:
    return choose(recipe, CPU, step_macs)


@pytest.mark.parametrize(
    ("fast", "step_macs", "half"), [(True, LEAST_MACS, True), (True, LEAST_MACS - 1, False), (False, LEAST_MACS, False)]
)
def test_bfloat16_where_the_processor_is_fast_at_it_and_the_step_is_large(
    fast: bool, step_macs: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    speed = chosen(Recipe(), step_macs)
    assert (speed.dtype, "bfloat16" in speed.why) == (torch.bfloat16 if half else None, half)
    assert speed.memory_format == (torch.channels_last if step_macs >= LEAST_MACS else torch.contiguous_format)


def test_the_recipes_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert chosen(Recipe(precision="float32")).dtype is None
    assert chosen(Recipe(precision="bfloat16"), 1).dtype is torch.bfloat16
    assert chosen(Recipe(compile="auto")).compile is False  # on a CPU
    with torch.no_grad(), chosen(Recipe(precision="bfloat16"), 1).autocast(CPU):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype is torch.bfloat16


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    speed = chosen(Recipe(compile="yes"))
    assert speed.compile is False
    assert "there is no C++ compiler" in speed.why


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_run_learns_and_goes_on(tmp_path: Path) -> None:
    """Minutes of compiling. In processes of their own: torch's compiler leaves warnings behind."""
    command = [sys.executable, "-m", "plusx", "train"]
    start = ["digits", "--set", "compile=yes", "--epochs", "8", "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, *start], capture_output=True, text=True, check=True)
    assert "compiled" in done.stderr
    assert float(done.stdout.split(" %")[0]) > 90
    subprocess.run([*command, "--resume", str(tmp_path / "run")], capture_output=True, check=True)


def test_a_run_goes_on_as_it_was_run_where_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = Speed(torch.bfloat16, True, False, "fused", fuse=True)
    assert recorded(json.loads(json.dumps(fused.record()))) == fused
    plain = replace(fused, fuse=False, why="plain")
    assert plain.can_follow(plain)
    assert fused.can_follow(plain)  # it is run plain, then
    assert not plain.can_follow(fused)
    assert not fused.can_follow(replace(fused, compile=True, fuse=False))
    assert not fused.can_follow(replace(fused, device="cuda"))
    assert not fused.can_follow(replace(fused, native=True))
