"""Order: does it matter where norms and activations stand around the addition?

Claim: "the last activation comes after the addition" is one of five orders; pre-activation is the best for very deep
networks, and a norm after the addition the worst.
Source: arXiv 1603.05027, §4 and Table 2 (ResNet-110 on CIFAR-10: 6.61, 8.17, 7.84, 6.71, 6.37 % for orders a to e).
Command: plusx study order [--depth 20] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, --seeds 10; 12 minutes beside others.
Result at 20 layers, held-out error in percent for orders a to e: 1.56 ± 0.65, 1.98 ± 0.40, 1.62 ± 0.63, 1.53 ± 0.44,
1.34 ± 0.32: none differs from the first by more than chance. No GPU was at hand for 110 layers on CIFAR-10.
"""

from collections.abc import Mapping
from typing import get_args

from plusx import families
from plusx.design import Design, Order
from plusx.studies.arms import HALF, HOLDS, NOT, UNTOLD, compared, depth_of
from plusx.studies.numbers import Spread
from plusx.studies.question import Conclusion, Question, Study
from plusx.studies.trials import Arm, Outcomes

ORDERS: tuple[Order, ...] = get_args(Order)
PUBLISHED = dict(zip(ORDERS, (6.61, 8.17, 7.84, 6.71, 6.37), strict=True))
"""Test errors of ResNet-110 on CIFAR-10 in percent (Table 2)."""


def arms(question: Question) -> list[Arm]:
    """The same network in each order."""
    design = question.design or families.cifar(depth_of(question, 20))
    return [Arm(order, question.fitting(_ordered(design, order)), question.recipe) for order in ORDERS]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Errors by order, and each one's distance from the original."""
    published: dict[str, str] = {order: f"{PUBLISHED[order]:.2f}" for order in ORDERS}
    return compared(question, outcomes, "original", "order", _judge, published)


STUDY = Study(
    name="order",
    claim="Of the five orders around the addition, pre-activation does best and a norm after the addition worst",
    source="arXiv 1603.05027, §4 and Table 2 (ResNet-110 on CIFAR-10)",
    arms=arms,
    conclude=conclude,
    options=frozenset(["design", "depth"]),
)


def _judge(gaps: Mapping[str, Spread], sure: Mapping[str, bool]) -> str:
    """Whether pre-activation is best and a norm after the addition worst, both unlike the original beyond chance."""
    ways = {"full_preact": -1, "bn_after_add": 1}
    found = [way * gaps[arm].mean > 0 for arm, way in ways.items() if arm in gaps and sure[arm]]
    if not all(found):
        return f"{NOT}."
    by_error = sorted(gaps, key=lambda arm: gaps[arm].mean)
    if len(found) == len(ways) and (by_error[0], by_error[-1]) == tuple(ways):
        return f"{HOLDS}."
    return f"{HALF if found else UNTOLD}."


def _ordered(design: Design, order: Order) -> Design:
    stages = tuple(stage.replace(block=stage.block.replace(order=order)) for stage in design.stages)
    return design.replace(name=f"{design.name or 'design'}-{order}", stages=stages)
