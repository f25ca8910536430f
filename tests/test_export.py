"""Exports: the same network in other runtimes, with nothing left of one that is not."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plusx
from plusx.artefact import Card, detect_format
from plusx.checkpoint import read_weights, write_weights
from plusx.engines import open_engine
from plusx.errors import DataError, InputError, WeightsError, WorkError
from plusx.export import export
from plusx.inference import open_model
from plusx.network import Network
from plusx.records import Run
from plusx.surgery import fold
from plusx.triton import repository_name
from tests.images import COLOURS, noisy

module = import_module("plusx.export")
quantising = import_module("plusx.quantise")
EXAMPLES = Path(__file__).parent.parent / "examples"
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "aoti": ".aoti.pt2"}


def own_logits(run: Run, images: torch.Tensor) -> Any:
    model = open_model(run.folder, "cpu")
    with torch.inference_mode():
        return model.net(model.prepare(images)).numpy()


def some_images(run: Run, count: int = 5) -> torch.Tensor:
    model = open_model(run.folder, "cpu")
    shape = (count, model.channels, model.size, model.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("preprocessing", [False, True])
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_every_format_gives_what_the_network_gives(
    colours: tuple[Path, Run], tmp_path: Path, to: str, preprocessing: bool
) -> None:
    _, run = colours
    out = tmp_path / f"net{ENDINGS[to]}"
    found = export(run.folder, to, output=out, dynamic_batch=True, preprocessing=preprocessing)
    assert found.path == out
    assert detect_format(str(out)) == to
    assert found.difference.same_class_percent == 100
    assert found.difference.largest < 1e-4 * found.difference.scale
    assert found.folded == 7
    engine = open_engine(out)
    assert engine.card.classes == ("blue", "green", "red")
    images = some_images(run)
    np.testing.assert_allclose(engine.logits(images.numpy()), own_logits(run, images), rtol=1e-4, atol=1e-4)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(Path(file).name for file in found.files)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["card"]["input_size"] == engine.card.input_size
    assert data["bytes"] == sum(Path(file).stat().st_size for file in found.files)
    assert "verified" in str(found)


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_a_fixed_batch_takes_any_number_in_parts(colours: tuple[Path, Run], tmp_path: Path, to: str) -> None:
    _, run = colours
    export(run.folder, to, output=tmp_path / f"net{ENDINGS[to]}", batch=2)
    engine, images = open_engine(tmp_path / f"net{ENDINGS[to]}"), some_images(run, 5)
    assert engine.card.batch == 2
    np.testing.assert_allclose(engine.logits(images.numpy()), own_logits(run, images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", [False, True])
def test_aoti_gives_what_the_network_gives(colours: tuple[Path, Run], tmp_path: Path, preprocessing: bool) -> None:
    _, run = colours
    out = tmp_path / "net.aoti.pt2"
    export(run.folder, "aoti", output=out, dynamic_batch=True, preprocessing=preprocessing)
    engine, images = open_engine(out), some_images(run)
    assert engine.name == "aoti"
    assert engine.card.classes == ("blue", "green", "red")
    np.testing.assert_allclose(engine.logits(images.numpy()), own_logits(run, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (12, 12)])
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_preprocessing_inside_is_nearly_ours(
    colours: tuple[Path, Run], tmp_path: Path, to: str, size: tuple[int, int]
) -> None:
    """Ours rounds the resized image to whole numbers; the graph does not."""
    _, run = colours
    out = tmp_path / f"net{ENDINGS[to]}"
    export(run.folder, to, output=out, preprocessing=True, dynamic_batch=True)
    image = noisy(COLOURS["green"], 3, size)
    image.save(tmp_path / "image.png")
    model = open_model(run.folder, "cpu")
    from plusx.pictures import Picture, decode_picture

    theirs = open_engine(out).run(np.asarray(image.convert("RGB"))[None])
    ours = own_logits(run, decode_picture(Picture(str(tmp_path / "image.png")), model.size, model.channels))
    assert np.abs(theirs - ours).max() < 0.05 * max(1, np.abs(ours).max())
    assert theirs.argmax() == ours.argmax() == 1


@pytest.mark.parametrize(
    ("to", "example"), [("onnx", "run_onnx"), ("openvino", "run_openvino"), ("torch-export", "run_torch")]
)
def test_the_examples_run_without_plusx(digits_run: Run, tmp_path: Path, to: str, example: str) -> None:
    import runpy

    images = runpy.run_path(str(EXAMPLES / "digit_images.py"))["write_images"](tmp_path, 3)
    out = export(digits_run.folder, to, output=tmp_path / f"net{ENDINGS[to]}", preprocessing=True).path
    script = f"import sys, runpy; sys.modules['plusx'] = None; runpy.run_path({str(EXAMPLES / example) + '.py'!r})"
    words = [sys.executable, "-c", script, str(out), *map(str, images)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    named = [line.split()[1] for line in done.stdout.splitlines()]
    assert named == [image.name[0] for image in images]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_keeps_the_accuracy(colours: tuple[Path, Run], tmp_path: Path, to: str) -> None:
    data, run = colours
    out = tmp_path / f"net{ENDINGS[to]}"
    found = export(run.folder, to, output=out, int8=True, calibrate=data, dynamic_batch=True)
    assert found.quantised is not None
    assert found.quantised.drop <= 0.5
    assert found.quantised.calibrated_on == 60
    assert found.quantised.kept_float == ()
    assert open_engine(out).card.precision == "int8"
    exact = export(run.folder, to, output=tmp_path / f"exact{ENDINGS[to]}")
    assert found.bytes < 0.6 * exact.bytes
    assert found.difference.largest > 0
    assert found.to_dict()["int8"]["drop_points"] <= 0.5


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_blocks_go_back_to_floating_point_until_it_holds(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    _, run = colours
    found_: list[float] = [40.0, 60.0, 99.8]
    monkeypatch.setattr(quantising, "accuracy", lambda *_: found_.pop(0))
    found = export(run.folder, to, output=tmp_path / f"net{ENDINGS[to]}", int8=True).quantised
    assert found is not None
    assert (found.tries, len(found.kept_float)) == (3, 2)
    assert set(found.kept_float) <= {"stem", "head", "stages.0.0", "stages.1.0", "stages.2.0"}
    assert "in floating point" in str(found)


def quantisers(file: Path) -> int:
    """How often the network goes from floating point to eight bits."""
    if file.suffix == ".onnx":
        import onnx

        return sum(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)
    from plusx.lowering import openvino

    return sum(op.get_type_name() == "FakeQuantize" for op in openvino().Core().read_model(file).get_ops())


@pytest.mark.parametrize(
    ("to", "counts"),
    [
        ("onnx", (0, 1, 2, 3, 4)),
        ("openvino", (0, 1, 4)),
        pytest.param("openvino", (0, 1, 2, 3, 4), marks=pytest.mark.slow),
    ],
)
def test_what_went_back_is_in_floating_point(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, counts: tuple[int, ...]
) -> None:
    _, run = colours
    found: list[int] = []
    for tries in counts:
        drops = [50.0] * tries + [100.0]
        monkeypatch.setattr(quantising, "accuracy", lambda *_, drops=drops: drops.pop(0))
        out = tmp_path / f"net{tries}{ENDINGS[to]}"
        done = export(run.folder, to, output=out, int8=True).quantised
        assert done is not None
        assert len(done.kept_float) == tries
        found.append(quantisers(out))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] > found[-1]
    assert 0 < found[-1] <= 6  # of the one block that is left


def test_int8_that_loses_too_much_leaves_nothing(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = colours
    monkeypatch.setattr(quantising, "accuracy", lambda *_: 33.0)
    with pytest.raises(WorkError, match=r"67.00 points of top-1 lost .* at most 0.5 are allowed"):
        export(run.folder, "openvino", output=tmp_path / "net.xml", int8=True)
    assert list(tmp_path.iterdir()) == []


def test_another_network_is_no_export(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before stays."""
    _, run = colours
    out = tmp_path / "net.onnx"
    export(run.folder, "onnx", output=out)
    before = out.read_bytes()
    write = module.write

    def wrong(net: torch.nn.Module, *rest: Any) -> None:
        with torch.no_grad():
            next(iter(net.parameters())).mul_(1.05)
        write(net, *rest)

    monkeypatch.setattr(module, "write", wrong)
    with pytest.raises(WorkError, match="not the same network"):
        export(run.folder, "onnx", output=out)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def pair(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "net.xml").read_bytes(), (folder / "net.bin").read_bytes()


def test_an_export_cut_off_while_it_is_placed_is_no_wrong_pair(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's two files take four renames. What a kill before each leaves: the same command then goes through."""
    _, run = colours
    place, images = tmp_path / "place", some_images(run)
    place.mkdir()
    export(run.folder, "openvino", output=place / "net.xml")
    old = pair(place)
    rename = Path.rename
    cuts: list[Path] = []

    def cut(self: Path, target: Path) -> Path:
        cuts.append(shutil.copytree(place, tmp_path / f"cut{len(cuts)}"))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        export(run.folder, "openvino", output=place / "net.xml", preprocessing=True)
    new = pair(place)
    assert old[0] != new[0]
    assert old[1] != new[1]
    stand = [sorted(file.name for file in each.iterdir() if file.is_file()) for each in cuts]
    assert stand == [["net.bin", "net.xml"], ["net.bin"], [], ["net.bin"]]
    assert pair(cuts[0]) == old
    for folder in cuts[1:]:
        (aside,) = folder.glob(".net.xml.*.old")
        assert (aside / "net.xml").read_bytes() == old[0]
        out = export(run.folder, "openvino", output=folder / "net.xml").path
        np.testing.assert_allclose(
            open_engine(out).logits(images.numpy()), own_logits(run, images), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("count", range(4))
def test_an_export_that_fails_while_it_is_placed_leaves_the_old_pair(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A disk that refuses one of the four renames, or Ctrl-C after it."""
    _, run = colours
    out = tmp_path / "net.xml"
    export(run.folder, "openvino", output=out)
    old, images = pair(tmp_path), some_images(run).numpy()
    answers = open_engine(out).logits(images)
    rename = Path.rename
    for problem, raised in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), WorkError)):
        called: list[Path] = []

        def fail(self: Path, target: Path, called: list[Path] = called, problem: BaseException = problem) -> Path:
            called.append(self)
            if len(called) != count + 1:
                return rename(self, target)
            if isinstance(problem, KeyboardInterrupt):
                rename(self, target)
            raise problem

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail)
            with pytest.raises(raised):
                export(run.folder, "openvino", output=out, preprocessing=True)
        assert len(called) > count
        assert pair(tmp_path) == old
        assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
        np.testing.assert_array_equal(open_engine(out).logits(images), answers)


def test_a_full_disk_leaves_nothing(colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(WorkError, match="No space left on device"):
        export(colours[1].folder, "onnx", output=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_as_soon_as_it_begins_to_write_leaves_nothing(
    digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def late(path: Any, *mode: int) -> None:
        mkdir(path, *mode)
        if Path(path).parent == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", late)
    with pytest.raises(KeyboardInterrupt):
        export(digits_run.folder, "onnx", output=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_triton_gets_a_repository_that_triton_reads(colours: tuple[Path, Run], tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    _, run = colours
    found = export(run.folder, "triton", output=tmp_path / "models")
    (folder,) = (tmp_path / "models").iterdir()
    for _ in range(2):  # also where a repository is called as the network
        again = export(run.folder, "triton", output=tmp_path / folder.name)
        assert [file.name for file in (tmp_path / folder.name).iterdir()] == [folder.name]
        assert again.path.read_bytes() == found.path.read_bytes()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert (config.input[0].name, list(config.input[0].dims)) == ("images", [3, 16, 16])
    assert (config.output[0].name, list(config.output[0].dims)) == ("logits", [3])
    assert (folder / "labels.txt").read_text().split() == ["blue", "green", "red"]
    engine = open_engine(folder / "1" / "model.onnx")
    assert engine.card.batch is None
    assert str(folder / "1" / "model.onnx") in found.files
    assert found.path == folder / "1" / "model.onnx"
    (tmp_path / "models" / "mine").mkdir()
    export(run.folder, "triton", output=tmp_path / "models", preprocessing=True)  # again, in its place
    assert sorted(each.name for each in (tmp_path / "models").iterdir()) == sorted([folder.name, "mine"])
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert list(config.input[0].dims) == [-1, -1, 3]


def test_a_repository_that_fails_to_be_placed_leaves_the_old_one(
    digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(digits_run.folder, "triton", output=tmp_path / "models").path
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    rename = Path.rename
    failed: list[Path] = []

    def fail(self: Path, target: Path) -> Path:
        if target == out.parent.parent and not failed:
            failed.append(target)
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        export(digits_run.folder, "triton", output=tmp_path / "models", preprocessing=True)
    assert failed
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert [each.name for each in tmp_path.iterdir()] == ["models"]


def test_in_the_run_folder_by_default(digits_run: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run.folder, run)
    assert export(run, "onnx").path == run / "model.onnx"
    assert export(run, "openvino").path == run / "model.xml"
    assert export(run, "onnx", int8=True).path == run / "model-int8.onnx"
    assert export(run, "onnx").path == run / "model.onnx"  # its own is replaced
    assert not [name for name in run.iterdir() if name.name.startswith(".model")]


def test_a_weights_file_needs_data(digits_run: Run, tmp_path: Path) -> None:
    weights = read_weights(digits_run.folder)
    file = write_weights(tmp_path / "some.safetensors", weights)
    with pytest.raises(DataError, match="export: say on which data"):
        export(file, "onnx")
    assert export(file, "onnx", data="digits").path == tmp_path / "model.onnx"
    with pytest.raises(InputError, match="say where to write"):
        export(weights, "onnx", data="digits")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"to": "onxx"}, "did you mean 'onnx'"),
    ({"to": "aoti", "int8": True}, "aoti is not quantised"),
    ({"calibrate": "digits"}, "only int8 is calibrated"),
    ({"int8": True, "max_drop": -1}, "from 0 to 100"),
    ({"batch": 0}, "from 1 to 4096"),
    ({"input": 2}, "whole number of pixels"),
    ({"output": "model.xml"}, "ends in .onnx"),
    ({"output": "no/such/model.onnx"}, "there is no folder"),
    ({"data": "no-such-data"}, "no-such-data"),
    ({"int8": True, "calibrate": "/no/such/images"}, "no such file"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_options_are_one_line(digits_run: Run, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"to": "onnx", "output": tmp_path / "net.onnx"} | options
    with pytest.raises(InputError, match=words):
        export(digits_run.folder, given.pop("to"), **given)
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_users_is_written_over(digits_run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="no export of plusx"):
        export(digits_run.folder, "onnx", output=mine)
    (tmp_path / "net.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"net.bin: that is there already"):
        export(digits_run.folder, "openvino", output=tmp_path / "net.xml")
    weights = write_weights(tmp_path / "some.safetensors", read_weights(digits_run.folder))
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="no export of plusx"):
        export(weights, "onnx", data="digits")
    name = repository_name(open_engine(digits_run.folder, "torch").card)
    (tmp_path / "models" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="no export of plusx"):
        export(digits_run.folder, "triton", output=tmp_path / "models")
    assert list((tmp_path / "models" / name).iterdir()) == []
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "net.bin").read_bytes() == b"mine"
    assert mine.read_bytes() == b"mine"


def in_a_process(*lines: str) -> tuple[int, str, str]:
    """What Python lines give: torch's loggers write to the standard error that they find at the beginning."""
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_that_there_is_no_torchvision_is_not_said(digits_run: Run, tmp_path: Path) -> None:
    """Nobody who ships a residual network needs its operators."""
    ask = f"plusx.export({str(digits_run.folder)!r}, 'onnx', output={str(tmp_path / 'net.onnx')!r})"
    assert in_a_process("import sys", "sys.modules['torchvision'] = None", "import plusx", ask) == (0, "", "")


def test_a_cut_program_is_one_line(digits_run: Run, tmp_path: Path) -> None:
    out = export(digits_run.folder, "torch-export", output=tmp_path / "net.pt2").path
    out.write_bytes(out.read_bytes()[: out.stat().st_size // 2])
    ask = f"main(['bench', {str(out)!r}])"
    code, printed, said = in_a_process("import sys", "from plusx.cli import main", f"sys.exit({ask})")
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert said.startswith(f"plusx: reading {out}: ")
    assert "above" not in said


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2", ".aoti.pt2"])
@pytest.mark.parametrize("content", [b"", b"not a network", b"<net></net>"])
def test_damaged_files_are_one_line(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"bad{ending}").write_bytes(content)
    with pytest.raises(WeightsError, match="bad"):
        open_engine(tmp_path / f"bad{ending}")


def test_an_onnx_of_others_is_none_of_ours(digits_run: Run, tmp_path: Path) -> None:
    import onnx

    out = export(digits_run.folder, "onnx", output=tmp_path / "net.onnx").path
    proto = onnx.load(out)
    del proto.metadata_props[:]
    onnx.save(proto, out)
    with pytest.raises(WeightsError, match="not an export of plusx"):
        open_engine(out)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino", "torch-compiled"])
def test_a_run_on_every_engine(colours: tuple[Path, Run], name: Any) -> None:
    _, run = colours
    if name == "torch-compiled":
        pytest.importorskip("torch._inductor")
    engine, images = open_engine(run.folder, name, threads=1), some_images(run)
    assert engine.name == name
    np.testing.assert_allclose(engine.logits(images.numpy()), own_logits(run, images), rtol=1e-4, atol=1e-4)


def test_engines_that_do_not_fit_are_one_line(digits_run: Run, tmp_path: Path) -> None:
    out = export(digits_run.folder, "openvino", output=tmp_path / "net.xml").path
    for source, options, words in (
        (out, {"engine": "onnxruntime"}, "does not run this"),
        (out, {"engine": "tensorrt"}, "is not one of"),
        (out, {"threads": 0}, "at least 1"),
        (digits_run.folder, {"precision": "int8"}, "needs images to calibrate"),
        (digits_run.folder, {"engine": "onnxruntime", "precision": "bfloat16"}, "no bfloat16"),
        (tmp_path / "no.onnx", {}, "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            open_engine(source, **options)


def test_without_the_packages_it_is_said(digits_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'plusx\[export\]'"):
        export(digits_run.folder, "onnx", output=tmp_path / "net.onnx")
    assert open_engine(digits_run.folder).name == "torch"


def command(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "plusx", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_command(digits_run: Run, tmp_path: Path) -> None:
    done = command("export", digits_run.folder, "--to", "openvino", "--int8", "-o", tmp_path / "net.xml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["int8"]["images"] == 359
    done = command("export", digits_run.folder, "--to", "openvino", "-o", tmp_path / "net.onnx")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_cards_read_back(digits_run: Run) -> None:
    model = open_model(digits_run.folder, "cpu")
    from plusx.lowering import card_of

    card = card_of(model)
    assert Card.from_json(card.model_dump_json()) == card
    assert card.labels == tuple("0123456789")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_several_threads_at_once(colours: tuple[Path, Run], name: Any) -> None:
    _, run = colours
    images, engine = some_images(run, 8), open_engine(run.folder, name)
    exact = own_logits(run, images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: engine.logits(images[k : k + 1].numpy()), [k % 8 for k in range(64)]))
    for k, logits in enumerate(found):
        np.testing.assert_allclose(logits, exact[k % 8 : k % 8 + 1], rtol=1e-4, atol=1e-4)


def test_nobody_is_told(colours: tuple[Path, Run], tmp_path: Path) -> None:
    """OpenVINO and NNCF would send what they were used for; in a process of its own, since consent is asked once."""
    script = f"""
import openvino_telemetry.main as main
main.TelemetrySender.send = lambda *_, **__: print("told")
import plusx
plusx.export({str(colours[1].folder)!r}, "openvino", output={str(tmp_path / "net.xml")!r}, int8=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_exports_are_public() -> None:
    assert plusx.export is export
    assert plusx.open_engine is open_engine


def test_a_folding_that_changes_the_network_leaves_nothing(
    digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(net: Network) -> Network:
        folded = fold(net)
        with torch.no_grad():
            folded.get_parameter("stem.0.conv.weight").mul_(1.1)
        return folded

    monkeypatch.setattr(module, "fold", wrong)
    for options in ({}, {"int8": True, "max_drop": 100}):
        with pytest.raises(WorkError, match="folding is not the same network"):
            export(digits_run.folder, "openvino", output=tmp_path / "net.xml", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_files_own_metadata_says_how_images_are_prepared(colours: tuple[Path, Run], tmp_path: Path) -> None:
    import onnxruntime

    out = export(colours[1].folder, "onnx", output=tmp_path / "net.onnx")
    told = onnxruntime.InferenceSession(str(out.path)).get_modelmeta().custom_metadata_map
    weights = read_weights(colours[1].folder)
    assert weights.mean != weights.std
    assert [float(value) for value in told["mean"].split(",")] == list(weights.mean)
    assert [float(value) for value in told["std"].split(",")] == list(weights.std)
    assert told["classes"].split("\n") == list(weights.classes)
