"""Paper tables: Table 6 of the paper on the original CIFAR-10, with the paper's recipe.

Claim: 8.75, 7.51, 7.17, 6.97 and 6.43 % test error for 20, 32, 44, 56 and 110 layers (6.61 ± 0.16 over five runs of
the last, of which 6.43 is the best).
Source: arXiv 1512.03385, §4.2 and Table 6.
Command: plusx study paper-cifar --depth 20 --data cifar10:FOLDER [--seeds 5] [--budget 12h]
Run on: nothing yet but shortened, by --epochs, to check the machinery.
"""

from plusx import families
from plusx.data.published import CIFAR10
from plusx.errors import InputError
from plusx.studies import figures
from plusx.studies.numbers import ENOUGH
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

PUBLISHED = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}
"""Test errors in percent (Table 6)."""

MEANS = {110: 6.61}
"""Where the paper ran several times (five, ± 0.16) and gives the best in its table: the mean (§4.2)."""

WARM_UP_DEPTH = 110
"""From this depth on the paper starts at a tenth of the learning rate (§4.2)."""


def arms(question: Question) -> list[Arm]:
    """One: the paper's network of that depth."""
    depth = _depth(question)
    recipe = question.recipe
    if depth >= WARM_UP_DEPTH and recipe.name == "paper-cifar":
        recipe = recipe.set(["schedule.warmup_factor=0.1"])
    return [Arm(f"resnet {depth}", question.fitting(families.cifar(depth)), recipe)]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """The mean error beside the published one, in standard deviations."""
    depth = _depth(question)
    if not outcomes.whole:
        return too_little("the network")
    arm, published = f"resnet {depth}", MEANS.get(depth, PUBLISHED[depth])
    error = outcomes.spread(arm, lambda one: one.held_out_error_percent)
    away = error.mean - published
    if error.n >= ENOUGH and error.std > 0:
        off = abs(away) / error.std
        where = "within" if off <= 2 else "better" if away < 0 else "worse"
        said = f"{where}: {off:.1f} standard deviations {'below' if away < 0 else 'above'} the published error"
        said += f" ({error.interval_text()})"
    else:
        said = f"{away:+.2f} points from the published error; it takes {ENOUGH} seeds that differ to judge that"
    notes = []
    if question.recipe.name != "paper-cifar" or question.recipe.steps != 64_000:
        notes.append("This is not the paper's training: its recipe takes 64,000 steps.")
    if question.place.dataset.classes != CIFAR10:
        notes.append("These are not the paper's images: the published error is that of CIFAR-10.")
    rows = tuple((str(one.seed), f"{one.held_out_error_percent:.2f}") for one in outcomes.of(arm))
    curve = [
        figures.Line(
            f"seed {one.seed}",
            range(1, len(one.epochs) + 1),
            [100 - float(epoch["held_out_accuracy_percent"]) for epoch in one.epochs],
            style=style,
            marked=False,
        )
        for style, one in enumerate(outcomes.of(arm))
    ]
    return Conclusion(
        f"ResNet-{depth}: {error.text()} % test error over {error.n} seeds, published {published} %: {said}.",
        (Table("Test error by seed", ("seed", "error %"), rows),),
        (
            figures.lines(
                "Test error over the epochs.", figures.Panel(f"ResNet-{depth}", "epoch", "error, %", curve, whole=True)
            ),
        ),
        {"depth": depth, "error_percent": error._asdict(), "published_error_percent": published, "away_points": away},
        tuple(notes),
    )


STUDY = Study(
    name="paper-cifar",
    claim="The paper's CIFAR-10 errors: 8.75, 7.51, 7.17, 6.97, 6.43 % for 20, 32, 44, 56, 110 layers",
    source="arXiv 1512.03385, §4.2 and Table 6",
    arms=arms,
    conclude=conclude,
    options=frozenset(["depth"]),
    data="cifar10",
    recipe="paper-cifar",
)


def _depth(question: Question) -> int:
    depth = 20 if question.depth is None else question.depth
    if depth not in PUBLISHED:
        raise InputError(f"depth {depth} is not in the paper's Table 6: {', '.join(map(str, PUBLISHED))}")
    return depth
