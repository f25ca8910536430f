"""Training: `train` puts a run together, and `fit` is the loop.

    data ──open, split, decode──▶ Loader ─┐          (what is trained on what, a _Plan, is settled and checked first)
    Design ──build──▶ Network ────────────┼─ fit ──▶ Epoch, Epoch, … ──▶ run folder
    Recipe ───────────────────────────────┘

The weights kept are those after the last whole epoch, where the learning rate has come down to zero. They are not
chosen by their accuracy on the held-out images, which would then flatter it. The same seed on the same machine gives
bit-equal weights. Images are N C H W.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from plusx import families, runs
from plusx.checkpoint import WEIGHTS_FILE, Weights, write_text, write_weights
from plusx.cost import Cost, cost
from plusx.curves import HELD_OUT, TRAINING, Line, Panel, curves_svg
from plusx.data import Dataset, Images, Loader, open_data
from plusx.data.augment import flip, normalise, pad_crop
from plusx.design import Design
from plusx.display import Display
from plusx.errors import DesignError, InputError, WorkError
from plusx.evaluate import given_path, judge
from plusx.network import Network, build, choose_device
from plusx.recipe import Progress, Recipe, find, preset
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

LARGEST_DEFAULT_INPUT = 224
LARGEST_SMALL_IMAGE = 64
"""Pixels. Up to this size the default network is a CIFAR one, above it ResNet-18."""

_SHOWN_CLASSES = 10

MACS_PER_THREAD = 250_000_000
"""Less work in a batch is not worth another thread: on digits a second one takes 7 s instead of 9.5 s on two free
cores, and 50 s where one of them is busy, for threads wait for the slowest at every layer."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave. Losses in nats; the training loss is as trained, smoothing and all.

    lr: the learning rate of its last step.
    """

    epoch: int
    lr: float
    train_loss: float
    held_out_loss: float
    held_out_accuracy_percent: float
    seconds: float


@dataclass(frozen=True)
class Run(Report):
    """A finished run: what was trained on what, how well it does on the images held out, and where it lies."""

    folder: Path
    data: str
    split: str
    classes: tuple[str, ...]
    train_images: int
    held_out_images: int
    design: Design
    recipe: Recipe
    input_size: int
    params: int
    macs: int
    accuracy_percent: float
    held_out_loss: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "folder": str(self.folder),
            "weights": str(self.folder / WEIGHTS_FILE),
            "accuracy_percent": self.accuracy_percent,
            "held_out_loss": self.held_out_loss,
            "epochs": self.recipe.epochs,
            "seconds": self.seconds,
            "data": self.data,
            "split": self.split,
            "train_images": self.train_images,
            "held_out_images": self.held_out_images,
            "classes": list(self.classes),
            "design": self.design.name,
            "input_size": self.input_size,
            "in_channels": self.design.stem.in_channels,
            "params": self.params,
            "macs": self.macs,
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        right = f"{self.accuracy_percent:.2f} % of the {self.held_out_images:,} images held out are named right"
        return Text(
            f"{right}, after {self.recipe.epochs} epochs in {self.seconds:.1f} s.\n"
            f"Run folder: {self.folder}\n\nNext:\n"
            f"  plusx predict {self.folder} IMAGE…    name what your images show\n"
            f"  plusx evaluate {self.folder}          accuracy by class, and what is taken for what"
        )


def train(
    data: str | Path = "digits",
    *,
    design: Design | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    show: bool = True,
) -> Run:
    """Train a network on labelled images; leaves a run folder.

    data: "digits", "fashion-mnist", "cifar10", or a folder of class folders (see `plusx.data.sources`).
    design: a Design, a published name, or a `.toml` or `.json` file; its classes become the data's. A published one
        takes the data's channels, grey or colour; one of your own keeps its channels, and the images are made to fit.
        By default cifar_resnet20 for images of up to 64 pixels, else resnet18; for digits 8 layers at twice its width.
    recipe: a Recipe, a preset's name, or a file; by default "digits" for digits, else "quick".
    epochs, seed: instead of the recipe's.
    out: a folder that is new or empty; by default runs/<data>-<design>-<n>.
    device: as torch names it; by default cuda where there is one, else cpu.
    show: progress on standard error.

    Raises an InputError, before anything is written, for whatever is wrong with these; WorkError when the loss stops
    being a number or the disk refuses. Interrupted, it leaves the weights of the last whole epoch, or nothing, and says
    which before it passes KeyboardInterrupt on.
    """
    started, display, kept = time.perf_counter(), Display(show), list[str]()
    with _last_words(display, kept):
        folder = None if out is None else given_path("out", out)
        if folder is not None:
            runs.refuse_used(folder)
        where = choose_device(device)
        plan = _plan(open_data(data, say=display.line), design, recipe, epochs, seed, where)
        display.line(_describe(plan))
        return _train(plan, folder, display, kept, started)


@dataclass(frozen=True)
class _Plan:
    """What is trained on what, and how, all of it checked.

    split: how images are divided, in words. channels_note: how their channels are made to fit, or "".
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
    device: torch.device


def _plan(
    dataset: Dataset,
    design: Design | str | Path | None,
    recipe: Recipe | str | Path | None,
    epochs: int | None,
    seed: int | None,
    device: torch.device,
) -> _Plan:
    """Fill in what was not given. Raises an InputError for whatever is wrong."""
    recipe = _recipe(recipe, dataset, epochs, seed)
    images, held_out, split = dataset.split(recipe.split.held_out, recipe.split.seed)
    size = recipe.input_size or min(images.short_side(), LARGEST_DEFAULT_INPUT)
    chosen, note = _fit_channels(_design(design, dataset, size), design is None, images)
    chosen = chosen.with_classes(len(dataset.classes))
    price = cost(chosen, size, batch=math.ceil(len(images) / _steps(len(images), recipe.batch_size)))
    _refuse_too_large(price, device)
    return _Plan(dataset, images, held_out, split, chosen, note, recipe.replace(input_size=size), size, price, device)


def _train(plan: _Plan, out: Path | None, display: Display, kept: list[str], started: float) -> Run:
    """Carry out the plan. `kept` is told what an interruption would leave."""
    design, recipe, size = plan.design, plan.recipe, plan.size
    parts = (plan.images, plan.held_out)
    with display.bar("decoding", sum(map(len, parts))) as advance:
        train_set, test_set = (Loader(part, size, design.stem.in_channels, advance=advance) for part in parts)
    mean, std = train_set.statistics()
    net = build(design, seed=recipe.seed, zero_init=recipe.zero_init, device=plan.device)

    history: list[Epoch] = []
    where_to = runs.new_run(out, f"{plan.dataset.name}-{design.name or 'net'}")
    with _threads(plan.price.macs * recipe.batch_size), where_to as folder:
        write_text(folder / runs.DESIGN_FILE, design.to_toml())
        write_text(folder / runs.RECIPE_FILE, recipe.to_toml())
        runs.append_metrics(folder, {"run": _origin(plan)})
        with display.bar("epoch 1", recipe.epochs * _steps(len(train_set), recipe.batch_size)) as advance:
            for epoch in fit(net, train_set, test_set, recipe, mean, std, after_step=advance):
                history.append(epoch)
                weights = Weights(design, net.state_dict(), plan.dataset.classes, size, mean, std)
                write_weights(folder / WEIGHTS_FILE, weights)
                kept[:] = [f"{folder} holds the weights after epoch {epoch.epoch} of {recipe.epochs}"]
                runs.append_metrics(folder, vars(epoch))
                write_text(folder / runs.CURVES_FILE, _curves(history, recipe))
                advance(0, _epoch_text(epoch, recipe.epochs))
                display.epoch_line(_epoch_text(epoch, recipe.epochs))
    return Run(
        folder=folder,
        data=plan.dataset.spec,
        split=plan.split,
        classes=plan.dataset.classes,
        train_images=len(plan.images),
        held_out_images=len(plan.held_out),
        design=design,
        recipe=recipe,
        input_size=size,
        params=plan.price.params,
        macs=plan.price.macs,
        accuracy_percent=history[-1].held_out_accuracy_percent,
        held_out_loss=history[-1].held_out_loss,
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _last_words(display: Display, kept: Sequence[str]) -> Iterator[None]:
    """When a person interrupts, say what is left of the run."""
    try:
        yield
    except KeyboardInterrupt:
        display.line(f"interrupted: {kept[-1] if kept else 'no epoch was whole yet, so no run folder is left'}")
        raise


def fit(
    net: Network,
    train_set: Loader,
    test_set: Loader,
    recipe: Recipe,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[Epoch]:
    """The loop: trains `net` in place, on the device it is on, and gives an Epoch after each pass.

    Raises WorkError, naming the step, when the loss stops being a number.
    """
    device = next(net.parameters()).device
    chance = torch.Generator().manual_seed(recipe.seed)  # of everything random below
    assert recipe.optimizer.kind == "sgd"
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=recipe.optimizer.lr,
        momentum=recipe.optimizer.momentum,
        nesterov=recipe.optimizer.nesterov,
        weight_decay=recipe.optimizer.weight_decay,
    )
    steps = _steps(len(train_set), recipe.batch_size)
    padding = round(recipe.augment.crop_padding * train_set.size)
    for epoch in range(recipe.epochs):
        started, total_loss = time.perf_counter(), 0.0
        net.train()
        order = torch.randperm(len(train_set), generator=chance)
        for step, indices in enumerate(torch.tensor_split(order, steps)):
            images, labels = train_set[indices]
            if padding:
                images = pad_crop(images, padding, chance)
            if recipe.augment.flip != "none":
                images = flip(images, chance)

            logits = net(normalise(images.to(device), mean, std))
            loss = functional.cross_entropy(logits, labels.to(device), label_smoothing=recipe.label_smoothing)
            if not math.isfinite(loss.item()):
                raise WorkError(f"training: the loss is {loss.item()} at epoch {epoch + 1}, step {step + 1}; lower lr")

            lr = recipe.optimizer.lr * recipe.schedule.factor(Progress(epoch + (step + 1) / steps, recipe.epochs))
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total_loss += loss.item() * len(indices)
            after_step()

        result = judge(net, test_set, mean, std)
        if not math.isfinite(result.loss):
            raise WorkError(f"training: the held-out loss is {result.loss} after epoch {epoch + 1}; lower lr")
        seconds = time.perf_counter() - started
        yield Epoch(epoch + 1, lr, total_loss / len(train_set), result.loss, result.accuracy_percent, seconds)


@contextmanager
def _threads(step_macs: int) -> Iterator[None]:
    """A thread for each `MACS_PER_THREAD` of a forward pass, and no more than torch has already."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, math.ceil(step_macs / MACS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _steps(images: int, batch_size: int) -> int:
    """Batches in an epoch: as equal as can be, so that none is too small for batch norm (a batch of one)."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


def _recipe(recipe: Recipe | str | Path | None, dataset: Dataset, epochs: int | None, seed: int | None) -> Recipe:
    chosen = preset("digits" if dataset.name == "digits" else "quick") if recipe is None else find(recipe)
    changes = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    return chosen.replace(**changes)


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


def _refuse_too_large(price: Cost, device: torch.device) -> None:
    """Raise InputError, before anything is built, for what no memory holds: better than to be killed half-way.

    Weights, gradients and momentum, and what a step keeps for the backward pass; a lower bound of what is needed.
    """
    need, memory = 3 * price.weights_bytes() + price.training_bytes(), _memory_bytes(device)
    if memory is None or need <= memory:
        return
    what = f"{price.params:,} parameters, batches of {price.batch:,} images of {price.input[0]} pixels"
    gib = f"{need / 2**30:,.1f} GiB or more, and {device} has {memory / 2**30:,.1f}"
    raise InputError(
        f"training design {price.design.name!r} ({what}) needs {gib}; choose a smaller design, batch_size or input_size"
    )


def _memory_bytes(device: torch.device) -> int | None:
    """What the device has in all; None where it does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _default_design(dataset: Dataset, size: int) -> Design:
    if dataset.name == "digits":
        return _twice_as_wide(families.cifar(8), "cifar_resnet8_2")
    return families.design("cifar_resnet20" if size <= LARGEST_SMALL_IMAGE else "resnet18")


def _twice_as_wide(design: Design, name: str) -> Design:
    stages = tuple(stage.replace(width=2 * stage.width) for stage in design.stages)
    return design.replace(name=name, stem=design.stem.replace(width=2 * design.stem.width), stages=stages)


def _origin(plan: _Plan) -> dict[str, Any]:
    """What `runs.read_origin` reads back, and what a person may want to know."""
    return {
        "data": plan.dataset.spec,
        "held_out": plan.recipe.split.held_out,
        "split_seed": plan.recipe.split.seed,
        "train_images": len(plan.images),
        "held_out_images": len(plan.held_out),
        "classes": list(plan.dataset.classes),
    }


def _describe(plan: _Plan) -> str:
    dataset, recipe = plan.dataset, plan.recipe
    counts = f"{len(plan.images):,} images to train on and {len(plan.held_out):,} held out ({plan.split})"
    if dataset.has_unseen_part:
        assert dataset.test is not None
        counts += f", {len(dataset.test):,} left for plusx evaluate ({dataset.test_name})"
    note = f" ({plan.channels_note})" if plan.channels_note else ""
    shape = f"{len(dataset.classes)} classes, {plan.design.stem.in_channels} × {plan.size} × {plan.size} pixels{note}"
    how = f"recipe {recipe.name or 'of your own'}, {recipe.epochs} epochs, seed {recipe.seed}, on {plan.device}"
    lines = [f"{dataset.name}: {counts}; {shape}", *dataset.notes, *_classes_not_held_out(plan)]
    return "\n".join([*lines, f"{plan.design.name or 'your design'}; {how}"])


def _classes_not_held_out(plan: _Plan) -> list[str]:
    """A line where the accuracy on the images held out says nothing about some classes."""
    counts = np.bincount(plan.held_out.labels, minlength=len(plan.dataset.classes))
    names = [name for name, count in zip(plan.dataset.classes, counts, strict=True) if count == 0]
    if not names:
        return []
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    shown = ", ".join(names[:_SHOWN_CLASSES]) + more
    return [f"no images are held out of {shown}: the accuracy will not tell how well these are recognised"]


def _epoch_text(epoch: Epoch, epochs: int) -> str:
    result = f"loss {epoch.train_loss:.3f}, held out {epoch.held_out_accuracy_percent:.2f} % right"
    return f"epoch {epoch.epoch}/{epochs}: {result}, {epoch.seconds:.1f} s"


def _curves(history: Sequence[Epoch], recipe: Recipe) -> str:
    trained = Line("training", [epoch.train_loss for epoch in history], TRAINING)
    loss = Line("held out", [epoch.held_out_loss for epoch in history], HELD_OUT)
    accuracy = Line("held out", [epoch.held_out_accuracy_percent for epoch in history], HELD_OUT)
    return curves_svg((Panel("loss (nats)", (trained, loss), _made_harder(recipe)), Panel("accuracy (%)", (accuracy,))))


def _made_harder(recipe: Recipe) -> str:
    """Why the training loss may lie above the held-out one, which has none of this; "" where nothing differs."""
    smoothed = ["smoothed labels"] * (recipe.label_smoothing > 0)
    changed = ["augmented images"] * (recipe.augment.flip != "none" or recipe.augment.crop_padding > 0)
    return f"training: {', '.join(smoothed + changed)}" if smoothed + changed else ""
