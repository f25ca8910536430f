"""The README's tour, in both languages, runs as it stands: every command and every piece of Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
TRAINING = "plusx train --out run\n"


def pieces(name: str) -> list[tuple[str, str]]:
    """The fenced blocks, in order: (language, text)."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def without_comments(text: str) -> str:
    return re.sub(r"\s*#.*", "", text)


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = ([(language, without_comments(text)) for language, text in pieces(name)] for name in READMES)
    assert english == chinese
    assert len(english) >= 8
    assert sum(TRAINING in text for _, text in english) == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("README.md", {"run", "long", "resnet50.svg", "bottleneck.svg", "mine.svg", "resnet50.safetensors"}),
        ("docs/scale.md", {"run2"}),
        ("docs/ship.md", {"models", "published"}),
        ("docs/how-to/finetune.md", {"before", "mine"}),
        ("docs/how-to/backbone.md", set()),
        ("docs/how-to/convert.md", {"resnet18.safetensors"}),
        ("docs/how-to/halve.md", {"thin50.toml"}),
    ],
)
def test_the_tour_runs_as_it_stands(name: str, made: set[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One shell per block, in one folder, as a reader who types them in order would."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if name == "docs/ship.md":  # begins with what the README's tour runs
        shutil.copytree(request.getfixturevalue("digits_run").folder, tmp_path / "run")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    session = ""  # a page's Python is one session
    for language, text in pieces(name):
        if language == "python":
            session += text
        if language == "toml":
            (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
            continue
        if "make demo" in text:
            continue  # these two are what runs this test, and what CI runs
        if name == "docs/ship.md":
            text = text.replace(TRAINING, "")
        command = [sys.executable, "-W", "error", "-c", session] if language == "python" else ["bash", "-euc", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert "docs/how-to" in name or list(tmp_path.glob("run*/model.safetensors"))
