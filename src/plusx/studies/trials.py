"""The trainings that a study consists of: planned to a time budget, and each run once, whoever starts it.

    arms × seeds ──schedule──▶ trials ──carry_out──▶ runs/NAME/ (run folders of plusx.train) ──▶ Outcome, Outcome, …

A trial's name says all that its result depends on (of the images, their names and labels), so what is in a study's
folder is never taken for something else. A trial that was stopped goes on where it was. Processes that share a folder,
on one machine or several, each take the next trial that nobody has.
"""

import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from plusx import run_folder
from plusx.checkpoint import WEIGHTS_FILE, write_text
from plusx.data import Dataset
from plusx.design import Design
from plusx.errors import DivergedError, InputError
from plusx.pace import run_seconds
from plusx.plan import make_plan
from plusx.ranks import Ranks
from plusx.recipe import Recipe
from plusx.records import Epoch
from plusx.state import newest
from plusx.studies.numbers import Spread, duration, gap
from plusx.train import train

AROUND_SECONDS = 1.0
"""Of a training beside its steps: opening the data, the first step, the report."""

POLL_SECONDS = 0.5

PATIENCE_SECONDS = 5.0
"""Without a word, while networks are timed."""

_NODE, _PROCESS = platform.node(), f"{os.getpid()}-{secrets.token_hex(4)}"  # containers may have the same pids

T = TypeVar("T")

Part = Literal["train", "held_out"]
"""Of the images: what an error is an error of."""


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared: a Design, trained by a Recipe. Higher tiers are left out first.

    weights: whether the study looks at its trials' weights too. keep_every: epochs after which these are kept on the
    way, as of `plusx.train`.
    """

    name: str
    design: Design
    recipe: Recipe
    tier: int = 0
    weights: bool = False
    keep_every: int | None = None


@dataclass(frozen=True)
class Trial:
    """One training of an arm: with one seed, on one set. images: which these are (`plan.images_digest`)."""

    arm: Arm
    seed: int
    images: str

    @property
    def recipe(self) -> Recipe:
        """The arm's, with this seed."""
        return self.arm.recipe.replace(seed=self.seed)

    @property
    def name(self) -> str:
        """Of its folder: readable, and different for whatever would be trained differently."""
        told: dict[str, Any] = {
            "design": self.arm.design.digest,
            "recipe": self.recipe.model_dump(mode="json"),
            "images": self.images,
        }
        told |= {} if self.arm.keep_every is None else {"keep_every": self.arm.keep_every}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9]+', '-', self.arm.name.lower()).strip('-')}-seed{self.seed}-{digest}"


@dataclass(frozen=True)
class Outcome:
    """What a trial gave. epochs: records as `plusx.records.Epoch`. failed: why it has none, or "". seconds: it took."""

    arm: str
    seed: int
    folder: Path
    epochs: tuple[dict[str, Any], ...]
    seconds: float
    failed: str = ""

    @property
    def train_error_percent(self) -> float:
        """Of the training images as they were seen in the last epoch."""
        return 100 - float(self.epochs[-1]["train_accuracy_percent"])

    @property
    def held_out_error_percent(self) -> float:
        """Of the images held out, after the last epoch."""
        return 100 - float(self.epochs[-1]["held_out_accuracy_percent"])


class Outcomes:
    """What trials gave, by arm; those that failed are kept apart. trained, held_out: images errors are measured on."""

    def __init__(self, outcomes: Iterable[Outcome], trained: float = math.inf, held_out: float = math.inf) -> None:
        every, self._grain = list(outcomes), {"train": 100 / trained, "held_out": 100 / held_out}
        self.failed = [one for one in every if one.failed]
        self.whole = [one for one in every if not one.failed]

    def of(self, arm: str) -> list[Outcome]:
        """An arm's, by seed."""
        return sorted((one for one in self.whole if one.arm == arm), key=lambda one: one.seed)

    @property
    def arms(self) -> list[str]:
        """Those that have any."""
        return list(dict.fromkeys(one.arm for one in self.whole))

    def spread(self, arm: str, value: Callable[[Outcome], float]) -> Spread:
        """Of a value over an arm's seeds."""
        return Spread.of([value(one) for one in self.of(arm)])

    def gap(self, arm: str, less: str, value: Callable[[Outcome], float], of: Part = "held_out") -> Spread:
        """How much larger it is for one arm than for another; see `between`."""
        return self.between(self.by_seed(arm, value), self.by_seed(less, value), of)

    def by_seed(self, arm: str, value: Callable[[Outcome], float]) -> dict[int, float]:
        """A value of each of an arm's trials."""
        return {one.seed: value(one) for one in self.of(arm)}

    def between(self, more: Mapping[int, float], less: Mapping[int, float], of: Part = "held_out") -> Spread:
        """How much larger errors are than others, seed by seed; no surer than the weight of one image of that part."""
        return gap(more, less, self._grain[of])


@dataclass(frozen=True)
class Place:
    """Where and on what a study's trials run. images: which these are. say: is given a line now and then."""

    folder: Path
    data: str
    dataset: Dataset
    images: str
    trained: int
    held_out: int
    here: Ranks
    say: Callable[[str], None]

    @property
    def _own_lock(self) -> Path:
        return self.folder / "processes" / f"{_NODE}-{_PROCESS}.lock"

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be counted among the processes that work here."""
        from filelock import FileLock

        with FileLock(self._own_lock):
            try:
                yield
            finally:
                self._own_lock.unlink(missing_ok=True)

    @contextmanager
    def share_of_threads(self) -> Iterator[None]:
        """With others of this machine at work here, a part of torch's threads only: the bits stay the same.

        Two processes that both take every core are ten times as slow as one: threads wait for each other at each layer.
        """
        from filelock import FileLock, Timeout

        others, before = 0, torch.get_num_threads()
        for file in (self.folder / "processes").glob(f"{_NODE}-*.lock"):
            if file == self._own_lock:
                continue
            try:
                with FileLock(file, timeout=0):
                    file.unlink(missing_ok=True)  # of one that is gone
            except Timeout:
                others += 1
        torch.set_num_threads(max(1, before // (1 + others)))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def outcome(self, trial: Trial) -> Outcome | None:
        """What a trial gave, if it ran already and what the study needs of it is there, whole."""
        try:
            record = json.loads(self._result(trial).read_text(encoding="utf-8"))
            epochs = tuple(asdict(Epoch(**epoch)) for epoch in record["epochs"])
            seconds, failed = float(record["seconds"]), record["failed"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        run = self.run(trial)
        if not isinstance(failed, str) or not (failed or (epochs and _has_weights(run, trial.arm, len(epochs)))):
            return None
        return Outcome(trial.arm.name, trial.seed, run, epochs, seconds, failed)

    def forget(self, trial: Trial) -> None:
        """Take away a training of which something is missing."""
        self._result(trial).unlink(missing_ok=True)
        shutil.rmtree(self.run(trial), ignore_errors=True)

    def _result(self, trial: Trial) -> Path:
        return self.folder / "results" / f"{trial.name}.json"

    def run(self, trial: Trial) -> Path:
        """A trial's run folder."""
        return self.folder / "runs" / trial.name

    def remembered(self, what: str, depends_on: object, make: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """What `read` makes of the plain data that `make` gives: once for all processes and later starts.

        For measured times differ. What cannot be read is made anew.
        """
        from filelock import FileLock

        told = json.dumps(depends_on, sort_keys=True)
        file = self.folder / "measured" / f"{what}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.json"
        with FileLock(f"{file}.lock"):
            try:
                return read(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                made = make()
                write_text(file, json.dumps(made))
                return read(made)

    def keep(self, trial: Trial, outcome: Outcome) -> Outcome:
        """Write down what a trial gave."""
        record = {key: value for key, value in asdict(outcome).items() if key != "folder"}
        self._result(trial).parent.mkdir(exist_ok=True)
        write_text(self._result(trial), json.dumps(record))
        return outcome


@dataclass(frozen=True)
class Schedule:
    """trials: to be run, or done already. left_out: in words, what the budget has no time for. seconds: of the rest."""

    trials: tuple[Trial, ...]
    left_out: tuple[str, ...]
    seconds: float


def schedule(arms: Sequence[Arm], seeds: int, budget_s: float, place: Place) -> Schedule:
    """As many trials as the budget has time for: a seed for all arms of a tier at once, the first tiers first.

    What is done already costs nothing. Raises InputError where there is not even time for one seed of the first tier.
    """
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def cost(trial: Trial) -> float:
        nonlocal began
        if place.outcome(trial) is not None:
            return 0.0
        if trial.arm.name not in seconds:
            plan = make_plan(place.dataset, trial.arm.design, trial.arm.recipe, place.here, as_is=True)
            with place.share_of_threads():
                seconds[trial.arm.name] = AROUND_SECONDS + run_seconds(plan, place.here)
            if began < (now := time.monotonic()) - PATIENCE_SECONDS and len(seconds) < len(arms):
                place.say(f"planning: timed {len(seconds)} of {len(arms)} networks")
                began = now
        return seconds[trial.arm.name]

    chosen: list[Trial] = []
    left_out: dict[str, list[str]] = {}
    spent = in_all = 0.0
    for tier in sorted({arm.tier for arm in arms}):
        names = ", ".join(arm.name for arm in arms if arm.tier == tier)
        for seed in range(seeds):
            row = [Trial(arm, seed, place.images) for arm in arms if arm.tier == tier]
            needed = sum(map(cost, row))
            in_all += needed
            if needed and (left_out or spent + needed > budget_s):
                if not chosen:
                    raise InputError(
                        f"budget: {duration(budget_s)} is too short for one training of each of {names}; "
                        f"{duration(1.1 * needed + 1)} would do"
                    )
                left_out.setdefault(names, []).append(str(seed))
                continue
            spent += needed
            chosen += row
    words = [
        f"{'seed' if len(each) == 1 else 'seeds'} {', '.join(each)} of {names}" for names, each in left_out.items()
    ]
    if words:
        words[-1] += f"; a budget of {duration(1.1 * in_all + 1)} has time for all of it"
    return Schedule(tuple(chosen), tuple(words), spent)


def carry_out(plan: Schedule, place: Place, budget_s: float) -> tuple[Outcomes, tuple[str, ...]]:
    """Run what is not done yet; what others are running is waited for. Gives also what there was no time for after all.

    Past the budget nothing is begun, though what is under way is finished.
    """
    from filelock import FileLock, Timeout

    until, late = time.monotonic() + max(budget_s, 1.1 * plan.seconds), False
    while waiting := [trial for trial in plan.trials if place.outcome(trial) is None]:
        began = False
        for trial in waiting:
            late = time.monotonic() > until
            if late:
                break
            try:
                lock = place.folder / "locks" / f"{trial.name}.lock"
                with FileLock(lock, timeout=0):
                    if place.outcome(trial) is None:
                        began = True
                        with place.share_of_threads():
                            outcome = place.keep(trial, _run(trial, place))
                        _tell(outcome, plan, place)
                    lock.unlink(missing_ok=True)  # whoever comes later finds what is kept
            except Timeout:  # another process has it
                continue
        if late:
            break
        if not began:
            time.sleep(POLL_SECONDS)
    found = [(trial, place.outcome(trial)) for trial in plan.trials]
    missing = tuple(f"{trial.arm.name}, seed {trial.seed} (out of time)" for trial, one in found if one is None)
    return Outcomes((one for _, one in found if one is not None), place.trained, place.held_out), missing


def _run(trial: Trial, place: Place) -> Outcome:
    """Train, or go on training; anew where something is missing that going on does not bring back.

    What does not train (its steps are not finite) is an outcome too.
    """
    folder, started = place.run(trial), time.perf_counter()
    how: dict[str, Any] = {"device": str(place.here.device), "keep_every": trial.arm.keep_every, "show": False}
    try:
        run = None
        if (folder / run_folder.CHECKPOINTS_FOLDER).is_dir():
            try:
                run = train(resume=folder, **how)
            except InputError:
                if newest(folder) is not None:
                    raise
                run = None  # nothing whole was left of it
        if run is None or not _has_weights(folder, trial.arm, len(run.history)):
            place.forget(trial)
            run = train(place.data, design=trial.arm.design, recipe=trial.recipe, out=folder, **how)
    except DivergedError as problem:
        return Outcome(trial.arm.name, trial.seed, folder, (), time.perf_counter() - started, str(problem))
    epochs = tuple(asdict(epoch) for epoch in run.history)
    return Outcome(trial.arm.name, trial.seed, folder, epochs, time.perf_counter() - started)


def _tell(outcome: Outcome, plan: Schedule, place: Place) -> None:
    done = sum(place.outcome(trial) is not None for trial in plan.trials)
    words = outcome.failed or (
        f"training error {outcome.train_error_percent:.2f} %, held out {outcome.held_out_error_percent:.2f} %"
    )
    place.say(f"{done} of {len(plan.trials)}: {outcome.arm}, seed {outcome.seed}: {words}, {duration(outcome.seconds)}")


def _has_weights(run: Path, arm: Arm, epochs: int) -> bool:
    """Whether a run has the weights that its arm's study looks at, none of them cut short."""
    files = [run / WEIGHTS_FILE] if arm.weights or arm.keep_every else []
    if arm.keep_every:
        kept = run_folder.kept_epochs(run)
        due = range(arm.keep_every, epochs + 1, arm.keep_every)
        files += [kept.get(epoch, run / run_folder.EPOCHS_FOLDER) for epoch in due]
    try:
        for file in files:
            with safe_open(file, "pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return True
