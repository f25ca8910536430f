"""Training for real: the shipped digits to 98 %, folders, determinism, the run folder, and everything refused."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import plusx
from plusx.checkpoint import read_weights
from plusx.data import loader
from plusx.design import BuildingSpec, Design, SmallStem, Stage
from plusx.errors import DataError, DesignError, InputError, RecipeError, WorkError
from plusx.families import cifar
from plusx.network import build
from plusx.plan import steps_in_epoch
from plusx.recipe import Augment, Recipe, preset
from plusx.records import Run
from plusx.run_folder import kept_epochs
from plusx.train import train
from tests.images import cifar_files, colour_folders, fashion_files, noisy

train_module = import_module("plusx.train")  # the module; `plusx.train` is the function
FILES = ["checkpoints", "curves.svg", "design.toml", "metrics.jsonl", "model.safetensors", "recipe.toml", "report.html"]
TINY = Recipe(name="tiny", epochs=1, batch_size=16)
WIDE = Design(name="wide", stem=SmallStem(), stages=(Stage(depth=1, width=2**20, block=BuildingSpec()),))
"""More parameters than any machine's memory holds, to be refused before one is built."""


def quick(data: str | Path, out: Path, **options: Any) -> Run:
    """One epoch of the smallest network."""
    return train(data, out=out, **{"design": cifar(8), "recipe": TINY, "show": False, **options})


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_the_default_run_names_98_percent_of_the_digits_held_out(digits_run: Run) -> None:
    assert digits_run.accuracy_percent >= 98.0
    assert digits_run.seconds < 60
    assert digits_run.held_out_images == 359
    assert digits_run.train_images == 1438


def test_the_run_folder(digits_run: Run) -> None:
    assert sorted(path.name for path in digits_run.folder.iterdir()) == FILES
    design = Design.read(digits_run.folder / "design.toml")
    assert design == digits_run.design
    assert (design.name, design.stem.in_channels, design.head.classes) == ("cifar_resnet8_2", 1, 10)
    recipe = Recipe.read(digits_run.folder / "recipe.toml")
    assert recipe == digits_run.recipe == preset("digits").replace(input_size=8)
    first, *epochs = metrics(digits_run)
    assert first["run"]["data"] == "digits"
    assert [line["epoch"] for line in epochs] == list(range(1, recipe.epochs + 1))
    assert epochs[-1]["held_out_accuracy_percent"] == digits_run.accuracy_percent
    assert epochs[-1]["lr"] == pytest.approx(0)
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    weights = read_weights(digits_run.folder)
    assert weights.design == design
    assert (weights.classes, weights.input_size) == (tuple("0123456789"), 8)
    assert weights.mean == pytest.approx((0.305,), abs=0.01)
    assert weights.std == pytest.approx((0.375,), abs=0.01)


def test_the_curves_are_a_picture_of_the_metrics(digits_run: Run) -> None:
    root = ElementTree.parse(digits_run.folder / "curves.svg").getroot()
    lines = root.findall(".//{*}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [digits_run.recipe.epochs] * 3
    accuracies = [line["held_out_accuracy_percent"] for line in metrics(digits_run)[1:]]
    heights = [float(point.split(",")[1]) for point in lines[2].attrib["points"].split()]
    assert heights.index(max(heights)) == accuracies.index(min(accuracies))  # SVG's y grows downwards
    assert all(0 <= height <= 240 for height in heights)


def test_what_a_person_and_a_program_see(digits_run: Run) -> None:
    text = str(digits_run)
    assert f"{digits_run.accuracy_percent:.2f} %" in text
    assert f"plusx predict {digits_run.folder}" in text.replace("\n", "")
    assert "plusx evaluate" in text
    data = json.loads(json.dumps(digits_run.to_dict()))
    assert data["accuracy_percent"] == digits_run.accuracy_percent
    assert (data["params"], data["in_channels"], data["input_size"]) == (read_params(digits_run), 1, 8)
    assert {"folder", "epochs", "seconds", "train_images", "split", "macs", "seed"} <= data.keys()


def read_params(run: Run) -> int:
    return sum(parameter.numel() for parameter in build(run.design).parameters())


def test_the_same_seed_gives_bit_equal_weights(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=30)
    one, two, other = (
        read_weights(quick(data, tmp_path / name, seed=seed, epochs=2).folder).tensors
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.fc.weight"], other["head.fc.weight"])


def test_the_caller_random_state_changes_nothing_and_is_not_changed(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=4)
    one = read_weights(quick(data, tmp_path / "a").folder).tensors
    torch.manual_seed(99)
    before = torch.get_rng_state()
    two = read_weights(quick(data, tmp_path / "b").folder).tensors
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_folder_of_images(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=20)
    run = train(data, epochs=8, out=tmp_path / "run", show=False, recipe=TINY)
    assert run.design == plusx.design("cifar_resnet20").with_classes(3)
    assert run.classes == ("blue", "green", "red")
    assert run.input_size == 16
    assert (run.train_images, run.held_out_images) == (48, 12)
    assert run.accuracy_percent == 100  # blue, green and red are not hard to tell
    assert run.data == str(data)


def test_larger_images_get_resnet18_at_224_pixels_at_most(tmp_path: Path) -> None:
    for name in ("blue", "red"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for number in range(2):
            noisy((number * 50, 20, 200), number, (300, 260)).save(tmp_path / "p" / name / f"{number}.jpg")
    run = train(tmp_path / "p", recipe=TINY, out=tmp_path / "run", show=False)
    assert (run.design.name, run.input_size) == ("resnet18", 224)


def test_streamed_images_train_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = colour_folders(tmp_path / "photos", images=6)
    held = read_weights(quick(data, tmp_path / "a").folder).tensors
    monkeypatch.setattr(loader, "MEMORY_LIMIT", 100)
    streamed = read_weights(quick(data, tmp_path / "b").folder).tensors
    assert all(torch.equal(held[name], streamed[name]) for name in held)


def test_published_sets_and_channels(tmp_path: Path) -> None:
    fashion = quick(f"fashion-mnist:{fashion_files(tmp_path / 'f')}", tmp_path / "a", design=None)
    assert (fashion.design.stem.in_channels, fashion.input_size, fashion.classes[2]) == (1, 28, "Pullover")
    assert fashion.train_images == 40
    colour = quick(cifar_files(tmp_path / "c"), tmp_path / "b")
    assert (colour.design.stem.in_channels, colour.input_size, colour.held_out_images) == (3, 32, 10)


def test_a_published_design_takes_the_channels_of_the_data(tmp_path: Path) -> None:
    grey, colour = fashion_files(tmp_path / "f"), cifar_files(tmp_path / "c")
    for number, design in enumerate(("cifar_resnet20", plusx.design("cifar_resnet20"))):
        assert quick(grey, tmp_path / f"g{number}", design=design).design.stem.in_channels == 1
        assert quick(colour, tmp_path / f"c{number}", design=design).design.stem.in_channels == 3


def test_a_design_of_ones_own_keeps_its_channels_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey, colour = fashion_files(tmp_path / "f"), cifar_files(tmp_path / "c")
    one = quick(colour, tmp_path / "a", design=cifar(8).with_in_channels(1), show=True)
    assert one.design.stem.in_channels == 1
    assert "1 × 32 × 32 pixels (colour images made grey)" in capsys.readouterr().err
    assert quick(grey, tmp_path / "b", show=True).design.stem.in_channels == 3
    assert "3 × 28 × 28 pixels (grey images as three channels)" in capsys.readouterr().err
    quick(colour, tmp_path / "d", show=True)
    assert "3 × 32 × 32 pixels\n" in capsys.readouterr().err
    with pytest.raises(DesignError, match=r"stem.in_channels: 4 is not 1 \(grey\) or 3"):
        quick(colour, tmp_path / "e", design=cifar(8).with_in_channels(4))
    assert not (tmp_path / "e").exists()


def test_what_is_held_out_and_what_is_not_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "photos"
    colour_folders(data / "train", images=4)
    colour_folders(data / "val", images=2, classes=("green",))
    quick(data, tmp_path / "a", show=True)
    assert "no images are held out of blue, red: " in capsys.readouterr().err
    colour_folders(data / "val", images=2, classes=("blue", "red"))
    colour_folders(data / "test", images=1)
    quick(data, tmp_path / "b", show=True)
    shown = capsys.readouterr().err
    assert "6 held out (its folder val/ held out), 3 left for plusx evaluate (its folder test/" in shown
    assert "no images are held out" not in shown
    for name in ("blue", "green", "red"):
        (data / "test" / name / "0.png").unlink()
        (data / "test" / name).rmdir()
    quick(data, tmp_path / "c", show=True)
    assert "test/ has no folders of classes and is left aside" in capsys.readouterr().err


def test_the_curves_say_that_their_losses_differ(tmp_path: Path) -> None:
    def note(out: str, recipe: Recipe) -> str | None:
        svg = (quick("digits", tmp_path / out, recipe=recipe).folder / "curves.svg").read_text()
        found = re.search(r">(training: [^<]*)<", svg)
        return found[1] if found else None

    plain = Augment(crop_padding=0.0, flip="none")
    assert note("a", TINY) == "training: smoothed labels, augmented images"
    assert note("b", TINY.replace(label_smoothing=0.0)) == "training: augmented images"
    assert note("c", TINY.replace(augment=plain)) == "training: smoothed labels"
    assert note("d", TINY.replace(augment=plain, label_smoothing=0.0)) is None


def test_the_design_from_a_file_or_by_name(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=3)
    (tmp_path / "mine.toml").write_text(cifar(8, name="mine").to_toml())
    assert quick(data, tmp_path / "a", design=tmp_path / "mine.toml").design.name == "mine"
    assert quick(data, tmp_path / "b", design=str(tmp_path / "mine.toml")).design.name == "mine"
    assert quick(data, tmp_path / "c", design="cifar_resnet20").design.name == "cifar_resnet20"


def test_run_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = colour_folders(tmp_path / "my photos", images=3)
    for number in (1, 2):
        run = train(data, design=cifar(8), recipe=TINY, show=False)
        assert run.folder == Path("runs") / f"my-photos-cifar_resnet8-{number}"


def test_progress_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = colour_folders(tmp_path / "photos", images=5)
    train(data, design=cifar(8), recipe=TINY, epochs=2, out=tmp_path / "a")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "12 images to train on and 3 held out (20 % of each class" in shown.err
    assert [re.sub(r":.*", "", line) for line in shown.err.splitlines()[-3:]] == ["epoch 1/2", "epoch 2/2", "Report"]
    quick(data, tmp_path / "b")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data": "digts"}, DataError, "did you mean 'digits'"),
        ({"design": "cifar_resnet21"}, DesignError, "did you mean"),
        ({"design": "none.toml"}, DesignError, "No such file"),
        ({"design": "resnet18"}, InputError, "images of 8 pixels vanish"),
        ({"recipe": "quik"}, RecipeError, "did you mean 'quick'"),
        ({"epochs": 0}, RecipeError, "epochs: 0"),
        ({"seed": -1}, RecipeError, "seed: -1"),
        ({"device": "tpu9"}, InputError, "device 'tpu9'"),
        ({"recipe": 3}, RecipeError, "recipe: 3 is int"),
        ({"design": 3}, InputError, "design: 3 is int"),
        ({"out": 3}, InputError, "out: 3 is int"),
        ({"data": 3}, DataError, "not int"),
        ({"epochs": "3"}, RecipeError, "epochs: '3'"),
        ({"design": WIDE}, InputError, "GiB or more, and cpu has"),
        ({"recipe": TINY.replace(input_size=4096, batch_size=10**9)}, InputError, "batches of 1,438 images of 4096"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[InputError], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as problem:
        train(show=False, **options)
    assert words in str(problem.value)
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_image_is_named_and_nothing_written(tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "photos", images=3)
    (data / "red" / "2.png").write_bytes((data / "red" / "2.png").read_bytes()[:100])
    with pytest.raises(DataError, match=r"red/2\.png"):
        quick(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        quick("digits", tmp_path)
    with pytest.raises(InputError, match="that is a file"):
        quick("digits", tmp_path / "notes")
    with pytest.raises(InputError, match="Not a directory"):
        quick("digits", tmp_path / "notes" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
    assert (tmp_path / "notes").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert quick(cifar_files(tmp_path / "c"), tmp_path / "empty").folder == tmp_path / "empty"


def interrupt_at(epoch: int) -> Callable[..., Any]:
    """`judge`, but a person presses Ctrl-C in that epoch."""
    calls, judge = iter(range(1, 100)), train_module.judge

    def judged(*arguments: Any) -> Any:
        if next(calls) == epoch:
            raise KeyboardInterrupt
        return judge(*arguments)

    return judged


def test_ctrl_c_in_the_first_epoch_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = colour_folders(tmp_path / "photos", images=3)
    monkeypatch.setattr(train_module, "judge", interrupt_at(1))
    with pytest.raises(KeyboardInterrupt):
        quick(data, tmp_path / "run", show=True)
    assert list(tmp_path.iterdir()) == [data]
    assert capsys.readouterr().err.endswith("\ninterrupted: no epoch was whole yet, so no run folder is left\n")


def test_ctrl_c_later_leaves_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = colour_folders(tmp_path / "photos", images=3)
    monkeypatch.setattr(train_module, "judge", interrupt_at(3))
    with pytest.raises(KeyboardInterrupt):
        quick(data, tmp_path / "run", epochs=4, show=True, keep_every=3)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES[:-1]  # no report yet
    assert read_weights(tmp_path / "run").classes == ("blue", "green", "red")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"interrupted after epoch 2 of 4; go on with: plusx train --resume {tmp_path / 'run'} --keep-every 3"
    assert list(kept_epochs(train(resume=tmp_path / "run", keep_every=3, show=False).folder)) == [3]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    wild = TINY.replace(optimizer=TINY.optimizer.replace(lr=1e30))
    with pytest.raises(WorkError, match="3 steps in a row, up to step 4, are not finite"):
        quick("digits", tmp_path / "run", recipe=wild)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("images", "batch", "steps"), [(100, 32, 4), (3, 2, 1), (5, 2, 2), (2, 2, 1), (64, 32, 2)])
def test_no_batch_is_a_single_image(images: int, batch: int, steps: int) -> None:
    assert steps_in_epoch(images, batch) == steps
    assert min(map(len, torch.tensor_split(torch.arange(images), steps))) >= 2


def test_a_handful_of_images_is_enough(tmp_path: Path) -> None:
    for name in ("dark", "light"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8), 10 + number + 200 * (name == "light")).save(tmp_path / "p" / name / f"{number}.png")
    run = quick(tmp_path / "p", tmp_path / "run", design=None)
    assert (run.train_images, run.held_out_images, run.design.stem.in_channels) == (2, 2, 1)


def test_small_steps_run_on_one_thread_and_the_setting_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads wait for the slowest at every layer, and a small step has little to share."""
    used: list[int] = []
    fit = train_module._fit

    def watched(*arguments: Any, **options: Any) -> Any:
        used.append(torch.get_num_threads())
        return fit(*arguments, **options)

    monkeypatch.setattr(train_module, "_fit", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        quick("digits", tmp_path / "small")
        monkeypatch.setattr("plusx.pace.MACS_PER_THREAD", 1_000_000)
        quick("digits", tmp_path / "large")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert used == [1, 4]


def test_batches_that_are_cut_too_small_are_refused(tmp_path: Path) -> None:
    """A part of one image has no batch statistics; a part of none would be left out of the gradients' exchange."""
    with pytest.raises(InputError, match="in 16 parts"):
        quick("digits", tmp_path / "run", recipe=TINY.replace(accumulate=16))


def test_alternating_flips_depend_on_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    augmenter = train_module.Augmenter

    def watched(*arguments: Any, **options: Any) -> Any:
        made = augmenter(*arguments, **options)
        seeds.append(made.seed)
        return made

    monkeypatch.setattr(train_module, "Augmenter", watched)
    quick("digits", tmp_path / "run", seed=7)
    assert seeds == [7]


def test_weights_of_some_epochs_are_kept(tmp_path: Path) -> None:
    run = train("digits", epochs=5, keep_every=2, out=tmp_path / "run", show=False)
    kept = kept_epochs(run.folder)
    assert list(kept) == [2, 4]
    whole = read_weights(run.folder / "model.safetensors").tensors
    assert any(not torch.equal(value, whole[name]) for name, value in read_weights(kept[4]).tensors.items())
    fewer = train("digits", epochs=5, keep_every=5, out=tmp_path / "other", show=False)
    assert list(kept_epochs(fewer.folder)) == [5]
    last = read_weights(kept_epochs(fewer.folder)[5]).tensors
    assert all(torch.equal(value, whole[name]) for name, value in last.items())
    assert plusx.evaluate(kept[4], "digits").accuracy_percent > 50
    with pytest.raises(InputError, match="keep_every 0 is not a whole number of epochs"):
        train("digits", keep_every=0, out=tmp_path / "none", show=False)
    assert not (tmp_path / "none").exists()
