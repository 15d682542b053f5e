"""Options that belong together as one parameter of a command: a dataclass of which each field is an option.

    @dataclass(frozen=True)
    class ModelOptions:
        ckpt: CheckpointOption
        weights: DrawnWeightsOption = None

    @app.command()
    @unbundled
    def sample(*, model: ModelOptions, out: ImagesOutOption = Path("samples")) -> None: ...

Typer is shown `--ckpt`, `--weights` and `--out`; the function gets a `ModelOptions` and a path.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any


def _fields_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield what Typer is to see of a parameter: the fields of a bundle, or the parameter itself."""
    if not dataclasses.is_dataclass(parameter.annotation):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    for field in dataclasses.fields(parameter.annotation):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type)


def grouped_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes each field of its dataclasses by itself, and makes them of what it is given.

    Raises:
        ValueError: two of them have an option of one name.
    """
    parameters = inspect.signature(command).parameters.values()
    bundles: dict[str, Any] = {
        one.name: one.annotation for one in parameters if dataclasses.is_dataclass(one.annotation)
    }

    @wraps(command)
    def run(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in dataclasses.fields(bundle)})
        command(**given)

    seen = [field for one in parameters for field in _fields_of(one)]
    run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]  # refuses two of one name
    return run
