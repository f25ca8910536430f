"""The command line as a user meets it: one JSON object, exit codes, one line of error, quick help."""

import inspect
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import plusx
from plusx import cli
from tests.commands import in_process


def run(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "plusx", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "wrn*"),
        ("cost", "resnet18"),
        ("cost", "resnet18", "resnet50"),
        ("cost", "resnet50", "--explain"),
        ("compare",),
        ("show", "resnet18"),
    ],
)
def test_json_is_exactly_one_object_on_standard_output(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--json")
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""


def test_tables_are_whole_when_nothing_is_a_terminal() -> None:
    done = run("cost", "resnet50", "resnet101")
    assert "4.09 G" in done.stdout
    assert "…" not in done.stdout


TORCHES = {(name,) for name in ("identify", "convert", "train", "evaluate", "predict", "report", "explain", "runs")}
"""Commands that import torch, for seconds: one of them is started as a process."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage"),
        (("cost",), "name at least one network"),
        (("cost", "resnet51"), "no design is named 'resnet51'; did you mean"),
        (("cost", "missing.toml"), "reading missing.toml: No such file"),
        (("cost", "resnet18", "--input", "16"), "16 vanishes"),
        (("cost", "resnet18", "--input", "big"), "'big' is not a number of pixels"),
        (("cost", "resnet18", "--inptu", "64"), "Did you mean --input"),
        (("cost", "resnet18", "--detail", "lyaer"), "lyaer"),
        (("cost", "resnet18", "resnet34", "--explain"), "--explain takes one network"),
        (("csot", "resnet18"), "Unknown command"),
        (("compare", "building", "bottelneck"), "did you mean 'bottleneck'"),
        (("show", "resnet18", "--input", "0"), "0"),
        (("draw", "resnet18"), "output"),
        (("draw", "resnet18", "-o", "net.png"), ".svg"),
        (("draw", "resnet18", "-o", "nowhere/net.svg"), "there is no folder nowhere"),
        (("identify", "nothing.pth"), "nothing.pth"),
        (("convert", "nothing.pth", "out.pth", "--to", "keras"), "keras"),
        (("train", "no-such-data"), "no-such-data"),
        (("train", "--design", "resnet50"), "8"),
        (("evaluate", "no-run"), "no-run"),
        (("predict", "no-run", "image.png"), "no-run"),
        (("predict", "no-run", "image.png", "--jsn"), "--jsn is not an option"),
        (("evaluate", "no-run", "--tta", "flop"), "flop"),
        (("report", "no-run"), "report on no-run: there is no such folder"),
        (("explain", "no-run", "image.png", "-o", "out.png"), "no-run"),
        (("explain", "no-run", "image.png"), "output"),
        (("runs", "no-runs"), "runs no-runs: there is no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    anew = arguments[:1] not in TORCHES or arguments == ("evaluate", "no-run")
    done = (run if anew else in_process)(*arguments, cwd=tmp_path)
    if not arguments:  # plusx alone shows the help
        assert done.returncode == 0
        assert message in done.stdout
        return
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("plusx: ")
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


SCALING = {"devices", "bandwidth", "per_machine", "macs_per_second"}


@pytest.mark.parametrize(
    ("name", "only_command", "only_function"),
    [
        ("cost", {"designs", "explain", "json", *SCALING}, {"design"}),  # also costs(), explain(), scale()
        ("compare", {"json"}, set()),
        ("show", {"json"}, set()),
        ("draw", {"output", "at"}, set()),  # the function returns the drawing; at is block=(1, 0)
        ("identify", {"file", "json"}, {"path"}),
        ("convert", {"json"}, set()),
        ("train", {"json"}, {"show"}),  # the command always shows its progress
        ("evaluate", {"json"}, set()),
        ("report", {"json"}, set()),
        ("runs", {"json"}, set()),
        ("explain", {"json"}, set()),
        ("predict", {"json", "from_"}, set()),  # --from: a list of images
    ],
)
def test_a_command_has_the_options_and_defaults_of_its_function(
    name: str, only_command: set[str], only_function: set[str]
) -> None:
    command = inspect.signature(getattr(cli, name)).parameters
    function = inspect.signature(getattr(plusx, name)).parameters
    assert set(command) - set(function) == only_command
    assert set(function) - set(command) == only_function
    for shared in set(command) & set(function) - {"hints"}:  # one group of options there, keywords here
        assert str(command[shared].default) == str(function[shared].default), shared


def test_help_takes_no_time() -> None:
    """Under 0.3 s of processor time, which other work on the machine moves less than the clock on the wall."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3
    code = "import sys, plusx.cli; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cost_imports_no_torch() -> None:
    code = "import sys; from plusx.cli import main; main(['cost', 'resnet50']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m plusx list | head -1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_version_and_python_m() -> None:
    assert run("--version").stdout.strip() == plusx.__version__


def test_public_names_resolve_and_no_module_hides_a_function() -> None:
    """`import plusx.cost` must not put the module where the function `plusx.cost` was."""
    code = """
import sys, plusx
assert "torch" not in sys.modules
import plusx.cost, plusx.design, plusx.draw, plusx.train, plusx.evaluate
from plusx.cost import Cost
for name in plusx.__all__:
    assert not isinstance(getattr(plusx, name), type(sys)), name
assert plusx.cost(plusx.design("resnet18")).params == 11_689_512
assert plusx.__all__ == sorted(plusx.__all__)
assert set(plusx.__all__) < set(dir(plusx))
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plusx.nothing


def test_the_hints_of_a_command_are_those_of_its_function() -> None:
    from plusx.dialects.infer import Hints

    assert list(cli.Hints.__dataclass_fields__) == list(Hints.__annotations__)


def test_a_terminal_of_no_sane_width() -> None:
    for columns in ("abc", "", "-3"):
        environment = {**os.environ, "COLUMNS": columns}
        done = subprocess.run(
            [sys.executable, "-m", "plusx", "cost", "resnet18"], capture_output=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("resnet50", "--detail", "layer"), ("resnet50", "--detail", "block"), ("resnet50", "resnet101_v1", "wrn28_10")],
)
@pytest.mark.parametrize("columns", ["50", "60", "80", "100"])
def test_numbers_are_never_cut(arguments: tuple[str, ...], columns: str) -> None:
    environment = {**os.environ, "COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-m", "plusx", "cost", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines()[:8])) <= int(columns)


def test_a_published_name_wins_over_a_folder_and_a_file_needs_its_ending(tmp_path: Path) -> None:
    (tmp_path / "resnet18").mkdir()
    (tmp_path / "net.txt").write_text(plusx.design("resnet18").to_toml())
    (tmp_path / "NET.TOML").write_text("\ufeff" + plusx.design("resnet18").to_toml(), encoding="utf-8")
    assert run("cost", "resnet18", cwd=tmp_path).returncode == 0
    assert run("cost", "NET.TOML", cwd=tmp_path).returncode == 0
    done = run("cost", "net.txt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "plusx: net.txt: a design file ends in .toml or .json\n")


def test_nothing_found_is_an_error_in_json_too() -> None:
    assert run("list", "nosuch", "--json").returncode == 2


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text('"wid\\u001b[31mth" = 3\n[stem]\nkind = "small"\n')
    done = run("cost", "net.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "command",
    ["list", "cost", "compare", "show", "draw", "identify", "convert", "train", "evaluate", "predict", "runs"],
)
def test_every_option_says_what_it_is(command: str) -> None:
    """A name alone on its line is an option that nobody explained."""
    lines = [line.strip("│ ") for line in run(command, "--help").stdout.splitlines()]
    bare = r"(\* +)?([A-Z|]+ )?-[\w-]+( -[\w-]+)*( (INT|STR|PATH|FLOAT|CHOICE)(\.\.\.)?)?"
    assert not [line for line in lines if re.fullmatch(bare, line)]
