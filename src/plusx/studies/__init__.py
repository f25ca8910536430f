"""The claims of the article and the papers, tried on this machine: each study is one file here.

    degradation    plain networks get worse with depth, residual ones do not
    signals        responses and gradients, block by block
    economy        building blocks against bottlenecks
    order          the five orders around the addition
    shortcuts      A, B, C and D
    identity       which blocks a trained network does not need
    paper-cifar    the paper's CIFAR-10 errors

A study trains through `plusx.train` alone (`trials`), says what it measured with its spread, and leaves a page and its
figures.
"""

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plusx import environment, reports
from plusx.checkpoint import write_text
from plusx.data import open_data
from plusx.design import Design
from plusx.display import Display
from plusx.errors import InputError, did_you_mean
from plusx.families import find
from plusx.inference import given_path
from plusx.plan import LARGEST_DEFAULT_INPUT, images_digest, usual_recipe
from plusx.ranks import ranks
from plusx.recipe import Recipe
from plusx.reports import Report
from plusx.run_folder import DESIGN_FILE, RECIPE_FILE
from plusx.studies.folder import PAGE, Asked, claimed
from plusx.studies.numbers import duration, parse_duration
from plusx.studies.page import page
from plusx.studies.question import Finding, Question, Study, too_little
from plusx.studies.trials import Arm, Outcomes, Place, Schedule, Trial, carry_out, schedule

if TYPE_CHECKING:
    from rich.console import RenderableType

NAMES = ("degradation", "signals", "economy", "order", "shortcuts", "identity", "paper-cifar")
BUDGET, SEEDS = "15m", 3


@dataclass(frozen=True)
class StudyList(Report):
    """What can be studied."""

    studies: tuple[Study, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "studies": [
                {"name": one.name, "claim": one.claim, "source": one.source, "options": sorted(one.options)}
                for one in self.studies
            ]
        }

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        shown = reports.table("plusx study NAME")
        for heading in ("name", "claim", "source"):
            shown.add_column(heading, overflow="fold")
        for one in self.studies:
            shown.add_row(*map(Text, (one.name, one.claim, one.source)))
        return shown


def study(
    name: str,
    runs: str | Path | Sequence[str | Path] = (),
    *,
    design: Design | str | Path | None = None,
    data: str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    epochs: int | None = None,
    seeds: int = SEEDS,
    budget: str = BUDGET,
    depths: int | Sequence[int] = (),
    depth: int | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    show: bool = True,
) -> Finding | StudyList:
    """Try one of the papers' claims here; or, where `name` is "list", say which there are.

    runs: of `identity`, the run folders to look at. design: your own network, a name or a file, in the study instead
    of the paper's. data: as `plusx.train` takes it. recipe, epochs: how to train; by default what `plusx.train` would
    take for that data, without label smoothing and zero-initialised branches, which plain networks cannot have.
    seeds: trainings of each network, which differ in initialisation and order. budget: the time the trainings may take
    ("15m"); whole seeds that do not fit are left out, and the finding says so. depths, depth: of the studies that take
    them; with a design of your own, depths are multiples of the blocks in its stages. out: the study's folder, by
    default studies/NAME, or studies/NAME-2 and so on where that holds another one: of other images, runs or designs, or
    trained otherwise. Started again, a study goes on where it was, also with more seeds or time, and runs that are done
    are not repeated. Several processes may share a folder. device: as `plusx.train` takes it.

    Raises InputError for options that do not fit, a budget too small for one seed, and an `out` that holds anything
    else; what `plusx.train` raises.
    """
    paths = tuple(given_path("runs", run) for run in ((runs,) if isinstance(runs, str | Path) else runs))
    depths = (depths,) if isinstance(depths, int) else tuple(depths)
    given = {"depths": depths, "depth": depth, "design": design}
    how = {"data": data, "recipe": recipe, "epochs": epochs, "seeds": None if seeds == SEEDS else seeds}
    how["budget"] = None if budget == BUDGET else budget
    if name == "list":
        _refuse("list", {"runs": paths, **given, **how, "out": out, "device": device})
        return StudyList(tuple(map(_load, NAMES)))
    chosen = _load(name)
    _check(chosen, seeds, runs=paths, **given)
    if paths:
        _refuse(f"{name} of runs", {**given, **how})
    budget_s, started = parse_duration(budget), time.perf_counter()
    display = Display(show)
    with ExitStack() as stack:
        here = stack.enter_context(ranks(device))
        if here.world > 1:
            raise InputError("study: start it several times on one folder instead of by torchrun")
        dataset = open_data(chosen.data if data is None else data, say=display.line)
        plan = _recipe(chosen, recipe, dataset, epochs)
        images, held_out, _ = dataset.split(plan.split.held_out, plan.split.seed)
        which, own = images_digest(images, held_out), None if design is None else _design(design)
        asked: Asked = {"study": chosen.name}
        if paths:
            asked["runs"] = [str(run.absolute()) for run in paths]
        else:
            asked |= {"images": which, "design": own and own.digest, "recipe": plan.model_dump(mode="json")}
            asked |= {"depths": list(depths), "depth": depth}
        folder = stack.enter_context(claimed(None if out is None else given_path("out", out), chosen.name, asked))
        question = Question(
            place=Place(folder, dataset.spec, dataset, which, len(images), len(held_out), here, display.line),
            recipe=plan,
            design=own,
            size=plan.input_size or min(images.short_side(), LARGEST_DEFAULT_INPUT),
            channels=1 if images.grey() else 3,
            classes=len(dataset.classes),
            seeds=seeds,
            depths=depths,
            depth=depth,
            runs=paths,
            budget=budget,
            device=device,
        )
        try:
            with question.place.joined():
                todo = _planned(chosen.arms(question), question, budget_s)
                outcomes, missing = carry_out(todo, question.place, budget_s)
                return _write(chosen, question, todo, outcomes, missing, time.perf_counter() - started)
        except KeyboardInterrupt:
            display.line(f"stopped; the same command goes on where it was, in {folder}")
            raise


def _planned(arms: Sequence[Arm], question: Question, budget_s: float) -> Schedule:
    """What is to be trained, said before it begins."""
    if not arms:
        return Schedule((), (), 0.0)
    say = question.place.say
    todo = schedule(arms, question.seeds, budget_s, question.place)
    waiting = [trial for trial in todo.trials if question.place.outcome(trial) is None]
    of = ", ".join(f"{count} of {name}" for name, count in Counter(trial.arm.name for trial in waiting).items())
    say(f"{len(waiting)} trainings ({of}), about {duration(todo.seconds)}" if waiting else "every training is done")
    for line in todo.left_out:
        say(f"left out: {line}")
    return todo


def _load(name: str) -> Study:
    known = (*NAMES, "list")
    if name not in NAMES:
        raise InputError(f"study {name!r}: there is no such study ({', '.join(known)}){did_you_mean(name, known)}")
    found = import_module(f"plusx.studies.{name.replace('-', '_')}").STUDY
    assert isinstance(found, Study)
    return found


def _refuse(what: str, given: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value not in (None, ()):
            raise InputError(f"study {what}: it takes no {option}")


def _check(chosen: Study, seeds: int, **given: object) -> None:
    if type(seeds) is not int or not 1 <= seeds <= 100:
        raise InputError(f"seeds {seeds!r} is not a whole number from 1 to 100")
    _refuse(chosen.name, {option: value for option, value in given.items() if option not in chosen.options})
    for needed in ("matplotlib", "scipy"):
        try:
            import_module(needed)
        except ImportError:
            raise InputError(f"study: {needed} not installed; pip install 'plusx[studies]' brings it") from None


def _design(design: Design | str | Path) -> Design:
    if isinstance(design, str | Path) and str(design).lower().endswith((".toml", ".json")):
        return Design.read(given_path("design", design))
    return find(str(design) if isinstance(design, Path) else design)


def _recipe(chosen: Study, given: Recipe | str | Path | None, dataset: Any, epochs: int | None) -> Recipe:
    if given is None and chosen.recipe is None:
        recipe = usual_recipe(None, dataset, False).replace(label_smoothing=0.0, zero_init=False)
    else:
        recipe = usual_recipe(given or chosen.recipe, dataset, False)
    if epochs is None:
        return recipe
    return recipe.replace(epochs=epochs, steps=None) if recipe.steps else recipe.replace(epochs=epochs)


def _write(
    chosen: Study, question: Question, todo: Schedule, outcomes: Outcomes, missing: tuple[str, ...], seconds: float
) -> Finding:
    """Conclude, and leave the page."""
    place = question.place
    found = too_little("any network") if todo.trials and not outcomes.whole else chosen.conclude(question, outcomes)
    again = [_command(chosen, question)]
    for trial in todo.trials:
        if place.outcome(trial) is None:  # there was no time for it
            continue
        run = _with_its_files(trial, place.run(trial))
        words = ["plusx", "train", place.data, "--design", f"{run}/{DESIGN_FILE}", "--recipe", f"{run}/{RECIPE_FILE}"]
        if trial.arm.keep_every is not None:
            words += ["--keep-every", str(trial.arm.keep_every)]
        words += _on(question)
        again.append(shlex.join(words))
    finding = Finding(
        study=chosen.name,
        claim=chosen.claim,
        source=chosen.source,
        verdict=found.verdict,
        tables=found.tables,
        figures=found.figures,
        numbers=found.numbers,
        notes=found.notes,
        left_out=(*todo.left_out, *missing),
        failed=tuple(f"{one.arm}, seed {one.seed}: {one.failed}" for one in outcomes.failed),
        commands=tuple(again),
        machine=environment.processor(),
        seconds=seconds,
        trained_seconds=sum(one.seconds for one in outcomes.whole),
        folder=place.folder,
    )
    for number, figure in enumerate(finding.figures, 1):
        write_text(place.folder / f"figure-{number}.svg", figure.svg)
    write_text(place.folder / PAGE, page(finding))
    return finding


def _with_its_files(trial: Trial, run: Path) -> Path:
    """A trial's folder, with what it was trained by: one that failed may have left nothing."""
    told = ((DESIGN_FILE, trial.arm.design), (RECIPE_FILE, trial.recipe))
    for name, each in told:
        if not (run / name).is_file():
            run.mkdir(parents=True, exist_ok=True)
            write_text(run / name, each.to_toml())
    return run


def _command(chosen: Study, question: Question) -> str:
    """What asks the same again; the recipe and the design are written beside the page for it."""
    words = ["plusx", "study", chosen.name, *map(str, question.runs), "--out", str(question.place.folder)]
    if not question.runs:
        recipe = question.place.folder / "study-recipe.toml"
        write_text(recipe, question.recipe.to_toml())
        words += ["--data", question.place.data, "--recipe", str(recipe)]
        words += ["--seeds", str(question.seeds), "--budget", question.budget]
    if question.design is not None:
        design = question.place.folder / "study-design.toml"
        write_text(design, question.design.to_toml())
        words += ["--design", str(design)]
    words += _on(question)
    if question.depths:
        words += ["--depths", ",".join(map(str, question.depths))]
    if question.depth is not None:
        words += ["--depth", str(question.depth)]
    return shlex.join(words)


def _on(question: Question) -> list[str]:
    return [] if question.device is None else ["--device", question.device]
