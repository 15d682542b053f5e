"""Checks types and shapes of every call into hdit_core while the tests run, at a fraction of the time of jaxtyping's.

The import hook of jaxtyping (`--jaxtyping-packages`, in pyproject.toml) decorates each function. Its own decorator
binds the arguments and checks them twice in every function, and compiles the checks at import: half the CPU time of the
suite. Only signatures with shapes need what it does; where there are none, beartype alone finds the same errors.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_JAXTYPED = jaxtyping.jaxtyped  # jaxtyping's own decorator
_BEARTYPE = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install() -> None:
    """Let the import hook of jaxtyping decorate by `checked` what is imported from now on."""
    jaxtyping.jaxtyped = checked


def checked(decorated: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function whose calls are checked; of a dataclass, its constructor is."""
    if decorated is None:
        return functools.partial(checked, typechecker=typechecker)
    if not isinstance(decorated, type):
        return _checked_at_calls(decorated, typechecker) if decorated.__annotations__ else decorated
    if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
        decorated.__init__ = _checked_at_calls(decorated.__init__, typechecker)
    return decorated


def _checked_at_calls(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that compiles its checks at the first call: the fewest of those imported are ever called."""
    with_checks = None

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal with_checks
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if with_checks is None:
            with_checks = _with_checks(function, typechecker)
        return with_checks(*args, **kwargs)

    return wrapper


def _with_checks(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the function with its arguments and its result checked."""
    if getattr(function, "__no_type_check__", False):
        return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # of a name that is imported for type checkers only: jaxtyping checks the other arguments
        return _JAXTYPED(function, typechecker=typechecker)
    if inspect.isgeneratorfunction(function):  # whose bare Iterator beartype would refuse
        return _JAXTYPED(function, typechecker=typechecker)
    if not any(map(_has_shape, hints.values())):
        return _BEARTYPE(function)
    return _with_sizes_of_one_call(_BEARTYPE(function))


def _with_sizes_of_one_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function such that a named size is the same in all shapes of a call."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _JAXTYPED("context"):
            return function(*args, **kwargs)

    return wrapper


def _has_shape(hint: Any) -> bool:
    """Return whether a part of the annotation is an array with a shape."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, hint if isinstance(hint, list) else typing.get_args(hint)))
