"""Identity: which blocks does a trained network not need?

Claim: a residual network behaves like an ensemble of shallow ones: leaving out or exchanging single blocks does it
little harm, where it ruins a plain network.
Source: arXiv 1605.06431, §4.1, §4.3 and Figures 3 to 5.
Command: plusx study identity [RUN …] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, 3 seeds; 3 minutes beside other work.
Result at 20 layers, over the 6 blocks that both can do without: one block left out costs the residual network
1.86 ± 0.43 points of held-out error in the median, the plain one 86.30 ± 2.16. Residual: 1.49 ± 0.58 % as trained,
39.28 ± 20.39 without the worst of them, 1.67 ± 0.74 with two exchanged (median); plain: 2.32 ± 0.85, 96.38 ± 1.74 and
88.67 ± 3.86. The claim holds of leaving out and of exchanging, though not for the residual network's first blocks.

It trains nothing where it is given runs: it judges them on their own held-out images. Blocks are left out where shapes
stay; where they change, what is left is the shortcut, and a plain network's block cannot be left out at all.
"""

import copy
import random
import statistics
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from plusx import families
from plusx.blocks import ResidualBlock
from plusx.cost import cost
from plusx.evaluate import judge_run
from plusx.inference import judge, open_model
from plusx.network import Network
from plusx.studies import figures
from plusx.studies.arms import (
    FEW,
    HALF,
    HOLDS,
    NOT,
    UNTOLD,
    depth_of,
    guesses,
    learned_little,
    nothing_learned,
)
from plusx.studies.numbers import ENOUGH, Spread, beyond_chance, gap
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

KINDS = ("residual", "plain")

AT_MOST, AT_LEAST, MACS = 2000, 200, 2 * 10**12
"""Held-out images that each edit is judged on: as many as take so many multiply-adds, within these bounds."""

PAIRS = 60
"""Exchanges that are tried of each network; drawn by chance, the same for all, where there are more."""

SPARE_POINTS = 1.0
"""A block whose absence costs less accuracy is named as spare."""

GENTLE, RUINED = 0.1, 0.5
"""Of the way from a network's error as trained to that of guessing: what is little, and from where on it is ruined."""


class Edit(NamedTuple):
    """A network with one change: what was changed, its block's number or 0, and its error then, in percent."""

    name: str
    number: int
    error_percent: float


class Judged(NamedTuple):
    """A run: its error as it is, and with each block left out, and pairs of a stage's like blocks exchanged.

    grain: one image's share of the error. drawn: whether there were more pairs.
    """

    name: str
    seed: int
    error_percent: float
    grain: float
    without: tuple[Edit, ...]
    exchanged: tuple[Edit, ...]
    drawn: bool = False


def arms(question: Question) -> list[Arm]:
    """A plain network and its residual twin, unless runs were given."""
    if question.runs:
        return []
    design = question.fitting(question.design or families.cifar(depth_of(question, 20)))
    plain = design.plain_twin(f"{design.name or 'design'}-plain")
    twins = zip(KINDS, (design, plain), strict=True)
    return [Arm(kind, one, question.recipe, weights=True) for kind, one in twins]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """How much worse each run is with each block left out."""
    groups: dict[str, list[Judged]] = {}
    if question.runs:
        for run in question.runs:
            groups[str(run)] = [_judge(run, str(run), 0, question)]
    else:
        for arm in outcomes.arms:
            groups[arm] = [
                _judge(one.folder, f"{arm}, seed {one.seed}", one.seed, question) for one in outcomes.of(arm)
            ]
    if not groups:
        return too_little("any network")
    common = _common(groups, lambda run: run.without)
    every = _common(groups, lambda run: run.exchanged)
    sentences, rows, numbers, drawn = [_verdict(question, groups, common, every)], [], [], []
    for style, (name, runs) in enumerate(groups.items()):
        base = Spread.of([run.error_percent for run in runs])
        blocks = _over_runs([run.without for run in runs])
        pairs = _over_runs([run.exchanged for run in runs])
        rows.append(
            (
                name,
                base.text(),
                *_summary([run.without for run in runs], common),
                *_summary([run.exchanged for run in runs], every),
            )
        )
        sentences.append(_sentence(name, base, blocks) + _least_needed(blocks, base))
        numbers.append(
            {
                "network": name,
                "error_percent": base._asdict(),
                "without_block_error_percent": {key: one._asdict() for key, one in blocks.items()},
                "exchanged_error_percent": {key: one._asdict() for key, one in pairs.items()},
            }
        )
        drawn.append(
            figures.Line(
                name,
                [edit.number for edit in runs[0].without],
                [one.mean for one in blocks.values()],
                [one.std for one in blocks.values()] if base.n > 1 else (),
                style,
            )
        )
    headings = ("network", "error %", "one block out: median", "worst", "two exchanged: median", "worst")
    table = Table(
        "Held-out error as trained, and edited; mean ± standard deviation over the runs", headings, tuple(rows)
    )
    panel = figures.Panel("one block left out", "block, in the order they run", "held-out error, %", drawn, whole=True)
    caption = "Held-out error with one block left out; blocks that change shapes are shortcuts alone, or are kept."
    notes = []
    if len(groups) > 1 and common:
        notes.append(f"Median and worst are over the {len(common)} blocks that all can leave out.")
    if len(groups) > 1 and not (common and every):
        notes.append("Where no edit is common to all, median and worst are over each network's own.")
    if any(runs[0].drawn for runs in groups.values()):
        notes.append(f"Of the pairs of blocks, {PAIRS} were drawn by chance and exchanged.")
    return Conclusion(
        " ".join(filter(None, sentences)),
        (table,),
        (figures.lines(caption, panel),),
        {"networks": numbers},
        tuple(notes),
    )


STUDY = Study(
    name="identity",
    claim="Leaving out or exchanging single blocks hurts a residual network little and ruins a plain one",
    source="arXiv 1605.06431, §4",
    arms=arms,
    conclude=conclude,
    options=frozenset(["design", "depth", "runs"]),
)


def _judge(run: Path, name: str, seed: int, question: Question) -> Judged:
    given = open_model(run, "cpu")
    macs = cost(given.weights.design, given.size).macs
    at_most = max(AT_LEAST, min(AT_MOST, MACS // macs))
    looked = judge_run(run, device=question.place.here.device, at_most=at_most)
    model, net = looked.model, looked.model.net

    def error(edited: Network) -> float:
        weights = model.weights
        return 100 - judge(edited, looked.loader, weights.mean, weights.std, chosen=looked.chosen).accuracy_percent

    pairs = list(pairs_of_blocks(net))
    if drawn := len(pairs) > PAIRS:
        chosen = set(random.Random(0).sample(range(len(pairs)), PAIRS))
        pairs = [pair for index, pair in enumerate(pairs) if index in chosen]
    edits = len(list(_places(net))) + len(pairs)
    question.place.say(f"{name}: judging up to {edits} edits of it on {len(looked.tally.labels)} images each")
    without = tuple(Edit(label, number, error(edited)) for label, number, edited in without_blocks(net))
    exchanged = tuple(Edit(label, 0, error(edited)) for label, edited in with_blocks_exchanged(net, pairs))
    grain = 100 / len(looked.tally.labels)
    return Judged(name, seed, 100 - looked.tally.accuracy_percent, grain, without, exchanged, drawn)


def without_blocks(net: Network) -> Iterator[tuple[str, int, Network]]:
    """The network with each block left out that can be: which, and its number in the order they run, from 1."""
    for number, (stage, index) in enumerate(_places(net), 1):
        edited = copy.deepcopy(net)
        blocks = _blocks(edited, stage)
        block = blocks[index]
        assert isinstance(block, ResidualBlock)
        if index > 0:
            blocks[index] = nn.Identity()
        elif block.shortcut is not None:
            block.branch = nn.Sequential(_Nothing())
        else:
            continue
        yield f"stage {stage + 1}, block {index + 1}", number, edited


def pairs_of_blocks(net: Network) -> Iterator[tuple[int, int, int]]:
    """Stage and places of each two blocks that take the same shapes: those of a stage, its first block aside."""
    for stage in range(len(net.stages)):
        for one, two in combinations(range(1, len(_blocks(net, stage))), 2):
            yield stage, one, two


def with_blocks_exchanged(net: Network, pairs: Sequence[tuple[int, int, int]]) -> Iterator[tuple[str, Network]]:
    """The network with the blocks of each pair exchanged."""
    for stage, one, two in pairs:
        edited = copy.deepcopy(net)
        turned = _blocks(edited, stage)
        turned[one], turned[two] = turned[two], turned[one]
        yield f"stage {stage + 1}, blocks {one + 1} and {two + 1}", edited


class _Nothing(nn.Module):
    """A branch that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def _places(net: Network) -> Iterator[tuple[int, int]]:
    for stage in range(len(net.stages)):
        for index in range(len(_blocks(net, stage))):
            yield stage, index


def _blocks(net: Network, stage: int) -> nn.Sequential:
    blocks = net.stages[stage]
    assert isinstance(blocks, nn.Sequential)
    return blocks


def _over_runs(runs: list[tuple[Edit, ...]]) -> dict[str, Spread]:
    """By edit, over the runs of one network."""
    return {each.name: Spread.of([edits[k].error_percent for edits in runs]) for k, each in enumerate(runs[0])}


def _common(groups: dict[str, list[Judged]], edits: Callable[[Judged], Sequence[Edit]]) -> set[str]:
    """The edits that all networks can undergo."""
    return set.intersection(*({edit.name for edit in edits(runs[0])} for runs in groups.values()))


def _errors(edits: Sequence[Edit], among: Container[str]) -> list[float]:
    return [edit.error_percent for edit in edits if edit.name in among]


def _summary(runs: list[tuple[Edit, ...]], among: set[str]) -> tuple[str, str]:
    """The median edit's error and the worst's, over the runs; of those that all networks can undergo, if any."""
    errors = [_errors(edits, among or {edit.name for edit in edits}) for edits in runs]
    if not errors[0]:
        return "·", "·"
    return Spread.of([statistics.median(one) for one in errors]).text(), Spread.of([max(one) for one in errors]).text()


def _verdict(question: Question, groups: dict[str, list[Judged]], out: set[str], exchanged: set[str]) -> str:
    """Whether the claim holds, where its two networks were trained here: of leaving out, and of exchanging."""
    if question.runs or set(groups) != set(KINDS):
        return ""
    if not out and not exchanged:
        return f"{UNTOLD}: the two networks have no block in common that can be left out."
    errors = {kind: statistics.fmean(run.error_percent for run in groups[kind]) for kind in KINDS}
    if poor := learned_little(errors, question.classes):
        return nothing_learned(poor)
    deeds: list[tuple[str, dict[str, Spread], Spread]] = []
    kinds: list[tuple[str, set[str], Callable[[Judged], Sequence[Edit]]]] = [
        (f"leaving out one of the {len(out)} blocks that both can do without", out, lambda run: run.without),
        ("exchanging two of a stage", exchanged, lambda run: run.exchanged),
    ]
    for said, among, edits in kinds:
        if not among:
            continue
        costs = {
            kind: {run.seed: statistics.median(_errors(edits(run), among)) - run.error_percent for run in groups[kind]}
            for kind in KINDS
        }
        spreads = {kind: Spread.of(list(cost.values())) for kind, cost in costs.items()}
        deeds.append((said, spreads, gap(costs["plain"], costs["residual"], groups["plain"][0].grain)))
    sure = beyond_chance([apart for _, _, apart in deeds])
    away = {kind: guesses(question.classes) - error for kind, error in errors.items()}
    return " ".join(
        f"{_holds(spreads, apart, one, away)}: {said} costs, in the median, {spreads['residual'].text()} points of "
        f"the residual network and {spreads['plain'].text()} of the plain one."
        for (said, spreads, apart), one in zip(deeds, sure, strict=True)
    )


def _holds(spreads: dict[str, Spread], apart: Spread, sure: bool, away: dict[str, float]) -> str:
    """away: each network's error as trained, from that of guessing."""
    if apart.n < ENOUGH:
        return f"{UNTOLD} ({FEW})"
    if not sure:
        return UNTOLD
    if apart.mean < 0:
        return NOT
    little = spreads["residual"].mean <= GENTLE * away["residual"]
    ruined = spreads["plain"].mean >= RUINED * away["plain"]
    if little and ruined:
        return HOLDS
    if not little and not ruined:
        return f"{NOT}, though it is the plain network that suffers more"
    return f"{HALF}, {'but the plain network is not ruined' if little else 'but the residual network suffers too'}"


def _sentence(name: str, base: Spread, blocks: dict[str, Spread]) -> str:
    if not blocks:
        return f"{name}: no block can be left out."
    worst, error = max(((key, one.mean) for key, one in blocks.items()), key=lambda pair: pair[1])
    return (
        f"{name.capitalize() if name in KINDS else name}: {base.text()} % error as trained; most needed is {worst}, "
        f"without which it is {error:.2f} %."
    )


def _least_needed(blocks: dict[str, Spread], base: Spread) -> str:
    spare = sorted((one.mean, key) for key, one in blocks.items() if one.mean - base.mean < SPARE_POINTS)
    if not spare:
        return ""
    return f" Least needed, each alone costing less than a point: {'; '.join(key for _, key in spare[:6])}."
