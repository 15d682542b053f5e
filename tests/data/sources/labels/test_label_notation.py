"""A label is a number in any form, or a name, or refused by name."""

import pytest

from hdit_core.data.sources.labels.label_notation import as_names, parse_label


@pytest.mark.parametrize(
    "text",
    ["10", " 10\n", "10.0", "10.", "+10", "1e1", "1.000000000e+01", "010", "0x0a", 10, 10.0, "tensor(10)", "[10]",
     "tensor([10])", "tensor(10, device='cuda:0')", "tensor(10, dtype=torch.int8)", "np.int64(10)", "np.float32(10.0)",
     "array(10)", "array([10])", "(10,)", "b'10'", "'10'", '"10"', "jnp.array(10)", "\u0661\u0660", "10\0"],
)  # fmt: skip
def test_a_whole_number_in_any_form_is_that_number(text):
    assert parse_label(text) == 10


@pytest.mark.parametrize("name", ["cat", "crane (bird)", "Corn_(maize)", "n01440764", "t-shirt/top", "1st", "(other)",
                                  "C++", "3d model", "[sic", "a=b", "f(x)", "Ärger", "1_000", "Na"])  # fmt: skip
def test_a_name_is_not_changed(name):
    assert parse_label(f" {name} ") == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither a number nor a name"),
        (True, "neither a number nor a name"),
        ([1], "neither a number nor a name"),
        ("1.5", "a number with a fraction"),
        ("tensor(0.5)", "a number with a fraction"),
        ("nan", "a missing value"),
        (float("nan"), "a missing value"),
        ("None", "a missing value"),
        ("tensor(nan)", "a missing value"),
        ("<NA>", "a missing value"),
        ("NA", "a missing value"),
        ("null", "a missing value"),
        ("1 0 0", "several numbers"),
        ("1, 0", "several numbers"),
        ("[0, 1, 0]", "printed Python object"),
        ("tensor([0, 1])", "printed Python object"),
        ("<Label.CAT: 1>", "printed Python object"),
        ("{'label': 1}", "printed Python object"),
        ("Label(name='cat')", "printed Python object"),
        ("b'cat'", "printed Python object"),
        ("PosixPath('cat')", "printed Python object"),
        ("cat\x01", "control characters"),
    ],
)
def test_a_value_that_is_neither_number_nor_name_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_label(text)


def test_one_class_in_several_notations_is_one_class():
    forms = {"a": "1", "b": "1.0", "c": 1, "d": "tensor(1)", "e": "10"}
    assert as_names(forms) == {"a": "1", "b": "1", "c": "1", "d": "1", "e": "10"}
    forms = {"a": " dog", "b": "dog ", "c": "do\u0308g", "d": "d\u00f6g"}
    assert as_names(forms) == {"a": "dog", "b": "dog", "c": "d\u00f6g", "d": "d\u00f6g"}


def test_a_negative_number_is_no_class():
    with pytest.raises(ValueError, match=r"'b': its class number -1 is negative; write class names, and no line"):
        as_names({"a": "0", "b": "-1"})


def test_numbers_of_equal_length_are_names():
    assert as_names({"a": "02691156", "b": "04379243"}) == {"a": "02691156", "b": "04379243"}
    assert as_names({"a": "007", "b": "7"}) == {"a": "7", "b": "7"}
