from hypothesis import given, settings
from hypothesis import strategies as st

from hdit_core.recipe.read import read_recipe, shipped_recipes
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
AWKWARD = st.sampled_from(
    ["", '"', "'''", "\\", "a\nb", "a\r\nb", "\x00\x1b[31m\x7f", "[[model.levels]]", "é\u2028😀", "# no"]
)
COUNT = st.integers(1, 10**12)
POSITIVE = st.floats(1e-300, 1e300)
SHARE = st.floats(0, 1)


@st.composite
def levels(draw):
    """Two levels on a 32x64 grid of tokens: any attention, any width that its heads divide."""

    def level():
        head_dim = draw(st.sampled_from([8, 32, 64]))
        return {
            "depth": draw(st.integers(1, 40)),
            "width": head_dim * draw(st.integers(1, 20)),
            "head_dim": head_dim,
            "attention": draw(st.sampled_from(["global", "neighborhood", "shifted-window", "none"])),
            "kernel_size": draw(st.sampled_from([3, 7, 15])),
            "window_size": draw(st.sampled_from([2, 8, 16])),
            "dropout": draw(SHARE),
        } | draw(st.fixed_dictionaries({}, optional={"d_ff": COUNT}))

    return [level(), level()]


RECIPES = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"image_size": st.just([128, 256]), "levels": levels(), "num_classes": st.integers(1, 10**6)}
        ),
        "train": st.fixed_dictionaries(
            {"num_images": COUNT},
            optional={
                "lr": POSITIVE,
                "betas": st.tuples(st.floats(0, 0.999999), st.floats(0, 0.999999)).map(list),
                "seed": st.integers(0, 2**63 - 1),
                "compile": st.booleans(),
                "micro_batch_size": COUNT,
                "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
                "batch_growth": st.just([{"after_images": 256 * 7, "batch_size": 512}]),
            },
        ),
    },
    optional={
        "data": st.fixed_dictionaries({"path": AWKWARD | ANY_TEXT}, optional={"augment_prob": SHARE}),
        "diffusion": st.fixed_dictionaries(
            {"sigma_data": POSITIVE},
            optional={"density": st.fixed_dictionaries({"type": st.just("lognormal"), "loc": st.floats(-1e9, 1e9)})},
        ),
        "sample": st.fixed_dictionaries({"guidance": st.floats(0, 1e9)}),
        "evaluate": st.fixed_dictionaries({"extractor": AWKWARD | ANY_TEXT}),
    },
)


def read_back(recipe, folder):
    path = folder / "recipe.toml"
    path.write_text(recipe_toml(recipe), encoding="utf-8")
    return read_recipe(str(path))


@settings(deadline=None, max_examples=200)
@given(tables=RECIPES)
def test_the_written_recipe_reads_back_equal(tmp_path_factory, tables):
    recipe = Recipe.model_validate(tables)
    assert read_back(recipe, tmp_path_factory.getbasetemp()) == recipe


def test_every_built_in_recipe_reads_back_equal(tmp_path):
    for name in shipped_recipes():
        assert read_back(read_recipe(name), tmp_path) == read_recipe(name)


def test_the_written_recipe_has_every_default(tmp_path):
    text = recipe_toml(read_recipe("mnist32"))
    assert "weight_decay = 0.01\n" in text
    assert 'type = "cosine-interpolated"\n' in text
