"""A checked recipe from a file or a name, and the errors of an invalid one."""

import re

import pytest

from hdit_core.errors import RecipeError
from hdit_core.recipe.read import check_recipe, find_recipe, read_recipe, recipe_mistakes, shipped_recipes
from tests.recipe.recipe_file import GOOD, mistakes_of


def test_a_file_gives_the_values_in_it_and_the_defaults_for_the_rest(write):
    recipe = read_recipe(write(GOOD))
    assert recipe.model.image_size == (32, 48)
    assert recipe.model.patch_size == (4, 2)
    assert [level.width for level in recipe.model.levels] == [64, 128]
    assert recipe.train.lr == 5e-4
    assert recipe.data.path == "data"


def test_one_number_means_height_and_width(write):
    assert read_recipe(write(GOOD), ["model.image_size=64"]).model.image_size == (64, 64)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_built_in_recipe_is_valid_and_found_by_its_name(name):
    assert find_recipe(name) == shipped_recipes()[name]
    assert read_recipe(name) == read_recipe(str(shipped_recipes()[name]))


def test_a_file_has_precedence_over_a_built_in_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist32").write_text(GOOD)
    assert read_recipe("mnist32").model.image_size == (32, 48)


@pytest.mark.parametrize("name", ["ablation/b1", "ablations/b1x.toml", "my/ablations/b1"])
def test_an_unknown_name_is_refused_with_the_nearest_recipe_in_a_folder(name):
    with pytest.raises(RecipeError, match=rf"^{name}: no such recipe file.*did you mean 'ablations/b1'\?$"):
        find_recipe(name)


@pytest.mark.parametrize("name", ["mnist", "recipes/mnist23.toml", "/nowhere/mnist32.toml"])
def test_an_unknown_recipe_is_refused_with_the_nearest_name(name):
    with pytest.raises(RecipeError, match=rf"^{name}: no such recipe file.*did you mean 'mnist32'\?$"):
        find_recipe(name)


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        # misspelt
        ("batch_size=3", "batch_size: unknown key; did you mean train.batch_size? (a recipe takes model, diffusion, "),
        (
            "train.path=x",
            "train.path: unknown key; did you mean data.path? (hdit recipe reference lists the keys of [train])",
        ),
        ("train.batch_sise=3", "train.batch_sise: unknown key; did you mean 'batch_size'? (hdit recipe ref"),
        (
            "model.levels.1.widht=3",
            "model.levels[1].widht: unknown key; did you mean 'width'? (table [model.levels[1]]",
        ),
        (
            "traim.lr=3",
            "traim: unknown key; did you mean 'train'? (a recipe takes model, diffusion, data, condition, train, ",
        ),
        ("xyzzy=3", "xyzzy: unknown key (a recipe takes model, diffusion, data, condition, train, sample, evaluate)"),
        (
            "model.levels.0.attention=globl",
            "model.levels[0].attention = \"globl\": expected 'global', 'neighborhood', ",
        ),
        # wrong type
        ("train.batch_size=1.5", "train.batch_size = 1.5: expected a whole number"),
        ("train.batch_size='8'", 'train.batch_size = "8": expected a whole number'),
        ("train.batch_size=true", "train.batch_size = true: expected a whole number"),
        ("train.lr=fast", 'train.lr = "fast": expected a number'),
        ("train.lr=1979-05-27", 'train.lr = "1979-05-27": expected a number'),
        ("train.lr=", 'train.lr = "": expected a number'),
        ("train.compile=1", "train.compile = 1: expected true or false or 'auto'"),
        ("train.compile=fast", "train.compile = \"fast\": expected true or false or 'auto'"),
        ("data.path=3", "data.path = 3: expected text"),
        ("data=3", "data = 3: expected a table"),
        ("model.levels=3", "model.levels = 3: expected an array of tables"),
        ("model.levels.0=3", "model.levels[0] = 3: expected a table"),
        (
            "model.image_size=3.5",
            "model.image_size = 3.5: expected an array (image size in pixels: one number, or [height, width])",
        ),
        ("train.betas=0.5", "train.betas = 0.5: expected an array"),
        # out of range
        ("train.lr=nan", "train.lr = nan: expected a finite number"),
        ("train.lr=-inf", "train.lr = -inf: expected a finite number"),
        ("train.batch_size=0", "train.batch_size = 0: expected a number greater than 0"),
        ("train.seed=-1", "train.seed = -1: expected a number of at least 0"),
        ("data.augment_prob=1.5", "data.augment_prob = 1.5: expected a number of at most 1"),
        ("train.betas=[0.9, 1.0]", "train.betas[1] = 1.0: expected a number less than 1"),
        ("model.image_size=0", "model.image_size = 0: expected a number greater than 0"),
        ("model.image_size=[0, 8]", "model.image_size[0] = 0: expected a number greater than 0"),
        ("model.image_size=[8]", "model.image_size[1]: missing; expected an array of 2"),
        ("model.image_size=[8, 8, 8]", "model.image_size = [8, 8, 8]: expected an array with at most 2 in it"),
        ("model.levels=[]", "model.levels = []: expected an array with at least 1 in it"),
        # missing
        ("train={}", "train.num_images: missing; expected length of the run in images, counting repetitions"),
        (
            "train.batch_growth=[{after_images=8}]",
            "train.batch_growth[0].batch_size: missing; expected images per step from then on",
        ),
        # laws between keys
        ("model.levels.0.width=100", "model.levels[0].width = 100 is not a multiple of head_dim = 32; use 96 or 128"),
        ("model.image_size=[32, 50]", "model.image_size: width 50 is not a multiple of 4 (patch 2 x 2 for each of 1 "),
        (
            "model.levels.0.kernel_size=9",
            "model.levels[0].kernel_size = 9 is larger than the level's 8x24 grid; use a ",
        ),
        ("model.levels.0.kernel_size=4", "model.levels[0].kernel_size = 4 is not an odd number of at least 3"),
        (
            "diffusion.density.loc=1.0",
            "diffusion.density.loc: has no effect with type = 'cosine-interpolated', which takes",
        ),
        ("sample.guidance=2.0", "sample.guidance = 2.0 needs classes, but model.num_classes is 0"),
        ("train.activation_checkpointing=9", "train.activation_checkpointing = 9 is more than the "),
        (
            "train.channel_weights=[1.0, 2.0]",
            "train.channel_weights: [1.0, 2.0] are 2 numbers, model.channels is 3; give",
        ),
        # conditions
        ("model.condition_scale=2.0", "model.condition_scale: [2.0] has no effect with condition_channels = 0"),
        ("model.condition_scale=[1.0, 2.0]", "model.condition_scale: [1.0, 2.0] are 2 numbers for condition_channels"),
        ("model.condition_scale=[0.0]", "model.condition_scale[0] = 0.0: expected a number greater than 0"),
        ("model.condition_scale=x", 'model.condition_scale = "x": expected an array (factor on the condition image'),
        (
            "condition.degrade=[{kind='blur', sigma=1.0}]",
            "model.condition_channels = 0, but condition.degrade makes condition images of 3; set it to 3",
        ),
        ("condition.degrade=[{kind='smear'}]", "condition.degrade[0].kind = \"smear\": expected 'downscale', 'blur'"),
        ("train.condition_dropout=0.1", "train.condition_dropout = 0.1 has no effect: model.condition_channels and m"),
        ("sample.condition_guidance=2.0", "sample.condition_guidance = 2.0 has no effect: model.condition_channels "),
        ("sample.vector_guidance=2.0", "sample.vector_guidance = 2.0 has no effect: model.mapping_cond_dim is 0"),
        ("data.dtype=float32", "data.value_range: missing; required by dtype = 'float32', for example [[0.0, 1.0]]"),
        ("condition.dtype=float32", "condition.value_range: missing; required by dtype = 'float32', for example [["),
    ],
)
def test_an_error_is_one_line_with_the_key_the_value_and_the_expected_one(write, override, mistake):
    lines = mistakes_of(write(GOOD), [override])
    assert len(lines) == 1
    assert lines[0].startswith(mistake)


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("guidance", ["model.num_classes=3", "train.class_dropout=0"]),
        ("condition_guidance", ["model.condition_channels=3", "data.augment_prob=0"]),
        ("vector_guidance", ["model.mapping_cond_dim=4"]),
    ],
)
def test_guidance_of_an_input_that_is_never_dropped_in_training_is_refused(write, key, overrides):
    dropout = "class_dropout" if key == "guidance" else "condition_dropout"
    assert mistakes_of(write(GOOD), [*overrides, f"sample.{key}=2.0"]) == [
        f"sample.{key} = 2.0 needs a network that was trained with train.{dropout}, which is 0 here; leave it at 1"
    ]
    assert read_recipe(write(GOOD), [*overrides, f"train.{dropout}=0.1", f"sample.{key}=2.0"])


def test_the_values_of_condition_images_that_are_computed_cannot_be_chosen(write):
    degrade = ["model.condition_channels=3", "data.augment_prob=0", "condition.degrade=[{kind='blur', sigma=1.0}]"]
    assert mistakes_of(write(GOOD), [*degrade, "condition.dtype=uint16"]) == [
        "condition.dtype: uint16 has no effect with condition.degrade, which computes condition images from images"
    ]


def test_a_missing_table_is_named(write):
    assert mistakes_of(write("")) == [
        "model: missing; expected a table [model]",
        "train: missing; expected a table [train]",
    ]


def test_all_errors_of_a_file_are_reported_together(write):
    text = GOOD.replace("batch_size = 8", "batch_sise = 8\nlr = nan").replace("depth = 1", "depth = 'one'")
    text = text.replace("width = 128", "width = 0")
    lines = mistakes_of(write(text), ["data.augment_prob=2.0"])
    assert [re.split("[: ]", line)[0] for line in lines] == [
        "model.levels[0].depth",
        "model.levels[1].width",
        "data.augment_prob",
        "train.lr",
        "train.batch_sise",
    ]


def test_violated_constraints_of_a_table_and_its_parent_are_reported_together(write):
    lines = mistakes_of(write(GOOD), ["model.levels.0.width=100", "model.image_size=[32, 50]", "sample.guidance=2.0"])
    assert [line.split(" ")[0] for line in lines] == ["sample.guidance", "model.image_size:", "model.levels[0].width"]


def test_at_most_a_hundred_errors_are_reported(write):
    lines = mistakes_of(write(GOOD + "".join(f"key{i} = 1\n" for i in range(500))))
    assert len(lines) == 101
    assert lines[-1] == "and more mistakes"


def test_the_home_folder_is_expanded_in_paths(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = read_recipe(write(GOOD), ["data.path=~/set", "train.init_from=~/run", "evaluate.reference=s3://a//~b"])
    assert (recipe.data.path, recipe.train.init_from) == ("/home/someone/set", "/home/someone/run")
    assert recipe.evaluate.reference == "s3://a//~b"


def test_condition_channels_follow_from_the_degradations(write):
    degrade = "condition.degrade=[{kind='grey'}, {kind='mask'}]"
    recipe = read_recipe(write(GOOD), [degrade, "model.condition_channels=2", "model.condition_scale=[0.5, 1.0]"])
    assert recipe.model.condition_scales == (0.5, 1.0)
    assert recipe.model.input_channels == 5
    (line,) = mistakes_of(write(GOOD), [degrade, "model.condition_channels=3"])
    assert line.startswith("model.condition_channels = 3, but condition.degrade makes condition images of 2")
    (line,) = mistakes_of(write(GOOD), [degrade, "model.channels=1", "model.condition_channels=2"])
    assert line.startswith("condition.degrade[0].kind: 'grey' needs images of 3 channels, found 1")
    (line,) = mistakes_of(
        write(GOOD), ["condition.degrade=[{kind='jpeg'}]", "model.channels=4", "model.condition_channels=4"]
    )
    assert line.startswith("condition.degrade[0].kind: 'jpeg' needs images of 1 or 3 channels, found 4")


@pytest.mark.parametrize(
    ("degradations", "mistake"),
    [
        ("{kind='blur'}", "condition.degrade[0].sigma: missing; required by 'blur', for example 2"),
        ("{kind='grey', std=0.1}", "condition.degrade[0].std: has no effect with kind = 'grey', which takes no other"),
        (
            "{kind='mask'}, {kind='blur', sigma=1.0}",
            "condition.degrade[0].kind: 'mask' must be the last: what follows would change the mask too",
        ),
        (
            "{kind='mask', area=[0.5, 0.2]}",
            "condition.degrade[0].area: it ends at 0.2, which is below its start at 0.5",
        ),
    ],
)
def test_keys_of_a_degradation_that_do_not_fit_it_are_refused(write, degradations, mistake):
    channels = 1 if "grey" in degradations else 4 if "mask" in degradations else 3
    overrides = [f"condition.degrade=[{degradations}]", f"model.condition_channels={channels}"]
    (line,) = mistakes_of(write(GOOD), overrides)
    assert line.startswith(mistake)


def test_images_with_condition_images_are_mirrored_but_not_augmented(write):
    (line,) = mistakes_of(write(GOOD), ["model.condition_channels=1", "data.augment_prob=0.1"])
    assert line.startswith("data.augment_prob = 0.1 would warp the image but not its condition image; set it to 0")
    (line,) = mistakes_of(write(GOOD), ["data.mirror=true", "data.augment_prob=0.1"])
    assert line.startswith("data.mirror: and augment_prob = 0.1 both flip the images; use one of them")


def test_tables_from_elsewhere_are_checked_under_their_own_name():
    with pytest.raises(RecipeError, match=r"^weights\.safetensors: model: missing"):
        check_recipe({}, "weights.safetensors")


def test_constraints_are_reported_together_with_other_errors(write):
    overrides = ["model.image_size=[30, 48]", "model.xyzzy=3", "train.lr=fast", "model.levels.1.widht=3"]
    lines = mistakes_of(write(GOOD), overrides)
    assert any("model.image_size: height 30 is not a multiple of" in line for line in lines) and len(lines) == 4
    assert mistakes_of(write(GOOD), ["condition.degrade=[{kind='downscale', factor=1}]"]) == [
        "condition.degrade[0].factor = 1: expected a number greater than 1.0",
        "model.condition_channels = 0, but condition.degrade makes condition images of 3; set it to 3",
    ]


@pytest.mark.parametrize("override", ["model.levels.0.head_din=32", 'model.levels.0.head_dim="32"'])
def test_a_constraint_on_an_invalid_key_is_not_reported_with_it(write, override):
    good = re.sub("head_dim.*", "", GOOD)
    lines = mistakes_of(write(good), [override, "model.levels.0.width=96", "model.levels.1.width=128"])
    assert len(lines) == 1 and "head_di" in lines[0]


def test_further_checks_get_a_recipe_without_its_invalid_keys(write):
    seen = []

    def check(recipe):
        seen.append(recipe.model.image_size)
        return ["the size is wrong; change model.image_size", "train.lr is wrong"]

    path = write(GOOD)
    assert recipe_mistakes(path, ["train.lr=fast"], check) == [
        f'{path}: train.lr = "fast": expected a number',
        f"{path}: the size is wrong; change model.image_size",
    ]
    assert len(recipe_mistakes(path, [], check)) == 2 and seen == [(32, 48)] * 2
    assert len(recipe_mistakes(path, ["train={}"], check)) == 1  # a required key is missing
