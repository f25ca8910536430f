"""What studies that set arms side by side have in common."""

from collections.abc import Mapping

from plusx.studies import figures
from plusx.studies.numbers import Spread, beyond_chance
from plusx.studies.question import Conclusion, Question, Table, too_little
from plusx.studies.trials import Outcome, Outcomes

HOLM = "at 95 % over all comparisons (Holm)"
"""How differences of several arms are judged; see `numbers.beyond_chance`."""


def depth_of(question: Question, usual: int) -> int:
    """The depth asked for."""
    return usual if question.depth is None else question.depth


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
    outcomes: Outcomes,
    against: str,
    what: str,
    published: Mapping[str, str] | None = None,
    published_as: str = "published %",
    notes: tuple[str, ...] = (),
) -> Conclusion:
    """Errors of each arm, and how far its held-out error is from that of the arm `against`, seed by seed."""
    if against not in outcomes.arms:
        return too_little(against)
    rows, numbers, told = [], [], []
    for arm in outcomes.arms:
        train, held_out = outcomes.spread(arm, train_error), outcomes.spread(arm, held_out_error)
        gap = outcomes.gap(arm, against, held_out_error)
        low, high = gap.interval() if gap.n > 1 else (None, None)
        shown = "·" if arm == against else gap.gap_text()
        rows.append((arm, train.text(), held_out.text(), shown, *(() if published is None else (published[arm],))))
        numbers.append(
            {
                what: arm,
                "train_error_percent": train._asdict(),
                "held_out_error_percent": held_out._asdict(),
                "points_from_" + against.replace(" ", "_"): {**gap._asdict(), "low": low, "high": high},
            }
        )
        if arm != against:
            told.append((arm, gap))
    headings = [what, "training error %", "held-out error %", f"points from {against}"]
    headings += [] if published is None else [published_as]
    best = min(outcomes.arms, key=lambda arm: outcomes.spread(arm, held_out_error).mean)
    words = f"{best} has the lowest held-out error, {outcomes.spread(best, held_out_error).text()} %. "
    table = Table(
        "Errors after the last epoch, mean ± standard deviation; differences, each with its own 95 % interval",
        tuple(headings),
        tuple(rows),
    )
    return Conclusion(
        words + _differences(told, against), (table,), (held_out_bars(outcomes),), {"arms": numbers}, notes
    )


def _differences(told: list[tuple[str, Spread]], against: str) -> str:
    if not any(gap.n > 1 for _, gap in told):
        return "One seed each cannot tell differences from chance."
    beyond = beyond_chance([gap for _, gap in told])
    parts = [
        f"{arm} {'worse' if gap.mean > 0 else 'better'} by {abs(gap.mean):.2f} points"
        for (arm, gap), sure in zip(told, beyond, strict=True)
        if sure
    ]
    if not parts:
        return f"No arm's difference from {against} is more than chance, {HOLM}: that is not to say that there is none."
    rest = " The others cannot be told from it." if len(parts) < len(told) else ""
    return f"Against {against}, beyond chance {HOLM}: {'; '.join(parts)}.{rest}"
