"""Where plusx keeps files of its own; and writing one so that there is always the old one or the whole new one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving, what was written is flushed to the disk and takes `path`'s place.

    Raises OSError when the disk refuses. Nothing of a failed or interrupted attempt is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # as the user's umask says; safetensors would make it private
        yield beside
        beside.chmod(mode)
        flush(beside)
        beside.replace(path)
        flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's content, or what names a folder holds, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_folder() -> Path:
    """Where downloads are kept, and what was compiled or measured: `$XDG_CACHE_HOME/plusx`, else `~/.cache/plusx`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plusx"
