"""Weights on the Hugging Face hub: `hf://owner/name`, or `hf://owner/name@revision`, as a file on this machine.

Only `model.safetensors` is asked for: it is no pickle, and a file of plusx carries all that is needed. An extra:
pip install 'plusx[hub]'. Errors say in plusx's own words what went wrong; the hub's, which may quote addresses and
what was sent, are not passed on.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from plusx import __version__
from plusx.checkpoint import WEIGHTS_FILE
from plusx.errors import InputError, PlusxError, WeightsError, WorkError

_ADDRESS = re.compile(r"hf:/{1,2}([^@]*)(?:@(.*))?", re.DOTALL)  # one slash: Path has made it of two
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_LONGEST = 96


def fetched(path: str | Path) -> Path:
    """The path itself; of an `hf://…` the file that the hub has under it, downloaded where it is not kept here yet.

    Raises InputError for a name that no repository can have and where the extra is missing, WeightsError where the hub
    has no such file or does not show it, WorkError where it cannot be asked.
    """
    address = _ADDRESS.fullmatch(str(path))
    if address is None:
        return Path(path)
    name, revision = address[1], address[2]
    check_name("reading hf://", name)
    where = f"reading hf://{name}" + (f"@{revision[:_LONGEST]}" if revision else "")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(f"reading hf://{name}: {revision[:_LONGEST]!r} is no revision: a branch, a tag or a commit")
    hub = library(where)
    with asking(where):
        kept = hub.hf_hub_download(
            name, WEIGHTS_FILE, revision=revision, library_name="plusx", library_version=__version__
        )
    return Path(kept)


def check_name(where: str, name: str) -> None:
    """Raise InputError, after `where`, for what is no owner/name of the hub."""
    right = isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= _LONGEST
    if not right or "--" in name or ".." in name or name.endswith(".git"):
        raise InputError(
            f"{where}: {str(name)[:_LONGEST]!r} is no owner/name of the hub: letters, digits, and - _ . between them, "
            f"{_LONGEST} at most"
        )


def library(where: str) -> ModuleType:
    """huggingface_hub. Raises InputError where the extra is missing."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{where}: the hub is an extra: pip install 'plusx[hub]'") from None
    return huggingface_hub


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Around what asks the hub: whatever goes wrong is one line, and none of the hub's own words are in it.

    Raises WeightsError for what the hub has not or does not show, WorkError for everything else.
    """
    try:
        yield
    except PlusxError:
        raise
    except Exception as problem:  # the library's own, its transport's, the disk's
        kind, why = _told(problem)
        raise kind(f"{where}: {why}") from None


def _told(problem: Exception) -> tuple[type[PlusxError], str]:
    """A problem of huggingface_hub's as plusx says it."""
    from huggingface_hub import errors

    match problem:
        case errors.GatedRepoError():
            return WeightsError, "its owner gives access on request only; ask for it on its page, then hf auth login"
        case errors.RepositoryNotFoundError():
            return WeightsError, "the hub has no such model, or it is private; hf auth login shows it to its owners"
        case errors.RevisionNotFoundError():
            return WeightsError, "the model has no such revision"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return WorkError, "the hub cannot be reached, and nothing of it is kept on this machine"
        case errors.EntryNotFoundError():
            return WeightsError, f"the model has no {WEIGHTS_FILE}, which is the one file that is read"
        case errors.LocalTokenNotFoundError():
            return WorkError, "nobody is logged in; hf auth login does it"
        case errors.HfHubHTTPError():
            return WorkError, _answer(getattr(problem.response, "status_code", None))
        case OSError(strerror=str() as words):  # the disk's, or the network's
            return WorkError, words
        case _:
            return WorkError, f"the hub could not be asked ({type(problem).__name__})"


def _answer(status: int | None) -> str:
    """What an HTTP status means for a person."""
    match status:
        case 401:
            return "the hub does not know who asks; hf auth login"
        case 403:
            return "the hub refuses: who is logged in may not do this"
        case _:
            return f"the hub answered {status}"
