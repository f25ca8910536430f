"""What is trained on what, and how: settled and checked before anything is written.

    data, design, recipe, device, as a person gave them ──make_plan──▶ Plan ──▶ train

Whatever is wrong is found here, as one line.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plusx import families
from plusx.compiling import Work, known, times
from plusx.cost import Cost, cost
from plusx.data import Dataset, Images
from plusx.data.machine import memory
from plusx.design import Design
from plusx.errors import DesignError, InputError
from plusx.inference import given_path
from plusx.ranks import Ranks
from plusx.recipe import Recipe, find, preset
from plusx.speed import Speed, choose

LARGEST_DEFAULT_INPUT = 224
LARGEST_SMALL_IMAGE = 64
"""Pixels. Up to this size the default network is a CIFAR one, above it ResNet-18."""

_SHOWN_CLASSES = 10


@dataclass(frozen=True)
class Plan:
    """What is trained on what, and how, all of it checked.

    split: how images are divided, in words. channels_note: how their channels are made to fit, or "".
    steps_each: steps in a pass over the images; steps: in all. price: of one process's batch.
    """

    dataset: Dataset
    images: Images
    held_out: Images
    split: str
    design: Design
    channels_note: str
    recipe: Recipe
    size: int
    price: Cost
    steps_each: int
    steps: int
    speed: Speed

    @property
    def epochs(self) -> int:
        """Passes over the images, the last one perhaps unfinished."""
        return math.ceil(self.steps / self.steps_each)

    @property
    def digest(self) -> str:
        """Of `images_digest`."""
        return images_digest(self.images, self.held_out)


def images_digest(*parts: Images) -> str:
    """Which images these are, by key and label, in order."""
    found = hashlib.sha256()
    for part in parts:
        found.update("\n".join(part.keys).encode(errors="surrogateescape"))
        found.update(part.labels.tobytes())
    return found.hexdigest()


def make_plan(
    dataset: Dataset, design: Design | str | Path | None, recipe: Recipe, ranks: Ranks, *, as_is: bool = False
) -> Plan:
    """Fill in what was not given. `as_is`: the design fits the data already. Raises an InputError for what is wrong."""
    images, held_out, split = dataset.split(recipe.split.held_out, recipe.split.seed)
    size = recipe.input_size or min(images.short_side(), LARGEST_DEFAULT_INPUT)
    chosen, note = _design(design, dataset, size), ""
    if not as_is:
        chosen, note = _fit_channels(chosen, design is None, images)
    chosen = chosen.with_classes(len(dataset.classes))
    steps_each = steps_in_epoch(len(images), recipe.batch_size)
    batch = math.ceil(math.ceil(len(images) / steps_each) / ranks.world)
    price = cost(chosen, size, batch=math.ceil(batch / recipe.accumulate))
    _refuse_too_large(price, ranks.device)
    if recipe.norm == "all" and ranks.world > 1 and ranks.device.type != "cuda":
        raise InputError('recipe: norm = "all" needs GPUs: torch synchronises batch norms between no other devices')
    _refuse_too_divided(len(images) // steps_each, len(held_out), recipe, ranks)
    recipe = recipe.replace(input_size=size)
    steps = recipe.steps or recipe.epochs * steps_each
    speed = choose(
        recipe, ranks.device, price.macs * batch, partial(_compiling_pays, chosen, size, batch, steps, recipe, ranks)
    )
    return Plan(dataset, images, held_out, split, chosen, note, recipe, size, price, steps_each, steps, speed)


def _compiling_pays(
    design: Design, size: int, batch: int, steps: int, recipe: Recipe, ranks: Ranks, speed: Speed
) -> tuple[bool, str]:
    """Whether torch.compile pays on this GPU, and words for it.

    Not where the recipe saves memory or changes the images' size, for then the measured step is not the one run. With
    several processes, where measuring would keep the others waiting, only what one has measured before counts.
    """
    if recipe.checkpoint_blocks or recipe.progressive is not None:
        return False, ", not compiled"
    work = Work(design, size, math.ceil(batch / recipe.accumulate), speed.dtype, speed.channels_last)
    passes = steps * recipe.accumulate
    found = times(work, ranks.device, passes) if ranks.world == 1 else known(work, ranks.device)
    pays = bool(ranks.agree(int(found is not None and found.pays(passes))))
    words = "not measured; a run with one process does" if found is None else found.words()
    return pays, f", {'compiled' if pays else 'not compiled'} ({words})"


def usual_recipe(recipe: Recipe | str | Path | None, dataset: Dataset, finetunes: bool) -> Recipe:
    """The recipe asked for, or the one that suits the data."""
    usual = "finetune" if finetunes else "digits" if dataset.name == "digits" else "quick"
    return preset(usual) if recipe is None else find(recipe)


def origin(plan: Plan) -> dict[str, Any]:
    """What `run_folder.read_origin` reads back, and what a person may want to know."""
    return {
        "data": plan.dataset.spec,
        "held_out": plan.recipe.split.held_out,
        "split_seed": plan.recipe.split.seed,
        "train_images": len(plan.images),
        "held_out_images": len(plan.held_out),
        "images_digest": plan.digest,
        "classes": list(plan.dataset.classes),
        "speed": plan.speed.why,
        "running": plan.speed.record(),
    }


def describe(plan: Plan, ranks: Ranks) -> str:
    """The plan in a few lines, for the person who waits."""
    dataset, recipe = plan.dataset, plan.recipe
    counts = f"{len(plan.images):,} images to train on and {len(plan.held_out):,} held out ({plan.split})"
    if dataset.has_unseen_part:
        assert dataset.test is not None
        counts += f", {len(dataset.test):,} left for plusx evaluate ({dataset.test_name})"
    note = f" ({plan.channels_note})" if plan.channels_note else ""
    shape = f"{len(dataset.classes)} classes, {plan.design.stem.in_channels} × {plan.size} × {plan.size} pixels{note}"
    long = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    where = f"{ranks.device}" if ranks.world == 1 else f"{ranks.world} processes, {ranks.device.type}"
    how = f"recipe {recipe.name or 'of your own'}, {long}, seed {recipe.seed}, on {where}, {plan.speed.why}"
    lines = [f"{dataset.name}: {counts}; {shape}", *dataset.notes, *_classes_not_held_out(plan)]
    return "\n".join([*lines, f"{plan.design.name or 'your design'}; {how}"])


def steps_in_epoch(images: int, batch_size: int) -> int:
    """Batches in an epoch: as equal as can be, so that none is too small for batch norm (a batch of one)."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


def _design(design: Design | str | Path | None, dataset: Dataset, size: int) -> Design:
    """The Design asked for, or the default one, if it fits images of that size. Raises InputError."""
    match design:
        case Design():
            chosen = design
        case None:
            chosen = _default_design(dataset, size)
        case str() if not design.lower().endswith((".toml", ".json")):
            chosen = families.design(design)
        case _:
            chosen = Design.read(given_path("design", design))
    if size < chosen.output_stride:
        need = f"it needs {chosen.output_stride} or more (recipe: input_size), or a design that subsamples less"
        raise InputError(f"design {chosen.name!r}: images of {size} pixels vanish in it; {need}")
    return chosen


def _fit_channels(design: Design, default: bool, images: Images) -> tuple[Design, str]:
    """The Design with the channels it is trained at, and what happens to the images' own.

    The default and the published ones say nothing about the data, so they take its channels. A Design of the user's own
    keeps what it says. Raises DesignError for one that takes neither grey images nor colour ones.
    """
    grey, wants = images.grey(), design.stem.in_channels
    if default or (design.name in families.FAMILIES and design == families.design(design.name)):
        return design.with_in_channels(1 if grey else 3), ""
    if wants not in (1, 3):
        raise DesignError(f"design {design.name!r}: stem.in_channels: {wants} is not 1 (grey) or 3 (colour images)")
    if grey == (wants == 1):
        return design, ""
    return design, "grey images as three channels" if grey else "colour images made grey"


def _refuse_too_divided(batch: int, held_out: int, recipe: Recipe, ranks: Ranks) -> None:
    """Raise InputError where a process would get nothing, or batch norm a single image, for its share.

    batch: images in the smallest. A lone process takes any batch whole, as `steps_in_epoch` makes it.
    """
    divided, least = ranks.world * recipe.accumulate, batch // ranks.world // recipe.accumulate
    if divided > 1 and least < 2:
        how = f"among {ranks.world} processes, in {recipe.accumulate} parts"
        raise InputError(f"recipe: batches of {batch} images, {how}, are cut to {least}; at least 2 are needed")
    if held_out < ranks.world:
        raise InputError(f"train: {held_out:,} images held out are fewer than {ranks.world} processes")


def _refuse_too_large(price: Cost, device: torch.device) -> None:
    """Raise InputError, before anything is built, for what no memory holds: better than to be killed half-way.

    Weights, gradients and momentum, and what a step keeps for the backward pass; a lower bound of what is needed.
    """
    need, there_is = 3 * price.weights_bytes() + price.training_bytes(), _memory_bytes(device)
    if there_is is None or need <= there_is:
        return
    what = f"{price.params:,} parameters, batches of {price.batch:,} images of {price.input[0]} pixels"
    gib = f"{need / 2**30:,.1f} GiB or more, and {device} has {there_is / 2**30:,.1f}"
    raise InputError(
        f"training design {price.design.name!r} ({what}) needs {gib}; choose a smaller design, batch_size or input_size"
    )


def _memory_bytes(device: torch.device) -> int | None:
    """What the device has in all; None where it does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory()


def _default_design(dataset: Dataset, size: int) -> Design:
    if dataset.name == "digits":
        return _twice_as_wide(families.cifar(8), "cifar_resnet8_2")
    return families.design("cifar_resnet20" if size <= LARGEST_SMALL_IMAGE else "resnet18")


def _twice_as_wide(design: Design, name: str) -> Design:
    stages = tuple(stage.replace(width=2 * stage.width) for stage in design.stages)
    return design.replace(name=name, stem=design.stem.replace(width=2 * design.stem.width), stages=stages)


def _classes_not_held_out(plan: Plan) -> list[str]:
    """A line where the accuracy on the images held out says nothing about some classes."""
    counts = np.bincount(plan.held_out.labels, minlength=len(plan.dataset.classes))
    names = [name for name, count in zip(plan.dataset.classes, counts, strict=True) if count == 0]
    if not names:
        return []
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    shown = ", ".join(names[:_SHOWN_CLASSES]) + more
    return [f"no images are held out of {shown}: the accuracy will not tell how well these are recognised"]
