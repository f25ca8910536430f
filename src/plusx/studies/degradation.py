"""Degradation: do plain networks get worse with depth, and residual ones not?

Claim: with more layers a plain network's *training* error rises, so it is not overfitting; with shortcuts it does not.
Source: arXiv 1512.03385, §4.2 and Figures 1 and 6.
Command: plusx study degradation [--depths 20,32,44,56] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 24 November 2026, digits, 20 epochs, 3 seeds; 9 minutes beside other work.
Result: training error in percent, plain: 0.56 ± 0.37, 6.82 ± 2.14, 37.88 ± 1.72, 56.84 ± 3.30 at depths 20, 32, 44, 56;
residual: 0.14 ± 0.07, 0.30 ± 0.14, 0.37 ± 0.22, 0.60 ± 0.49. Plain networks get worse by 56.3 points (95 % interval
47.6 to 65.0), of residual ones it cannot be told (0.46; -0.66 to 1.59).
"""

from plusx import families
from plusx.cost import cost
from plusx.design import Design
from plusx.errors import InputError
from plusx.notation import count
from plusx.studies import figures
from plusx.studies.arms import held_out_error, train_error
from plusx.studies.numbers import Spread
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

DEPTHS = (20, 32, 44, 56)
MULTIPLES = (1, 2, 4)
"""Of the blocks in each stage of a Design of the user's own."""

KINDS = ("plain", "residual")


def arms(question: Question) -> list[Arm]:
    """Plain twins and residual networks of each depth; those between the ends are left out first."""
    depths = _depths(question)
    found = []
    for depth in depths:
        design = _deep(question, depth)
        twins = {"plain": design.plain_twin(f"{design.name}-plain"), "residual": design}
        tier = 0 if depth in (depths[0], depths[-1]) else 1
        found += [Arm(_arm(kind, depth), twins[kind], question.recipe, tier) for kind in KINDS]
    return found


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Errors by depth; and whether the deepest network's training error is above the shallowest's."""
    depths = [depth for depth in _depths(question) if all(outcomes.of(_arm(kind, depth)) for kind in KINDS)]
    if len(depths) < 2:
        return too_little("both networks at two depths")
    ends = depths[0], depths[-1]
    gaps = {kind: outcomes.gap(_arm(kind, ends[1]), _arm(kind, ends[0]), train_error) for kind in KINDS}
    sentences = [_sentence(kind, ends, outcomes, gaps[kind], question) for kind in KINDS]
    rows = [
        (
            kind,
            _label(question, depth),
            count(cost(_deep(question, depth), question.size).params),
            outcomes.spread(_arm(kind, depth), train_error).text(),
            outcomes.spread(_arm(kind, depth), held_out_error).text(),
            str(len(outcomes.of(_arm(kind, depth)))),
        )
        for kind in KINDS
        for depth in depths
    ]
    headings = ("network", "depth", "params", "training error %", "held-out error %", "seeds")
    table = Table("Errors after the last epoch, mean ± standard deviation over the seeds", headings, tuple(rows))
    numbers = {
        "errors": [
            {
                "network": kind,
                "depth": depth,
                "train_error_percent": outcomes.spread(_arm(kind, depth), train_error)._asdict(),
                "held_out_error_percent": outcomes.spread(_arm(kind, depth), held_out_error)._asdict(),
            }
            for kind in KINDS
            for depth in depths
        ],
        "gap_points": {kind: _gap_numbers(gaps[kind]) for kind in KINDS},
    }
    return Conclusion(" ".join(sentences), (table,), (_by_depth(outcomes, depths), _curves(outcomes, ends)), numbers)


STUDY = Study(
    name="degradation",
    claim="A deeper plain network has a higher training error; a deeper residual network has not",
    source="arXiv 1512.03385, §4.2 and Figures 1 and 6",
    arms=arms,
    conclude=conclude,
    options=frozenset(["depths", "design"]),
)


def deepened(design: Design, times: int) -> Design:
    """A Design with `times` as many blocks in every stage."""
    stages = tuple(stage.replace(depth=stage.depth * times) for stage in design.stages)
    return design if times == 1 else design.replace(name=f"{design.name or 'design'}-x{times}", stages=stages)


def _depths(question: Question) -> tuple[int, ...]:
    depths = question.depths or (DEPTHS if question.design is None else MULTIPLES)
    if len(set(depths)) < 2 or min(depths) < 1:
        raise InputError("depths: two different ones are needed, such as 20,56; with a design, multiples such as 1,3")
    return tuple(sorted(set(depths)))


def _deep(question: Question, depth: int) -> Design:
    if question.design is None:
        return question.fitting(families.cifar(depth))
    if not all(stage.block.skip for stage in question.design.stages):
        raise InputError(f"design {question.design.name!r}: it has plain blocks; give the residual network")
    return question.fitting(deepened(question.design, depth))


def _arm(kind: str, depth: int) -> str:
    return f"{kind} {depth}"


def _label(question: Question, depth: int) -> str:
    return str(depth) if question.design is None else f"×{depth}"


def _sentence(kind: str, ends: tuple[int, int], outcomes: Outcomes, gap: Spread, question: Question) -> str:
    shallow, deep = (outcomes.spread(_arm(kind, depth), train_error).text() for depth in ends)
    labels = " to ".join(_label(question, depth) for depth in ends)
    low, high = gap.interval()
    if gap.n < 2:
        said = "one seed cannot tell whether that is chance"
    elif low > 0:
        said = "it gets worse with depth"
    elif high < 0:
        said = "it gets better with depth"
    else:
        said = "no difference is shown"
    return (
        f"{kind.capitalize()} networks' training error goes from {shallow} % to {deep} % at depths {labels}: "
        f"{gap.mean:+.2f} points ({gap.interval_text()}), so {said}."
    )


def _gap_numbers(gap: Spread) -> dict[str, float | int | None]:
    low, high = gap.interval() if gap.n > 1 else (None, None)
    return {"mean": gap.mean, "std": gap.std, "n": gap.n, "low": low, "high": high}


def _by_depth(outcomes: Outcomes, depths: list[int]) -> figures.Figure:
    panels = []
    for title, value in (("training error", train_error), ("held-out error", held_out_error)):
        drawn = []
        for style, kind in enumerate(KINDS):
            spreads = [outcomes.spread(_arm(kind, depth), value) for depth in depths]
            drawn.append(figures.Line(kind, depths, [s.mean for s in spreads], [s.std for s in spreads], style))
        panels.append(figures.Panel(title, "depth", "%", drawn, integers=True))
    return figures.lines("Error against depth; bars are standard deviations over the seeds.", *panels, shared=True)


def _curves(outcomes: Outcomes, ends: tuple[int, int]) -> figures.Figure:
    panels = []
    for kind in KINDS:
        drawn = []
        for style, depth in enumerate(ends):
            runs = outcomes.of(_arm(kind, depth))
            for key, words in (("train", "training"), ("held_out", "held out")):
                series = [[100 - float(epoch[f"{key}_accuracy_percent"]) for epoch in run.epochs] for run in runs]
                means = [sum(values) / len(values) for values in zip(*series, strict=True)]
                epochs = range(1, len(means) + 1)
                name = f"{depth}, {words}"
                drawn.append(figures.Line(name, epochs, means, style=style, marked=False, dashed=key == "train"))
        panels.append(figures.Panel(f"{kind} networks", "epoch", "error, %", drawn, whole=True))
    caption = "Error over the epochs, mean over the seeds; training dashed, held out solid, as in the paper's Figure 6."
    return figures.lines(caption, *panels, shared=True)
