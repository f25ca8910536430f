"""What is pushed to the hub can be loaded from it; nothing here touches the network: the hub is a folder."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import save_file

import plusx
from plusx.checkpoint import Weights, read_weights, write_weights
from plusx.cli import main
from plusx.design import Design
from plusx.errors import InputError, PlusxError, WeightsError, WorkError
from plusx.families import cifar
from plusx.hub import Pushed, card, push
from plusx.network import build
from plusx.recipe import Recipe
from plusx.records import Run
from tests import peers

SECRET = "hf_secretsecretsecret"
FILES = {"README.md", "design.toml", "design.svg", "recipe.toml", "model.safetensors"}


class Hub:
    """A hub in a folder: REPO/REVISION/files. Keeps what was asked of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.asked = root, set[str](), list[str]()
        self.fails: Exception | None = None

    def __call__(self, **_: Any) -> "Hub":  # HfApi(…)
        return self

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> str:
        if self.fails is not None:
            raise self.fails
        assert repo_type == "model"
        assert exist_ok
        if private and not (self.root / repo_id).exists():
            self.private.add(repo_id)
        (self.root / repo_id / "main").mkdir(parents=True, exist_ok=True)
        return f"https://hub.example/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=repo_id in self.private)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str] | None
    ) -> SimpleNamespace:
        assert commit_message == "plusx push"
        for name in delete_patterns or ():
            (self.root / repo_id / "main" / name).unlink(missing_ok=True)
        shutil.copytree(folder_path, self.root / repo_id / "main", dirs_exist_ok=True)
        return SimpleNamespace(oid="c0ffee")

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None, **_: Any) -> str:
        if self.fails is not None:
            raise self.fails
        self.asked.append(f"{repo_id}@{revision or 'main'}/{filename}")
        file = self.root / repo_id / (revision or "main") / filename
        if not file.parent.parent.exists():
            raise failed(errors.RepositoryNotFoundError, 404)
        if not file.parent.exists():
            raise failed(errors.RevisionNotFoundError, 404)
        if not file.exists():
            raise failed(errors.RemoteEntryNotFoundError, 404)
        return str(file)


def failed(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    """An error of the library as it comes, in several lines, with what was sent."""
    message = f"{status} Client Error\n\nAuthorization: Bearer {SECRET} for https://huggingface.co/api/x"
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(message, response=response)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.hf_hub_download)
    return made


def small(**changes: Any) -> Weights:
    design = cifar(8).with_classes(3)
    whole = Weights(design, build(design, seed=1).state_dict(), ("a", "b", "c"), 16, (0.5,) * 3, (0.25,) * 3)
    return replace(whole, **changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "net.safetensors", small())


def test_a_run_that_was_pushed_is_loaded_from_the_hub(colours: tuple[Path, Run], hub: Hub) -> None:
    data, run = colours
    pushed = push(run.folder, "me/colours")
    there = hub.root / "me/colours/main"
    assert {path.name for path in there.iterdir()} == FILES
    assert (there / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
    assert Design.read(there / "design.toml") == run.design
    assert Recipe.read(there / "recipe.toml") == run.recipe
    assert pushed.url == "https://hub.example/me/colours"
    assert set(pushed.files) == FILES
    assert pushed.to_dict() == json.loads(json.dumps(pushed.to_dict()))
    assert "hf://me/colours" in str(pushed)

    loaded = plusx.load("hf://me/colours")
    kept = read_weights(run.folder)
    images = torch.rand(2, 3, run.input_size, run.input_size)
    assert torch.equal(loaded.network(images), kept.network()(images))
    assert (loaded.classes, loaded.input_size) == (kept.classes, kept.input_size)
    assert plusx.identify("hf://me/colours").design == run.design
    assert hub.asked == ["me/colours@main/model.safetensors"] * 2
    assert str(data.parent) not in (there / "README.md").read_text()  # nobody's folders


def test_the_card_says_what_the_network_is_costs_and_gets_right(colours: tuple[Path, Run]) -> None:
    _, run = colours
    text = card(run.folder, read_weights(run.folder), "me/colours", "apache-2.0")
    front = text.split("---")[1]
    for line in ("library_name: plusx", "pipeline_tag: image-classification", 'license: "apache-2.0"', "- plusx"):
        assert f"\n{line}\n" in front
    assert "![The network from stem to head, drawn](design.svg)" in text
    price = plusx.cost(run.design, run.input_size)
    assert f"{price.params / 1e3:.1f} K params" in text
    assert f"**{run.accuracy_percent:.2f} %** of the {run.held_out_images:,} images held out" in text
    assert f"{run.train_images:,} images of photos" in text
    assert "| 0 | blue |\n| 1 | green |\n| 2 | red |" in text
    assert f"{run.input_size} × {run.input_size} pixels" in text
    assert "license" not in card(run.folder, read_weights(run.folder)).split("---")[1]


@pytest.mark.parametrize("to", ["me/colours", None])
def test_the_usage_in_the_card_runs(
    to: str | None,
    colours: tuple[Path, Run],
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, run = colours
    if to is not None:
        push(run.folder, to)
    folder = tmp_path / "here"
    text = card(run.folder, read_weights(run.folder), to)
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(next((data / "red").iterdir()), "photo.jpg")
    if to is None:
        shutil.copy(run.folder / "model.safetensors", ".")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "card", "exec"), {})
    assert re.search(r"photo.jpg +red", capsys.readouterr().out)
    commands = [
        line.split() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    for words in commands:
        if words[0] == "plusx":
            assert main(words[1:]) == 0
    assert re.search(r"photo.jpg +red", capsys.readouterr().out)


def test_weights_on_their_own_make_a_card_too(file: Path, tmp_path: Path) -> None:
    pushed = push(file, output=tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert set(pushed.files) == FILES - {"recipe.toml"}
    assert (pushed.url, pushed.commit, pushed.folder) == (None, None, tmp_path / "out")
    assert "Not recorded with these weights" in text
    assert plusx.load(tmp_path / "out").design == small().design


def test_features_and_unknown_facts_make_a_card_too(file: Path) -> None:
    design = cifar(8).with_classes(0)
    text = card(file, Weights(design, build(design).state_dict()))
    assert "pipeline_tag" not in text
    assert "64 features" in text
    assert "plusx.predict" not in text
    assert "not recorded" in text
    many = card(file, small(classes=()))
    assert "3, whose names are not known" in many


def test_a_name_in_a_card_is_only_a_name(file: Path, tmp_path: Path) -> None:
    design = small().design.replace(name="# [net](javascript:x) | --- ${x}")
    names = ("a|b", "<script>alert(1)</script>", "**[x](https://evil.example)** `c` \\")
    text = card(file, small(design=design, classes=names))
    assert r"# \# \[net\](javascript\:x) \| --- \$\{x\}" in text
    assert r"| 0 | a\|b |" in text
    assert r"| 1 | \<script\>alert(1)\</script\> |" in text
    assert r"| 2 | \*\*\[x\](https\://evil\.example)\*\* \`c\` \\ |" in text
    assert "<script" not in text.replace(r"\<script", "")
    assert text.split("---")[1].splitlines()[1] == "library_name: plusx"
    run = tmp_path / "run"
    run.mkdir()
    lines: list[Any] = [
        {"run": {"data": "/home/alice/secret/*cats*", "train_images": "x", "held_out_images": float("inf")}},
        {"epoch": 2, "held_out_accuracy_percent": 50, "held_out_loss": None},
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    told = card(run, small())
    assert "**50.00 %** of the images held out are named right, after epoch 2." in told
    assert r"Trained on \*cats\*." in told
    assert "alice" not in told
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"run": {"data": "cifar10:/home/alice"}}, lines[1]])))
    assert "Trained on cifar10." in card(run, small())


def test_many_classes_are_folded(file: Path) -> None:
    design = cifar(8).with_classes(100)
    weights = Weights(design, build(design).state_dict(), tuple(f"n{index}" for index in range(100)), 32)
    assert "<details>\n<summary>100 classes</summary>\n\n| logit | class |" in card(file, weights)


def test_a_folder_is_written_anew_only_where_a_push_wrote_it(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    push(file, output=out)
    (out / "recipe.toml").write_text("of an earlier push")
    write_weights(file, small(classes=("x", "y", "z")))
    push(file, "me/net", output=out)
    assert read_weights(out).classes == ("x", "y", "z")
    assert "hf://me/net" in (out / "README.md").read_text()
    assert {path.name for path in out.iterdir()} == FILES - {"recipe.toml"}
    (out / "notes.txt").write_text("mine")
    before = (out / "model.safetensors").read_bytes()
    write_weights(file, small())
    with pytest.raises(InputError, match=r"'notes\.txt' in it is no push's; give a folder that is new or empty"):
        push(file, output=out)
    assert (out / "model.safetensors").read_bytes() == before


def test_a_run_folder_and_a_file_are_not_written_over(file: Path, colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="in it is no push's"):
        push(run.folder, output=run.folder)
    assert before == {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"output .*File exists"):
        push(file, output=file)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("my own words")
    with pytest.raises(InputError, match=r"README\.md"):
        push(file, output=tmp_path / "own")
    assert os.listdir(tmp_path / "own") == ["README.md"]


def test_a_revision_is_read_and_other_peoples_networks_too(file: Path, hub: Hub) -> None:
    push(file, "me/net")
    shutil.copytree(hub.root / "me/net/main", hub.root / "me/net/v1.0")
    assert plusx.load("hf://me/net@v1.0").classes == ("a", "b", "c")
    assert plusx.load(Path("hf://me/net@v1.0")).classes == ("a", "b", "c")  # Path makes one slash of two
    theirs = hub.root / "them/resnet/main"
    theirs.mkdir(parents=True)
    save_file(peers.small_state(), theirs / "model.safetensors")
    assert plusx.load("hf://them/resnet").report.identification.dialect != "plusx"
    assert hub.asked[0] == "me/net@v1.0/model.safetensors"


def test_a_second_push_takes_away_what_is_no_longer_true(colours: tuple[Path, Run], file: Path, hub: Hub) -> None:
    push(colours[1].folder, "me/net")
    (hub.root / "me/net/main/other.txt").write_text("mine")
    push(file, "me/net")
    assert {path.name for path in (hub.root / "me/net/main").iterdir()} == FILES - {"recipe.toml"} | {"other.txt"}


def test_private_stays_private(file: Path, hub: Hub) -> None:
    push(file, "me/secret", private=True)
    assert hub.private == {"me/secret"}
    push(file, "me/secret", private=True)
    push(file, "me/open")
    before = (hub.root / "me/open/main/model.safetensors").read_bytes()
    write_weights(file, small(classes=("x", "y", "z")))
    with pytest.raises(InputError, match="push to me/open: that is public already"):
        push(file, "me/open", private=True)
    assert (hub.root / "me/open/main/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    ["", "net", "a/b/c", "/b", "a/", "a/b c", "a/-b", "a/b--c", "a/b..c", "a/b.git", "../x", "a/" + "b" * 99, "a\nb/c"],
)
def test_a_name_that_no_repository_has_is_refused(name: str, file: Path, hub: Hub) -> None:
    for ask in (lambda: push(file, name), lambda: plusx.load(f"hf://{name}")):
        with pytest.raises(InputError, match=r"is no owner/name of the hub") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert not hub.asked
    assert not hub.root.exists()


@pytest.mark.parametrize("revision", ["", "a b", "../../x", "-x", "a\nb"])
def test_a_revision_that_none_has_is_refused(revision: str, hub: Hub) -> None:
    with pytest.raises(InputError, match="is no revision"):
        plusx.load(f"hf://me/net@{revision}")
    assert not hub.asked


WRONG: list[tuple[Callable[[Path], Any], str]] = [
    (lambda file: push(file), "where to"),
    (lambda file: push(file, "a/b", output="x", private=True), "private is of no use"),
    (lambda file: push(file, "a/b", license="my own: words"), "license 'my own: words'"),
    (lambda file: push(file.parent / "none", "a/b"), "no such file"),
    (lambda file: push(3, "a/b"), "where a path is needed"),  # type: ignore[arg-type]
    (lambda file: push(file, "a/b", output=3), "where a path is needed"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("ask", "words"), WRONG, ids=[case[1] for case in WRONG])
def test_wrong_input_is_one_line_and_nothing_is_done(
    ask: Callable[[Path], Any], words: str, file: Path, hub: Hub
) -> None:
    before = sorted(file.parent.iterdir())
    with pytest.raises(InputError, match=words):
        ask(file)
    assert sorted(file.parent.iterdir()) == before


FAILURES: list[tuple[Exception, type[PlusxError], str]] = [
    (failed(errors.RepositoryNotFoundError, 401), WeightsError, "no such model, or it is private"),
    (failed(errors.GatedRepoError, 403), WeightsError, "access on request"),
    (failed(errors.RevisionNotFoundError, 404), WeightsError, "no such revision"),
    (failed(errors.RemoteEntryNotFoundError, 404), WeightsError, "no model.safetensors"),
    (failed(errors.HfHubHTTPError, 401), WorkError, "hf auth login"),
    (failed(errors.HfHubHTTPError, 403), WorkError, "may not do this"),
    (failed(errors.HfHubHTTPError, 500), WorkError, "answered 500"),
    (errors.LocalEntryNotFoundError(f"x {SECRET}"), WorkError, "cannot be reached"),
    (errors.OfflineModeIsEnabled(f"x {SECRET}"), WorkError, "cannot be reached"),
    (errors.LocalTokenNotFoundError(f"x {SECRET}"), WorkError, "nobody is logged in"),
    (OSError(28, "No space left on device"), WorkError, "No space left"),
    (TimeoutError(f"x {SECRET}"), WorkError, "could not be asked (TimeoutError)"),
    (ValueError(f"x\n{SECRET}"), WorkError, "could not be asked (ValueError)"),
]


@pytest.mark.parametrize(("failure", "kind", "words"), FAILURES, ids=[case[2] for case in FAILURES])
def test_what_goes_wrong_at_the_hub_is_one_line_without_a_secret(
    failure: Exception, kind: type[PlusxError], words: str, file: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fails = failure
    for ask in (lambda: plusx.load("hf://me/net"), lambda: push(file, "me/net")):
        with pytest.raises(kind) as caught:
            ask()
        message = str(caught.value)
        assert words in message
        assert "me/net" in message
        assert "\n" not in message
        assert SECRET not in message
    assert main(["identify", "hf://me/net"]) == (2 if kind is WeightsError else 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert SECRET not in said


def test_without_a_network_the_real_library_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WorkError, match=r"^reading hf://me/net@v1: the hub cannot be reached"):
        plusx.load("hf://me/net@v1")


def test_missing_revision_and_missing_file(hub: Hub) -> None:
    (hub.root / "me/net/main").mkdir(parents=True)
    for address, words in (
        ("hf://me/no", "no such model"),
        ("hf://me/net@x", "revision"),
        ("hf://me/net", "no model.saf"),
    ):
        with pytest.raises(WeightsError, match=f"reading {address}: .*{words}"):
            plusx.load(address)


def test_without_the_extra_one_line_says_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: push(file, "me/net"), lambda: plusx.load("hf://me/net")):
        with pytest.raises(InputError, match=r"pip install 'plusx\[hub\]'"):
            ask()
    assert isinstance(push(file, "me/net", output=tmp_path / "out"), Pushed)  # needs no hub


def test_a_hub_that_sends_a_pickle_is_refused(hub: Hub) -> None:
    there = hub.root / "evil/net/main"
    there.mkdir(parents=True)
    (there / "model.safetensors").write_bytes(b"\x80\x04\x95cposix\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        plusx.load("hf://evil/net")


def test_the_command(colours: tuple[Path, Run], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(colours[1].folder)
    assert main(["push", run, "me/net", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["url"] == "https://hub.example/me/net"
    assert main(["push", run, "--output", str(tmp_path / "out")]) == 0
    assert f"Written to {tmp_path / 'out'}, not published" in " ".join(capsys.readouterr().out.split())
    assert main(["push", run]) == 2
    assert main(["push", run, "me"]) == 2
    assert "is no owner/name" in capsys.readouterr().err
