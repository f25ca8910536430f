"""Economy: does the bottleneck save without hurting?

Claim: a bottleneck of the same width takes far fewer parameters and multiply-adds than two 3×3 convolutions, without
doing worse; so deep networks are built of it.
Source: arXiv 1512.03385, §4.1 ("Deeper Bottleneck Architectures") and Figure 5.
Command: plusx study economy [--depth 20] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, --seeds 10; 9 minutes beside others.
Result, held-out error in percent: building blocks 1.56 ± 0.65; bottlenecks of equal width 2.51 ± 0.78 (worse by 0.95
points, 95 % interval 0.18 to 1.72, at 0.07 of the parameters and 0.9 times the time), of equal latency 2.90 ± 0.82
(worse by 1.34, 0.56 to 2.11), of equal macs and params 2.20 ± 0.74 (2.1 times the time; not to be told apart).
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from plusx import families
from plusx.cost import cost
from plusx.design import BottleneckSpec, BuildingSpec, Design, Stage
from plusx.network import Network, build
from plusx.notation import count
from plusx.studies.arms import (
    FEW,
    HOLDS,
    HOLM,
    LITTLE,
    NOT,
    UNTOLD,
    depth_of,
    held_out_bars,
    held_out_error,
    learned_little,
    nothing_learned,
    train_error,
)
from plusx.studies.numbers import ENOUGH, Spread, beyond_chance
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

BUILDING = "building"
EQUALS = ("width", "macs", "params", "latency")
ROUNDS = 12
LATENCY_BATCH = 64
"""Images at once while latency is measured: with one, small networks cost nothing but the calls."""

REDUCTION = 4
"""A bottleneck's width over its inner width, as in the paper."""

_FACTORS = [2 ** (k / 8) for k in range(-8, 33)]


def arms(question: Question) -> list[Arm]:
    """Building blocks, and bottlenecks that equal them in one thing each, in as many blocks."""
    return [Arm(name, one.design, question.recipe) for name, one in _compared(question).items()]


class _Network(NamedTuple):
    design: Design
    ms: float


def _compared(question: Question) -> dict[str, _Network]:
    """What is compared, by name, each with its latency: measured once in a study's folder."""
    base = question.design or families.cifar(depth_of(question, 20))
    building = question.fitting(_of_buildings(base))

    def make() -> dict[str, list[Any]]:
        watch = _Stopwatch(question, building)
        measures: dict[str, Callable[[Design], float]] = {
            "macs": lambda one: cost(one, question.size).macs,
            "params": lambda one: cost(one, question.size).params,
            "latency": watch.ratio,
        }
        equal = {"width": _of_bottlenecks(building, 1.0)}
        equal |= {what: _equal(building, measure) for what, measure in measures.items()}
        found = {BUILDING: building}
        for design in dict.fromkeys(equal[what] for what in EQUALS):
            names = " and ".join(what for what in EQUALS if equal[what] == design)
            found[f"bottleneck, equal {names}"] = design
        ratios = {name: watch.ratio(design) for name, design in found.items()}
        return {name: [design.to_dict(), ratios[name] * watch.base_ms] for name, design in found.items()}

    depends_on = [building.digest, question.size, str(question.place.here.device), torch.get_num_threads()]

    def read(known: dict[str, list[Any]]) -> dict[str, _Network]:
        named = {name: f"{base.name or 'design'}-{re.sub('[^a-z]+', '-', name)}" for name in known}
        found = {
            name: _Network(Design.from_dict(fields).replace(name=named[name]), float(ms))
            for name, (fields, ms) in known.items()
        }
        return {BUILDING: found[BUILDING], **found}

    return question.place.remembered("economy", depends_on, make, read)


class _Stopwatch:
    """Times networks by turns with one of them, so that what else the machine does falls on both."""

    def __init__(self, question: Question, base: Design) -> None:
        device = question.place.here.device
        self.images = torch.zeros(LATENCY_BATCH, question.channels, question.size, question.size, device=device)
        self.base, self.base_ms = self._net(base), math.inf

    def ratio(self, design: Design) -> float:
        """A network's latency over the base's: of a forward pass of `LATENCY_BATCH` images; the least of the turns."""
        net, least = self._net(design), [math.inf, math.inf]
        for turn in range(ROUNDS + 1):
            for index, each in enumerate((self.base, net)):
                start = time.perf_counter()
                with torch.inference_mode():
                    float(each(self.images).sum())  # which waits for a GPU
                took = time.perf_counter() - start
                least[index] = min(least[index], took) if turn else math.inf
        self.base_ms = min(self.base_ms, 1000 * least[0])
        return least[1] / least[0]

    def _net(self, design: Design) -> Network:
        return build(design, seed=0).to(self.images.device).eval()


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Costs and errors side by side."""
    compared = {name: one for name, one in _compared(question).items() if name in outcomes.arms}
    if BUILDING not in compared:
        return too_little("the network of building blocks")
    prices = {name: cost(one.design, question.size) for name, one in compared.items()}
    base, base_ms = prices[BUILDING], compared[BUILDING].ms
    rows, numbers, told = [], [], []
    for name, (design, ms) in compared.items():
        price, error = prices[name], outcomes.spread(name, held_out_error)
        gap = outcomes.gap(name, BUILDING, held_out_error)
        shares = price.params / base.params, price.macs / base.macs, ms / base_ms
        rows.append(
            (
                name,
                "-".join(str(stage.width) for stage in design.stages),
                f"{count(price.params)} ({shares[0]:.2f})",
                f"{count(price.macs)} ({shares[1]:.2f})",
                f"{ms:.1f} ({shares[2]:.2f})",
                outcomes.spread(name, train_error).text(),
                error.text(),
                "·" if name == BUILDING else gap.gap_text(),
            )
        )
        numbers.append(
            {
                "network": name,
                "params": price.params,
                "macs": price.macs,
                f"latency_ms_at_batch_{LATENCY_BATCH}": ms,
                "held_out_error_percent": error._asdict(),
                "points_from_building": gap.with_interval(),
            }
        )
        if name != BUILDING:
            told.append((name, shares, gap))
    headings = (
        "network",
        "widths",
        "params",
        "macs",
        f"ms for {LATENCY_BATCH}",
        "training error %",
        "held-out error %",
    )
    table = Table(
        "Costs (in brackets: times the building blocks'), errors after the last epoch, differences with 95 % intervals",
        (*headings, "points from building"),
        tuple(rows),
        words=2,
    )
    note = "Widths go in steps, so costs are equal to a few percent; the columns in brackets say how nearly."
    sure = beyond_chance([gap for _, _, gap in told])
    words = " ".join(_sentence(*each, sure=one) for each, one in zip(told, sure, strict=True))
    means = {name: outcomes.spread(name, held_out_error).mean for name in compared}
    if len(poor := learned_little(means, question.classes)) == len(means):
        verdict = nothing_learned(poor)
    else:
        verdict = f"{_judge(told, sure)} {words} {_JUDGED}"
    return Conclusion(verdict, (table,), (held_out_bars(outcomes),), {"networks": numbers}, (note,))


STUDY = Study(
    name="economy",
    claim="The bottleneck saves parameters and computation without doing worse",
    source="arXiv 1512.03385, §4.1 and Figure 5",
    arms=arms,
    conclude=conclude,
    options=frozenset(["design", "depth"]),
)


_JUDGED = f"What is told apart is told apart {HOLM}."


def _judge(told: list[tuple[str, tuple[float, float, float], Spread]], sure: list[bool]) -> str:
    """Whether the bottleneck that saves, of equal width, does no worse by more than `LITTLE`."""
    for (name, _, gap), one in zip(told, sure, strict=True):
        if "width" not in name:
            continue
        if gap.n < ENOUGH:
            return f"{UNTOLD}: {FEW}."
        if gap.interval()[1] < LITTLE:
            at_all = "" if one else ", if at all"
            return f"{HOLDS}: of equal width, what saves does worse by less than {LITTLE:g} point{at_all}."
        if one and gap.mean > 0:
            return f"{NOT}: of equal width, what saves does worse."
    return f"{UNTOLD}."


def _sentence(name: str, shares: tuple[float, float, float], gap: Spread, *, sure: bool) -> str:
    if gap.n < ENOUGH:
        said = f"{gap.gap_text()} points away, which it takes {ENOUGH} seeds to tell from chance"
    elif sure:
        said = f"{'worse' if gap.mean > 0 else 'better'} by {abs(gap.mean):.2f} points ({gap.interval_text()})"
    else:
        said = f"not to be told apart ({gap.mean:+.2f} points; {gap.interval_text()})"
    params, macs, time = shares
    costs = f"{params:.2f} of the parameters, {macs:.2f} of the multiply-adds, {time:.2f} of the time"
    return f"{name.capitalize()} ({costs}): {said}."


def _of_buildings(design: Design) -> Design:
    return design.replace(stages=tuple(_stage(stage, BuildingSpec, stage.width, None) for stage in design.stages))


def _of_bottlenecks(design: Design, factor: float) -> Design:
    stages = []
    for stage in design.stages:
        width = REDUCTION * max(1, round(stage.width * factor / REDUCTION))
        stages.append(_stage(stage, BottleneckSpec, width, width // REDUCTION))
    # the stem's channels reach the first addition by shortcut A only where there are no more than the stage has
    stem = design.stem.replace(width=min(design.stem.width, stages[0].width))
    return design.replace(stem=stem, stages=tuple(stages))


def _stage(stage: Stage, kind: type[BuildingSpec] | type[BottleneckSpec], width: int, mid: int | None) -> Stage:
    kept = {name: value for name, value in stage.block if name in BuildingSpec.model_fields and name != "kind"}
    if stage.block.groups != 1:
        kept["groups"] = math.gcd(stage.block.groups, mid or width)
    return stage.replace(block=kind(**kept), width=width, mid=mid)


def _equal(building: Design, measure: Callable[[Design], float]) -> Design:
    """Bottlenecks as wide as brings `measure`, which grows with the width, nearest to that of the building blocks."""
    wanted = measure(building)
    low, high = 0, len(_FACTORS) - 1
    found: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in found:
            found[index] = measure(_of_bottlenecks(building, _FACTORS[index]))
        return found[index]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < wanted else (low, middle)
    best = min((low, high), key=lambda index: abs(math.log(at(index) / wanted)))
    return _of_bottlenecks(building, _FACTORS[best])
