"""C++ compiled when it is first used: once, kept, and without it a reason."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from plusx import native
from plusx.native import NotCompiledError, library

SOURCE = 'extern "C" int twice(int value) { return 2 * value; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "twice.cpp"
    path.write_text(SOURCE)
    return path


def missing() -> bool:
    try:
        library(Path(native.__file__).with_name("fused.cpp"))
    except NotCompiledError:
        return True
    return False


needs_compiler = pytest.mark.skipif(missing(), reason="no C++ compiler that can")


@needs_compiler
def test_compiled_once_and_kept(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library(source).twice(21) == 42
    (compiled,) = fresh.iterdir()
    before = compiled.stat().st_mtime_ns
    native.forget()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library(source).twice(4) == 8
    assert compiled.stat().st_mtime_ns == before


@needs_compiler
def test_another_source_or_option_is_another_file(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(source)
    source.write_text(SOURCE.replace("2 *", "3 *"))
    native.forget()
    assert library(source).twice(4) == 12
    monkeypatch.setenv("CXX", "g++ -O1")
    native.forget()
    library(source)
    assert len(list(fresh.iterdir())) == 3


@needs_compiler
def test_a_damaged_file_is_compiled_anew(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = native._compile

    def broken(source: Path, command: Sequence[str], compiled: Path) -> None:
        whole(source, command, compiled)
        compiled.write_bytes(b"no library")

    monkeypatch.setattr(native, "_compile", broken)
    with pytest.raises(NotCompiledError):
        library(source)
    monkeypatch.setattr(native, "_compile", whole)
    native.forget()
    assert library(source).twice(2) == 4
    assert len(list(fresh.iterdir())) == 1


def test_a_broken_compiler_is_named_and_leaves_nothing(
    fresh: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken-g++"
    compiler.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NotCompiledError, match=r"broken-g\+\+: no such option"):
        library(source)
    assert list(fresh.iterdir()) == []


def test_no_compiler_and_no_place_are_named(source: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):  # the second time it is known
        with pytest.raises(NotCompiledError, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
            library(source)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    native.forget()
    with pytest.raises(NotCompiledError):
        library(source)
