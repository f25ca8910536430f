"""Evaluate: it agrees with training, matches classes by name, and refuses what cannot be judged."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from plusx.checkpoint import read_weights
from plusx.cost import cost
from plusx.errors import DataError, InputError
from plusx.evaluate import evaluate, judge_run
from plusx.families import cifar
from plusx.inference import loaded_size, views
from plusx.recipe import Recipe
from plusx.records import Run
from plusx.train import train
from tests.images import colour_folders


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
        *("tta", "ece_percent", "calibration", "skipped"),
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
    module = import_module("plusx.inference")
    expected, sizes, logits = evaluate(digits_run.folder), list[int](), module.logits

    def watched(net: Any, images: Any, *rest: Any) -> Any:
        sizes.append(len(images))
        return logits(net, images, *rest)

    monkeypatch.setattr(module, "logits", watched)
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


def test_weights_that_a_run_kept_know_their_run(digits_run: Run, tmp_path: Path) -> None:
    shutil.copytree(digits_run.folder, tmp_path / "run")
    (tmp_path / "run" / "epochs").mkdir()
    kept = shutil.copy(digits_run.folder / "model.safetensors", tmp_path / "run" / "epochs" / "epoch-0001.safetensors")
    found = evaluate(kept)
    assert (found.images, found.accuracy_percent) == (359, digits_run.accuracy_percent)


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


def test_evaluate_needs_a_run() -> None:
    with pytest.raises(InputError, match="run: None is NoneType"):
        evaluate(None)  # type: ignore[arg-type]


def test_the_reliability_table_adds_up(digits_run: Run) -> None:
    result = evaluate(digits_run.folder)
    bins = result.to_dict()["calibration"]
    assert len(bins) == 15
    assert sum(bin["images"] for bin in bins) == 359
    gaps = [bin["images"] * abs(bin["accuracy_percent"] - bin["confidence_percent"]) for bin in bins if bin["images"]]
    assert result.calibration.ece_percent == pytest.approx(sum(gaps) / 359)
    right = sum(bin["images"] * bin["accuracy_percent"] for bin in bins if bin["images"])
    assert right / 359 == pytest.approx(result.accuracy_percent)
    assert "calibration error" in str(result)


def test_flip_averages_the_probabilities_of_an_image_and_its_mirror(colours: tuple[Path, Run], tmp_path: Path) -> None:
    data, run = colours
    mirrored = Path(shutil.copytree(data, tmp_path / "mirrored"))
    for file in mirrored.rglob("*.png"):
        ImageOps.mirror(Image.open(file)).save(file)
    weights = read_weights(run.folder)
    once, other = (judge_run(weights, folder).tally.logits.softmax(1) for folder in (data, mirrored))
    expected = (once + other) / 2
    assert not torch.allclose(once, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(judge_run(weights, data, tta="flip").tally.logits.exp(), expected)


def test_ten_crop_looks_at_corners_centre_and_mirrors(colours: tuple[Path, Run]) -> None:
    data, run = colours
    result = evaluate(run.folder / "model.safetensors", data, tta="ten-crop")
    assert (result.tta, result.images, result.accuracy_percent) == ("ten-crop", 60, 100)
    assert "ten-crop" in str(result)
    grid = torch.arange(25).view(1, 1, 5, 5)
    seen = list(views(grid, "ten-crop", 3))
    assert [view[0, 0, 0, 0].item() for view in seen] == [0, 2, 2, 4, 10, 12, 12, 14, 6, 8]
    assert {tuple(view.shape) for view in seen} == {(1, 1, 3, 3)}
    assert loaded_size(224, "ten-crop") == 256
    with pytest.raises(InputError, match="tta 'tencrop' is not one of none, flip, ten-crop; did you mean 'ten-crop'"):
        evaluate(run.folder, data, tta="tencrop")  # type: ignore[arg-type]


def test_a_network_is_judged_in_float32_whatever_is_around(digits_run: Run) -> None:
    expected = evaluate(digits_run.folder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluate(digits_run.folder).to_dict() == expected.to_dict()


def test_of_many_images_some_are_judged(digits_run: Run) -> None:
    judged = judge_run(digits_run.folder, at_most=100)
    assert len(judged.tally.labels) == 100
    assert "100 of 359 images" in judged.split


def test_files_that_are_no_images_are_left_out_or_fatal(colours: tuple[Path, Run], tmp_path: Path) -> None:
    other = colour_folders(tmp_path / "other", images=3, seed=50)
    (other / "red" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red/1\.png"):
        evaluate(colours[1].folder, other)
    result = evaluate(colours[1].folder, other, on_bad_image="skip")
    assert [c.images for c in result.classes] == [3, 3, 2]
    assert result.accuracy_percent == 100
    (line,) = result.skipped
    assert "red/1.png" in line
    with pytest.raises(InputError, match="did you mean 'skip'"):
        evaluate(colours[1].folder, other, on_bad_image="skp")  # type: ignore[arg-type]
