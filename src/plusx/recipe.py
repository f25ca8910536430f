"""The Recipe: how a network is trained, as a small immutable value. No torch here.

    Recipe
    ├── optimizer  Sgd: learning rate, momentum, weight decay
    ├── schedule   Cosine: the learning rate's way over the run
    ├── augment    Augment: random changes to the training images
    └── split      Split: which images are held out where the data does not say

Presets are TOML files in recipes/, beside this file; each opens with what it is for. An option lives on the part that
uses it, and an unknown field is an error.
"""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from plusx.errors import InputError, RecipeError, did_you_mean
from plusx.values import Value

_PRESETS = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


LARGEST_INPUT = 4096
"""Pixels. Far above what classifiers are given; beyond it one image fills the memory of a machine."""


class _Part(Value):
    model_config = ConfigDict(allow_inf_nan=False)
    error: ClassVar[type[InputError]] = RecipeError


class Sgd(_Part):
    """Stochastic gradient descent with momentum (arXiv 1512.03385 §3.4).

    lr: the highest learning rate, for a batch of `Recipe.batch_size` images.
    momentum: the share of the last step that the next one keeps.
    nesterov: whether the gradient is taken after that share of the step.
    weight_decay: the L2 penalty's factor, on every parameter.
    """

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4


class Cosine(_Part):
    """From zero up in a straight line, then down to zero along half a cosine (arXiv 1608.03983 §3, no restarts).

    warmup_epochs: how long the way up takes (arXiv 1706.02677 §2.2); at most half of the run.
    """

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0

    def factor(self, epoch: float, epochs: int) -> float:
        """What to multiply the learning rate by after `epoch` (a fraction too) of `epochs`."""
        warmup = min(self.warmup_epochs, epochs / 2)
        if epoch < warmup:
            return epoch / warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


class Augment(_Part):
    """Random changes to the training images, drawn anew each epoch.

    crop_padding: how far an image may move either way, as a share of its size, black moving in; 0.125 is the 4 pixels
        of 32 in arXiv 1512.03385 §4.2.
    flip: mirror half of the images left to right; wrong for letters and digits.
    """

    crop_padding: Annotated[float, Field(ge=0.0, le=0.5)] = 0.125
    flip: bool = True


class Split(_Part):
    """Which images are held out where the data has no val/ or test part of its own.

    held_out: the share of each class, at least one image.
    seed: another seed holds out others; separate from the run's, so that runs with different seeds compare.
    """

    held_out: Share = 0.2
    seed: int = 0


class Recipe(_Part):
    """How a network is trained. Raises RecipeError, naming the field, for anything wrong.

    name: of the preset, or yours.
    epochs: passes over the training images.
    batch_size: images per step. An epoch's batches are as equal as can be, none larger than this.
    input_size: height and width of the images in pixels, at most 4,096; None: the median shorter side of the data's,
        at most 224.
    label_smoothing: the share of the target spread over all classes (arXiv 1512.00567 §7).
    zero_init: every block begins as its shortcut (arXiv 1706.02677 §5.1).
    seed: of the first weights, the order of the images, and their changes.
    optimizer, schedule, augment, split: see `Sgd`, `Cosine`, `Augment`, `Split`.
    """

    name: str = ""
    epochs: PositiveInt = 30
    batch_size: Annotated[int, Field(ge=2)] = 128
    input_size: Annotated[int, Field(ge=1, le=LARGEST_INPUT)] | None = None
    label_smoothing: Fraction = 0.1
    zero_init: bool = True
    seed: NonNegativeInt = 0
    optimizer: Sgd = Sgd()
    schedule: Cosine = Cosine()
    augment: Augment = Augment()
    split: Split = Split()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every field but those that are None: a run's recipe must not change when a default does."""
        return self.model_dump(exclude_none=True)


def presets() -> tuple[str, ...]:
    """The names of the presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def preset(name: str) -> Recipe:
    """The preset of that name. Raises RecipeError, with the nearest name, if there is none."""
    if name not in presets():
        raise RecipeError(f"no recipe is named {name!r}{did_you_mean(name, presets())} (known: {', '.join(presets())})")
    return Recipe.read(_PRESETS / f"{name}.toml")


def find(recipe: "Recipe | str | Path") -> Recipe:
    """A Recipe as it is; else a preset by name; else read from a `.toml` or `.json` file. Raises RecipeError."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        known = f"a Recipe, a file, or one of {', '.join(presets())}"
        raise RecipeError(f"recipe: {recipe!r} is {type(recipe).__name__} (accepted: {known})")
    is_file = isinstance(recipe, Path) or recipe.lower().endswith((".toml", ".json"))
    return Recipe.read(recipe) if is_file else preset(str(recipe))
