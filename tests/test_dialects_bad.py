"""Every wrong weights file is one clear line, and a hostile one is never run."""

import argparse
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from plusx import dialects
from plusx.errors import InputError, WeightsError
from tests import peers

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return peers.small_state()


def refused(path: Path, *words: str, **options: Any) -> str:
    """The one line with which a file is refused; it holds all of `words`."""
    with pytest.raises(WeightsError) as caught:
        dialects.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message
    return message


class Malice:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("bare", [True, False])
def test_a_malicious_pickle_is_refused_by_name_and_not_run(
    protocol: int, bare: bool, state: State, tmp_path: Path
) -> None:
    trace, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"state_dict": state if not bare else {}, "x": Malice(str(trace))}
    if bare:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol)
    message = refused(path)
    assert "posix.system" in message or protocol == 4
    assert "not opened" in message
    assert not trace.exists()


def test_a_pickle_that_needs_a_class_says_which(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "argparse.Namespace", "state_dict()")
    torch.save(nn.Linear(2, 2), tmp_path / "b.pth")
    refused(tmp_path / "b.pth", "torch.nn.modules.linear.Linear")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", b"\x80\x02", b"PK\x03\x04", b"\xff" * 64])
def test_a_file_of_something_else_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    refused(path)


PICKLE, ZIP, SAFE = b"\x80\x02", b"PK\x03\x04 and so on", (9).to_bytes(8, "little") + b'{"a": 1}'


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pth", b"<!DOCTYPE html>\n<html>Sign in</html>", "a web page, not weights"),
        ("a.safetensors", b"\n<html>", "a web page, not weights"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        ("a.pth", bytes(range(40, 240)), "neither a zip archive nor a pickle"),
        ("a.pth", SAFE, "call it .safetensors"),
        ("a.safetensors", ZIP, "call it .pth"),
        ("a.pth", ZIP, "cut off or damaged"),
        ("a.pth", PICKLE, "cut off or damaged"),
    ],
)
def test_the_reason_is_the_files_own(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, reason)


def test_a_cut_off_file_is_called_that_in_a_whole_sentence(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
    assert refused(tmp_path / "a.pth").endswith("not a whole file of torch.save: it is cut off or damaged")


def test_an_unknown_option_is_not_ignored(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "unknown option 'strideon'; did you mean 'stride_on'?", strideon="1x1")
    refused(tmp_path / "a.pth", "unknown option 'clases'; did you mean 'classes'?", clases=("a",))


def test_names_that_a_terminal_would_obey_are_not_passed_on(state: State, tmp_path: Path) -> None:
    red = "\x1b[31mred"
    torch.save({**state, red: torch.zeros(3)}, tmp_path / "a.pth")
    assert "\x1b" not in refused(tmp_path / "a.pth", "nearest dialect")
    save_file(state, tmp_path / "model.safetensors")
    labels = {"id2label": {str(index): red for index in range(10)}}
    (tmp_path / "config.json").write_text(json.dumps(labels))
    assert dialects.load(tmp_path).classes == ()
    (tmp_path / "config.json").write_text(json.dumps({"architecture": f"{red}blur50"}))
    assert "\x1b" not in refused(tmp_path, "anti-aliasing")
    evil = pickle.dumps(Malice(""), protocol=4).replace(b"posix", b"po\x1bix")
    (tmp_path / "b.pth").write_bytes(evil)
    assert "\x1b" not in refused(tmp_path / "b.pth", "not opened")


def test_a_missing_file_an_empty_folder_and_an_unknown_suffix_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "no such file")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "no such file")
    (tmp_path / "pipe.pth").unlink()
    refused(tmp_path, "folder without model.safetensors")
    (tmp_path / "a.onnx").write_text("x")
    refused(tmp_path / "a.onnx", ".onnx is not one of")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(share: float, suffix: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path)


def test_a_header_that_claims_everything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(tmp_path / "a.safetensors", "safetensors")
    huge = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [2**40, 3, 7, 7], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(huge).to_bytes(8, "little") + huge + b"\0" * 4)
    refused(tmp_path / "b.safetensors", "safetensors")


def _without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


WRONG: list[tuple[str, Callable[[State], Any], tuple[str, ...]]] = [
    ("shape", lambda s: {**s, "layer2.0.conv2.weight": torch.zeros(32, 31, 3, 3)}, ("layer2.0.conv2.weight",)),
    ("bias", lambda s: {**s, "fc.bias": torch.zeros(11)}, ("fc.bias is [11], where", "has [10]")),
    ("missing", lambda s: _without(s, "layer2.0.bn2.running_var"), ("layer2.0.bn2.running_var", "missing")),
    ("stem", lambda s: _without(s, "conv1.weight"), ("tensor conv1.weight is missing",)),
    ("first", lambda s: _without(s, "layer1.0.conv1.weight"), ("tensor layer1.0.conv1.weight is missing",)),
    ("fc", lambda s: _without(s, "fc.weight"), ("tensor fc.weight is missing",)),
    ("5x5", lambda s: {**s, "conv1.weight": torch.zeros(16, 3, 5, 5)}, ("found 5×5",)),
    ("block", lambda s: _without(s, *(n for n in s if n.startswith("layer2."))), ("stage 1", "gaps")),
    ("conv", lambda s: _without(s, "layer2.0.conv2.weight"), ("tensor layer2.0.conv2.weight is missing",)),
    ("7x7", lambda s: {**s, "layer2.0.conv2.weight": torch.zeros(32, 32, 7, 7)}, ("found 3×3, 7×7",)),
    ("extra", lambda s: {**s, "layer9.9.se.conv.weight": torch.zeros(1, 1, 3)}, ("layer9.9.se.conv.weight",)),
    ("gate", lambda s: {**s, "layer2.0.se.fc1.weight": torch.zeros(8, 32, 1, 1)}, ("missing",)),
    ("projection", lambda s: _without(s, *(n for n in s if n.startswith("layer2.0.down"))), ("projections",)),
    ("int8", lambda s: {**s, "fc.weight": torch.zeros(10, 64, dtype=torch.int8)}, ("fc.weight is torch.int8",)),
    ("complex", lambda s: {**s, "fc.weight": torch.zeros(10, 64, dtype=torch.complex64)}, ("complex64",)),
    ("nan", lambda s: {**s, "bn1.bias": torch.full((16,), torch.nan)}, ("bn1.bias", "not finite")),
    ("f64", lambda s: {**s, "bn1.bias": torch.full((16,), 1e300, dtype=torch.float64)}, ("bn1.bias", "not finite")),
    ("sparse", lambda s: {**s, "fc.weight": torch.zeros(10, 64).to_sparse()}, ("fc.weight is no plain tensor",)),
    ("meta", lambda s: {**s, "fc.weight": torch.zeros(10, 64, device="meta")}, ("fc.weight is no plain tensor",)),
    ("huge", lambda s: {**s, "fc.weight": torch.zeros(1).expand(10**9, 64)}, ("fc.weight claims the shape",)),
    ("empty", lambda s: {**s, "fc.weight": torch.zeros(0, 64)}, ("empty shape",)),
    ("scalar", lambda s: {**s, "fc.weight": torch.zeros(10)}, ("fc.weight",)),
    ("0-dim", lambda s: {**s, "conv1.weight": torch.tensor(1.0)}, ("conv1.weight",)),
    ("counter", lambda s: {**s, "bn1.num_batches_tracked": torch.zeros(5)}, ("num_batches_tracked",)),
    ("no stats", lambda s: {n: t for n, t in s.items() if "running" not in n}, ("running statistics",)),
    (
        "vgg",
        lambda s: {"features.0.weight": torch.zeros(64, 3, 3, 3), "classifier.6.bias": torch.zeros(9)},
        ("no residual",),
    ),
    ("list", lambda s: [s], ("expected a dictionary", "list")),
    ("tensor", lambda s: torch.zeros(3), ("expected a dictionary", "Tensor")),
    ("nothing", lambda s: {}, ("no tensors",)),
    ("numbers", lambda s: {"epoch": 3, "lr": 0.1}, ("no tensors", "epoch, lr")),
    ("many", lambda s: {**s, "x" * 10**5 + ".weight": torch.zeros(3)}, ("nearest dialect",)),
    ("huge index", lambda s: {**s, "layer99999999.0.conv1.weight": torch.zeros(3)}, ("layer99999999",)),
    ("far stage", lambda s: {**s, "layer9999.0.conv1.weight": torch.zeros(3)}, ("gaps",)),
    ("newline", lambda s: {**s, "a\nb.weight": torch.zeros(3)}, ("nearest dialect",)),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_tensors_are_refused_by_name(
    change: Callable[[State], Any], words: tuple[str, ...], state: State, tmp_path: Path
) -> None:
    torch.save(change(state), tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth", *words)
    assert len(message) < 600


@pytest.mark.parametrize(
    "name", ["resnet50_gn", "ecaresnet50d", "legacy_seresnet18", "resnetv2_18", "mobilenetv3_small_050"]
)
def test_relatives_that_plusx_has_no_block_for_are_refused(name: str, tmp_path: Path) -> None:
    torch.save(peers.timm(name, num_classes=2).state_dict(), tmp_path / "a.pth")
    refused(tmp_path / "a.pth")


def complaint_about(path: Path) -> str:
    """Why a file is refused; the empty string where it loads. Anything but an InputError comes through."""
    try:
        dialects.load(path)
    except InputError as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mutated_files_give_typed_errors_only(suffix: str, state: State, tmp_path: Path) -> None:
    """A few hundred seeded mutations of a small file: it still loads, or one line says why not."""
    path, rng = tmp_path / f"net{suffix}", random.Random(0)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    refusals = 0
    for _ in range(150):
        path.write_bytes(_mutated(whole, rng))
        complaint = complaint_about(path)
        assert "\n" not in complaint
        refusals += bool(complaint)
    assert refusals > 50


def _mutated(whole: bytes, rng: random.Random) -> bytes:
    """A byte changed, a piece cut out, doubled or zeroed: mostly where the headers are, at both ends."""
    data, edge = bytearray(whole), rng.choice([200, 4000, len(whole)])
    at = rng.randrange(min(edge, len(data)))
    at = len(data) - 1 - at if rng.random() < 0.5 else at
    size = rng.choice([1, 8, 64])
    match rng.randrange(4):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            del data[at : at + size]
        case 2:
            data[at:at] = data[at : at + size]
        case _:
            data[at : at + size] = bytes(size)
    return bytes(data)


def test_mutated_states_give_typed_errors_only(state: State, tmp_path: Path) -> None:
    """Whole files of wrong tensors: names dropped, exchanged and renumbered, shapes and kinds changed."""
    rng, path = random.Random(1), tmp_path / "net.pth"
    names = list(state)
    for _ in range(200):
        broken: dict[Any, Any] = dict(state)
        for _ in range(rng.randrange(1, 4)):
            name, other = rng.choice(names), rng.choice(names)
            match rng.randrange(6):
                case 0:
                    broken.pop(name, None)
                case 1:
                    broken[name], broken[other] = broken.get(other), broken.get(name)
                case 2:
                    broken[name.replace("0", str(rng.randrange(12)))] = broken.pop(name, 1)
                case 3:
                    broken[name] = torch.zeros([rng.randrange(5) for _ in range(rng.randrange(6))])
                case 4:
                    broken[name] = rng.choice([None, 3, "text", [1], {"a.b": torch.zeros(2)}])
                case _:
                    broken[rng.choice([3, "", ".", "a..b", "layer1", ".weight", None])] = torch.zeros(2)
        torch.save(broken, path)
        assert "\n" not in complaint_about(path)
