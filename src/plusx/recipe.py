"""The Recipe: how a network is trained, as a small immutable value. No torch here.

    Recipe
    ├── optimizer    Sgd or AdamW: learning rate, momentum, weight decay
    ├── schedule     Cosine, Steps or Plateau: the learning rate's way over the run
    ├── augment      Augment: random changes to the training images
    ├── ema          Ema: weights averaged over training
    ├── progressive  Progressive: small images first
    ├── finetune     Finetune: how to start from trained weights
    └── split        Split: which images are held out where the data does not say

Presets are TOML files in recipes/, beside this file; each opens with what it is for. An option lives on the part that
uses it, and an unknown field is an error.
"""

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

from plusx.errors import InputError, RecipeError, did_you_mean
from plusx.values import Value

_PRESETS = Path(__file__).parent / "recipes"

LARGEST_INPUT = 4096
"""Pixels. A larger side is a slip: no network here is trained on such images."""

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Pair = Field(strict=False)


class _Part(Value):
    error: ClassVar[type[InputError]] = RecipeError
    model_config = ConfigDict(allow_inf_nan=False)


class Sgd(_Part):
    """Stochastic gradient descent with momentum (arXiv 1512.03385 §3.4).

    lr: the highest learning rate, for a batch of `Recipe.batch_size` images.
    momentum: the share of the last step that the next one keeps.
    nesterov: whether the gradient is taken after that share of the step.
    weight_decay: the L2 penalty's factor.
    decay_all: whether norms and biases decay too, as in the paper; False spares them (arXiv 1812.01187 §3.1).
    """

    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    decay_all: bool = True


class AdamW(_Part):
    """Adam with decoupled weight decay (arXiv 1711.05101). Fields as in `Sgd`; `betas` of the two moments."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Pair] = (0.9, 0.999)
    weight_decay: NonNegative = 0.05
    decay_all: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a run is, as a schedule sees it.

    epoch: passes done, a fraction too. epochs: in all. warmed: whether the training error has come below
    `Steps.warmup_until_error_percent`. errors: held-out error in percent after each whole epoch.
    """

    epoch: float
    epochs: float
    warmed: bool = True
    errors: Sequence[float] = ()


class Cosine(_Part):
    """From zero up in a straight line, then down along half a cosine (arXiv 1608.03983 §3, no restarts).

    warmup_epochs: how long the way up takes (arXiv 1706.02677 §2.2); at most half of the run.
    final: what is left of the learning rate at the end.
    """

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 1.0
    final: Fraction = 0.0

    def factor(self, at: Progress) -> float:
        """What to multiply the learning rate by."""
        warmup = min(self.warmup_epochs, at.epochs / 2)
        if at.epoch < warmup:
            return at.epoch / warmup
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, (at.epoch - warmup) / (at.epochs - warmup))))
        return self.final + (1 - self.final) * falling


class Steps(_Part):
    """Divided at fixed points of the run (arXiv 1512.03385 §4.2).

    at: shares of the run after which the rate is multiplied by `factor_each`.
    warmup_factor: of the learning rate until the training error is below `warmup_until_error_percent`; 1: no warm-up.
    """

    kind: Literal["steps"] = "steps"
    at: Annotated[tuple[Share, ...], Pair] = (0.5, 0.75)
    factor_each: Share = 0.1
    warmup_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup_until_error_percent: Annotated[float, Field(gt=0.0, le=100.0)] = 80.0

    def factor(self, at: Progress) -> float:
        """What to multiply the learning rate by."""
        done = sum(at.epoch > share * at.epochs for share in self.at)
        return float(self.factor_each**done) if at.warmed or done else self.warmup_factor


class Plateau(_Part):
    """Divided whenever the held-out error has stopped falling (arXiv 1512.03385 §3.4).

    patience: epochs without a new lowest error before the rate is multiplied by `factor_each`.
    """

    kind: Literal["plateau"] = "plateau"
    factor_each: Share = 0.1
    patience: Count = 5

    def factor(self, at: Progress) -> float:
        """What to multiply the learning rate by."""
        lowest, waited, drops = math.inf, 0, 0
        for error in at.errors:
            waited = 0 if error < lowest else waited + 1
            lowest = min(lowest, error)
            if waited == self.patience:
                waited, drops = 0, drops + 1
        return float(self.factor_each**drops)


class Jitter(_Part):
    """Random brightness, contrast and saturation, each by a factor from 1 - x to 1 + x, and hue by up to x turns."""

    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class Augment(_Part):
    """Random changes to the training images, drawn anew each epoch.

    crop_padding: how far an image may move either way, as a share of its size, black moving in; 0.125 is the 4 pixels
        of 32 in arXiv 1512.03385 §4.2.
    resized_crop: least and greatest share of the image's area that is cut out, of a shape from 3:4 to 4:3, and resized
        to the input size (arXiv 1409.4842 §6); 0.08, 1 is usual for photographs.
    scale_sides: the shorter side is resized to a length drawn between these two, in multiples of the input size, and
        the input cut out anywhere (arXiv 1512.03385 §3.4: 256 to 480 for 224, so 1.143, 2.143).
    flip: mirror left to right: "random" half of the images, "alternating" every image each second epoch, "none"; wrong
        for letters and digits.
    jitter: see `Jitter`. lighting: the deviation of colour noise along the principal components of ImageNet's pixels
        (0.1 in AlexNet, which arXiv 1512.03385 §3.4 follows).
    auto: "trivial" for TrivialAugment Wide (arXiv 2103.10158), "rand" for RandAugment (arXiv 1909.13719) with
        `rand_operations` of magnitude `rand_magnitude` out of 30.
    erasing: the probability that a rectangle is erased (arXiv 1708.04896).
    mixup, cutmix: the alpha of the Beta distribution that shares come from (arXiv 1710.09412, 1905.04899); 0: none.
        Where both are given, each batch gets one of them by chance.
    """

    crop_padding: Annotated[float, Field(ge=0.0, le=0.5)] = 0.125
    resized_crop: Annotated[tuple[Share, PositiveFloat] | None, Pair] = None
    scale_sides: Annotated[tuple[PositiveFloat, PositiveFloat] | None, Pair] = None
    flip: Literal["none", "random", "alternating"] = "random"
    jitter: Jitter = Jitter()
    lighting: NonNegative = 0.0
    auto: Literal["none", "trivial", "rand"] = "none"
    rand_operations: Count = 2
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    erasing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0

    @model_validator(mode="after")
    def _what_fits_together(self) -> Self:
        ways = [name for name in ("crop_padding", "resized_crop", "scale_sides") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)}: one way to crop at a time")
        for name in ("rand_operations", "rand_magnitude"):
            if self.auto != "rand" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'{name} is of no use where auto is not "rand"')
        for name in ("resized_crop", "scale_sides"):
            pair = getattr(self, name)
            if pair and not pair[0] <= pair[1]:
                raise ValueError(f"{name}: {pair[0]:g} is more than {pair[1]:g}")
        if self.resized_crop and self.resized_crop[1] > 1:
            raise ValueError(f"resized_crop: {self.resized_crop[1]:g} is more than the whole image, 1")
        return self


class Ema(_Part):
    """An exponential moving average of the weights, which is what is evaluated and kept.

    decay: the share of the average that one step leaves, once it has run in; per step it is at most
        (1 + steps) / (10 + steps), so that a short run's average forgets its start.
    """

    decay: Share = 0.999


class Progressive(_Part):
    """Small images first, then larger ones (arXiv 2104.00298 §4.2), and the input size itself at the end.

    start: the first size, as a share of the input size, but never less than the network's stride.
    until: the share of the run after which the full size is used; sizes grow linearly, in multiples of half that
        stride, or of 4.
    """

    start: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8


class Finetune(_Part):
    """From trained weights to new classes.

    head_epochs: how long only the head is trained, the rest held still.
    layer_decay: each stage from the head back is trained with this share of the rate of the one behind it.
    freeze: stages, with the stem, that are never trained (see `Network.freeze`); -1: not even the stem is held.
    freeze_norm: whether every batch norm keeps the statistics it came with.
    """

    head_epochs: NonNegative = 1.0
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    freeze: Annotated[int, Field(ge=-1)] = -1
    freeze_norm: bool = True


class Split(_Part):
    """Which images are held out where the data has no val/ or test part of its own.

    held_out: the share of each class, at least one image.
    seed: another seed holds out others; separate from the run's, so that runs with different seeds compare.
    """

    held_out: Share = 0.2
    seed: int = 0


Optimizer = Annotated[Sgd | AdamW, Field(discriminator="kind")]
Schedule = Annotated[Cosine | Steps | Plateau, Field(discriminator="kind")]


class Recipe(_Part):
    """How a network is trained. Raises RecipeError, naming the field, for anything wrong.

    name: of the preset, or yours.
    epochs: passes over the training images.
    steps: steps in all, instead of `epochs`; the last pass may then stay unfinished.
    batch_size: images per step, over all processes together. An epoch's batches are as equal as can be, none larger.
    input_size: height and width of the images in pixels, at most 4,096; None: the median shorter side of the data's, at
        most 224.
    label_smoothing: the share of the target spread over all classes (arXiv 1512.00567 §7).
    zero_init: every block begins as its shortcut (arXiv 1706.02677 §5.1).
    seed: of the first weights, the order of the images, and their changes.
    accumulate: parts that a batch is taken through the network in, one after the other, to save memory; batch norm sees
        each part on its own.
    clip_norm: the length that a longer gradient is shortened to; None: as it is.
    checkpoint_blocks: whether each block's inner values are computed again for the backward pass, to save memory.
    precision: "bfloat16" runs convolutions in it; "auto" where the device is fast at it (see `plusx.speed`).
    compile: "yes": torch.compile makes the step; "auto": what pays, on a CPU `plusx.fused` instead; "no": nothing.
    norm: with several processes, batch norm over each one's images ("worker", arXiv 1706.02677 §3) or all ("all").
    optimizer, schedule, augment, ema, progressive, finetune, split: see the classes of these names.
    """

    name: str = ""
    epochs: Count = 30
    steps: Count | None = None
    batch_size: Annotated[int, Field(ge=2, le=10**9)] = 128
    input_size: Annotated[int, Field(gt=0, le=LARGEST_INPUT)] | None = None
    label_smoothing: Fraction = 0.1
    zero_init: bool = True
    seed: NonNegativeInt = 0
    accumulate: Count = 1
    clip_norm: PositiveFloat | None = None
    checkpoint_blocks: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "yes", "no"] = "auto"
    norm: Literal["worker", "all"] = "worker"
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Cosine()
    augment: Augment = Augment()
    ema: Ema | None = None
    progressive: Progressive | None = None
    finetune: Finetune | None = None
    split: Split = Split()

    @model_validator(mode="before")
    @classmethod
    def _usual_kinds(cls, data: Any) -> Any:
        """An optimizer or schedule that names no kind is of the usual one."""
        if not isinstance(data, dict):
            return data
        kinds = {"optimizer": "sgd", "schedule": "cosine"}
        return {
            name: {"kind": kinds[name], **part} if name in kinds and isinstance(part, dict) else part
            for name, part in data.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, every field but those that are None: a run's recipe must not change when a default does."""
        return self.model_dump(exclude_none=True)

    def with_batch_size(self, batch_size: int) -> Self:
        """The same for other batches: SGD's learning rate grows with them (arXiv 1706.02677 §2.1), AdamW's by the
        square root."""
        ratio = batch_size / self.batch_size
        scale = ratio if self.optimizer.kind == "sgd" else math.sqrt(ratio)
        return self.replace(batch_size=batch_size, optimizer=self.optimizer.replace(lr=self.optimizer.lr * scale))

    def set(self, changes: Iterable[str]) -> Self:
        """The same with fields changed as the command line's `--set` says: `epochs=20`, `optimizer.lr=0.05`.

        A value is TOML, or else text. Raises RecipeError.
        """
        data = self.to_dict()
        for change in changes:
            path, equals, text = change.partition("=")
            if not equals or not path.strip():
                raise RecipeError(f"set: {change!r} is not a field and its value, such as optimizer.lr=0.05")
            _put(data, path.strip().split("."), _toml_value(text.strip()), change)
        return type(self).from_dict(data, "set")


def _put(data: dict[str, Any], path: Sequence[str], value: Any, change: str) -> None:
    for step in path[:-1]:
        data = data.setdefault(step, {})
        if not isinstance(data, dict):
            raise RecipeError(f"set: {change!r}: {step} is a value and has no fields of its own")
    if isinstance(value, str) and value == "none" and path[-1] not in ("flip", "auto"):
        data.pop(path[-1], None)
    else:
        data[path[-1]] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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
