"""Explanations: what speaks for a class lies where the class is; nothing of the user's is written over."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plusx.errors import DataError, InputError
from plusx.explain import Method, attribute, explain, last_maps
from plusx.inference import open_model
from plusx.network import build
from plusx.records import Run
from tests.commands import in_process
from tests.images import COLOURS, noisy


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Blue on the left, red on the right."""
    image = noisy(COLOURS["blue"], 1, (32, 32))
    image.paste(noisy(COLOURS["red"], 2, (16, 32)), (16, 0))
    image.save(tmp_path / "halves.png")
    return tmp_path / "halves.png"


@pytest.mark.parametrize("method", ["gradcam", "ig"])
def test_the_heat_lies_where_the_class_is(colours: tuple[Path, Run], halves: Path, method: Method) -> None:
    model = open_model(colours[1].folder)
    size = model.size
    pixels = torch.from_numpy(np.array(Image.open(halves).resize((size, size)))).permute(2, 0, 1)[None]
    for name, inside in (("blue", slice(0, size // 2)), ("red", slice(size // 2, size))):
        heat = attribute(model, pixels, model.classes.index(name), method)
        assert heat.shape == (size, size)
        assert float(heat.min()) >= 0
        assert float(heat.max()) == 1
        assert float(heat[:, inside].sum() / heat.sum()) > 0.6, name
    assert all(parameter.requires_grad for parameter in model.net.parameters())
    assert all(parameter.grad is None for parameter in model.net.parameters())


def test_a_picture_and_words(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    done = explain(run.folder, data / "red" / "1.png", output=tmp_path / "out.png")
    assert (done.class_name, done.named, done.method) == ("red", "red", "gradcam")
    assert done.probability_percent > 50
    assert "red, " in str(done)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.mode == "RGB"
        assert picture.width > 2 * 320
        left = np.asarray(picture)[20:300, 20:300].mean((0, 1))
    assert np.abs(left - COLOURS["red"]).max() < 8
    other = explain(run.folder, data / "red" / "1.png", output=tmp_path / "out.png", class_name="blue", method="ig")
    assert (other.class_name, other.named) == ("blue", "red")
    assert other.probability_percent < done.probability_percent
    assert "what speaks for blue (integrated gradients)" in str(other)


def test_pre_activation_networks_are_explained_by_the_heads_activation() -> None:
    preact, original = (build(name, seed=0) for name in ("cifar_preact110", "cifar_resnet20"))
    assert last_maps(preact) is preact.head.act
    assert last_maps(original) is original.stages[-1]


def test_nothing_of_the_users_is_written_over(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    image = data / "red" / "1.png"
    before = image.read_bytes()
    with pytest.raises(InputError, match="it exists and is no explanation"):
        explain(run.folder, image, output=image)
    assert image.read_bytes() == before
    with pytest.raises(InputError, match=r"'\.jpg' is not \.png"):
        explain(run.folder, image, output=tmp_path / "out.jpg")
    with pytest.raises(InputError, match="there is no folder"):
        explain(run.folder, image, output=tmp_path / "none" / "out.png")


def test_explain_refuses(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    out = tmp_path / "out.png"
    with pytest.raises(InputError, match=r"class 'rde' is not one the network knows .*; did you mean 'red'"):
        explain(run.folder, data / "red" / "1.png", output=out, class_name="rde")
    with pytest.raises(InputError, match="method 'gradcan' is not one of gradcam, ig; did you mean 'gradcam'"):
        explain(run.folder, data / "red" / "1.png", output=out, method="gradcan")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="20 images; one is explained at a time"):
        explain(run.folder, data / "red", output=out)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        explain(run.folder, tmp_path / "bad.png", output=out)
    assert not out.exists()


def test_without_captum_one_line_says_how_to_get_it(
    colours: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = colours
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"explain needs captum, which is an extra: pip install 'plusx\[explain\]'"):
        explain(run.folder, data / "red" / "1.png", output=tmp_path / "out.png")


def test_the_command(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    words = ("explain", run.folder, "-", "-o", tmp_path / "out.png", "--class", "green", "--json")
    done = in_process(*words, stdin=(data / "red" / "1.png").read_bytes())
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["image"], found["class"], found["named"]) == ("-", "green", "red")
    assert (tmp_path / "out.png").is_file()
