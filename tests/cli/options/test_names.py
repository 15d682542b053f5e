"""Options that several commands have are spelled alike in all of them."""

import pytest

from hdit_cli.plugins import discover_commands, load_command

NAMES = {"-n": ["--count", "-n"], "--seed": ["--seed"], "--indices": ["--indices"]}


def parameters():
    """Yield every command's path with each of its parameters."""

    def of(path, command):
        for name, inner in getattr(command, "commands", {}).items():
            yield from of(f"{path} {name}", inner)
        yield from ((path, parameter) for parameter in command.params)

    for name, offer in discover_commands().items():
        yield from of(name, load_command(name, offer))


@pytest.mark.parametrize("spelling", NAMES)
def test_numbers_of_images_seeds_and_indices_have_the_same_names_in_every_command(spelling):
    found = {path: parameter for path, parameter in parameters() if spelling in parameter.opts}
    other = ("plan",)  # whose -n is a number of GPUs, as in Slurm
    shown = {path: parameter.opts[: len(NAMES[spelling])] for path, parameter in found.items() if path not in other}
    assert shown and all(names == NAMES[spelling] for names in shown.values())
