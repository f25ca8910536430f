"""C++ of our own, compiled for this machine by its C++ compiler (`$CXX`, else g++) when it is first used, and kept.

    function(Symbol(Path("….cpp"), "name", (ctypes.c_void_p, …)))    the function of that name
    available(…)                                                    the same, or None where it cannot be had

The compiled file lies in the cache under a name that says all it depends on: source, compiler, options, processor.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plusx.files import cache_folder, written_whole

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17")


class NotCompiledError(Exception):
    """The C++ cannot be compiled or loaded here; the message says why."""


class Symbol(NamedTuple):
    """A function of a C++ file that gives nothing back, and the ctypes of its arguments."""

    source: Path
    name: str
    types: tuple[Any, ...]


@functools.cache
def function(symbol: Symbol) -> Callable[..., None]:
    """The compiled function. Raises NotCompiledError, the same one each time."""
    library = _library(symbol.source)
    if isinstance(library, NotCompiledError):
        raise library
    found = library[symbol.name]
    found.argtypes, found.restype = symbol.types, None
    return found


def available(symbol: Symbol) -> Callable[..., None] | None:
    """The same; None where it cannot be compiled."""
    try:
        return function(symbol)
    except NotCompiledError:
        return None


@functools.cache
def _library(source: Path) -> ctypes.CDLL | NotCompiledError:
    wanted = os.environ.get("CXX", "g++")
    try:
        name, *options = shlex.split(wanted) or ["g++"]
        compiler = shutil.which(name)
        if compiler is None:
            return NotCompiledError(f"there is no C++ compiler ({name})")
        return _load(source, [compiler, *options, *_FLAGS])
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as problem:
        return NotCompiledError(f"{wanted}: {' '.join(str(problem).split())[:200]}")


def forget() -> None:
    """Look anew for compilers and compiled files the next time."""
    function.cache_clear()
    _library.cache_clear()


def _load(source: Path, command: Sequence[str]) -> ctypes.CDLL:
    compiled = cache_folder() / "compiled" / f"{source.stem}-{_key(source, command)}.so"
    try:
        return ctypes.CDLL(str(compiled))
    except OSError:  # not there, or damaged
        compiled.parent.mkdir(parents=True, exist_ok=True)
        _compile(source, command, compiled)
        return ctypes.CDLL(str(compiled))


def _compile(source: Path, command: Sequence[str], compiled: Path) -> None:
    with written_whole(compiled) as fresh:
        whole = [*command, str(source), "-o", str(fresh)]
        done = subprocess.run(whole, capture_output=True, text=True, errors="replace", timeout=300)
        if done.returncode:
            raise OSError(next(iter(done.stderr.splitlines()), f"exit code {done.returncode}"))


def _key(source: Path, command: Sequence[str]) -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(errors="replace").splitlines() if cpu.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model"))][:4]
    about = "\n".join([platform.machine(), str(Path(command[0]).stat().st_mtime_ns), *command, *flags])
    return hashlib.sha256(source.read_bytes() + about.encode(errors="replace")).hexdigest()[:16]
