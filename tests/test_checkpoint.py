"""The weights file: what goes in comes out, and nothing wrong gets in."""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from plusx import checkpoint
from plusx.checkpoint import Weights, is_plusx_file, read_weights, write_weights
from plusx.design import Design
from plusx.errors import WeightsError, WorkError
from plusx.families import cifar
from plusx.network import build

STEM = "stem.0.conv.weight"
DESIGN = cifar(8).with_classes(3).with_in_channels(1)


def weights(**changes: Any) -> Weights:
    tensors = build(DESIGN, seed=1).state_dict()
    whole = Weights(DESIGN, tensors, ("a", "b", "ç"), 8, (0.25,), (0.5,), {"plusx": "0.1.0", "torch": "2.13.0"})
    return replace(whole, **changes)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(WeightsError) as problem:
        read_weights(path)
    message = str(problem.value)
    assert "\n" not in message
    assert str(path.name) in message
    for word in words:
        assert word in message


def rewrite(path: Path, card: dict[str, Any] | None = None, tensors: Mapping[str, Any] | None = None) -> Path:
    """The same file with some of the header's fields, or some tensors, changed (None: taken out)."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    if card is not None:
        fields = json.loads(metadata["plusx"]) | card
        metadata["plusx"] = json.dumps({k: v for k, v in fields.items() if v is not None})
    changed = load_file(path) | dict(tensors or {})
    save_file({k: v for k, v in changed.items() if v is not None}, path, metadata=metadata)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "model.safetensors", weights())


def test_what_is_written_is_read(path: Path) -> None:
    read = read_weights(path)
    given = weights()
    assert (read.design, read.classes, read.input_size, read.mean, read.std, read.versions) == (
        given.design,
        given.classes,
        given.input_size,
        given.mean,
        given.std,
        given.versions,
    )
    assert read.tensors.keys() == given.tensors.keys()
    assert all(torch.equal(read.tensors[name], given.tensors[name]) for name in given.tensors)


def test_the_header_holds_all_of_it_as_json(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["plusx"])
    assert Design.from_dict(card["design"]) == DESIGN
    assert card["classes"] == ["a", "b", "ç"]
    assert (card["input_size"], card["in_channels"], card["mean"], card["std"]) == (8, 1, [0.25], [0.5])
    assert set(card["versions"]) == {"plusx", "torch"}
    assert card["design"]["stages"][0]["block"]["order"] == "original"  # defaults are spelt out


def test_network_gives_the_same_logits_and_owns_its_weights(path: Path) -> None:
    read = read_weights(path.parent)  # the run folder
    x = torch.rand(2, 1, 8, 8)
    net = read.network()
    assert not net.training
    assert torch.equal(net(x), build(DESIGN, seed=1).eval()(x))
    with torch.no_grad():
        net.get_parameter(STEM).zero_()
    assert read.tensors[STEM].any()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_channels_last_and_half_precision_weights_are_written(tmp_path: Path) -> None:
    net = build(DESIGN, seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = write_weights(tmp_path / "a.safetensors", weights(tensors=net.state_dict()))
    assert torch.equal(read_weights(path).network().get_parameter(STEM), net.get_parameter(STEM))
    half = {n: t.half() if t.is_floating_point() else t for n, t in net.state_dict().items()}
    assert read_weights(write_weights(path, weights(tensors=half))).network()(torch.rand(1, 1, 8, 8)).shape == (1, 3)


def test_is_plusx_file(path: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no")
    assert is_plusx_file(path)
    assert is_plusx_file(tmp_path)
    assert not any(is_plusx_file(tmp_path / name) for name in ("other.safetensors", "text", "missing"))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path)
    assert not is_plusx_file(path)


def test_hostile_bytes(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 2**62) + whole[8:])  # a header of four exabytes
    refused(path)
    path.write_bytes(b"\x80\x04\x95" + b"cos\nsystem\n" * 10)  # a pickle
    refused(path)


def test_missing_and_foreign(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "not a run")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "not of plusx", "plusx convert")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "not a weights file of plusx", f"plusx convert {tmp_path / 'other.pth'}")


def test_wrong_header(path: Path) -> None:
    whole = path.read_bytes()
    for card, word in (
        ({"design": {"stages": []}}, "design.stem: is missing"),
        ({"format": 2}, "format: 2"),
        ({"clases": []}, "clases: is not a known field"),
        ({"classes": ["a"]}, "1 class names"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values"),
        ({"std": [0.0]}, "std"),
        ({"input_size": 3}, "vanishes"),
        ({"input_size": 10**12}, "input_size: 1000000000000"),
        ({"mean": [1e308]}, "mean[0]: 1e+308"),
        ({"mean": [float("nan")]}, "mean[0]"),
        ({"std": [1e-300]}, "std[0]: 1e-300"),
        ({"std": [1e300]}, "std[0]: 1e+300"),
        ({"classes": ["a", "b", "\x1b[31mred"]}, r"classes: '\x1b[31mred'"),
        ({"classes": ["a", "b", "\u202egpj.exe"]}, r"classes: '\u202egpj.exe'"),
        ({"design": DESIGN.replace(name="\x1b[2J").to_dict()}, r"design.name: '\x1b[2J'"),
        ({"in_channels": 3}, "in_channels"),
        ({"design": None}, "design: is missing"),
    ):
        path.write_bytes(whole)
        refused(rewrite(path, card), word)


def test_a_header_that_asks_for_a_giant_costs_nothing(path: Path) -> None:
    whole = path.read_bytes()
    for change in ({"depth": 10**9}, {"width": 10**15}):
        path.write_bytes(whole)
        design = json.loads(DESIGN.to_json())
        design["stages"][-1].update(change)
        refused(rewrite(path, {"design": design}))


def test_the_first_tensor_that_differs_is_named(path: Path) -> None:
    whole = path.read_bytes()
    norm = "stages.0.0.branch.0.norm."
    for name, value, word in (
        ("head.fc.bias", None, "missing"),
        ("head.fc.bias", torch.zeros(4), "[4]"),
        ("head.extra", torch.zeros(1), "does not belong"),
        ("head.fc.bias", torch.zeros(3, dtype=torch.int64), "int64"),
        ("head.fc.bias", torch.tensor([0.0, float("nan"), 0.0]), "not finite"),
        (norm + "running_var", torch.full((16,), float("inf")), "not finite"),
    ):
        path.write_bytes(whole)
        refused(rewrite(path, tensors={name: value}), name, word)


def test_nothing_wrong_is_written(path: Path) -> None:
    before = path.read_bytes()
    assert read_weights(write_weights(path, weights(classes=("a b", "می\u200cخواهم", "🧑\u200d🔬")))).classes[1:]
    write_weights(path, weights())
    bad = weights().tensors | {"head.fc.bias": torch.full((3,), float("nan"))}
    for wrong in (
        weights(classes=("a",)),
        weights(classes=("a", "b", "\udcff")),
        weights(tensors=bad),
        weights(mean=(1.0, 2.0)),
        weights(std=(float("inf"),)),
    ):
        with pytest.raises(WeightsError):
            write_weights(path, wrong)
    assert path.read_bytes() == before


def test_a_write_that_torch_gives_up_is_one_line_and_other_errors_are_themselves(path: Path) -> None:
    with pytest.raises(WorkError, match=f"writing {path}: .*disk full"), checkpoint.replacing(path):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    with pytest.raises(RuntimeError, match="a fault"), checkpoint.replacing(path):
        raise RuntimeError("a fault")
    with pytest.raises(WorkError, match=r"^said already$"), checkpoint.replacing(path):
        raise WorkError("said already")
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WorkError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_weights(path, weights(input_size=16))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_new_file_takes_the_old_ones_place_and_never_writes_into_it(path: Path) -> None:
    before = path.read_bytes()
    os.link(path, path.parent / "same file")
    write_weights(path, weights(input_size=16))
    assert (path.parent / "same file").read_bytes() == before
    assert read_weights(path).input_size == 16


def test_others_may_read_what_the_umask_lets_them(path: Path) -> None:
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="No such file"):
        write_weights(tmp_path / "none" / "a.safetensors", weights())
    with pytest.raises(WorkError, match="No such file"):
        checkpoint.write_text(tmp_path / "none" / "a.txt", "")
