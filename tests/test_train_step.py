"""The benchmark of the training step runs, small, and says what it must."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_gives_its_ratio() -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "train_step.py"
    command = [sys.executable, str(script), "--only", "cifar_resnet20", "--turns", "2", "--shrink", "16", "--json"]
    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["results"][0]
    assert row["ratio"] == row["peer_ms"] / row["ours_ms"]
    assert 0 < row["share_of_peak"] < 1.5
