"""What training records: an `Epoch` after each pass, a `Run` at the end; and how both are shown.

Position ──after──▶ Position ──after──▶ … ──close_epoch──▶ Epoch ──next_epoch──▶ Position
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from plusx.checkpoint import WEIGHTS_FILE
from plusx.curves import curves_svg, run_panels
from plusx.design import Design
from plusx.errors import DivergedError, WeightsError
from plusx.learner import Outcome
from plusx.metrics import Tally
from plusx.plan import Plan
from plusx.recipe import Recipe
from plusx.reports import Report
from plusx.state import Position

if TYPE_CHECKING:
    from rich.console import RenderableType

_T = TypeVar("_T")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave. Losses in nats; the training loss is as trained, smoothing and all.

    step: steps done in all. lr: the learning rate of the last one. undone: steps left out because something in them was
    not finite. waiting_percent: of the time, what was spent waiting for images.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy_percent: float
    held_out_loss: float
    held_out_accuracy_percent: float
    seconds: float
    images_per_second: float
    waiting_percent: float
    undone: int


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
    history: tuple[Epoch, ...]
    seconds: float

    @property
    def accuracy_percent(self) -> float:
        """Of the images held out, after the last epoch."""
        return self.history[-1].held_out_accuracy_percent

    @property
    def held_out_loss(self) -> float:
        """The mean over the images held out, in nats."""
        return self.history[-1].held_out_loss

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the fields."""
        return {
            "folder": str(self.folder),
            "weights": str(self.folder / WEIGHTS_FILE),
            "accuracy_percent": self.accuracy_percent,
            "held_out_loss": self.held_out_loss,
            "epochs": len(self.history),
            "steps": self.history[-1].step,
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
            f"{right}, after {len(self.history)} epochs in {self.seconds:.1f} s.\n"
            f"Run folder: {self.folder}\n\nNext:\n"
            f"  plusx predict {self.folder} IMAGE…    name what your images show\n"
            f"  plusx evaluate {self.folder}          accuracy by class, and what is taken for what"
        )


class Clock:
    """Time since the last lap, and how much of it went into waiting for images. Seconds."""

    def __init__(self) -> None:
        self.started, self.waited = time.perf_counter(), 0.0

    def waiting(self, items: Iterator[_T]) -> Iterator[_T]:
        """The items, the time until each is there counted as waiting."""
        while True:
            before = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            yield item

    def lap(self) -> tuple[float, float]:
        """Seconds, and of these the seconds waited."""
        now, waited = time.perf_counter(), self.waited
        seconds, self.started, self.waited = now - self.started, now, 0.0
        return seconds, waited


def after(at: Position, outcome: Outcome, images: int, lr: float, clock: Clock, recipe: Recipe) -> Position:
    """The position after one more step, on a batch of `images`, at the learning rate `lr`."""
    sums = {"loss": 0.0, "right": 0.0, "images": 0.0, "undone": 0.0, "seconds": 0.0, "waiting": 0.0, **at.sums}
    sums["lr"] = lr
    seconds, waiting = clock.lap()
    sums["seconds"] += seconds
    sums["waiting"] += waiting
    if outcome.finite:
        sums["loss"] += outcome.loss * images
        sums["right"] += outcome.right
        sums["images"] += images
    else:
        sums["undone"] += 1
    warmed = at.warmed
    if recipe.schedule.kind == "steps" and sums["images"]:
        warmed = warmed or 100 * (1 - sums["right"] / sums["images"]) < recipe.schedule.warmup_until_error_percent
    return replace(
        at,
        step=at.step + 1,
        in_epoch=at.in_epoch + 1,
        sums=sums,
        bad_steps=0 if outcome.finite else at.bad_steps + 1,
        updates=at.updates + outcome.finite,
        warmed=warmed,
    )


def next_epoch(at: Position, epoch: Epoch) -> Position:
    """The position at the end of an epoch. A record of accuracy makes this checkpoint the best."""
    best = max((record["held_out_accuracy_percent"] for record in at.history), default=-1.0)
    return replace(
        at,
        epoch=at.epoch + 1,
        in_epoch=0,
        sums={},
        history=(*at.history, asdict(epoch)),
        best_step=at.step if epoch.held_out_accuracy_percent > best else at.best_step,
    )


def past_epochs(at: Position) -> list[Epoch]:
    """The records of the passes that are over. Raises WeightsError where a checkpoint's are none."""
    try:
        return [Epoch(**record) for record in at.history]
    except TypeError:
        raise WeightsError("resuming: the checkpoint's history is no run's") from None


def close_epoch(at: Position, result: Tally, clock: Clock) -> Epoch:
    """The record of a pass that is over. Raises DivergedError where the held-out loss is not finite."""
    if not math.isfinite(result.loss):
        raise DivergedError(f"training: the held-out loss is {result.loss} after epoch {at.epoch + 1}; lower lr")
    sums, images = at.sums, max(1.0, at.sums["images"])
    return Epoch(
        epoch=at.epoch + 1,
        step=at.step,
        lr=sums["lr"],
        train_loss=sums["loss"] / images,
        train_accuracy_percent=100 * sums["right"] / images,
        held_out_loss=result.loss,
        held_out_accuracy_percent=result.accuracy_percent,
        seconds=sums["seconds"] + clock.lap()[0],
        images_per_second=sums["images"] / max(1e-9, sums["seconds"]),
        waiting_percent=100 * sums["waiting"] / max(1e-9, sums["seconds"]),
        undone=int(sums["undone"]),
    )


def step_text(at: Position, plan: Plan, loss: float) -> str:
    """What the live display says after a step."""
    sums = at.sums
    rate, waits = sums["images"] / max(1e-9, sums["seconds"]), 100 * sums["waiting"] / max(1e-9, sums["seconds"])
    held_out = f", held out {at.history[-1]['held_out_accuracy_percent']:.2f} % right" if at.history else ""
    return f"epoch {at.epoch + 1}/{plan.epochs}: loss {loss:.3f}, {rate:,.0f} images/s, waiting {waits:.1f} %{held_out}"


def epoch_text(epoch: Epoch, epochs: int) -> str:
    """What a log says after a pass."""
    result = f"loss {epoch.train_loss:.3f}, held out {epoch.held_out_accuracy_percent:.2f} % right"
    speed = f"{epoch.seconds:.1f} s, {epoch.images_per_second:,.0f} images/s, waiting {epoch.waiting_percent:.1f} %"
    undone = f", {epoch.undone} steps undone (not finite)" if epoch.undone else ""
    return f"epoch {epoch.epoch}/{epochs}: {result}, {speed}{undone}"


def draw_curves(history: Sequence[Epoch], recipe: Recipe) -> str:
    """The loss, and the accuracy on the images held out, over the passes, as SVG."""
    return curves_svg(run_panels([asdict(epoch) for epoch in history], _made_harder(recipe))[:2])


def _made_harder(recipe: Recipe) -> str:
    """Why the training loss may lie above the held-out one, which has none of this; "" where nothing differs."""
    plain = recipe.augment.replace(crop_padding=0.0, resized_crop=None, flip="none", auto="none")
    smoothed = ["smoothed labels"] * (recipe.label_smoothing > 0)
    changed = ["augmented images"] * (recipe.augment != plain)
    return f"training: {', '.join(smoothed + changed)}" if smoothed + changed else ""
