"""Wrong arguments of the API are refused in one line with the value found and the value expected."""

import pytest

from hdit_core.api import PreparedDataset, generate, load_denoiser, prepare_data, read_recipe, score, train
from hdit_core.errors import CheckpointError, DataError, RecipeError, UsageError
from hdit_core.recipe.write import recipe_toml
from tests.api.answers import answers_to
from tests.forking import call

REFUSED = {
    "prepare_data(5, 'x', size=16)": "TypeError: source: expected a path (str or pathlib.Path), got int",
    "prepare_data('x', None, size=16)": "TypeError: out: expected a path (str or pathlib.Path), got NoneType",
    "prepare_data('x', 'y', size='16')": "UsageError: size = '16': expected one number of pixels, or (height, width)",
    "prepare_data('x', 'y', size=8, labls='none')": "TypeError: prepare_data: no setting 'labls'; did you mean "
    "'labels'?",
    "prepare_data('x', 'y', size=8, crop='middle')": "UsageError: prepare_data: crop = 'middle': input should be "
    "'center', 'random' or 'fit'",
    "prepare_data('x', 'y', size=8, workers=0)": "UsageError: prepare_data: workers = 0: input should be greater "
    "than 0",
    "read_recipe(5)": "TypeError: recipe: expected a path (str or pathlib.Path), got int",
    "read_recipe('mnist32', 'train.lr=1')": "TypeError: overrides: expected a dict or a list of strings, got the "
    "string 'train.lr=1'",
    "read_recipe('mnist32', {5: 1})": "TypeError: overrides: expected keys such as 'train.batch_size', got 5",
    "train({}, 'x')": "TypeError: recipe: expected a path (str or pathlib.Path), got dict",
    "train('mnist32', 5)": "TypeError: out: expected a path (str or pathlib.Path), got int",
    "load_denoiser(5)": "TypeError: path: expected a path (str or pathlib.Path), got int",
    "generate(5, 2)": "TypeError: path: expected a path (str or pathlib.Path), got int",
    "generate(denoiser, '2')": "UsageError: n = '2': expected a whole number, 1 or more",
    "generate(denoiser, 2, seed=-1)": "UsageError: seed = -1: expected a whole number, 0 or more",
    "generate(denoiser, 2, class_ids='a')": "TypeError: class_ids: expected a class, or one for each image, got 'a'",
    "generate(denoiser, 2, class_ids=[0])": "UsageError: class_ids: 1 classes for 2 images; expected one for each",
    "generate(denoiser, 2, class_ids=7)": "UsageError: class 7: the network has the classes 0 to 2 (3 means no class)",
    "score(5, data)": "TypeError: images: expected a path (str or pathlib.Path), got int",
    "score(samples, data, extractr='x')": "TypeError: score: no setting 'extractr'; did you mean 'extractor'?",
    "score(samples, data, n=3)": "UsageError: n = 3: applies to images on disk; pass fewer samples",
    "score('x', data, n=-1)": "UsageError: score: n = -1: input should be greater than 0",
    "PreparedDataset(5)": "TypeError: path: expected a path (str or pathlib.Path), got int",
    "dataset[1.5]": "TypeError: DATA: expected the number of an image, got 1.5",
    "denoiser(x.numpy(), 1.0, classes)": "TypeError: x: expected a floating-point tensor [B, 3, H, W], got ndarray",
    "denoiser(x.byte(), 1.0, classes)": "TypeError: x: expected a floating-point tensor [B, 3, H, W], got a tensor of "
    "torch.uint8",
    "denoiser(x[:, :1], 1.0, classes)": "UsageError: x has shape (2, 1, 16, 24); this model takes [B, 3, H, W]",
    "denoiser(x[0], 1.0, classes)": "UsageError: x has shape (3, 16, 24); this model takes [B, 3, H, W]",
    "denoiser(x, 'a', classes)": "TypeError: sigma: expected a number or a tensor [B], got str",
    "denoiser(x[:0], 1.0, classes[:0])": "UsageError: x has shape (0, 3, 16, 24); expected at least one image",
    "denoiser(x, -1.0, classes)": "UsageError: sigma = -1; expected a positive number",
    "denoiser(x, float('nan'), classes)": "UsageError: sigma = nan; expected a positive number",
    "denoiser(x, torch.ones(3), classes)": "UsageError: sigma has shape (3,); expected (2,) or one number",
    "denoiser(x, 1.0, [0, 1])": "TypeError: class_ids: expected an int64 tensor [B], got list",
    "denoiser(x, 1.0, classes[:1])": "UsageError: class_ids has shape (1,); expected (2,)",
    "denoiser(x, 1.0, classes + 3)": "UsageError: class_ids has 4; expected 0 to 3 (3: none)",
}


def test_a_wrong_argument_is_refused_in_one_line(trained, tmp_path):
    train(trained({"train.num_images": 8}), tmp_path / "run", progress=False)
    data = trained({}).data.path
    # in a process of its own, where no checker of types comes before the functions' own checks
    answers = call(answers_to, list(REFUSED), tmp_path / "run", data)
    assert [answer.replace(data, "DATA") for answer in answers] == list(REFUSED.values())


def test_every_function_names_the_path_that_is_missing(trained, tmp_path):
    missing, recipe = str(tmp_path / "missing"), trained({})
    with pytest.raises(UsageError, match=missing):
        prepare_data(missing, tmp_path / "set", size=16, progress=False)
    with pytest.raises(RecipeError, match=missing):
        read_recipe(missing)
    with pytest.raises(DataError, match=missing):
        train(recipe, tmp_path / "run", data=missing, progress=False)
    with pytest.raises(CheckpointError, match=missing):
        train(recipe, tmp_path / "run", fork_from=missing, progress=False)
    with pytest.raises(CheckpointError, match=missing):
        load_denoiser(missing)
    with pytest.raises(CheckpointError, match=missing):
        generate(missing, 1, progress=False)
    with pytest.raises(UsageError, match=missing):
        score(missing, recipe.data.path, progress=False)
    with pytest.raises(UsageError, match=missing):
        score(recipe.data.path, missing, progress=False)
    with pytest.raises(DataError, match=missing):
        PreparedDataset(missing)


def test_a_recipe_is_read_from_a_file_a_name_or_text(trained, tmp_path):
    recipe = trained({})
    (tmp_path / "tiny.toml").write_text(recipe_toml(recipe))
    changed = {"train.lr": 0.5, "model.levels[0].depth": 2, "data.path": tmp_path}
    for source in (tmp_path / "tiny.toml", str(tmp_path / "tiny.toml"), recipe_toml(recipe)):
        assert read_recipe(source) == recipe
        read = read_recipe(source, changed)
        assert (read.train.lr, read.model.levels[0].depth, read.data.path) == (0.5, 2, str(tmp_path))
        assert read == read_recipe(source, ["train.lr=0.5", "model.levels.0.depth=2", f"data.path={tmp_path}"])
    assert read_recipe("mnist32").model.image_size == (32, 32)
    with pytest.raises(RecipeError, match=r"recipe: train.lrr: unknown key; did you mean 'lr'\?"):
        read_recipe(recipe_toml(recipe), {"train.lrr": 1.0})
