"""Differences between nested tables, by key path."""

from hdit_core.recipe.diff import describe_differences, differences, flatten

TABLE = {"model": {"levels": [{"width": 64, "depth": 2}, {"width": 128}], "size": [8, 12]}, "seed": 0, "empty": {}}


def test_leaves_are_named_by_their_key_path():
    assert flatten(TABLE) == {
        "model.levels[0].width": 64,
        "model.levels[0].depth": 2,
        "model.levels[1].width": 128,
        "model.size": [8, 12],
        "seed": 0,
    }


def test_a_difference_has_both_values_and_none_for_a_missing_key():
    other = {"model": {"levels": [{"width": 32, "depth": 2}], "size": [8, 12]}, "seed": 0, "note": "new"}
    found = differences(TABLE, other)
    assert found == [("model.levels[0].width", 64, 32), ("model.levels[1].width", 128, None), ("note", None, "new")]
    assert differences(TABLE, TABLE) == []
    text = describe_differences([*found, ("a", 1, 2), ("b", 1, 2)], "run", "command")
    assert text == (
        "model.levels[0].width 64 (run) vs 32 (command); model.levels[1].width 128 (run) vs not set (command); "
        "note not set (run) vs 'new' (command); and 2 more"
    )


def test_an_empty_array_differs_by_the_tables_of_the_other():
    assert differences({"growth": []}, {"growth": [{"size": 64}]}) == [("growth[0].size", None, 64)]
    assert differences({"growth": [{"size": 64}]}, {"growth": []}) == [("growth[0].size", 64, None)]
