"""A run as one page that a person can read, keep and send: `report` writes RUN/report.html.

    report.css, html.py   how it looks, and pieces of HTML
    report_figures.py     confusion, calibration, mistakes
    here                  what the page says, in which order

The file needs no other: pictures are inside it, nothing is fetched and nothing runs.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from plusx import environment, html, run_folder
from plusx.checkpoint import WEIGHTS_FILE, Weights, read_weights, write_text
from plusx.cost import Cost, cost
from plusx.cost_table import mib
from plusx.curves import curves_svg, run_panels
from plusx.draw import draw
from plusx.errors import DataError, WeightsError
from plusx.evaluate import Evaluation, Judged, judge_run, summary
from plusx.html import Section
from plusx.inference import given_path
from plusx.notation import count, shape
from plusx.report_figures import confusion_figure, mistakes_figure, reliability_figure
from plusx.reports import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

AT_MOST = 5_000
"""Images that are judged for a report at the end of training."""


@dataclass(frozen=True)
class WrittenReport(Report):
    """The page that was written, and what it says of the images held out; None where they could not be judged."""

    file: Path
    evaluation: Evaluation | None
    unjudged: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the file, and the evaluation in it, or why there is none."""
        found = None if self.evaluation is None else self.evaluation.to_dict()
        return {"report": str(self.file), "evaluation": found} | ({"unjudged": self.unjudged} if self.unjudged else {})

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        return Text(f"{self.file}" + (f"\nwithout an evaluation: {self.unjudged}" if self.unjudged else ""))


def report(run: str | Path, *, device: str | torch.device | None = None) -> WrittenReport:
    """Write RUN/report.html: the design drawn, its cost, curves, confusion, calibration, the worst mistakes, and how.

    The images the run held out are judged anew; where they are gone, the page says so and holds the rest. Raises
    WeightsError for what is no run folder with weights, InputError for no such device, WorkError when the disk refuses.
    """
    return _write(_run_folder(run), device, at_most=None)


def write_report(folder: Path, *, device: str | torch.device | None = None) -> str:
    """The same at the end of training, of at most `AT_MOST` images: a line for a person. Never raises an Exception.

    Whatever goes wrong with a report must not take a finished run with it.
    """
    try:
        return f"Report: {_write(_run_folder(folder), device, at_most=AT_MOST).file}"
    except Exception as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        return f"no report could be written: {reason}"


@dataclass(frozen=True)
class _Facts:
    """What there is to tell of a run. `judged` and `evaluation` are None where the images are gone: `unjudged` why."""

    folder: Path
    weights: Weights
    about: Mapping[str, Any]
    epochs: list[dict[str, Any]]
    judged: Judged | None
    evaluation: Evaluation | None
    unjudged: str
    device: str

    @property
    def price(self) -> Cost:
        """Of one image of the size the network takes."""
        return cost(self.weights.design, self.weights.input_size)

    @property
    def name(self) -> str:
        """The network's name."""
        return self.weights.design.name or "a design"

    def is_set(self, name: str) -> str:
        """The value of that name in the run's first line, as text; "" where there is none."""
        value = self.about.get(name)
        return value if isinstance(value, str) else ""


def _write(folder: Path, device: str | torch.device | None, at_most: int | None) -> WrittenReport:
    facts = _gather(folder, device, at_most)
    file = folder / run_folder.REPORT_FILE
    write_text(file, _page(facts))
    return WrittenReport(file, facts.evaluation, facts.unjudged)


def _run_folder(run: str | Path) -> Path:
    folder = given_path("run", run)
    if not folder.is_dir():
        found = "that is a file" if folder.exists() else "there is no such folder"
        raise WeightsError(f"report on {folder}: {found}; a run folder of plusx train is needed")
    return folder


def _gather(folder: Path, device: str | torch.device | None, at_most: int | None) -> _Facts:
    weights, judged, unjudged = read_weights(folder), None, ""
    try:
        judged = judge_run(folder, on_bad_image="skip", device=device, at_most=at_most)
    except (DataError, WeightsError) as problem:
        unjudged = str(problem)
    place = "cpu" if judged is None else next(judged.model.net.parameters()).device
    evaluation = None if judged is None else summary(judged)
    return _Facts(
        folder,
        weights,
        run_folder.read_about(folder),
        run_folder.read_epochs(folder),
        judged,
        evaluation,
        unjudged,
        str(place),
    )


def _page(facts: _Facts) -> str:
    data = facts.is_set("data")
    title = f"{facts.name} on {Path(data).name or data}" if data else facts.name
    when = _date(facts.folder / WEIGHTS_FILE)
    return html.page(
        title, f"{facts.folder.resolve().name} · trained {when}", html.tiles(_tiles(facts)), _sections(facts)
    )


def _tiles(facts: _Facts) -> Iterator[tuple[str, str]]:
    result = facts.evaluation
    if result is not None:
        yield f"{result.accuracy_percent:.2f} %", f"right, of {result.images:,} images"
        if result.top5_percent is not None:
            yield f"{result.top5_percent:.2f} %", "right in five guesses"
        yield f"{result.loss:.3f}", "loss (NLL), nats"
        yield f"{result.calibration.ece_percent:.2f} %", "calibration error (ECE)"
    yield count(facts.price.params), "params"
    yield count(facts.price.macs), f"macs at {shape(facts.price.input_shape)}"
    if facts.epochs:
        yield str(facts.epochs[-1]["epoch"]), "epochs"
    if seconds := run_folder.seconds(facts.epochs):
        yield duration(seconds), "of training"


def _sections(facts: _Facts) -> Iterator[Section]:
    if panels := run_panels(facts.epochs):
        pictures = "".join(html.inline(curves_svg((panel,))) for panel in panels)
        words = (
            "Training losses are as trained: smoothed labels and changed images, where the recipe has them, raise them."
        )
        yield Section("Curves", html.note(words) + f'<div class="curves paper-picture">{pictures}</div>')
    if facts.judged is None or facts.evaluation is None:
        yield Section("Evaluation", html.note(f"The images could not be judged: {facts.unjudged}"))
    else:
        yield from _evaluation_sections(facts.judged, facts.evaluation)
    yield Section("Design", _design(facts))
    yield Section("Recipe", _recipe(facts))
    yield Section("How it was made", _made(facts))


def _evaluation_sections(judged: Judged, result: Evaluation) -> Iterator[Section]:
    where = f"{result.images:,} images of {result.data}: {result.split}."
    yield Section(
        "Confusion",
        html.note(f"{where} Rows: the true class; columns: the class named.") + confusion_figure(result),
    )
    words = (
        f"Of what is named with a probability of 80 %, 80 in 100 should be right: bars on the dashed line. Orange is "
        f"the gap; weighted by images (the grey bars below) it is {result.calibration.ece_percent:.2f} %, the expected "
        f"calibration error in {len(result.calibration.bins)} bins (arXiv 1706.04599)."
    )
    yield Section("Calibration", html.note(words) + reliability_figure(result.calibration))
    wrong = round(result.images * (1 - result.accuracy_percent / 100))
    if wrong:
        words = "What the network is surest of and gets wrong, worst first: the class named, and the true one."
        yield Section("Worst mistakes", html.note(words) + mistakes_figure(judged))
    else:
        yield Section("Worst mistakes", html.note("There are none."))


def _design(facts: _Facts) -> str:
    price = facts.price
    drawing = html.wide(html.inline(draw(facts.weights.design, facts.weights.input_size).svg), "paper-picture drawing")
    rows = [
        (part.name, shape(part.shape), count(part.params), count(part.macs), count(part.activations),
         mib(part.training_bytes()), mib(part.inference_peak_bytes()))
        for part in (*price.rows(), price.network)
    ]  # fmt: skip
    headings = ("part", "gives", "params", "macs", "activations", "training MiB", "peak MiB")
    words = "Of one image, in float32. Training: kept for the backward pass; peak: alive at once in inference."
    whole = ("in all", *rows[-1][1:])
    return drawing + "<p></p>" + html.table(headings, rows[:-1], whole=whole) + html.note(words)


def _recipe(facts: _Facts) -> str:
    try:
        return html.verbatim((facts.folder / run_folder.RECIPE_FILE).read_text(encoding="utf-8", errors="replace"))
    except OSError as problem:
        return html.note(f"{run_folder.RECIPE_FILE} cannot be read: {problem.strerror}")


def _made(facts: _Facts) -> str:
    command = facts.is_set("command")
    if command:
        said = html.note("The command") + html.verbatim(command)
    else:
        words = ["plusx", "train", facts.is_set("data") or "DATA"]
        for option, file in (("--design", run_folder.DESIGN_FILE), ("--recipe", run_folder.RECIPE_FILE)):
            words += [option, str(facts.folder / file)]
        said = html.note("The command was not recorded. This one trains the same:") + html.verbatim(shlex.join(words))
    return said + html.facts(_circumstances(facts))


def _circumstances(facts: _Facts) -> Iterator[tuple[str, str]]:
    numbers = [
        (name, facts.about.get(f"{key}_images")) for name, key in (("trained on", "train"), ("held out", "held_out"))
    ]
    yield "data", facts.is_set("data") or "not recorded"
    yield from ((name, f"{number:,} images") for name, number in numbers if isinstance(number, int))
    yield "started", facts.is_set("started") or _date(facts.folder / run_folder.DESIGN_FILE)
    yield "weights written", _date(facts.folder / WEIGHTS_FILE)
    yield "report written", _now()
    recorded = facts.about.get("environment")
    if isinstance(recorded, dict):
        yield from ((str(name), str(value)) for name, value in recorded.items())
        return
    yield "trained with", ", ".join(f"{name} {version}" for name, version in facts.weights.versions.items())
    for name, value in environment.describe(facts.device).items():
        yield f"{name} (of this report)", value


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"


def _date(file: Path) -> str:
    try:
        return _words(datetime.fromtimestamp(file.stat().st_mtime, UTC))
    except OSError:
        return "at an unknown time"


def _now() -> str:
    return _words(datetime.now(UTC))


def _words(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
