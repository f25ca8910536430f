"""C++ compiled when it is first used: once, kept, and without it a reason."""

import ctypes
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from plusx import native
from plusx.native import NotCompiledError, Symbol, available, function

SOURCE = 'extern "C" void twice(int* value) { *value *= 2; }\n'
OWN = sorted(Path(native.__file__).parent.rglob("*.cpp"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "twice.cpp"
    path.write_text(SOURCE)
    return path


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def twice(source: Path, value: int) -> int:
    given = ctypes.c_int(value)
    function(Symbol(source, "twice", (ctypes.POINTER(ctypes.c_int),)))(ctypes.byref(given))
    return given.value


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="another g++ may have no OpenMP")
@pytest.mark.parametrize("source", OWN, ids=lambda path: path.name)
def test_all_of_ours_compiles(source: Path) -> None:
    if source.name == "convolution.cpp" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("no AVX512-bf16")
    assert isinstance(native._library(source), ctypes.CDLL)
    assert {path.name for path in OWN} == {"colour.cpp", "convolution.cpp", "cut.cpp", "fused.cpp", "resize.cpp"}


@needs_compiler
def test_compiled_once_and_kept(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert twice(source, 21) == 42
    (compiled,) = fresh.iterdir()
    before = compiled.stat().st_mtime_ns
    native.forget()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert twice(source, 4) == 8
    assert compiled.stat().st_mtime_ns == before


@needs_compiler
def test_another_source_or_option_is_another_file(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice(source, 1)
    source.write_text(SOURCE.replace("*= 2", "*= 3"))
    native.forget()
    assert twice(source, 4) == 12
    monkeypatch.setenv("CXX", "g++ -O1")
    native.forget()
    twice(source, 1)
    assert len(list(fresh.iterdir())) == 3


@needs_compiler
def test_a_damaged_file_is_compiled_anew(fresh: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = native._compile

    def broken(source: Path, command: Sequence[str], compiled: Path) -> None:
        whole(source, command, compiled)
        compiled.write_bytes(b"no library")

    monkeypatch.setattr(native, "_compile", broken)
    with pytest.raises(NotCompiledError):
        function(Symbol(source, "twice", ()))
    monkeypatch.setattr(native, "_compile", whole)
    native.forget()
    assert twice(source, 2) == 4
    assert len(list(fresh.iterdir())) == 1


def test_a_broken_compiler_is_named_and_leaves_nothing(
    fresh: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken-g++"
    compiler.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NotCompiledError, match=r"broken-g\+\+: no such option"):
        function(Symbol(source, "twice", ()))
    assert list(fresh.iterdir()) == []


def test_no_compiler_and_no_place_are_named(source: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):  # the second time it is known
        with pytest.raises(NotCompiledError, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
            function(Symbol(source, "twice", ()))
    assert available(Symbol(source, "twice", ())) is None
    monkeypatch.setenv("CXX", 'g++ "')
    native.forget()
    with pytest.raises(NotCompiledError, match="No closing quotation"):
        function(Symbol(source, "twice", ()))
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    native.forget()
    with pytest.raises(NotCompiledError):
        function(Symbol(source, "twice", ()))
