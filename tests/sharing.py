"""What is made once for all workers of pytest, which have a process each."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` gave to the worker that asked first. It is given a folder of its own."""
    place = factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    kept = place / f"{name}.pickle"
    with FileLock(place / f"{name}.lock"):
        if not kept.exists():
            (place / name).mkdir(exist_ok=True)
            kept.write_bytes(pickle.dumps(make(place / name)))
    found: T = pickle.loads(kept.read_bytes())
    return found
