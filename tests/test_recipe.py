"""Recipes: presets, files, the schedule, and one-line errors."""

from pathlib import Path

import pytest

from plusx.errors import RecipeError
from plusx.recipe import Augment, Cosine, Progress, Recipe, Sgd, find, preset, presets


def test_every_preset_reads_under_its_own_name() -> None:
    assert set(presets()) >= {"quick", "digits"}
    for name in presets():
        assert preset(name).name == name


def test_there_and_back_spells_every_field(tmp_path: Path) -> None:
    recipe = Recipe(epochs=7, optimizer=Sgd(lr=0.3), augment=Augment(flip="none"), input_size=32)
    text = recipe.to_toml()
    assert Recipe.from_toml(text) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe
    for field in ("weight_decay", "warmup_epochs", "held_out", "crop_padding", "label_smoothing"):
        assert field in text  # also those that are the default
    (tmp_path / "mine.toml").write_text(text)
    assert find(tmp_path / "mine.toml") == find(str(tmp_path / "mine.toml")) == find(recipe) == recipe


def test_find_a_preset() -> None:
    assert find("quick") == preset("quick")
    with pytest.raises(RecipeError, match="did you mean 'quick'"):
        find("quik")
    with pytest.raises(RecipeError, match="No such file"):
        find("none.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 0", "epochs: 0"),
        ("batch_size = 1", "batch_size: 1"),
        ("epoch = 3", "did you mean 'epochs'"),
        ("[optimizer]\nlr = -1.0", "optimizer.lr"),
        ("[optimizer]\nmomentun = 0.5", "did you mean 'momentum'"),
        ('[optimizer]\nkind = "adam"', "kind 'adam' is not one of"),
        ("[split]\nheld_out = 1.0", "split.held_out"),
        ("seed = -1", "seed"),
        ("epochs = [", "not TOML"),
        ("input_size = 100000", "input_size: 100000"),
        ("input_size = 0", "input_size: 0"),
        ("label_smoothing = nan", "label_smoothing: nan"),
        ("[optimizer]\nlr = inf", "optimizer.lr: inf"),
        ("[optimizer]\nlr = nan", "optimizer.lr: nan"),
        ("[optimizer]\nweight_decay = inf", "optimizer.weight_decay: inf"),
        ("[optimizer]\nmomentum = nan", "optimizer.momentum: nan"),
        ("[schedule]\nwarmup_epochs = inf", "schedule.warmup_epochs: inf"),
        ("[augment]\ncrop_padding = nan", "augment.crop_padding: nan"),
        ("[split]\nheld_out = nan", "split.held_out: nan"),
    ],
)
def test_wrong_recipes(text: str, words: str) -> None:
    with pytest.raises(RecipeError) as problem:
        Recipe.from_toml(text)
    assert words in str(problem.value)
    assert "\n" not in str(problem.value)


def test_infinity_is_refused_in_python_too() -> None:
    with pytest.raises(RecipeError, match="lr: inf"):
        Sgd(lr=float("inf"))
    with pytest.raises(RecipeError, match="warmup_epochs"):
        Cosine(warmup_epochs=float("nan"))


def test_the_largest_input_is_accepted() -> None:
    assert Recipe(input_size=4096).input_size == 4096


def test_find_refuses_what_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match=r"recipe: 3 is int \(accepted: .*quick"):
        find(3)  # type: ignore[arg-type]


def test_the_schedule_warms_up_and_comes_down_to_zero() -> None:
    cosine = Cosine(warmup_epochs=2.0)
    assert cosine.factor(Progress(0, 10)) == 0
    assert cosine.factor(Progress(1, 10)) == 0.5
    assert cosine.factor(Progress(2, 10)) == 1
    assert cosine.factor(Progress(6, 10)) == pytest.approx(0.5)
    assert cosine.factor(Progress(10, 10)) == pytest.approx(0)
    assert Cosine(warmup_epochs=5.0).factor(Progress(0.5, 1)) == 1  # at most half of the run
    assert Cosine(warmup_epochs=0.0).factor(Progress(0, 3)) == 1
