"""Where randomness comes from: the seed and the place in the run, never a state that must be saved.

Whoever resumes at epoch 3, step 17 draws what the run that was not interrupted drew there.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor


def chance(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator of its own for each seed and place, such as ("crop", epoch, step)."""
    digest = hashlib.sha256(json.dumps([seed, *place]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Draws:
    """Random numbers for the `whole` images of a batch, of which this process holds `count`, from `start` on.

    All are drawn and a part is taken, so that several processes together draw what one would.
    """

    chance: torch.Generator
    whole: int
    start: int
    count: int

    def uniform(self, low: float, high: float, columns: int | None = None) -> Tensor:
        """float64, N or N `columns`, from `low` up to `high`."""
        return low + (high - low) * self._mine(torch.rand(self._shape(columns), generator=self.chance, dtype=_EXACT))

    def normal(self, columns: int | None = None) -> Tensor:
        """float64, N or N `columns`, of mean 0 and deviation 1."""
        return self._mine(torch.randn(self._shape(columns), generator=self.chance, dtype=_EXACT))

    def below(self, high: int, columns: int | None = None) -> Tensor:
        """int64, N or N `columns`, from 0 to `high` - 1."""
        return self._mine(torch.randint(high, self._shape(columns), generator=self.chance))

    def _shape(self, columns: int | None) -> tuple[int, ...]:
        return (self.whole,) if columns is None else (self.whole, columns)

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn[self.start : self.start + self.count]


_EXACT = torch.float64
