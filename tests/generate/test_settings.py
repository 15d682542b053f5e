"""The default sampling settings of a run."""

import pytest

from hdit_core.errors import RecipeError
from hdit_core.generate.settings import apply_defaults, read_defaults, write_defaults


def test_written_defaults_are_read_back_and_override_the_recipe(tmp_path, tiny_recipe):
    write_defaults(tmp_path, "0.100", {"guidance": 1.5, "guidance_interval": [0.2, 5.0], "eta": None}, "why")
    found = read_defaults(tmp_path)
    assert found.weights == "0.100" and found.sample == {"guidance": 1.5, "guidance_interval": [0.2, 5.0]}
    drawn = apply_defaults(tiny_recipe, found).sample
    assert drawn.guidance == 1.5 and drawn.guidance_interval == (0.2, 5.0) and drawn.steps == tiny_recipe.sample.steps


def test_the_message_lists_the_defaults_that_the_command_does_not_override(tmp_path):
    write_defaults(tmp_path, "0.100", {"guidance": 1.5, "guidance_interval": [0.2, 5.0]}, "why")
    defaults = read_defaults(tmp_path)
    path = tmp_path / "sample.toml"
    assert defaults.note(None) == (
        f"using defaults from {path}: weights=0.100, guidance=1.5, guidance_interval=[0.2, 5.0]"
    )
    assert defaults.note("ema", ["sample.guidance_interval=[1, 2]"]) == f"using defaults from {path}: guidance=1.5"
    assert defaults.note("ema", [" sample.guidance = 2"], guidance_interval=[1.0, 2.0], steps=None) is None


def test_without_a_file_the_defaults_are_the_recipe_and_the_ema_weights(tmp_path, tiny_recipe):
    found = read_defaults(tmp_path)
    assert found.weights == "ema" and found.note(None) is None
    assert apply_defaults(tiny_recipe, found) is tiny_recipe


@pytest.mark.parametrize(
    "content, message",
    [
        ("x = ", r"sample\.toml: not a TOML file"),
        ("weights = 3", r"sample\.toml: expected weights = .* and \[sample\], and no other key; fix or remove it"),
        ("color = 3", r"sample\.toml: expected weights"),
        ("sample = 3", r"sample\.toml: expected weights"),
        ("x = " + "[" * 2000, r"sample\.toml: not a TOML file"),
        ("#" * 200_000, r"sample\.toml: larger than 100,000 bytes"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "sample.toml").write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_defaults(tmp_path)


def test_an_unknown_setting_is_reported_with_the_file(tmp_path, tiny_recipe):
    (tmp_path / "sample.toml").write_text("[sample]\nguidence = 2")
    with pytest.raises(RecipeError, match=r"sample\.toml: sample\.guidence: unknown key"):
        apply_defaults(tiny_recipe, read_defaults(tmp_path))
