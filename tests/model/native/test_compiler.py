"""The cache of compiled code: compiled once, complete or absent, and writable by this user alone."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from hdit_core.model.native import compiler, ctypes_bindings
from hdit_core.model.native.attention import native_attention, unavailable
from hdit_core.model.native.compiler import CompileError, library_path

ANSWER = 'extern "C" __attribute__((visibility("default"))) int answer() { return REAL(42.5); }'


@pytest.fixture(autouse=True)
def source(monkeypatch, tmp_path):
    """Let a program of one line be compiled instead of ours."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "attention.cpp").write_text(ANSWER)
    monkeypatch.setattr(compiler, "SOURCE", folder)
    return folder


@pytest.fixture
def needs_compiler():
    try:
        compiler.find_compiler()
    except CompileError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Return a function that makes a shell script the only compiler on the path."""

    def make(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "c++").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "c++").chmod(0o700)
        monkeypatch.setenv("PATH", str(folder))

    return make


@pytest.fixture
def fresh():
    """Let this process ask again for its libraries, and once more afterwards."""
    ctypes_bindings.load.cache_clear()
    yield
    ctypes_bindings.load.cache_clear()


def answer(path):
    return ctypes.CDLL(str(path)).answer()


@pytest.mark.usefixtures("needs_compiler")
def test_a_library_is_compiled_once(tmp_path, monkeypatch):
    first = library_path("float", tmp_path / "cache")
    assert answer(first) == 42
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library_path("float", tmp_path / "cache") == first
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("needs_compiler")
def test_the_name_of_a_library_depends_on_its_sources_and_flags(tmp_path, source, monkeypatch):
    paths = [library_path(real, tmp_path / "cache") for real in ("float", "double")]
    (source / "attention.cpp").write_text(ANSWER.replace("42", "43"))
    paths.append(library_path("float", tmp_path / "cache"))
    (source / "more.h").write_text("")
    paths.append(library_path("float", tmp_path / "cache"))
    monkeypatch.setattr(compiler, "FLAGS", tuple(flag for flag in compiler.FLAGS if flag != "-march=native"))
    paths.append(library_path("float", tmp_path / "cache"))  # another processor
    assert len(set(paths)) == len(paths)
    assert [answer(path) for path in paths[1:3]] == [42, 43]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", bytes.swapcase])
def test_a_damaged_library_is_compiled_again(tmp_path, damage):
    path = library_path("float", tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert library_path("float", tmp_path / "cache").read_bytes() == whole


@pytest.mark.usefixtures("needs_compiler")
def test_concurrent_processes_share_one_library(tmp_path, source):
    code = """
import sys
from pathlib import Path
from hdit_core.model.native import compiler
compiler.SOURCE = Path(sys.argv[1])
print(compiler.library_path("float", Path(sys.argv[2])))
"""
    command = [sys.executable, "-c", code, source, tmp_path / "cache"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with ThreadPoolExecutor() as threads:
        starts = [threads.submit(subprocess.check_output, command, text=True, env=environment) for _ in range(4)]
        found = {start.result().strip() for start in starts}
    (path,) = found
    assert answer(path) == 42
    assert [str(file) for file in (tmp_path / "cache").glob("*.so")] == [path]  # no temporary one is left either


@pytest.mark.usefixtures("needs_compiler")
def test_code_that_other_users_can_write_is_not_loaded(tmp_path):
    path = library_path("float", tmp_path / "cache")
    for place in (path, path.parent):
        place.chmod(0o770)
        with pytest.raises(CompileError, match=f"{place}: writable by other users"):
            library_path("float", tmp_path / "cache")
        place.chmod(0o700)


def test_without_a_compiler_the_reason_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) is on the PATH"):
        library_path("float", tmp_path / "cache")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path, scripted):
    scripted('case "$*" in *-dM*) exit 0;; esac\necho "a.cpp:1: error: no such luck" >&2; exit 1')
    with pytest.raises(CompileError, match=r"c\+\+ failed: a\.cpp:1: error: no such luck"):
        library_path("float", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_a_compiler_that_hangs_is_given_up(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(compiler, "TIMEOUT_S", 0.2)
    scripted("exec /bin/sleep 60")
    with pytest.raises(CompileError, match=r"c\+\+ did not finish within 0 s"):
        library_path("float", tmp_path / "cache")


@pytest.mark.usefixtures("needs_compiler")
def test_an_unwritable_cache_is_given_as_the_reason(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        CompileError, match=r"file/cache: cannot be used as cache folder for compiled code \(.*Not a directory"
    ):
        library_path("float", tmp_path / "file" / "cache")


@pytest.mark.usefixtures("needs_compiler")
def test_a_compiled_library_is_found_in_a_read_only_cache(tmp_path, monkeypatch):
    path = library_path("float", tmp_path / "cache")
    monkeypatch.setattr(compiler, "locked", lambda lock, **_: pytest.fail(f"{lock} is written"))
    assert library_path("float", tmp_path / "cache") == path


@pytest.mark.usefixtures("fresh")
def test_the_reason_is_returned_and_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unavailable() == "no C++ compiler (c++, g++, clang++) is on the PATH"
    with pytest.raises(RuntimeError, match="native neighborhood attention is unavailable: no C"):
        native_attention(*torch.zeros(3, 1, 3, 4, 1, 8), 3)


@pytest.mark.usefixtures("fresh", "needs_compiler")
def test_a_library_that_cannot_be_loaded_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "not-a-library.so").write_text("text")
    monkeypatch.setattr(ctypes_bindings, "library_path", lambda *_: tmp_path / "not-a-library.so")
    assert "not-a-library.so" in unavailable()
