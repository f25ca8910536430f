"""Identity: which blocks does a trained network not need?

Claim: a residual network behaves like an ensemble of shallow ones: leaving out or exchanging single blocks does it
little harm, where it ruins a plain network.
Source: arXiv 1605.06431, §4.1, §4.3 and Figures 3 to 5.
Command: plusx study identity [RUN …] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 24 November 2026, digits, 20 epochs, 3 seeds; 3 minutes beside other work.
Result, held-out error in percent at 20 layers, as trained, with one block left out (median, worst) and with two
exchanged (median): residual 1.49 ± 0.58, 3.99, 73.17, 1.58; plain 2.32 ± 0.85, 86.58, 95.64, 88.49.

It trains nothing where it is given runs: it judges them on their own held-out images. Blocks are left out where shapes
stay; where they change, what is left is the shortcut, and a plain network's block cannot be left out at all.
"""

import copy
import statistics
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from plusx import families
from plusx.blocks import ResidualBlock
from plusx.evaluate import judge_run
from plusx.inference import judge
from plusx.network import Network
from plusx.studies import figures
from plusx.studies.arms import depth_of
from plusx.studies.numbers import Spread
from plusx.studies.question import Conclusion, Question, Study, Table, too_little
from plusx.studies.trials import Arm, Outcomes

AT_MOST = 2000
"""Held-out images that each edit is judged on."""

SPARE_POINTS = 1.0
"""A block whose absence costs less accuracy is named as spare."""


class Edit(NamedTuple):
    """A network with one change: what was changed, and its error then, in percent."""

    name: str
    error_percent: float


class Judged(NamedTuple):
    """A run: its error as it is, and with each block left out, and each pair of a stage's like blocks exchanged."""

    name: str
    error_percent: float
    without: tuple[Edit, ...]
    exchanged: tuple[Edit, ...]


def arms(question: Question) -> list[Arm]:
    """A plain network and its residual twin, unless runs were given."""
    if question.runs:
        return []
    design = question.fitting(question.design or families.cifar(depth_of(question, 20)))
    plain = design.plain_twin(f"{design.name or 'design'}-plain")
    return [Arm("residual", design, question.recipe), Arm("plain", plain, question.recipe)]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """How much worse each run is with each block left out."""
    groups: dict[str, list[Judged]] = {}
    if question.runs:
        for run in question.runs:
            groups[str(run)] = [_judge(run, str(run))]
    else:
        groups = {arm: [_judge(one.folder, arm) for one in outcomes.of(arm)] for arm in outcomes.arms}
    if not groups:
        return too_little("any network")
    sentences, rows, numbers, drawn = [], [], [], []
    for style, (name, runs) in enumerate(groups.items()):
        base = Spread.of([run.error_percent for run in runs])
        blocks = _over_runs([run.without for run in runs])
        pairs = _over_runs([run.exchanged for run in runs])
        rows.append((name, base.text(), *_summary(blocks, base), *_summary(pairs, base)))
        sentences.append(_sentence(name, base, blocks, pairs) + _least_needed(blocks, base))
        numbers.append(
            {
                "network": name,
                "error_percent": base._asdict(),
                "without_block_error_percent": {key: one._asdict() for key, one in blocks.items()},
                "exchanged_error_percent": {key: one._asdict() for key, one in pairs.items()},
            }
        )
        places = [run.name for run in runs[0].without]
        spreads = [blocks[place] for place in places]
        drawn.append(
            figures.Line(
                name,
                [int(place.split()[0]) for place in places],
                [one.mean for one in spreads],
                [one.std for one in spreads] if base.n > 1 else (),
                style,
            )
        )
    headings = ("network", "error %", "one block out: median", "worst", "two exchanged: median", "worst")
    table = Table(
        "Held-out error as trained, and edited; mean ± standard deviation over the runs", headings, tuple(rows)
    )
    panel = figures.Panel("one block left out", "block, in the order they run", "held-out error, %", drawn)
    caption = "Held-out error with one block left out; blocks that change shapes are shortcuts alone, or are kept."
    return Conclusion(" ".join(sentences), (table,), (figures.lines(caption, panel),), {"networks": numbers})


STUDY = Study(
    name="identity",
    claim="Leaving out or exchanging single blocks hurts a residual network little and ruins a plain one",
    source="arXiv 1605.06431, §4",
    arms=arms,
    conclude=conclude,
    options=frozenset(["design", "depth", "runs"]),
)


def _judge(run: Path, name: str) -> Judged:
    looked = judge_run(run, at_most=AT_MOST)
    model, net = looked.model, looked.model.net

    def error(edited: Network) -> float:
        weights = model.weights
        return 100 - judge(edited, looked.loader, weights.mean, weights.std, chosen=looked.chosen).accuracy_percent

    without = tuple(Edit(label, error(edited)) for label, edited in without_blocks(net))
    exchanged = tuple(Edit(label, error(edited)) for label, edited in with_blocks_exchanged(net))
    return Judged(name, 100 - looked.tally.accuracy_percent, without, exchanged)


def without_blocks(net: Network) -> Iterator[tuple[str, Network]]:
    """The network with each block left out that can be; the name begins with the block's number."""
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
        yield f"{number} (stage {stage + 1})", edited


def with_blocks_exchanged(net: Network) -> Iterator[tuple[str, Network]]:
    """The network with each two blocks of a stage exchanged, its first block aside: the others take the same shapes."""
    for stage in range(len(net.stages)):
        for one, two in combinations(range(1, len(_blocks(net, stage))), 2):
            edited = copy.deepcopy(net)
            turned = _blocks(edited, stage)
            turned[one], turned[two] = turned[two], turned[one]
            yield f"{one + 1} and {two + 1} of stage {stage + 1}", edited


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


def _summary(edits: dict[str, Spread], base: Spread) -> tuple[str, str]:
    """The median edit's error and the worst's, with what they add."""
    if not edits:
        return "·", "·"
    means = sorted(one.mean for one in edits.values())
    middle, worst = statistics.median(means), means[-1]
    return f"{middle:.2f} ({middle - base.mean:+.2f})", f"{worst:.2f} ({worst - base.mean:+.2f})"


def _sentence(name: str, base: Spread, blocks: dict[str, Spread], pairs: dict[str, Spread]) -> str:
    if not blocks:
        return f"{name}: no block can be left out."
    middle = statistics.median(one.mean for one in blocks.values())
    worst, error = max(((key, one.mean) for key, one in blocks.items()), key=lambda pair: pair[1])
    words = (
        f"{name.capitalize() if len(name) < 12 else name}: {base.text()} % error as trained; with one block left out "
        f"{middle:.2f} % in the median, {error:.2f} % at worst (block {worst})"
    )
    if pairs:
        words += f"; with two exchanged {statistics.median(one.mean for one in pairs.values()):.2f} % in the median"
    return words + "."


def _least_needed(blocks: dict[str, Spread], base: Spread) -> str:
    spare = sorted((one.mean, key) for key, one in blocks.items() if one.mean - base.mean < SPARE_POINTS)
    if not spare:
        return ""
    names = ", ".join(key for _, key in spare[:6])
    return f" Least needed, each alone costing less than a point: block {names}."
