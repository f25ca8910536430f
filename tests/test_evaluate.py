"""Evaluate and predict: they agree with training, match classes by name, and refuse what cannot be judged."""

import json
import runpy
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plusx.checkpoint import read_weights
from plusx.cost import cost
from plusx.errors import DataError, InputError, WeightsError
from plusx.evaluate import evaluate, predict
from plusx.families import cifar
from plusx.recipe import Recipe
from plusx.train import Run, train
from tests.images import COLOURS, colour_folders, noisy

EXAMPLE = Path(__file__).parent.parent / "examples" / "digit_images.py"


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder of blue, green and red images, and a network that tells them apart."""
    root = tmp_path_factory.mktemp("colours")
    data = colour_folders(root / "photos", images=20)
    run = train(data, design=cifar(8), recipe=Recipe(epochs=8, batch_size=16), out=root / "run", show=False)
    assert run.accuracy_percent == 100
    return data, run


def test_evaluate_agrees_with_training(digits_run: Run) -> None:
    result = evaluate(digits_run.folder)
    assert result.accuracy_percent == digits_run.accuracy_percent
    assert result.loss == pytest.approx(digits_run.held_out_loss)
    assert (result.data, result.images) == ("digits", 359)
    assert "held out" in result.split
    assert evaluate(digits_run.folder, "digits").to_dict() == result.to_dict()
    assert evaluate(digits_run.folder / "model.safetensors", "digits").images == 1797  # no run folder, no split


def test_the_numbers_of_an_evaluation_fit_together(digits_run: Run) -> None:
    result = evaluate(digits_run.folder)
    right = sum(result.confusion[i][i] for i in range(10))
    assert sum(map(sum, result.confusion)) == 359
    assert result.accuracy_percent == pytest.approx(100 * right / 359)
    assert result.top5_percent is not None
    assert result.accuracy_percent <= result.top5_percent <= 100
    for row, of_class in zip(result.confusion, result.classes, strict=True):
        assert sum(row) == of_class.images
    data = json.loads(json.dumps(result.to_dict()))
    assert set(data) == {
        *("weights", "data", "split", "images", "accuracy_percent", "top5_percent", "loss", "classes", "confusion"),
    }
    assert data["classes"][3].keys() == {"class", "images", "accuracy_percent"}
    assert "columns: the class named" in str(result)


def test_classes_are_matched_by_name(colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    other = colour_folders(tmp_path / "other", images=3, classes=("red", "green"), seed=50)
    result = evaluate(run.folder, other)
    assert result.split == "all of it"
    assert [c.images for c in result.classes] == [0, 3, 3]
    assert result.classes[0].accuracy_percent is None
    assert result.confusion == ((0, 0, 0), (0, 3, 0), (0, 0, 3))
    assert result.top5_percent is None
    assert "·" in str(result)


def test_the_test_folder_is_judged_where_training_held_out_val(colours: tuple[Path, Run], tmp_path: Path) -> None:
    for part, images in (("train", 6), ("val", 2), ("test", 3)):
        colour_folders(tmp_path / "data" / part, images=images, seed=100 * images)
    run = train(tmp_path / "data", design=cifar(8), recipe=Recipe(epochs=1), out=tmp_path / "run", show=False)
    assert run.held_out_images == 6
    for result in (
        evaluate(run.folder),
        evaluate(run.folder, tmp_path / "data"),
        evaluate(colours[1].folder, run.data),
    ):
        assert result.images == 9
        assert result.split == "its folder test/, which training does not look at"
    shutil.rmtree(tmp_path / "data" / "test")
    assert evaluate(run.folder).images == run.held_out_images
    other = evaluate(colours[1].folder, tmp_path / "data")
    assert (other.images, other.split) == (6, "its folder val/ held out")


def test_large_feature_maps_go_through_a_few_at_a_time(digits_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("plusx.evaluate")
    expected, sizes, logits = evaluate(digits_run.folder), list[int](), module._logits

    def watched(net: Any, images: Any, *rest: Any) -> Any:
        sizes.append(len(images))
        return logits(net, images, *rest)

    monkeypatch.setattr(module, "_logits", watched)
    assert evaluate(digits_run.folder).confusion == expected.confusion
    assert max(sizes) == 250
    sizes.clear()
    monkeypatch.setattr(module, "BATCH_BYTES", 7 * cost(digits_run.design, 8).inference_peak_bytes())
    assert evaluate(digits_run.folder).confusion == expected.confusion
    assert set(sizes) == {7, 359 % 7}
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    evaluate(digits_run.folder)
    assert sizes[-1] == 1


def test_wrong_labels_show_in_the_confusion(colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    other = colour_folders(tmp_path / "other", images=4, seed=50)
    shutil.copy(other / "red" / "0.png", other / "blue" / "9.png")
    result = evaluate(run.folder, other)
    assert result.confusion == ((4, 0, 1), (0, 4, 0), (0, 0, 4))
    assert result.accuracy_percent == pytest.approx(100 * 12 / 13)


def test_unknown_classes_are_named(colours: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = colours
    other = colour_folders(tmp_path / "other", images=2)
    (other / "red").rename(other / "reed")
    with pytest.raises(DataError, match=r"'reed' is not one the network knows .*; did you mean 'red'"):
        evaluate(run.folder, other)


def test_a_weights_file_alone_needs_data(colours: tuple[Path, Run]) -> None:
    data, run = colours
    with pytest.raises(DataError, match="say on which data"):
        evaluate(run.folder / "model.safetensors")
    assert evaluate(read_weights(run.folder), data).images == 60


def test_data_that_moved_away(colours: tuple[Path, Run]) -> None:
    data, run = colours
    away = data.rename(data.with_name("away"))
    try:
        with pytest.raises(DataError, match="no such folder"):
            evaluate(run.folder)
        assert evaluate(run.folder, away).images == 60
    finally:
        away.rename(data)


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
    monkeypatch.setattr(import_module("plusx.evaluate"), "BATCH", 7)
    apart = predict(run.folder, files)
    assert [image.top[0].name for image in together.images] == [image.top[0].name for image in apart.images]


def test_predict_refuses(colours: tuple[Path, Run], digits_run: Run, tmp_path: Path) -> None:
    _, run = colours
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("L", (3, 3)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"bad\.png"):
        predict(run.folder, [tmp_path / "good.png", tmp_path / "bad.png"])
    with pytest.raises(DataError, match="is a folder"):
        predict(run.folder, [tmp_path])
    with pytest.raises(InputError, match="no images"):
        predict(run.folder, [])
    with pytest.raises(InputError, match=r"images\[1\]: 3 is int"):
        predict(run.folder, [tmp_path / "good.png", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="images 3: a path, or several"):
        predict(run.folder, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="run: 3 is int"):
        predict(3, [tmp_path / "good.png"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="run: None is NoneType"):
        evaluate(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top '2'"):
        predict(run.folder, [tmp_path / "good.png"], top="2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top 0"):
        predict(run.folder, [tmp_path / "good.png"], top=0)
    with pytest.raises(WeightsError, match="no such file"):
        predict(tmp_path / "none", [tmp_path / "good.png"])
    unprepared = replace(read_weights(digits_run.folder), mean=(), std=())
    with pytest.raises(WeightsError, match="mean, std not known"):
        predict(unprepared, [tmp_path / "good.png"])
