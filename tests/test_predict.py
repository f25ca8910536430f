"""Predict: names what files, folders, patterns and standard input show, and names what is no image."""

import io
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from plusx.checkpoint import read_weights
from plusx.errors import DataError, InputError, WeightsError
from plusx.pictures import find_pictures, read_list
from plusx.predict import predict
from plusx.records import Run
from tests.commands import in_process
from tests.images import COLOURS, noisy

EXAMPLE = Path(__file__).parent.parent / "examples" / "digit_images.py"


def command(*arguments: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    return in_process("predict", *arguments, stdin=stdin)


def tmp_path_without_images(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    return tmp_path / "empty"


def test_predict_the_example_images(digits_run: Run, tmp_path: Path) -> None:
    write_images = runpy.run_path(str(EXAMPLE))["write_images"]
    files = write_images(tmp_path, 20)
    assert len(set(files)) == 20
    found = predict(digits_run.folder, files)
    right = [image.top[0].name == file.name[0] for image, file in zip(found.images, files, strict=True)]
    assert sum(right) >= 19
    assert all(image.top[0].probability_percent > 30 for image in found.images)


def test_predict_reports(colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    noisy(COLOURS["red"], 7, (40, 30)).save(tmp_path / "red [x].png")
    noisy(COLOURS["blue"], 8, (17, 90)).convert("RGBA").save(tmp_path / "blue.png")
    files: list[str | Path] = [tmp_path / "red [x].png", str(tmp_path / "blue.png")]
    found = predict(run.folder, files, top=9)
    data = json.loads(json.dumps(found.to_dict()))
    assert [image["class"] for image in data["images"]] == ["red", "blue"]
    assert [image["file"] for image in data["images"]] == [str(file) for file in files]
    top = data["images"][0]["top"]
    assert len(top) == 3  # no more than there are classes
    assert sum(guess["probability_percent"] for guess in top) == pytest.approx(100, abs=1e-3)
    assert top[0]["probability_percent"] == data["images"][0]["probability_percent"]
    assert "red [x].png" in str(found).replace("\n", "") or "[x]" in str(found)
    assert len(predict(run.folder, files).images[0].top) == 1


def test_predict_one_image_or_any_iterable(colours: tuple[Path, Run]) -> None:
    data, run = colours
    file = data / "red" / "0.png"
    expected = predict(run.folder, [file]).images
    assert predict(run.folder, str(file)).images == predict(run.folder, file).images == expected
    assert predict(run.folder, iter([file])).images == expected


def test_predict_does_not_depend_on_its_neighbours(colours: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = colours
    files = sorted(data.rglob("*.png"))
    together = predict(run.folder, files)
    monkeypatch.setattr(import_module("plusx.inference"), "BATCH", 7)
    apart = predict(run.folder, files)
    assert [image.top[0].name for image in together.images] == [image.top[0].name for image in apart.images]


def test_predict_refuses(colours: tuple[Path, Run], digits_run: Run, tmp_path: Path) -> None:
    _, run = colours
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (3, 3)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"bad\.png"):
        predict(run.folder, [tmp_path / "good.png", tmp_path / "bad.png"])
    with pytest.raises(DataError, match="no images are in that folder"):
        predict(run.folder, [tmp_path_without_images(tmp_path)])
    with pytest.raises(DataError, match=r"no image matches"):
        predict(run.folder, str(tmp_path / "*.gif"))
    with pytest.raises(InputError, match="on_bad_image 'skp' is not one of fail, skip; did you mean 'skip'"):
        predict(run.folder, tmp_path, on_bad_image="skp")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no images"):
        predict(run.folder, [])
    with pytest.raises(InputError, match=r"images\[1\]: 3 is int"):
        predict(run.folder, [tmp_path / "good.png", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="images 3: a path, or several"):
        predict(run.folder, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="run: 3 is int"):
        predict(3, [tmp_path / "good.png"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top '2'"):
        predict(run.folder, [tmp_path / "good.png"], top="2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top 0"):
        predict(run.folder, [tmp_path / "good.png"], top=0)
    with pytest.raises(WeightsError, match="no such file"):
        predict(tmp_path / "none", [tmp_path / "good.png"])
    unprepared = replace(read_weights(digits_run.folder), mean=(), std=())
    with pytest.raises(WeightsError, match="mean, std not known"):
        predict(unprepared, [tmp_path / "good.png"])


def test_folders_and_patterns_name_every_image_below(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    (tmp_path / "a" / ".thumbs").mkdir(parents=True)
    for name in ("a/2.png", "a/1.PNG", "3.png", "a/.thumbs/4.png"):
        noisy(COLOURS["red"], 1).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    below = [str(tmp_path / name) for name in ("3.png", "a/1.PNG", "a/2.png")]
    assert [picture.name for picture in find_pictures(tmp_path, "predict")] == below
    assert [picture.name for picture in find_pictures(str(tmp_path / "**" / "*.png"), "predict")] == below[::2]
    assert [picture.name for picture in find_pictures(str(tmp_path / "?"), "predict")] == below[1:]
    both = predict(run.folder, [tmp_path, data / "red" / "0.png"])
    assert [image.file for image in both.images] == [*below, str(data / "red" / "0.png")]
    assert {image.top[0].name for image in both.images} == {"red"}


def test_a_file_that_is_called_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    noisy(COLOURS["red"], 1).save(tmp_path / "[a].png")
    noisy(COLOURS["red"], 1).save(tmp_path / "a.png")
    assert [p.name for p in find_pictures(tmp_path / "[a].png", "predict")] == [str(tmp_path / "[a].png")]


def test_bytes_are_an_image(colours: tuple[Path, Run]) -> None:
    data, run = colours
    file = data / "green" / "3.png"
    (found,) = predict(run.folder, file.read_bytes()).images
    assert found.file == "-"
    assert found.top == predict(run.folder, file).images[0].top
    with pytest.raises(DataError, match=r"^reading standard input: not an image"):
        predict(run.folder, b"no image")


def test_an_image_on_standard_input(colours: tuple[Path, Run]) -> None:
    _, run = colours
    picture = io.BytesIO()
    noisy(COLOURS["blue"], 3).save(picture, "BMP")
    words = [sys.executable, "-m", "plusx", "predict", str(run.folder), "-", "--json"]
    done = subprocess.run(words, capture_output=True, check=False, input=picture.getvalue())
    assert (done.returncode, done.stderr) == (0, b"")
    (image,) = json.loads(done.stdout)["images"]
    assert (image["file"], image["class"]) == ("-", "blue")
    empty = command(run.folder, "-", stdin=b"")
    assert (empty.returncode, empty.stderr) == (2, "plusx: reading standard input: the file is empty\n")


def test_a_list_on_standard_input_or_in_a_file(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    files = [str(data / "red" / "1.png"), str(data / "blue" / "2.png")]
    for listed in ("\n".join(files) + "\n", "\0".join(files) + "\0"):
        done = command(run.folder, "--from", "-", "--json", stdin=listed.encode())
        assert [image["file"] for image in json.loads(done.stdout)["images"]] == files
    (tmp_path / "list.txt").write_text("\n".join(files))
    assert read_list(tmp_path / "list.txt") == files
    done = command(run.folder, "--from", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "reading the list" in done.stderr
    assert command(run.folder, "--from", "-").returncode == 2


def test_bad_images_are_skipped_and_counted_or_fatal(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    whole = (data / "red" / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole)
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.png").write_bytes(b"")
    found = predict(run.folder, tmp_path, on_bad_image="skip")
    assert [Path(image.file).name for image in found.images] == ["1.png"]
    assert [Path(bad.file).name for bad in found.skipped] == ["2.png", "3.png"]
    done = command(run.folder, tmp_path, "--on-bad-image", "skip", "--json")
    assert done.returncode == 0
    assert [Path(bad["file"]).name for bad in json.loads(done.stdout)["skipped"]] == ["2.png", "3.png"]
    lines = done.stderr.splitlines()
    assert "2.png" in lines[0]
    assert "3.png: the file is empty" in lines[1]
    assert lines[2:] == ["plusx: 2 of 3 images skipped"]
    fatal = command(run.folder, tmp_path)
    assert (fatal.returncode, fatal.stdout, fatal.stderr.count("\n")) == (2, "", 1)
    (tmp_path / "1.png").unlink()
    none = command(run.folder, tmp_path, "--on-bad-image", "skip")
    assert none.returncode == 2
    assert "none of the 2 images could be read" in none.stderr
