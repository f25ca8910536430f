"""Signals: do responses and gradients survive depth?

Claim: gradients vanish as networks get deeper, and shortcuts keep them alive.
Source: the claim is a common one; arXiv 1512.03385 §4.1 says that plain networks *with batch norm* have healthy
gradients, and its Figure 7 that residual branches respond less the deeper the network; arXiv 1702.08591 §2 that the
gradients of neighbouring inputs lose their likeness with depth ("shattering"), in residual networks more slowly.
Command: plusx study signals [--depths 20,56] [--design FILE] [--data cifar10]
Run on: 2 cores of an AMD EPYC, torch 2.13.0, 26 November 2026, digits, 20 epochs, 3 seeds; 7 minutes beside other work.
Result at 56 layers: the gradient's norm at the first fifth of the blocks over that at the last fifth, in powers of ten,
plain and residual: -3.8 ± 0.1 and 2.0 ± 0.0 without norms, -44.7 ± 0.1 and -0.4 ± 0.0 without norms and with small
weights; with batch norm 2.9 ± 0.0 and 0.9 ± 0.1 as they begin, 0.0 ± 0.1 and 0.4 ± 0.0 after 5 of the 20 epochs,
0.2 ± 0.2 and 0.6 ± 0.0 after all. Neighbouring images' gradients correlate by 0.01 ± 0.01 and 0.16 ± 0.04 at the first
block as networks with norms begin. So the claim holds without norms; with them gradients vanish in neither network, and
grow on the way back at first, while shortcuts keep likeness.

Measured on a batch of the training images, in one forward and two backward passes, per block:
response     standard deviation of the branch's output, before the addition
gradient     mean over the images of the norm of the loss's gradient at the block's input
likeness     correlation of the gradients at the block's input between an image and the same image moved a tenth of the
             way to another one: the gradient of one random mixture of the logits, so that labels play no part
"""

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from plusx import families
from plusx.checkpoint import WEIGHTS_FILE
from plusx.data import Loader
from plusx.data.augment import normalise
from plusx.design import Design
from plusx.inference import open_model
from plusx.network import Network, build
from plusx.plan import make_plan
from plusx.run_folder import kept_epochs
from plusx.studies import figures
from plusx.studies.arms import HALF, HOLDS, KINDS, NOT, UNTOLD, deepened, named
from plusx.studies.numbers import ENOUGH, Spread
from plusx.studies.question import Conclusion, Question, Study, Table
from plusx.studies.trials import Arm, Outcome, Outcomes

DEPTHS = (20, 56)
BATCH, LEAST_BATCH, SIZE = 64, 8, 64
"""Images that are measured on, of up to so many pixels a side; of larger ones fewer, in inverse proportion to their
area. Half of them are the other half, moved."""

QUARTERS = 4

_STATES = {
    "new": "with batch norm as they begin",
    "new, no norms": "without norms",
    "new, no norms, small": "without norms and with small weights",
}

VANISHED = 0.1
"""Of the gradient at the last blocks: what reaches the first ones where it is said to have vanished."""

MOVED = 0.1
SMALL = 0.01
"""Standard deviation of weights as networks were begun before arXiv 1502.01852."""


class Signal(NamedTuple):
    """Of one block; see the top of this file."""

    response: float
    gradient: float
    likeness: float


def measure(net: Network, images: Tensor, labels: Tensor, seed: int = 0) -> list[Signal]:
    """The signals of each block, in the order they run, in training mode; the network is left as it was.

    images: float32, N C H W, N even, the second half being the first half, moved a little. One forward and two
    backward passes, the second of which is needed for `likeness` alone.
    """
    net = copy.deepcopy(net).train()
    images = images.to(next(net.parameters()).dtype)
    inputs: list[Tensor] = []
    responses: list[float] = []
    handles = []
    for block in net.blocks():
        handles.append(block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])))
        handles.append(
            block.branch.register_forward_hook(lambda _, __, out: responses.append(float(out.detach().std())))
        )
    with torch.random.fork_rng():  # of stochastic depth
        torch.manual_seed(seed)
        logits = net(images.detach().requires_grad_())
    for handle in handles:
        handle.remove()
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
    mixture = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(seed)).to(logits)
    likened = torch.autograd.grad((logits @ mixture).sum(), inputs)
    return [
        Signal(response, float(gradient.flatten(1).norm(dim=1).mean()), _likeness(like))
        for response, gradient, like in zip(responses, gradients, likened, strict=True)
    ]


def without_norms(design: Design, seed: int, std: float | None = None) -> Network:
    """A network at initialisation, its batch norms left out. std: of its weights, instead of He's (1502.01852)."""
    net, generator = build(design, seed=seed), torch.Generator().manual_seed(seed)
    for name, part in list(net.named_modules()):
        if isinstance(part, nn.BatchNorm2d):
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, nn.Identity())
        elif isinstance(part, nn.Conv2d) and std is not None:
            nn.init.normal_(part.weight, std=std, generator=generator)
    return net.double()  # for gradients of 1e-50


def arms(question: Question) -> list[Arm]:
    """Plain and residual at the greatest depth; their weights are kept from quarter to quarter of the training."""
    depth = _depths(question)[-1]
    twins = _twins(question, depth)
    place = question.place
    plan = make_plan(place.dataset, twins["residual"], question.recipe, place.here, as_is=True)
    quarter = max(1, plan.epochs // QUARTERS)
    return [
        Arm(named(question, kind, depth), design, question.recipe, keep_every=quarter) for kind, design in twins.items()
    ]


def conclude(question: Question, outcomes: Outcomes) -> Conclusion:
    """Signals at initialisation, with and without norms, and in the course of training."""
    question.place.say("measuring signals")
    batch = _Batch.of(question)
    measured = {
        name: [measure(net, *batch.scaled(), seed) for seed, net in enumerate(nets)] for name, nets in _new(question)
    }
    for arm in outcomes.arms:
        for epoch in _moments(outcomes):
            runs = []
            for one in outcomes.of(arm):
                if file := _files(one).get(epoch):
                    model = open_model(file, "cpu")
                    images, labels = batch.scaled(model.weights.mean, model.weights.std)
                    runs.append(measure(model.net, images, labels, one.seed))
            if runs:
                measured[f"{arm}, {_after(epoch, outcomes)}"] = runs
    rows, numbers = zip(*(_told(name, runs) for name, runs in measured.items()), strict=True)
    headings = (
        "network",
        "response, first fifth",
        "last fifth",
        "gradient, first ÷ last",
        "in powers of ten",
        "likeness at the first",
        "seeds",
    )
    table = Table("Signals, mean over the seeds", headings, rows)
    depth, states = _depths(question)[-1], _states(outcomes)
    names = {kind: named(question, kind, depth) for kind in KINDS}
    return Conclusion(
        _verdict(names, states, measured),
        (table,),
        tuple(_figures(names, states, measured)),
        {"networks": list(numbers)},
        _NOTES + ((_FEW,) if min(map(len, measured.values())) < ENOUGH else ()),
    )


def _told(name: str, runs: list[list[Signal]]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """A row of the table, and the same for programs."""
    ratio = Spread.of([_decades(run) for run in runs])
    first, last = (
        _power(_mean([_mean_log(_fifth([one.response for one in run], end)) for run in runs])) for end in (False, True)
    )
    like = Spread.of([run[0].likeness for run in runs])
    blocks = [
        {key: _mean([getattr(run[block], key) for run in runs]) for key in Signal._fields}
        for block in range(len(runs[0]))
    ]
    numbers = {
        "network": name,
        "gradient_decades_first_over_last": ratio._asdict(),
        "likeness_at_first_block": like._asdict(),
        "blocks": blocks,
    }
    return (name, first, last, _power(ratio.mean), ratio.text(1), like.text(2), str(ratio.n)), numbers


_NOTES = (
    "Without norms networks are measured as they begin, not trained: every network here is trained with them.",
    "Gradient, first ÷ last: the mean norm at the inputs of the first fifth of the blocks over that of the last fifth.",
    f"Vanished: less than {VANISHED:g} of it reaches the first blocks.",
)

_FEW = f"Of fewer than {ENOUGH} seeds it is not known how much is chance."

STUDY = Study(
    name="signals",
    claim="Gradients vanish as networks get deeper, and shortcuts keep them alive",
    source="arXiv 1512.03385, §4.1 and Figure 7; arXiv 1702.08591, §2",
    arms=arms,
    conclude=conclude,
    options=frozenset(["depths", "design"]),
)


def _depths(question: Question) -> tuple[int, ...]:
    return tuple(sorted(set(question.depths or (DEPTHS if question.design is None else (1,)))))


def _twins(question: Question, depth: int) -> dict[str, Design]:
    if question.design is None:
        design = question.fitting(families.cifar(depth))
    else:
        design = question.fitting(deepened(question.design, depth))
    return {"plain": design.plain_twin(f"{design.name or 'design'}-plain"), "residual": design}


def _new(question: Question) -> Iterator[tuple[str, list[Network]]]:
    """Networks as they begin, by name."""
    seeds = range(question.seeds)
    for depth in _depths(question):
        for kind, design in _twins(question, depth).items():
            name, zero = named(question, kind, depth), question.recipe.zero_init
            yield f"{name}, new", [build(design, seed=seed, zero_init=zero) for seed in seeds]
            yield f"{name}, new, no norms", [without_norms(design, seed) for seed in seeds]
            yield f"{name}, new, no norms, small", [without_norms(design, seed, SMALL) for seed in seeds]


def _files(outcome: Outcome) -> dict[int, Path]:
    """The weights that a run left, by how many epochs were done."""
    return kept_epochs(outcome.folder) | {len(outcome.epochs): outcome.folder / WEIGHTS_FILE}


def _moments(outcomes: Outcomes) -> list[int]:
    """After how many epochs trained networks are measured: at the end, and of what was kept next to each quarter."""
    if not outcomes.whole:
        return []
    last, kept = _epochs(outcomes), {epoch for one in outcomes.whole for epoch in _files(one)}
    return sorted({min(kept, key=lambda epoch: abs(epoch - last * k / QUARTERS)) for k in range(1, QUARTERS + 1)})


def _epochs(outcomes: Outcomes) -> int:
    return max(len(one.epochs) for one in outcomes.whole)


def _after(epoch: int, outcomes: Outcomes) -> str:
    return f"after {epoch} of {_epochs(outcomes)} epochs"


def _states(outcomes: Outcomes) -> dict[str, str]:
    """What networks are measured in, as in their names, and in words."""
    return _STATES | {
        _after(epoch, outcomes): f"with batch norm {_after(epoch, outcomes)}" for epoch in _moments(outcomes)
    }


class _Batch(NamedTuple):
    """Training images, uint8 N C H W, their labels, and the mean and std of their pixels by channel."""

    pixels: Tensor
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, question: Question) -> "_Batch":
        images, _, _ = question.place.dataset.split(question.recipe.split.held_out, question.recipe.split.seed)
        half = max(LEAST_BATCH, min(BATCH, round(BATCH * (SIZE / question.size) ** 2))) // 2
        some = images.take([int(k) for k in torch.linspace(0, len(images) - 1, half).round().long()])
        loader = Loader(some, question.size, question.channels)
        return cls(*loader[torch.arange(half)], *loader.statistics())

    def scaled(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
        """Images as a network takes them, then the same moved a little towards one another; and their labels."""
        images = normalise(self.pixels, mean or self.mean, std or self.std)
        moved = (1 - MOVED) * images + MOVED * images.roll(1, 0)
        return torch.cat([images, moved]), self.labels.repeat(2)


def _likeness(gradient: Tensor) -> float:
    """However small they are, for each is scaled first; NaN where one of the images has no gradient."""
    one, two = (half - half.mean(1, keepdim=True) for half in gradient.flatten(1).chunk(2))
    one, two = (half / half.abs().amax(1, keepdim=True) for half in (one, two))
    return float(functional.cosine_similarity(one, two).mean())


def _fifth(values: Sequence[float], last: bool) -> Sequence[float]:
    count = max(1, len(values) // 5)
    return values[-count:] if last else values[:count]


def _decades(run: Sequence[Signal]) -> float:
    """log10 of the gradient's norm in the first blocks over that in the last."""
    values = [signal.gradient for signal in run]
    return _mean_log(_fifth(values, False)) - _mean_log(_fifth(values, True))


def _mean_log(values: Sequence[float]) -> float:
    return _mean([math.log10(max(value, 1e-300)) for value in values])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _power(decades: float) -> str:
    """Ten to that power, with two digits."""
    return f"{float(f'{10**decades:.1e}'):g}" if abs(decades) < 300 else "·"  # not of NaN either


def _verdict(names: dict[str, str], states: dict[str, str], measured: dict[str, list[list[Signal]]]) -> str:
    """Where the claim holds, and by what numbers."""
    held: dict[str, list[str]] = {}
    for state, said in states.items():
        runs = [measured.get(f"{name}, {state}") for name in names.values()]
        if any(each is None for each in runs):
            continue
        decades = [Spread.of([_decades(run) for run in each or ()]) for each in runs]
        holds = _HOLDS.get((_vanished(decades[0]), _vanished(decades[1])), UNTOLD)
        held.setdefault(holds, []).append(f"{said} ({', '.join(each.text(1) for each in decades)})")
    words = " ".join(f"{holds}: {'; '.join(where)}." for holds, where in held.items())
    like = [Spread.of([run[0].likeness for run in measured[f"{name}, new"]]).text() for name in names.values()]
    plain, residual = names.values()
    return (
        f"{words} In brackets, the gradient at the first blocks over that at the last in powers of ten, of {plain} and "
        f"{residual}. Gradients of neighbouring images, at the first block as networks with batch norm begin, "
        f"correlate by {like[0]} and {like[1]}."
    )


def _vanished(decades: Spread) -> bool | None:
    """Whether so little is left of the gradient, by all that chance allows; None where that cannot be told."""
    bound = math.log10(VANISHED)
    low, high = decades.interval() if decades.n > 1 else (decades.mean, decades.mean)
    return True if high < bound else False if low >= bound else None


_HOLDS: dict[tuple[bool | None, bool | None], str] = {
    (True, False): f"{HOLDS}, the gradient vanishing in the plain network alone",
    (True, True): f"{HALF}, the gradient vanishing in both networks",
    (False, False): f"{NOT}, the gradient vanishing in neither network",
    (False, True): f"{NOT}, the gradient vanishing in the residual network alone",
}


def _figures(
    names: dict[str, str], states: dict[str, str], measured: dict[str, list[list[Signal]]]
) -> Iterator[figures.Figure]:
    """Of the greatest depth: a figure for each signal, with a panel for each state of the networks."""
    told = {
        "response": "Standard deviation of the branches' outputs, block by block, as in the paper's Figure 7.",
        "gradient": "Norm of the loss's gradient at each block's input, block by block.",
        "likeness": "Correlation of the gradients of neighbouring images at each block's input.",
    }
    trained = [state for state in states if state not in _STATES]
    panels = {
        "with batch norm, as they begin": ["new"],
        **{f"with batch norm, {state}": [state] for state in dict.fromkeys((*trained[:1], *trained[-1:]))},
        "without norms, as they begin": ["new, no norms", "new, no norms, small"],
    }
    short = {"new, no norms": ", He's weights", "new, no norms, small": ", small weights"}
    for key, caption in told.items():
        drawn = []
        for title, shown in panels.items():
            wanted = [
                (f"{kind}{short.get(state, '')}", f"{name}, {state}") for state in shown for kind, name in names.items()
            ]
            lines = [
                _line(said, measured[name], key, style) for style, (said, name) in enumerate(wanted) if name in measured
            ]
            if lines:
                place = "place in the network, first to last"
                drawn.append(figures.Panel(title, place, key, lines, log=key != "likeness"))
        yield figures.lines(f"{caption} Of {' and '.join(names.values())}; mean over the seeds.", *drawn)


def _line(name: str, runs: list[list[Signal]], key: str, style: int) -> figures.Line:
    blocks = range(len(runs[0]))
    values = [_mean([getattr(run[block], key) for run in runs]) for block in blocks]
    return figures.Line(
        name, [(block + 1) / len(blocks) for block in blocks], values, style=style, marked=len(blocks) <= 12
    )
