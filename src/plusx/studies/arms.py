"""What studies that set arms side by side have in common."""

from collections.abc import Callable, Iterable, Mapping

from plusx.design import Design
from plusx.studies import figures
from plusx.studies.numbers import ENOUGH, Spread, beyond_chance
from plusx.studies.question import Conclusion, Question, Table, too_little
from plusx.studies.trials import Outcome, Outcomes

HOLM = "at 95 % over all comparisons (Holm)"
"""How differences of several arms are judged; see `numbers.beyond_chance`."""

KINDS = ("plain", "residual")
"""What studies of depth set side by side."""

LITTLE = 1.0
"""Points of error: networks that differ by less differ little."""

NEAR_CHANCE = 0.8
"""Of the error of guessing: a network that is worse as trained tells nothing."""

HOLDS, HALF, NOT, UNTOLD = (
    "The claim holds here",
    "The claim holds by half here",
    "The claim does not hold here",
    "Whether the claim holds cannot be told from this",
)
"""How a verdict begins."""

FEW = f"it takes {ENOUGH} seeds to tell differences from chance"

Judge = Callable[[Mapping[str, Spread], Mapping[str, bool]], str]
"""Says whether a study's claim holds: of each arm's distance from the first one, and whether it is beyond chance."""


def guesses(classes: int) -> float:
    """The error of guessing, in percent."""
    return 100 * (1 - 1 / classes)


def learned_little(errors: Mapping[str, float], classes: int) -> list[str]:
    """Those of some networks that hardly do better than guessing, by their errors in percent."""
    return [name for name, error in errors.items() if error > NEAR_CHANCE * guesses(classes)]


def nothing_learned(names: Iterable[str]) -> str:
    """A verdict on networks that learned too little to tell anything."""
    return f"Nothing can be said: {listed(names)} hardly did better than guessing as trained."


def listed(names: Iterable[str]) -> str:
    """As "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def depth_of(question: Question, usual: int) -> int:
    """The depth asked for."""
    return usual if question.depth is None else question.depth


def deepened(design: Design, times: int) -> Design:
    """A Design with `times` as many blocks in every stage."""
    stages = tuple(stage.replace(depth=stage.depth * times) for stage in design.stages)
    return design if times == 1 else design.replace(name=f"{design.name or 'design'}-x{times}", stages=stages)


def named(question: Question, kind: str, depth: int) -> str:
    """The network's name in a study: "plain 56", or "plain ×2" of a Design of the user's own."""
    return f"{kind} {depth_label(question, depth)}"


def depth_label(question: Question, depth: int) -> str:
    """A depth, which with a Design of the user's own is a multiple."""
    return str(depth) if question.design is None else f"×{depth}"


def train_error(outcome: Outcome) -> float:
    """In percent; see `Outcome`."""
    return outcome.train_error_percent


def held_out_error(outcome: Outcome) -> float:
    """In percent; see `Outcome`."""
    return outcome.held_out_error_percent


def held_out_bars(outcomes: Outcomes) -> figures.Figure:
    """A bar for each arm."""
    spreads = [outcomes.spread(arm, held_out_error) for arm in outcomes.arms]
    return figures.bars(
        "Held-out error; bars are standard deviations over the seeds.",
        "held-out error, %",
        outcomes.arms,
        [spread.mean for spread in spreads],
        [spread.std for spread in spreads],
    )


def compared(
    question: Question,
    outcomes: Outcomes,
    against: str,
    what: str,
    judge: Judge,
    published: Mapping[str, str] | None = None,
    published_as: str = "published %",
    notes: tuple[str, ...] = (),
) -> Conclusion:
    """Errors of each arm, and how far its held-out error is from that of the arm `against`, seed by seed.

    judge: says of these differences whether the study's claim holds.
    """
    if against not in outcomes.arms:
        return too_little(against)
    rows, numbers = [], []
    gaps: dict[str, Spread] = {}
    for arm in outcomes.arms:
        train, held_out = outcomes.spread(arm, train_error), outcomes.spread(arm, held_out_error)
        gap = outcomes.gap(arm, against, held_out_error)
        shown = "·" if arm == against else gap.gap_text()
        rows.append((arm, train.text(), held_out.text(), shown, *(() if published is None else (published[arm],))))
        numbers.append(
            {
                what: arm,
                "train_error_percent": train._asdict(),
                "held_out_error_percent": held_out._asdict(),
                "points_from_" + against.replace(" ", "_"): gap.with_interval(),
            }
        )
        if arm != against:
            gaps[arm] = gap
    headings = [what, "training error %", "held-out error %", f"points from {against}"]
    headings += [] if published is None else [published_as]
    table = Table(
        "Errors after the last epoch, mean ± standard deviation; differences, each with its own 95 % interval",
        tuple(headings),
        tuple(rows),
    )
    verdict = _verdict(question, outcomes, gaps, against, judge)
    return Conclusion(verdict, (table,), (held_out_bars(outcomes),), {"arms": numbers}, notes)


def _verdict(question: Question, outcomes: Outcomes, gaps: dict[str, Spread], against: str, judge: Judge) -> str:
    spreads = {arm: outcomes.spread(arm, held_out_error) for arm in outcomes.arms}
    poor = learned_little({arm: spread.mean for arm, spread in spreads.items()}, question.classes)
    if len(poor) == len(spreads):
        return nothing_learned(poor)
    least = min(spread.mean for spread in spreads.values())
    best = [arm for arm, spread in spreads.items() if spread.mean - least < 0.005]
    words = f"Lowest held-out error: {listed(best)}, {spreads[best[0]].text() if len(best) == 1 else f'{least:.2f}'} %."
    if max((gap.n for gap in gaps.values()), default=0) < ENOUGH:
        return f"{UNTOLD}: {FEW}. {words}"
    sure = dict(zip(gaps, beyond_chance(list(gaps.values())), strict=True))
    return f"{judge(gaps, sure)} {words} {_differences(gaps, sure, against)}"


def _differences(gaps: dict[str, Spread], sure: dict[str, bool], against: str) -> str:
    parts = [
        f"{arm} {'worse' if gap.mean > 0 else 'better'} by {abs(gap.mean):.2f} points"
        for arm, gap in gaps.items()
        if sure[arm]
    ]
    if not parts:
        return (
            f"None differs from {against} by more than chance, {HOLM}: that is not to say that there is no difference."
        )
    rest = " The others cannot be told from it." if len(parts) < len(gaps) else ""
    return f"Against {against}, beyond chance {HOLM}: {'; '.join(parts)}.{rest}"
