"""Makes the peers importable: torchvision's wheel expects operators that a CPU build of torch does not have.

And one default run of training, for all tests that look at one.
"""

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from plusx.train import Run

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """`plusx train` with no arguments but a folder of its own."""
    from plusx.train import train

    return train(out=tmp_path_factory.mktemp("digits") / "run", show=False)
