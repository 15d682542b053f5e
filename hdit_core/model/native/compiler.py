"""Compiles the C++ sources of this folder to shared libraries, cached in hdit's cache folder and verified when loaded.

The file name of a library contains two digests. The first is of all that it depends on: sources, flags, compiler and
CPU features, since different machines may share a home folder. The second is of its own bytes, so that a damaged file
is detected and compiled again.
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
TIMEOUT_S = 180.0  # compilation takes 10 s, more if many ranks start on few cores
GROUP_OR_OTHERS_WRITE = 0o022


class CompileError(Exception):
    """A library cannot be compiled; the message is one line."""


def find_compiler() -> str:
    """Return the path of a C++ compiler.

    Raises:
        CompileError: there is none on the PATH, or this is not a POSIX system.
    """
    if os.name != "posix":
        raise CompileError(f"it is compiled on POSIX systems only, and this is {os.name}")
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise CompileError(f"no C++ compiler ({', '.join(COMPILERS)}) is on the PATH")
    return compiler


def library_path(real: str, folder: Path, source: str = "attention.cpp", more_flags: tuple[str, ...] = ()) -> Path:
    """Return the path of a compiled library, after compiling it if it is not in the cache folder.

    Args:
        real: the floating-point type, `"float"` or `"double"`.
        folder: the cache folder; created if missing.
        source: name of the C++ file.
        more_flags: compiler flags in addition to `FLAGS`.

    Raises:
        CompileError: there is no compiler, compilation fails, or the folder cannot be written or is writable by other
            users.
    """
    compiler = find_compiler()
    flags = [*FLAGS, *more_flags, f"-DREAL={real}"]
    key = _key(compiler, flags, source)
    try:
        _make_private(folder)
        if (path := _find(key, folder)) is not None:
            return path
        with ExitStack() as stack:
            with suppress(LockHeldError):  # two processes may then compile the same library, which is harmless
                stack.enter_context(locked(folder / f"{key}.lock", wait_s=TIMEOUT_S))
            return _find(key, folder) or _compile([compiler, *flags, str(SOURCE / source)], key, folder)
    except OSError as problem:
        raise CompileError(f"{folder}: cannot be used as cache folder for compiled code ({problem})") from None


def _run(command: list[str]) -> str:
    """Return the standard output of a compiler command."""
    try:
        process = subprocess.run(  # noqa: S603  a compiler from the PATH; no shell
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"{command[0]} did not finish within {TIMEOUT_S:.0f} s") from None
    if process.returncode != 0:
        lines = process.stderr.splitlines()
        message = next((line for line in lines if "error" in line), process.stderr[-200:].strip())
        raise CompileError(f"{command[0]} failed: {message}")
    return process.stdout


def _key(compiler: str, flags: list[str], source: str) -> str:
    """Return the digest of a library's dependencies; predefined macros identify the compiler's version and the CPU."""
    macros = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    parts = [macros, *flags]
    for path in (SOURCE / source, *sorted(SOURCE.glob("*.h"))):
        parts += [path.name, path.read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _make_private(folder: Path) -> None:
    """Create a folder that only this user can write, or check an existing one: code in it runs as this user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)


def _check_private(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & GROUP_OR_OTHERS_WRITE:
        raise CompileError(f"{path}: writable by other users; run `chmod go-w` on it, or remove it")


def _find(key: str, folder: Path) -> Path | None:
    """Return the cached library with this key, or None; damaged files are removed."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        _check_private(path)
        if path == _expected_path(key, folder, path):
            return path
        path.unlink()
    return None


def _expected_path(key: str, folder: Path, content: Path) -> Path:
    return folder / f"{key}-{digest(content).sha256[:32]}.so"


def _compile(command: list[str], key: str, folder: Path) -> Path:
    """Compile to a temporary file and rename it, so that no process loads an incomplete library."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".so", dir=folder)
    os.close(descriptor)
    try:
        _run([*command, "-o", name])
        path = _expected_path(key, folder, Path(name))
        Path(name).chmod(0o700)
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
    return path
