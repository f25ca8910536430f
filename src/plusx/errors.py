"""The errors of plusx, all of them.

    PlusxError
    ├── InputError (also a ValueError)   what was given is wrong; the command line exits with 2
    │   ├── DesignError                  a Design, a block's options, a family's name or depth
    │   ├── RecipeError                  a training recipe
    │   ├── WeightsError                 a weights file or checkpoint
    │   └── DataError                    images, folders, datasets
    └── WorkError (also a RuntimeError)  the input was right, the work failed; the command line exits with 1
        └── DivergedError                a training whose loss or steps are not finite

A message is one line: what was being done, on what, what was found, what is accepted, and where.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class PlusxError(Exception):
    """The base of every error plusx raises on purpose."""


class InputError(PlusxError, ValueError):
    """What the caller gave is wrong; nothing was done."""


class DesignError(InputError):
    """A Design, a block's options, or a family's name or depth is wrong."""


class RecipeError(InputError):
    """A training recipe is wrong."""


class WeightsError(InputError):
    """A weights file cannot be read, recognised, or expressed in the dialect asked for."""


class DataError(InputError):
    """Images or a dataset are missing, unreadable, or unfit."""


class WorkError(PlusxError, RuntimeError):
    """The input was right, and the work failed."""


class DivergedError(WorkError):
    """A training whose loss or steps are not finite, so that it cannot go on."""


def check_one_of(what: str, value: object, known: Iterable[str], error: type[InputError] = InputError) -> None:
    """Raise `error`, naming `known` and the nearest of them, unless `value` is one: `tta 'flop' is not one of …`."""
    known = tuple(known)
    if value not in known:
        raise error(f"{what} {value!r} is not one of {', '.join(known)}{did_you_mean(str(value), known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'width'?"` when `word` is nearly one of `known`, else the empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
