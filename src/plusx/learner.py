"""One step of training, whatever the device: `Learner` holds the network, its optimiser and its average.

    forward (autocast, in parts) → backward (gradients averaged over the processes) → finite? → update, average

A step in which the loss, a gradient or a batch norm's statistics are not finite is undone: nothing of it stays.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

from plusx import state
from plusx.data.augment import Mixed, normalise
from plusx.network import Network
from plusx.ranks import Ranks
from plusx.recipe import Finetune, Recipe
from plusx.speed import Speed
from plusx.state import Position, State


class Outcome(NamedTuple):
    """What one step gave, over all processes.

    loss: the mean over the batch, in nats. right: images named right. finite: False where the step was undone.
    stop: whether some process was asked to stop.
    """

    loss: float
    right: int
    finite: bool
    stop: bool


@dataclass(frozen=True)
class Pixels:
    """Per channel, of pixel values from 0 to 1: what is subtracted and divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Learner:
    """A network that learns. `net` is the one being trained; `kept` the one to evaluate and to keep."""

    def __init__(self, net: Network, recipe: Recipe, pixels: Pixels, ranks: Ranks, speed: Speed) -> None:
        self.recipe, self.pixels, self.ranks, self.speed = recipe, pixels, ranks, speed
        if ranks.world > 1 and recipe.norm == "all":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        self.net: Network = net.to(ranks.device).to(memory_format=speed.memory_format)  # type: ignore[call-overload]
        if recipe.finetune is not None:
            _hold(self.net, recipe.finetune)
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval() if recipe.ema else None
        self.optimizer = make_optimizer(self.net, recipe, fused=ranks.device.type in ("cpu", "cuda"))
        self._forward: Any = speed.prepare(self.net)
        if recipe.checkpoint_blocks:
            for block in self.net.blocks():
                block.forward = _Again(block)
        if ranks.world > 1:
            with ranks.together():
                self._forward = DistributedDataParallel(self._forward, device_ids=_ids(ranks.device))
        self.net.train()
        self._parameters = list(self.net.parameters())
        self._statistics = [buffer for buffer in self.net.buffers() if buffer.is_floating_point()]
        self._counters = [buffer for buffer in self.net.buffers() if not buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in (*self._statistics, *self._counters)]

    @property
    def kept(self) -> Network:
        """The averaged network where there is one."""
        return self.net if self.ema is None else self.ema

    def step(
        self,
        batch: Mixed,
        whole: int,
        factor: float,
        *,
        updates: int = 0,
        head_only: bool = False,
        stop: bool = False,
    ) -> Outcome:
        """One step on this process's part of a batch of `whole` images, at `factor` times the learning rate.

        updates: how often the weights were changed before. head_only: leave all but the head as it is. stop: whether
        this process was asked to stop.
        """
        if not self.net.training:  # after an evaluation
            self.net.train()
        self.optimizer.zero_grad()
        self._remember()
        with self.ranks.together():
            loss, right = self._backward(batch, whole)
        norm = self._gradient_norm()
        flags = [loss, float(right), float(not self._finite(loss, norm)), float(stop)]
        loss, right_, bad, stops = self.ranks.add(torch.tensor(flags, dtype=torch.float64)).tolist()
        if bad:
            self._undo()
            return Outcome(loss, 0, False, stops > 0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * (0.0 if head_only and not group["head"] else factor)
        self.optimizer.step()
        if self.ema is not None:
            self._average(updates + 1)
        return Outcome(loss, int(right_), True, stops > 0)

    def _backward(self, batch: Mixed, whole: int) -> tuple[float, int]:
        """Gradients of the mean loss over the whole batch. Gives this process's share of that loss, and its hits."""
        loss, right, parts = torch.zeros((), device=self.ranks.device), 0, self.recipe.accumulate
        for index, part in enumerate(_parts(batch, parts)):
            with self._unsynced() if index < parts - 1 else nullcontext():
                with self.speed.autocast(self.ranks.device):
                    logits = self._forward(self.images(part.images))
                part_loss = self._loss(logits.float(), part) / whole
                (part_loss * self.ranks.world).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
            right += int((logits.argmax(1) == part.labels).sum())
        return float(loss), right

    def images(self, images: Tensor) -> Tensor:
        """uint8 N C H W as the network takes them."""
        images = images.contiguous(memory_format=self.speed.memory_format)
        return normalise(images, self.pixels.mean, self.pixels.std)

    def _loss(self, logits: Tensor, batch: Mixed) -> Tensor:
        """The sum over the images, labels smoothed, and shared between two where images are mixed."""
        smooth = self.recipe.label_smoothing
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=smooth, reduction="sum")
        if batch.other is None:
            return loss
        other = functional.cross_entropy(logits, batch.other, label_smoothing=smooth, reduction="sum")
        return batch.share * loss + (1 - batch.share) * other

    def _unsynced(self) -> AbstractContextManager[None]:
        parallel = self._forward
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()

    def _gradient_norm(self) -> float:
        if self.recipe.clip_norm is not None:
            return float(clip_grad_norm_(self._parameters, self.recipe.clip_norm))
        return float(get_total_norm([each.grad for each in self._parameters if each.grad is not None]))

    def _finite(self, loss: float, norm: float) -> bool:
        statistics = float(torch.stack(torch._foreach_norm(self._statistics)).sum()) if self._statistics else 0.0
        return math.isfinite(loss) and math.isfinite(norm) and math.isfinite(statistics)

    def _remember(self) -> None:
        torch._foreach_copy_(self._before, [*self._statistics, *self._counters])

    def _undo(self) -> None:
        torch._foreach_copy_([*self._statistics, *self._counters], self._before)

    def _average(self, updates: int) -> None:
        assert self.ema is not None
        assert self.recipe.ema is not None
        weight = 1 - min(self.recipe.ema.decay, (1 + updates) / (10 + updates))
        ours, theirs = self.ema.state_dict(), self.net.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], weight)
        for name, value in ours.items():
            if not value.is_floating_point():
                value.copy_(theirs[name])

    def suspect(self, batch: Mixed) -> str:
        """Where in the network something is not finite: the first layer that gives it, or that has such a gradient."""
        found: list[str] = []

        def look(name: str, given: Tensor) -> None:
            if not _is_finite(given):
                found.append(name)

        layers = [(name, layer) for name, layer in self.net.named_modules() if name and not list(layer.children())]
        hooks = [
            layer.register_forward_hook(lambda _, __, given, name=name: look(name, given)) for name, layer in layers
        ]
        with torch.no_grad(), self.speed.autocast(self.ranks.device):
            self.net(self.images(batch.images))
        for hook in hooks:
            hook.remove()
        parameters = list(self.net.named_parameters())
        weights = [f"the weights {name}" for name, value in parameters if not _is_finite(value)]
        grads = [f"the gradient of {name}" for name, value in parameters if not _is_finite(value.grad)]
        return (*weights, *(f"layer {name}" for name in found), *reversed(grads), "the loss")[0]

    def capture(self, position: Position) -> State:
        """Everything to go on from here, copied."""
        return state.capture(position, self.net, self.optimizer, self.ema)

    def restore(self, saved: State) -> None:
        """Go on from there. Raises WeightsError."""
        state.restore(saved, self.net, self.optimizer, self.ema)


def make_optimizer(net: Network, recipe: Recipe, *, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimiser over the network's parameters, in groups by stage and by whether they decay.

    A group's `base_lr` is its learning rate at factor 1, `head` whether it is the head's.
    """
    spec = recipe.optimizer
    groups = list(_groups(net, recipe))
    if spec.kind == "sgd":
        return _SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=fused)


class _SGD(torch.optim.SGD):
    """Torch's. Its fused step on a CPU calls `contiguous` on each gradient and makes no use of what that gives, which
    of one that lies channels last is a copy; here it is given as it lies in memory."""

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], momenta: list[Tensor | None]
    ) -> bool:
        sparse: bool = super()._init_group(group, params, grads, momenta)  # type: ignore[no-untyped-call]
        if group["fused"] and all(momentum is not None for momentum in momenta):  # which the first step makes
            grads[:] = [_as_it_lies(gradient) for gradient in grads]
        return sparse


def _as_it_lies(values: Tensor) -> Tensor:
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return values.permute(0, 2, 3, 1) if last and values.device.type == "cpu" else values


def _groups(net: Network, recipe: Recipe) -> Iterator[dict[str, Any]]:
    spec, tuned = recipe.optimizer, recipe.finetune
    for part, behind in _parts_of(net):
        rate = spec.lr * (tuned.layer_decay**behind if tuned is not None else 1.0)
        by_decay: dict[float, list[nn.Parameter]] = {}
        for parameter in part.parameters():
            if parameter.requires_grad:
                decays = spec.decay_all or parameter.dim() > 1
                by_decay.setdefault(spec.weight_decay if decays else 0.0, []).append(parameter)
        for decay, parameters in by_decay.items():
            yield {"params": parameters, "weight_decay": decay, "base_lr": rate, "head": part is net.head}


def _is_finite(values: Tensor | None) -> bool:
    return values is None or bool(values.isfinite().all())


def _parts_of(net: Network) -> Iterable[tuple[nn.Module, int]]:
    """Stem, stages and head, each with the number of parts behind it."""
    parts = [net.stem, *net.stages, net.head]
    return zip(parts, reversed(range(len(parts))), strict=True)


def _hold(net: Network, tuned: Finetune) -> None:
    """Hold still what finetuning does not train."""
    if tuned.freeze >= 0:
        net.freeze(tuned.freeze, norm="all" if tuned.freeze_norm else True)
    elif tuned.freeze_norm:
        net.freeze(0, norm="all")
        net.stem.requires_grad_(True)


def _parts(batch: Mixed, parts: int) -> Iterator[Mixed]:
    if parts == 1:
        yield batch
        return
    cut = [torch.tensor_split(part, parts) for part in (batch.images, batch.labels)]
    others = [None] * parts if batch.other is None else torch.tensor_split(batch.other, parts)
    for images, labels, other in zip(*cut, others, strict=True):
        if len(images):
            yield Mixed(images, labels, other, batch.share)


def _ids(device: torch.device) -> list[int] | None:
    return [device.index] if device.type == "cuda" and device.index is not None else None


class _Again:
    """A block's forward whose inner values are not kept but computed again for the backward pass.

    The second time, batch norms leave their running statistics alone.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.forward = block, block.forward

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.forward(x)  # type: ignore[no-any-return]
        again: Tensor = checkpoint(
            self.forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _StatisticsHeld(self.block))
        )
        return again


class _StatisticsHeld:
    """While it lasts, batch norms normalise by their batch, and their running statistics stay."""

    def __init__(self, block: nn.Module) -> None:
        self.norms = [part for part in block.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self) -> None:
        self.own = [dict(norm._buffers) for norm in self.norms]
        for norm in self.norms:
            norm._buffers.update({name: value.clone() for name, value in norm._buffers.items() if value is not None})

    def __exit__(self, *_: object) -> None:
        for norm, own in zip(self.norms, self.own, strict=True):
            norm._buffers.update(own)
