import json
import tomllib

import pytest

from hdit_cli.main import main
from hdit_core.recipe.read import read_recipe, shipped_recipes
from hdit_core.recipe.write import keep_comments, recipe_toml


def test_list_names_every_built_in_recipe_with_its_description(capsys):
    assert main(["recipe", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "trains"]
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert "MNIST digits" in lines[list(shipped_recipes()).index("mnist32")]
    assert "row B1 of the HDiT paper" in lines[list(shipped_recipes()).index("ablations/b1")]


def test_list_as_json_is_one_document(capsys):
    assert main(["recipe", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(shipped_recipes())


def test_show_prints_a_recipe_that_reads_back_to_the_same_with_its_overrides(capsys, tmp_path):
    assert main(["recipe", "show", "mnist32", "--set", "train.batch_size=32", "--set", "data.path=a b"]) == 0
    path = tmp_path / "shown.toml"
    path.write_text(capsys.readouterr().out)
    assert read_recipe(str(path)) == read_recipe("mnist32", ["train.batch_size=32", "data.path='a b'"])
    assert tomllib.loads(path.read_text())["train"]["batch_size"] == 32


def test_show_as_json_has_the_same_values(capsys):
    assert main(["recipe", "show", "ffhq1024", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_recipe("ffhq1024").model_dump(mode="json")


def test_the_schema_has_every_table_and_refuses_unknown_keys(capsys):
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {"model", "diffusion", "data", "condition", "train", "sample", "evaluate"}
    assert schema["additionalProperties"] is False


def test_check_accepts_every_built_in_recipe(capsys):
    assert main(["recipe", "check", *shipped_recipes()]) == 0
    assert capsys.readouterr().out == ""


def test_check_reports_the_errors_of_all_files_and_exits_with_2(capsys, tmp_path):
    bad = {"one.toml": "[model\n", "two.toml": "[train]\nbatch_sise = 3\n[modle]\n"}
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    assert main(["recipe", "check", "mnist32", *(str(tmp_path / name) for name in bad)]) == 2
    err = capsys.readouterr().err
    assert "hdit: mnist32: good\n" in err
    assert f"hdit: error: {tmp_path}/one.toml: not a TOML file" in err
    assert f"hdit: error: {tmp_path}/two.toml: train.batch_sise: unknown key; did you mean 'batch_size'?" in err
    assert f"hdit: error: {tmp_path}/two.toml: modle: unknown key; did you mean 'model'?" in err


def test_check_applies_overrides(capsys):
    assert main(["recipe", "check", "mnist32", "--set", "train.lr=nan"]) == 2
    assert "train.lr = nan: expected a finite number" in capsys.readouterr().err


def test_a_misspelt_recipe_name_is_refused_with_the_nearest_name(capsys):
    assert main(["recipe", "show", "mnist23"]) == 2
    assert "mnist23: no such recipe file" in (err := capsys.readouterr().err)
    assert "did you mean 'mnist32'?" in err


@pytest.mark.parametrize("target", ["mine.toml", "", "."])
def test_copy_keeps_the_comments_and_prints_the_destination(capsys, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "copy", "mnist32", *([target] if target else [])]) == 0
    path = tmp_path / capsys.readouterr().out.strip()
    assert path.name == ("mine.toml" if target == "mine.toml" else "mnist32.toml")
    assert path.read_bytes() == shipped_recipes()["mnist32"].read_bytes()


def test_copy_overwrites_only_when_forced(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    assert main(["recipe", "copy", "mnist32", str(path)]) == 2
    assert f"{path}: exists; choose another name, or add --force to overwrite it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["recipe", "copy", "mnist32", str(path), "--force"]) == 0
    assert path.read_bytes() == shipped_recipes()["mnist32"].read_bytes()


def test_copy_does_not_write_through_a_link_to_nowhere(capsys, tmp_path):
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "elsewhere.toml")
    assert main(["recipe", "copy", "mnist32", str(link)]) == 2
    assert not (tmp_path / "elsewhere.toml").exists()


def test_copy_into_a_missing_folder_is_an_error_of_one_line(capsys, tmp_path):
    assert main(["recipe", "copy", "mnist32", str(tmp_path / "none" / "a.toml")]) == 1
    assert capsys.readouterr().err == f"hdit: error: {tmp_path}/none/a.toml: No such file or directory\n"


def test_copying_a_recipe_onto_itself_with_force_keeps_it(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("# mine\n")
    assert main(["recipe", "copy", str(path), str(path), "--force"]) == 0
    assert path.read_text() == "# mine\n"


def test_an_annotated_copy_is_the_same_recipe(capsys, tmp_path):
    assert main(["recipe", "copy", "--annotated", "mnist32", str(tmp_path / "mine.toml")]) == 0
    assert read_recipe(str(tmp_path / "mine.toml")) == read_recipe("mnist32")
    text = (tmp_path / "mine.toml").read_text()
    assert "# peak learning rate (number > 0)\nlr = " in text
    original = shipped_recipes()["mnist32"].read_text()
    assert text.startswith(original[: original.index("[model]")] + "[model]\n")


def test_an_annotated_copy_keeps_the_comments_next_to_values(tmp_path):
    text = shipped_recipes()["mnist32"].read_text()
    text = text.replace("num_images = 48_000", 'num_images = 48_000   # short: "1500" steps')
    text = text.replace("depth = 2", "depth = 2 # outer", 1).replace(
        'attention = "global"', 'attention = "global" # inner'
    )
    text = text.replace("[diffusion]\n", "[diffusion]  # of Karras\n")
    (tmp_path / "a.toml").write_text(text)
    assert main(["recipe", "copy", "--annotated", str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]) == 0
    lines = (tmp_path / "b.toml").read_text().splitlines()
    assert read_recipe(str(tmp_path / "b.toml")) == read_recipe(str(tmp_path / "a.toml"))
    assert 'num_images = 48000  # short: "1500" steps' in lines and 'attention = "global"  # inner' in lines
    assert [line for line in lines if line.startswith("depth = ")] == ["depth = 2  # outer", "depth = 2"]
    assert sum(line.startswith("num_images = ") for line in lines) == 2


@pytest.mark.parametrize("value", ['"#1 # 2"', '"#1 # 2" # real', "'a' #b # c", "[ # goes on"])
def test_comments_are_told_from_texts(value):
    comment = {'"#1 # 2" # real': "  # real", "'a' #b # c": "  # b # c"}.get(value, "")
    assert keep_comments("[t]\nk = 1\n", f"[t]\nk = {value}\n") == f"[t]\nk = 1{comment}\n"


@pytest.mark.parametrize(
    "key, keys",
    [
        ("train.lr", ["train.lr"]),
        ("lr", ["train.lr"]),
        ("model.levels[0].width", ["model.levels.width"]),
        ("model.levels[].width", ["model.levels.width"]),
    ],
)
def test_reference_prints_the_entry_of_one_key_with_its_table(capsys, key, keys):
    assert main(["recipe", "reference", key]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")] == keys
    if key == "train.lr":
        assert out == "train.lr\n  number > 0; default: 0.0005\n  peak learning rate\n"


def test_reference_of_a_table_prints_its_keys_and_an_unknown_key_is_answered_by_the_nearest(capsys):
    assert main(["recipe", "reference", "evaluate"]) == 0
    keys = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert len(keys) > 2 and all(key.startswith("evaluate.") for key in keys)
    assert main(["recipe", "reference", "train.lrr"]) == 2
    assert "train.lrr: no such recipe key or table; did you mean 'train.lr'?" in capsys.readouterr().err
    assert main(["recipe", "reference", "zzz"]) == 2
    assert "zzz: no such recipe key or table; hdit recipe reference prints all keys" in capsys.readouterr().err


def test_check_compares_recipes_with_prepared_data_and_reports_everything_at_once(capsys, tmp_path, trained, tiny_data):
    path = tmp_path / "my.toml"
    path.write_text(recipe_toml(trained({})))
    assert main(["recipe", "check", str(path)]) == 0
    assert f"{path}: good, and fits {tiny_data}\n" in capsys.readouterr().err
    text = recipe_toml(trained({"model.image_size": [24, 16], "model.num_classes": 5}))
    path.write_text(text.replace("\nlr =", "\nlearning_rate ="))
    assert main(["recipe", "check", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"hdit: error: {path}: train.learning_rate: unknown key")
    assert f"{path}: {tiny_data}: has images of 16x24x3 (height x width x channels), the recipe's network" in lines[1]
    assert "prepare the data again with that --size, or change model.image_size" in lines[1]
    assert "has 3 classes, model.num_classes is 5" in lines[2]
