"""Means, standard deviations and confidence intervals of a few numbers; and spans of time in words."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from plusx.errors import InputError

ENOUGH = 3
"""Numbers that it takes to tell a difference from chance: two that happen to lie close together prove nothing."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Spread(NamedTuple):
    """Of n numbers: their mean, and their standard deviation (of a sample; 0 for one number)."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float], grain: float = 0.0) -> "Spread":
        """Of some numbers; NaN for none, and where one of them is not finite.

        grain: the step in which they are measured, such as one image of those held out; numbers that are equal may
        differ by as much, and the standard deviation is at least that of such a rounding.
        """
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, len(values))
        std = max(statistics.stdev(values), grain / math.sqrt(12)) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), std, len(values))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the mean lies with that confidence, by Student's t; unbounded for fewer than two numbers."""
        if self.n < 2:
            return -math.inf, math.inf
        from scipy.stats import t

        reach = float(t.ppf((1 + level) / 2, self.n - 1)) * self.std / math.sqrt(self.n)
        return self.mean - reach, self.mean + reach

    def with_interval(self) -> dict[str, float | int | None]:
        """As plain data, with the ends of the 95 % interval as low and high, or None."""
        low, high = self.interval() if self.n > 1 else (None, None)
        return {**self._asdict(), "low": low, "high": high}

    def p_value(self) -> float:
        """How often chance alone gives a mean as far from 0, by Student's t; 1 for fewer than `ENOUGH` numbers."""
        if self.n < ENOUGH or self.mean == 0 or not math.isfinite(self.mean):
            return 1.0
        if self.std == 0:
            return 0.0
        from scipy.stats import t

        return 2 * float(t.sf(abs(self.mean) * math.sqrt(self.n) / self.std, self.n - 1))

    def text(self, digits: int = 2) -> str:
        """As "mean ± std", without what it has not; "·" for none."""
        if not math.isfinite(self.mean):
            return "·"
        return f"{self.mean:.{digits}f} ± {self.std:.{digits}f}" if self.n > 1 else f"{self.mean:.{digits}f}"

    def gap_text(self, digits: int = 2) -> str:
        """A difference as "+mean (low to high)", the 95 % interval in brackets where there is one; "·" for none."""
        if not math.isfinite(self.mean):
            return "·"
        if self.n < 2:
            return f"{self.mean:+.{digits}f}"
        low, high = self.interval()
        return f"{self.mean:+.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    def interval_text(self, digits: int = 2) -> str:
        """The 95 % interval, in words."""
        if self.n < 2:
            return f"no interval from {'one seed' if self.n else 'no seed in common'}"
        low, high = self.interval()
        return f"95 % interval {low:.{digits}f} to {high:.{digits}f}, n = {self.n}"


def gap(more: Mapping[int, float], less: Mapping[int, float], grain: float = 0.0) -> Spread:
    """How much larger values are than others, seed by seed; of the seeds that both have. grain: see `Spread.of`."""
    return Spread.of([value - less[seed] for seed, value in sorted(more.items()) if seed in less], grain)


def beyond_chance(differences: Sequence[Spread], level: float = 0.05) -> list[bool]:
    """Which of several means are not 0, so that chance names any wrongly in `level` of all cases (Holm 1979).

    None of fewer than `ENOUGH` numbers.
    """
    ranked = sorted(range(len(differences)), key=lambda index: differences[index].p_value())
    found = [False] * len(differences)
    for rank, index in enumerate(ranked):
        if differences[index].p_value() > level / (len(differences) - rank):
            break
        found[index] = True
    return found


def duration(seconds: float) -> str:
    """As "1h05m", "3m20s" or "4.2s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    minutes = round(seconds) // 60
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{round(seconds) % 60:02d}s"


def parse_duration(text: str) -> float:
    """Seconds in "15m", "1h30m", "90s" or "90". Raises InputError."""
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip().lower())
    try:
        if found is None or not any(found.groups()):
            raise ValueError
        seconds = sum(float(part or 0) * unit for part, unit in zip(found.groups(), _UNITS.values(), strict=True))
    except ValueError:
        raise InputError(f"budget {text!r} is no span of time such as 15m, 1h30m or 90s") from None
    if seconds <= 0:
        raise InputError(f"budget {text!r} is no time at all")
    return seconds
