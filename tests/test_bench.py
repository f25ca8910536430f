"""Bench: every engine in a process of its own, timed against the machine's peak."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

from plusx.bench import Benched, Timing, bench
from plusx.errors import InputError, WorkError
from plusx.export import export
from plusx.families import cifar
from plusx.peak import Peak, matrix_peak
from plusx.records import Run


def timing(engine: str, precision: str, batch: int, p50_ms: float) -> Timing:
    return Timing(engine, precision, batch, p50_ms, p50_ms, p50_ms, 9, 1000 * batch / p50_ms, 10, 0.1, 1, 0.5)


def test_a_run_on_two_engines(digits_run: Run) -> None:
    found = bench(digits_run.folder, engine="onnxruntime", batch=(3,), threads=1, seconds=0.05)
    assert {(row.precision, row.batch) for row in found.rows} == {("float32", 3), ("int8", 3)}
    for row in found.rows:
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.calls >= 5
        assert row.images_per_s == pytest.approx(1000 * row.batch / row.p50_ms)
        assert row.memory_mib > 0
        assert row.disk_mib > 0
        assert row.share_of_peak is None or 0 < row.share_of_peak < 2
    assert found.failed == ()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["threads"] == 1
    assert "onnxruntime" in str(found)
    ElementTree.fromstring(found.drawing().svg)


def test_an_exported_file(digits_run: Run, tmp_path: Path) -> None:
    out = export(digits_run.folder, "onnx", output=tmp_path / "net.onnx", batch=2).path
    lines: list[str] = []
    found = bench(out, batch=(1, 2), threads=1, seconds=0.05, say=lines.append)
    assert found.failed == (f"batch 1: {out} takes 2 at once",)
    assert len(lines) == 2
    with pytest.raises(InputError, match="takes images of its own size"):
        bench(out, input=64)
    assert {row.engine for row in found.rows} == {"onnxruntime", "openvino"}
    assert [row.batch for row in found.rows] == [2, 2]


def test_a_design_has_random_weights() -> None:
    found = bench(cifar(8), engine="torch", batch=(1,), threads=1, input=16, seconds=0.05)
    assert found.input_size == 16
    assert {row.engine for row in found.rows} == {"torch"}


def test_the_advice_says_what_to_take_and_why() -> None:
    rows = (timing("openvino", "int8", 1, 2), timing("torch", "float32", 1, 9), timing("openvino", "float32", 1, 6))
    words = Benched("net", 32, 2, "a processor", {"cpu": Peak(1, 1, 0)}, rows, ("aoti float32: no",)).advice
    assert "openvino int8 is the fastest, 2.00 ms, 3.0 times as fast as openvino, the fastest in float32" in words
    assert "plusx export --int8" in words


def test_an_engine_that_is_stuck_is_ended(digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("plusx.bench"), "PATIENCE_SECONDS", 0)
    with pytest.raises(WorkError, match=r"no engine ran; torch float32: no answer within 0 s"):
        bench(digits_run.folder, engine="torch", batch=(1,), threads=1, seconds=0.01)


def test_the_peak_is_measured() -> None:
    peak = matrix_peak(1, side=256)
    assert peak.float32 > 0
    assert peak.bfloat16 > 0


def test_wrong_options_are_one_line(digits_run: Run) -> None:
    for options, words in (
        ({"engine": "tensorrt"}, "is not one of"),
        ({"batch": ()}, "whole numbers"),
        ({"batch": (0,)}, "whole numbers"),
        ({"threads": 0}, "at least 1"),
        ({"seconds": float("nan")}, "above 0"),
        ({"input": -5}, "from 1 to 4096"),
    ):
        with pytest.raises(InputError, match=words):
            bench(digits_run.folder, **options)


def test_a_file_runs_on_its_own_engine_alone(digits_run: Run, tmp_path: Path) -> None:
    out = export(digits_run.folder, "torch-export", output=tmp_path / "net.pt2", batch=1).path
    found = bench(out, batch=(1,), threads=1, seconds=0.05)
    assert [row.engine for row in found.rows] == ["torch"]
    with pytest.raises(InputError, match="engine openvino does not run this; torch can"):
        bench(out, engine="openvino", batch=(1,), threads=1, seconds=0.05)


def test_the_command(digits_run: Run, tmp_path: Path) -> None:
    words = [
        "bench",
        str(digits_run.folder),
        "--engine",
        "torch",
        "--batch",
        "2",
        "--seconds",
        "0.05",
        "--json",
    ]
    words += ["--plot", str(tmp_path / "speed.svg")]
    done = subprocess.run([sys.executable, "-m", "plusx", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["batch"] for row in json.loads(done.stdout)["rows"]} == {2}
    assert (tmp_path / "speed.svg").read_text().startswith("<svg")
