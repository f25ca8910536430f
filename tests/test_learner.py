"""One step: what saves memory changes nothing that is learned."""

import copy
from typing import Any

import pytest
import torch

from plusx import fused
from plusx.data.augment import Mixed
from plusx.families import cifar
from plusx.learner import Learner, Pixels, make_optimizer
from plusx.native import NotCompiledError
from plusx.network import build
from plusx.ranks import Ranks
from plusx.recipe import Recipe, Sgd, preset
from plusx.speed import Speed

PLAIN = Recipe(batch_size=32, label_smoothing=0.1)
BATCH = Mixed(
    torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
    torch.arange(32) % 10,
)


FLOAT32 = Speed(None, False, False, "float32")
FUSED = Speed(torch.bfloat16, True, False, "bfloat16, channels last, norms fused", fuse=True)


def after_steps(
    recipe: Recipe, steps: int = 3, batch: Mixed = BATCH, speed: Speed = FLOAT32
) -> dict[str, torch.Tensor]:
    pixels, here = Pixels((0.5,) * 3, (0.25,) * 3), Ranks(0, 1, torch.device("cpu"))
    learner = Learner(build(cifar(8), seed=0), recipe, pixels, here, speed)
    for _ in range(steps):
        assert learner.step(batch, len(batch.images), 1.0).finite
    return learner.net.state_dict()


@pytest.mark.parametrize("speed", [FLOAT32, FUSED], ids=["float32", "fused"])
def test_computing_blocks_again_gives_the_same_bits(speed: Speed) -> None:
    """Weights, and the running statistics of batch norms, which must not take in the second pass."""
    if speed.fuse:
        try:
            fused.check()
        except NotCompiledError as problem:
            pytest.skip(str(problem))
    plain, again = (after_steps(PLAIN.replace(checkpoint_blocks=again), speed=speed) for again in (False, True))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert int(plain["stages.0.0.branch.0.norm.num_batches_tracked"]) == 3


def test_parts_add_up_to_the_gradient_of_the_whole() -> None:
    """With parts that are the same images, batch norm sees the same: only the order of sums differs."""
    twice = Mixed(BATCH.images.repeat(2, 1, 1, 1), BATCH.labels.repeat(2))
    whole, parts = after_steps(PLAIN, 1), after_steps(PLAIN.replace(accumulate=2), 1, twice)
    for name in ("stages.0.0.branch.0.conv.weight", "head.fc.weight"):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)


def test_a_long_gradient_is_shortened() -> None:
    start = build(cifar(8), seed=0).state_dict()
    spec = PLAIN.optimizer.replace(weight_decay=0.0, nesterov=False)
    moved: dict[Any, float] = {}
    for most in (None, 1e-3):
        end = after_steps(PLAIN.replace(clip_norm=most, optimizer=spec), 1)
        weights = [name for name in end if name.endswith(("weight", "bias"))]
        moved[most] = float(torch.stack([(end[name] - start[name]).norm() for name in weights]).norm())
    assert moved[1e-3] == pytest.approx(1e-3 * spec.lr, rel=1e-2)
    assert moved[None] > 10 * moved[1e-3]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_and_copies_no_gradient(nesterov: bool) -> None:
    net = build(cifar(8), seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = copy.deepcopy(net)
    recipe = preset("quick")
    assert isinstance(recipe.optimizer, Sgd)
    momentum = recipe.optimizer.momentum
    recipe = recipe.replace(optimizer=recipe.optimizer.replace(nesterov=nesterov, lr=0.1))
    ours = make_optimizer(net, recipe, fused=True)
    theirs = make_optimizer(other, recipe, fused=True)
    plain = torch.optim.SGD(theirs.param_groups, momentum=momentum, nesterov=nesterov, fused=True)
    for step in range(3):
        for one, two in zip(net.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step)).to(one)
            one.grad = one.grad.contiguous(memory_format=torch.channels_last) if one.dim() == 4 else one.grad
            two.grad = one.grad.clone()
        with torch.profiler.profile() as profile:
            ours.step()
        plain.step()
    assert all(map(torch.equal, net.parameters(), other.parameters()))
    assert "aten::clone" not in {event.key for event in profile.key_averages()}
    held = [state["momentum_buffer"] for state in ours.state.values()]
    assert [value.shape for value in held] == [
        parameter.shape for group in ours.param_groups for parameter in group["params"]
    ]
