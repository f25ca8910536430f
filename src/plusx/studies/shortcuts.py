"""Shortcuts: identity where it can be, or more?

Claim: shortcuts A (zero channels), B (1×1 convolutions where shapes change) and C (everywhere) differ little, C being
best by parameters that are not worth it (Table 3 of the paper); on very deep networks anything but the identity does
harm (Table 1 of the second); averaging before the convolution, D, does good.
Source: arXiv 1512.03385 §4.1, Table 3; arXiv 1603.05027 §3, Table 1; arXiv 1812.01187 §4.2.
Command: plusx study shortcuts [--depth 20] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, --seeds 10; 9 minutes beside others.
Result at 20 layers, held-out error in percent, A to D: 1.56 ± 0.65, 2.09 ± 0.56, 1.67 ± 0.53, 1.56 ± 0.38: none differs
from A by more than chance. No GPU was at hand for 110 layers on CIFAR-10.

Of Table 1 this tries the 1×1 shortcut (C; 12.22 % there at 110 layers, against 6.61 of the identity). Constant scaling,
gates and dropout on the shortcut are no kinds of a block here, and are left out.
"""

from collections.abc import Mapping

from plusx import families
from plusx.design import Design, Shortcut
from plusx.studies.arms import HOLDS, LITTLE, NOT, UNTOLD, compared, depth_of
from plusx.studies.numbers import ENOUGH, Spread
from plusx.studies.question import Conclusion, Question, Study
from plusx.studies.trials import Arm, Outcomes

PUBLISHED = {"A": 25.03, "B": 24.52, "C": 24.19}
"""Top-1 validation errors of ResNet-34 on ImageNet in percent, ten crops (1512.03385, Table 3)."""

SHORTCUTS: tuple[Shortcut, ...] = ("A", "B", "C", "D")


def arms(question: Question) -> list[Arm]:
    """The same network with each kind of shortcut."""
    design = question.design or families.cifar(depth_of(question, 20))
    return [Arm(f"shortcut {kind}", question.fitting(_with(design, kind)), question.recipe) for kind in SHORTCUTS]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Errors by shortcut, and each one's distance from A, which adds nothing to the identity."""
    published = {f"shortcut {kind}": f"{PUBLISHED[kind]:.2f}" if kind in PUBLISHED else "·" for kind in SHORTCUTS}
    notes = (
        "Published: ResNet-34 on ImageNet, top-1, ten crops (arXiv 1512.03385, Table 3); compare their order alone.",
        "Constant scaling, gates and dropout on the shortcut (arXiv 1603.05027, Table 1) are not tried.",
    )
    return compared(question, outcomes, "shortcut A", "shortcut", _judge, published, "published on ImageNet %", notes)


STUDY = Study(
    name="shortcuts",
    claim="Shortcuts A, B, C and D differ little, and an identity is all that is needed",
    source="arXiv 1512.03385 §4.1 and Table 3; arXiv 1603.05027 §3 and Table 1; arXiv 1812.01187 §4.2",
    arms=arms,
    conclude=conclude,
    options=frozenset(["design", "depth"]),
)


def _judge(gaps: Mapping[str, Spread], sure: Mapping[str, bool]) -> str:
    """Whether each is within `LITTLE` of A, by its whole interval."""
    far = [arm for arm, gap in gaps.items() if sure[arm] and abs(gap.mean) > LITTLE]
    if far:
        return f"{NOT}: {far[0]} is {abs(gaps[far[0]].mean):.2f} points from A."
    near = [arm for arm, gap in gaps.items() if gap.n >= ENOUGH and max(map(abs, gap.interval())) < LITTLE]
    if len(near) == len(SHORTCUTS) - 1:
        return f"{HOLDS}: each is within {LITTLE:g} point of A."
    return f"{UNTOLD}."


def _with(design: Design, shortcut: Shortcut) -> Design:
    stages = tuple(stage.replace(block=stage.block.replace(shortcut=shortcut)) for stage in design.stages)
    return design.replace(name=f"{design.name or 'design'}-{shortcut}", stages=stages)
