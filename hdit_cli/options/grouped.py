"""Groups of options as one parameter of a command: a dataclass in which each field is an option.

    @dataclass(frozen=True)
    class ModelOptions:
        SECTION: ClassVar[str] = "Input"
        ckpt: CheckpointOption
        weights: GeneratedWeightsOption = None

    @app.command()
    @grouped_options
    def sample(*, model: ModelOptions, out: ImagesOutOption = Path("samples")) -> None: ...

Typer sees `--ckpt`, `--weights` and `--out`; the function gets a `ModelOptions` and a path. `SECTION` is the section of
the help page for those options of the group that do not name one; `RENAMED_SECTIONS` gives those that options name
another title.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any, get_args


def _in_section(annotation: Any, group: Any) -> Any:
    """Return an option's annotation with its section of the help page: the one that it names, or that of the group."""
    python_type, *details = get_args(annotation)
    named = next((section for detail in details if (section := getattr(detail, "rich_help_panel", None))), None)
    section = getattr(group, "RENAMED_SECTIONS", {}).get(named, named or getattr(group, "SECTION", None))
    if section == named:
        return annotation
    option = copy.copy(details[0])
    option.rich_help_panel = section
    return Annotated[python_type, option]


def _parameters_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield the parameters that Typer sees for one parameter: the fields of a group, or the parameter itself."""
    group = parameter.annotation
    if not dataclasses.is_dataclass(group):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    for field in dataclasses.fields(group):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        annotation = _in_section(field.type, group)
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def grouped_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes each field of its dataclass parameters as an option of its own.

    Raises:
        ValueError: two options have the same name.
    """
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {
        parameter.name: parameter.annotation
        for parameter in parameters
        if dataclasses.is_dataclass(parameter.annotation)
    }

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    expanded = [expanded for parameter in parameters for expanded in _parameters_of(parameter)]
    run.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]  # refuses duplicate names
    return run
