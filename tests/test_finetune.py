"""From trained weights to other classes: the head first, then the rest, earlier stages at smaller rates."""

from pathlib import Path
from typing import Any

import pytest
import torch

import plusx
from plusx.checkpoint import Weights, read_weights, write_weights
from plusx.errors import InputError
from plusx.families import cifar
from plusx.learner import make_optimizer
from plusx.network import build
from plusx.recipe import Finetune, Recipe
from plusx.train import train
from tests.images import colour_folders

STAGE = "stages.0.0.branch.0.conv.weight"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Weights of a network of 10 classes that has seen something."""
    net = build(cifar(8), seed=1)
    net(torch.randn(64, 3, 16, 16))
    return write_weights(tmp_path / "start.safetensors", Weights(net.design, net.state_dict()))


def tuned(start: Path, folder: Path, **finetune: Any) -> dict[str, torch.Tensor]:
    data = folder / "photos"
    if not data.is_dir():
        colour_folders(data, images=12)
    recipe = Recipe(name="t", epochs=2, batch_size=8, finetune=Finetune(**finetune))
    out = folder / f"run{len(list(folder.iterdir()))}"
    train(data, weights=start, recipe=recipe, out=out, show=False)
    return read_weights(out).tensors


def test_only_the_head_is_trained_at_first(start: Path, tmp_path: Path) -> None:
    before, after = read_weights(start).tensors, tuned(start, tmp_path, head_epochs=2.0)
    assert torch.equal(after[STAGE], before[STAGE])
    assert after["head.fc.weight"].shape == (3, 64)
    running = "stages.1.0.branch.0.norm.running_mean"
    assert torch.equal(after[running], before[running])


def test_then_the_rest_but_what_is_frozen(start: Path, tmp_path: Path) -> None:
    before, after = read_weights(start).tensors, tuned(start, tmp_path, head_epochs=1.0)
    assert not torch.equal(after[STAGE], before[STAGE])
    frozen = tuned(start, tmp_path, head_epochs=0.0, freeze=1, freeze_norm=False)
    assert torch.equal(frozen[STAGE], before[STAGE])
    last = "stages.2.0.branch.0"
    assert not torch.equal(frozen[f"{last}.conv.weight"], before[f"{last}.conv.weight"])
    assert not torch.equal(frozen[f"{last}.norm.running_mean"], before[f"{last}.norm.running_mean"])


def test_rates_shrink_from_the_head_back() -> None:
    recipe = Recipe(optimizer={"lr": 1.0, "decay_all": False}, finetune=Finetune(layer_decay=0.5))  # type: ignore[arg-type]
    groups = make_optimizer(build(cifar(8)), recipe, fused=True).param_groups
    rates = {group["base_lr"]: group["head"] for group in groups}
    assert rates == {1.0: True, 0.5: False, 0.25: False, 0.125: False, 0.0625: False}
    for group in groups:
        assert all((value.dim() > 1) == (group["weight_decay"] > 0) for value in group["params"])


def test_weights_bring_their_design(start: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the weights bring their design"):
        plusx.train(weights=start, design="resnet18", out=tmp_path / "run", show=False)
