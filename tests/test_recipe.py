"""Recipes: presets, files, the schedule, and one-line errors."""

from pathlib import Path

import pytest

from plusx.errors import RecipeError
from plusx.recipe import AdamW, Augment, Cosine, Ema, Plateau, Progress, Recipe, Sgd, Steps, find, preset, presets


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


def test_the_papers_steps_and_their_warm_up() -> None:
    steps = Steps(warmup_factor=0.1)
    factors = [steps.factor(Progress(epoch, 100)) for epoch in (1, 50, 50.1, 75, 75.1, 100)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert steps.factor(Progress(1, 100, warmed=False)) == 0.1
    assert steps.factor(Progress(60, 100, warmed=False)) == pytest.approx(0.1)  # the warm-up never outlasts a division


def test_a_plateau_divides_the_rate_when_the_error_has_stopped_falling() -> None:
    plateau = Plateau(patience=2)
    assert plateau.factor(Progress(3, 9, errors=[50, 40, 41])) == 1
    assert plateau.factor(Progress(4, 9, errors=[50, 40, 41, 40])) == pytest.approx(0.1)
    assert plateau.factor(Progress(6, 9, errors=[50, 40, 41, 40, 39, 39.5, 39.1])) == pytest.approx(0.01)


def test_fields_are_changed_by_name() -> None:
    recipe = preset("quick").set(["optimizer.lr=0.05", "epochs=3", "augment.flip=none", "ema.decay=0.9", "steps=7"])
    assert (recipe.optimizer.lr, recipe.epochs, recipe.steps, recipe.augment.flip) == (0.05, 3, 7, "none")
    assert recipe.ema == Ema(decay=0.9)
    assert recipe.set(["ema=none", "steps=none"]).ema is None
    assert recipe.set(['optimizer={kind="adamw"}']).optimizer == AdamW()
    for wrong, words in (
        ("epochs", "is not a field and its value"),
        ("epoch=3", "did you mean 'epochs'"),
        ("epochs.more=3", "epochs is a value and has no fields of its own"),
        ("optimizer.lr=-1", "optimizer.lr"),
    ):
        with pytest.raises(RecipeError, match=words):
            recipe.set([wrong])


def test_larger_batches_want_larger_rates() -> None:
    """arXiv 1706.02677 §2.1: in proportion."""
    assert preset("quick").with_batch_size(512).optimizer.lr == pytest.approx(0.4)
    assert Recipe(optimizer=AdamW(lr=1e-3)).with_batch_size(512).optimizer.lr == pytest.approx(2e-3)


@pytest.mark.parametrize("name", presets())
def test_presets_survive_a_file(name: str) -> None:
    recipe = preset(name)
    assert recipe.name == name
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_one_way_to_crop_at_a_time() -> None:
    with pytest.raises(RecipeError, match="crop_padding and resized_crop: one way to crop at a time"):
        Augment(resized_crop=(0.5, 1.0))


def test_what_only_randaugment_uses_is_refused_elsewhere() -> None:
    assert Augment(auto="rand", rand_magnitude=15).rand_magnitude == 15
    with pytest.raises(RecipeError, match=r'rand_magnitude is of no use where auto is not "rand"'):
        Augment(auto="trivial", rand_magnitude=15)
    with pytest.raises(RecipeError, match="rand_operations is of no use"):
        Augment(rand_operations=3)
