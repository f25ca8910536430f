"""Makes the peers importable: torchvision's wheel expects operators that a CPU build of torch does not have.

And two runs of training, for all tests that look at one: the default, and one on colour images in folders.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of what tests start: threads that outnumber the cores only wait

import pytest
import torch

from tests.sharing import once

if TYPE_CHECKING:
    from plusx.records import Run

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker waits for another's at the end."""
    items.sort(key=lambda item: "test_the_tour_runs" not in item.nodeid)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and where in it what is compiled will lie."""
    from plusx import native

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.forget()
    yield tmp_path / "cache" / "plusx" / "compiled"
    native.forget()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """`plusx train` with no arguments but a folder of its own; trained once for all workers of pytest."""
    from plusx.train import train

    run = once(tmp_path_factory, "default-run", lambda folder: train(out=folder / "run", show=False))
    return replace(run, folder=shutil.copytree(run.folder, tmp_path_factory.mktemp("digits") / "run"))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, Run]":
    """A folder of blue, green and red images, and a network that tells them apart."""
    from plusx.families import cifar
    from plusx.recipe import Recipe
    from plusx.train import train
    from tests.images import colour_folders

    root = tmp_path_factory.mktemp("colours")
    data = colour_folders(root / "photos", images=20)
    run = train(data, design=cifar(8), recipe=Recipe(epochs=8, batch_size=16), out=root / "run", show=False)
    assert run.accuracy_percent == 100
    return data, run
