"""Degradation: do plain networks get worse with depth, and residual ones not?

Claim: with more layers a plain network's *training* error rises, so it is not overfitting; with shortcuts it does not.
Source: arXiv 1512.03385, §4.2 and Figures 1 and 6.
Command: plusx study degradation [--depths 20,32,44,56] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, 3 seeds; 14 minutes beside others.
Result: training error in percent, plain: 0.56 ± 0.37, 7.05 ± 1.80, 41.08 ± 1.62, 57.30 ± 2.83 at depths 20, 32, 44, 56;
residual: 0.14 ± 0.07, 0.25 ± 0.11, 0.42 ± 0.07, 0.32 ± 0.14. Plain networks get worse by 56.7 points (95 % interval
49.4 to 64.1), of residual ones it cannot be told (0.19; -0.31 to 0.68).
"""

from functools import partial

from plusx import families
from plusx.cost import cost
from plusx.design import Design
from plusx.errors import InputError
from plusx.notation import count
from plusx.studies import figures
from plusx.studies.arms import (
    FEW,
    HALF,
    HOLDS,
    KINDS,
    LITTLE,
    NOT,
    UNTOLD,
    deepened,
    depth_label,
    held_out_error,
    learned_little,
    named,
    nothing_learned,
    train_error,
)
from plusx.studies.numbers import ENOUGH, Spread, beyond_chance
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

DEPTHS = (20, 32, 44, 56)
MULTIPLES = (1, 2, 4)
"""Of the blocks in each stage of a Design of the user's own."""


def arms(question: Question) -> list[Arm]:
    """Plain twins and residual networks of each depth; those between the ends are left out first."""
    depths = _depths(question)
    found = []
    for depth in depths:
        design = _deep(question, depth)
        twins = {"plain": design.plain_twin(f"{design.name}-plain"), "residual": design}
        tier = 0 if depth in (depths[0], depths[-1]) else 1
        found += [Arm(named(question, kind, depth), twins[kind], question.recipe, tier) for kind in KINDS]
    return found


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Errors by depth; and whether the deepest network's training error is above the shallowest's."""
    depths = [depth for depth in _depths(question) if all(outcomes.of(named(question, kind, depth)) for kind in KINDS)]
    if len(depths) < 2:
        return too_little("both networks at two depths")
    ends = depths[0], depths[-1]
    arm = partial(named, question)
    gaps = {kind: outcomes.gap(arm(kind, ends[1]), arm(kind, ends[0]), train_error, "train") for kind in KINDS}
    apart = _apart(outcomes, question, ends)
    sure = dict(zip((*KINDS, "apart"), beyond_chance([*gaps.values(), apart]), strict=True))
    shallow = {arm(kind, ends[0]): outcomes.spread(arm(kind, ends[0]), train_error).mean for kind in KINDS}
    if len(poor := learned_little(shallow, question.classes)) == len(KINDS):
        sentences = [nothing_learned(poor)]
    else:
        sentences = [_judge(gaps, apart, sure)]
        sentences += [_sentence(kind, ends, outcomes, gaps[kind], sure[kind], question) for kind in KINDS]
    rows = [
        (
            kind,
            depth_label(question, depth),
            count(cost(_deep(question, depth), question.size).params),
            outcomes.spread(arm(kind, depth), train_error).text(),
            outcomes.spread(arm(kind, depth), held_out_error).text(),
            str(len(outcomes.of(arm(kind, depth)))),
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
                "train_error_percent": outcomes.spread(arm(kind, depth), train_error)._asdict(),
                "held_out_error_percent": outcomes.spread(arm(kind, depth), held_out_error)._asdict(),
            }
            for kind in KINDS
            for depth in depths
        ],
        "gap_points": {kind: gap.with_interval() for kind, gap in (*gaps.items(), ("plain_less_residual", apart))},
    }
    drawn = _by_depth(question, outcomes, depths), _curves(question, outcomes, ends)
    return Conclusion(" ".join(sentences), (table,), drawn, numbers)


STUDY = Study(
    name="degradation",
    claim="A deeper plain network has a higher training error; a deeper residual network has not",
    source="arXiv 1512.03385, §4.2 and Figures 1 and 6",
    arms=arms,
    conclude=conclude,
    options=frozenset(["depths", "design"]),
)


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


def _apart(outcomes: Outcomes, question: Question, ends: tuple[int, int]) -> Spread:
    """How much more the plain network gets worse with depth than the residual one, seed by seed."""
    rise: dict[str, dict[int, float]] = {}
    for kind in KINDS:
        shallow, deep = (outcomes.by_seed(named(question, kind, depth), train_error) for depth in ends)
        rise[kind] = {seed: deep[seed] - shallow[seed] for seed in deep if seed in shallow}
    return outcomes.between(rise["plain"], rise["residual"], "train")


def _judge(gaps: dict[str, Spread], apart: Spread, sure: dict[str, bool]) -> str:
    worse = {kind: sure[kind] and gap.mean > 0 for kind, gap in gaps.items()}
    if apart.n < ENOUGH:
        return f"{UNTOLD}: {FEW}."
    if not worse["plain"]:
        return f"{NOT}: plain networks get better with depth." if sure["plain"] else f"{UNTOLD}."
    if not sure["apart"]:
        return f"{UNTOLD}: plain networks get worse, but not beyond chance by more than residual ones."
    if apart.mean < 0:
        return f"{NOT}: residual networks get worse by more."
    if gaps["residual"].interval()[1] < LITTLE:
        return f"{HOLDS}."
    less = "get worse as well, though less" if worse["residual"] else "get worse by less, if at all"
    return f"{HALF}: residual networks {less}."


def _sentence(kind: str, ends: tuple[int, int], outcomes: Outcomes, gap: Spread, sure: bool, question: Question) -> str:
    shallow, deep = (outcomes.spread(named(question, kind, depth), train_error).text() for depth in ends)
    labels = " to ".join(depth_label(question, depth) for depth in ends)
    if gap.n < ENOUGH:
        said = f"it takes {ENOUGH} seeds to tell whether that is chance"
    elif sure:
        said = f"it gets {'worse' if gap.mean > 0 else 'better'} with depth"
    else:
        said = "no difference is shown"
    return (
        f"{kind.capitalize()} networks' training error goes from {shallow} % to {deep} % at depths {labels}: "
        f"{gap.mean:+.2f} points ({gap.interval_text()}), so {said}."
    )


def _by_depth(question: Question, outcomes: Outcomes, depths: list[int]) -> figures.Figure:
    panels = []
    for title, value in (("training error", train_error), ("held-out error", held_out_error)):
        drawn = []
        for style, kind in enumerate(KINDS):
            spreads = [outcomes.spread(named(question, kind, depth), value) for depth in depths]
            drawn.append(figures.Line(kind, depths, [s.mean for s in spreads], [s.std for s in spreads], style))
        panels.append(figures.Panel(title, "depth", "%", drawn, integers=True))
    return figures.lines("Error against depth; bars are standard deviations over the seeds.", *panels, shared=True)


def _curves(question: Question, outcomes: Outcomes, ends: tuple[int, int]) -> figures.Figure:
    panels = []
    for kind in KINDS:
        drawn = []
        for style, depth in enumerate(ends):
            runs = outcomes.of(named(question, kind, depth))
            for key, words in (("train", "training"), ("held_out", "held out")):
                series = [[100 - float(epoch[f"{key}_accuracy_percent"]) for epoch in run.epochs] for run in runs]
                means = [sum(values) / len(values) for values in zip(*series, strict=True)]
                epochs = range(1, len(means) + 1)
                name = f"{depth_label(question, depth)}, {words}"
                drawn.append(figures.Line(name, epochs, means, style=style, dashed=key == "train"))
        panels.append(figures.Panel(f"{kind} networks", "epoch", "error, %", drawn, whole=True))
    caption = "Error over the epochs, mean over the seeds; training dashed, held out solid, as in the paper's Figure 6."
    return figures.lines(caption, *panels, shared=True)
