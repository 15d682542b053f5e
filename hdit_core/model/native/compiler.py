"""The shared library of this folder's C++: compiled once for a machine, kept in hdit's cache, and checked when loaded.

A library's name is the digest of all it depends on, the source, the flags, the compiler and what the processor can do
(homes are shared by unlike machines), and of its own bytes, so that a damaged one is seen and made anew.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from hdit_core.files import TEMPORARY, digest
from hdit_core.locks import LockHeldError, locked

SOURCE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-pthread")
TIMEOUT_S = 180.0  # it takes ten seconds, more where many ranks start on few cores
OTHERS_MAY_WRITE = 0o022


class CompileError(Exception):
    """Why there is no library; one line."""


def find_compiler() -> str:
    """Return the path of a C++ compiler.

    Raises:
        CompileError: there is none.
    """
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise CompileError(f"no C++ compiler ({', '.join(COMPILERS)}) is on the PATH")
    return found


def library_path(real: str, folder: Path, source: str = "attention.cpp", more_flags: tuple[str, ...] = ()) -> Path:
    """Return the library for a type of numbers, compiled unless it lies in the folder already.

    Args:
        real: `"float"` or `"double"`.
        folder: where libraries are kept; made when it is not there.
        source: a C++ file of this folder.
        more_flags: for the compiler, beyond `FLAGS`.

    Raises:
        CompileError: there is no compiler, it fails, or the folder is not ours alone or cannot be written.
    """
    compiler = find_compiler()
    flags = [*FLAGS, *more_flags, f"-DREAL={real}"]
    key = _key(compiler, flags, source)
    try:
        _make_private(folder)
        if (path := _find(key, folder)) is not None:
            return path
        with ExitStack() as stack:
            with suppress(LockHeldError):  # then it is compiled twice, which does no harm
                stack.enter_context(locked(folder / f"{key}.lock", wait_s=TIMEOUT_S))
            return _find(key, folder) or _compile([compiler, *flags, str(SOURCE / source)], key, folder)
    except OSError as problem:
        raise CompileError(f"{folder}: cannot be used as a cache of compiled code ({problem})") from None


def _run(command: list[str]) -> str:
    """Return what a compiler writes to its standard output."""
    try:
        done = subprocess.run(  # noqa: S603  a compiler from the PATH; no shell
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"{command[0]} did not end within {TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:].strip())
        raise CompileError(f"{command[0]} failed: {said}")
    return done.stdout


def _key(compiler: str, flags: list[str], source: str) -> str:
    """Return the digest of what a library depends on; a compiler's predefined macros tell its version and the CPU."""
    macros = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    parts = [macros, *flags]
    for path in (SOURCE / source, *sorted(SOURCE.glob("*.h"))):
        parts += [path.name, path.read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _make_private(folder: Path) -> None:
    """Make a folder that only this user can write, or see that it is one: what is loaded from it runs as this user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)


def _check_private(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & OTHERS_MAY_WRITE:
        raise CompileError(f"{path}: other users can write it; code is only loaded from where they cannot")


def _find(key: str, folder: Path) -> Path | None:
    """Return the library of that key; damaged ones are removed."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        _check_private(path)
        if path == _named(key, folder, path):
            return path
        path.unlink()
    return None


def _named(key: str, folder: Path, content: Path) -> Path:
    return folder / f"{key}-{digest(content).sha256[:32]}.so"


def _compile(command: list[str], key: str, folder: Path) -> Path:
    """Compile to a temporary sibling and rename it: nobody ever sees half a library."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".so", dir=folder)
    os.close(descriptor)
    try:
        _run([*command, "-o", name])
        path = _named(key, folder, Path(name))
        Path(name).chmod(0o700)
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
    return path
