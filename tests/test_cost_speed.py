"""The benchmark runs, checks itself, and its goals hold even in a small run on a busy machine."""

import json

import pytest
from benchmarks import cost_speed


def test_a_small_run(capsys: pytest.CaptureFixture[str]) -> None:
    cost_speed.main(["--n", "60", "--sample", "5", "--runs", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["designs"], found["sample"]) == (60, 5)
    assert found["ratio"]["median"] > 20  # the goal is 50, and what an idle machine shows is in the benchmark
    assert found["again_s"] < 60 * 0.01


def test_it_reads_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    cost_speed.main(["--n", "3", "--sample", "2", "--runs", "1"])
    text = capsys.readouterr().out
    assert "3 designs" in text
    assert "ratio" in text


def test_designs_are_distinct_and_seeded() -> None:
    designs = cost_speed.random_designs(300)
    assert len(set(designs)) == 300
    assert designs == cost_speed.random_designs(300)
    assert {stage.block.kind for design in designs for stage in design.stages} == {"building", "bottleneck"}
    assert {len(design.stages) for design in designs} == {3, 4, 5}


def test_a_wrong_count_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_speed, "by_torch", lambda design: (0, 0))
    with pytest.raises(RuntimeError, match="differently"):
        cost_speed.measure(2, 2, 1)
