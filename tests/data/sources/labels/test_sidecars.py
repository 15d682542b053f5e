"""Label files among the images: dataset.json, metadata tables, .cls."""

import importlib
import io
import json
import unicodedata

import pytest

from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.labels.tables import read_json
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError
from tests.data.sources.files.test_folder_and_archive import contents, write_folder, write_tar, write_zip

EDM = {f"{number // 1000:05}/img{number:08}.png": b"%d" % number for number in (0, 1, 2, 999, 1000, 1029)}
WRITERS = {"folder": write_folder, "a.zip": write_zip, "a.tar": lambda path, files: write_tar(path, files=files),
           "a.tgz": lambda path, files: write_tar(path, "w:gz", files)}  # fmt: skip


def dataset(labels):
    return {"dataset.json": json.dumps({"labels": labels}).encode()}


def labelled(path, labels="auto"):
    source = open_source(str(path), read_labels=labels == "auto")
    inputs, classes, numbers = label_source(source, labels)
    return {image.name: number for image, number in zip(inputs, numbers, strict=True)}, classes, inputs, source


@pytest.mark.parametrize("kind", WRITERS)
def test_edm_labels_are_read_from_dataset_json(tmp_path, kind):
    expected = {name: number % 3 for number, name in enumerate(EDM)}
    path = WRITERS[kind](tmp_path / kind, EDM | dataset(list(expected.items())))
    labels, classes, _, source = labelled(path)
    assert labels == expected and classes == ("0", "1", "2")
    assert dict(contents(source)) == EDM


@pytest.mark.parametrize("extra", [dataset(None), {}])
def test_the_folders_of_an_edm_zip_are_not_classes(tmp_path, extra):
    labels, classes, _, _ = labelled(write_zip(tmp_path / "a.zip", EDM | extra))
    assert classes is None and set(labels.values()) == {-1}


def test_a_class_that_no_image_has_keeps_its_number(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"0.png": b"0", "1.png": b"1", **dataset({"0.png": 5, "1.png": 2.0})})
    assert labelled(path)[:2] == ({"0.png": 5, "1.png": 2}, tuple("012345"))


def test_a_folder_around_everything_and_backslashes_do_not_matter(tmp_path):
    files = {
        "x/00000/img00000000.png": b"0",
        "x/dataset.json": dataset([["00000\\img00000000.png", 1]])["dataset.json"],
    }
    assert labelled(write_zip(tmp_path / "a.zip", files))[0] == {"x/00000/img00000000.png": 1}


def test_unmatched_images_and_labels_are_rejected_by_name(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"0.png": b"0", "1.png": b"1", **dataset([["0.png", 0], ["2.png", 1]])})
    inputs = labelled(path)[2]
    assert {image.name: image.problem for image in inputs} == {
        "0.png": None, "1.png": "no label in dataset.json", "2.png": "named in dataset.json, not found",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["0.png", [0.5, 0.5]]], "is a vector of 2, expected a class"),
        (
            [["x.png", 0]],
            "none of its 1 names is a file of the source: it has names such as 'x.png', the source '0.png'",
        ),
        ([["0.png", 0], ["0.png", 1]], "'0.png' has two labels, '0' and '1'"),
        ([["0.png", "nan"]], "'0.png': its class 'nan' means a missing value"),
        ([["0.png", -1]], "'0.png': its class number -1 is negative"),
        (7, "expected {.labels"),
    ],
)
def test_implausible_labels_are_refused_and_can_be_ignored(tmp_path, labels, message):
    path = write_zip(tmp_path / "a.zip", {"0.png": b"0", **dataset(labels)})
    with pytest.raises(DataError, match=message):
        labelled(path)
    assert labelled(path, "none")[1] is None


def test_a_dataset_json_of_another_kind_is_ignored_and_a_damaged_one_is_refused(tmp_path):
    files = {"cat/0.png": b"0", "dog/1.png": b"1"}
    assert labelled(write_zip(tmp_path / "a.zip", files | {"dataset.json": b'{"name": "pets"}'}))[1] == ("cat", "dog")
    with pytest.raises(
        DataError, match=r"dataset.json: cannot be read .*; fix it, or choose the classes with --labels"
    ):
        labelled(write_zip(tmp_path / "b.zip", files | {"dataset.json": b"{"}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n0.png,dog\n1.png,cat\n"),
        ("metadata.csv", '"file_name","label"\n"0.png","dog"\n"1.png","cat"\n'),  # as R writes it
        ("metadata.csv", "sep=;\r\nfile_name;label\r\n0.png;dog\r\n1.png;cat\r\n"),  # as Excel writes it
        ("metadata.csv", "file_name|label\n0.png|dog\n1.png|cat\n"),
        ("metadata.csv", "file_name,label\r0.png,dog\r1.png,cat\r"),
        ("metadata.csv", "file_name,id,file,class_id,label\n0.png,7,x,1,dog\n1.png,8,y,2,cat\n"),
        ("metadata.jsonl", '{"file_name": "0.png", "id": 7, "label": "dog"}\n{"file_name": "1.png", "label": "cat"}\n'),
        ("metadata.jsonl", '{"file_name": "0.png", "label": "dog"}\n{"file_name": "1.png", "label": "cat"}\n'),
    ],
)
def test_hugging_face_metadata_gives_the_classes(tmp_path, name, text):
    path = write_folder(tmp_path / "f", {"0.png": b"0", "1.png": b"1", name: text.encode()})
    assert labelled(path)[:2] == ({"0.png": 1, "1.png": 0}, ("cat", "dog"))


def as_parquet(**columns):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    buffer = io.BytesIO()
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def test_hugging_face_metadata_in_parquet_gives_the_classes(tmp_path):
    table = as_parquet(file_name=["0.png", "1.png"], text=["a dog", "a cat"], label=["dog", "cat"])
    files = {"0.png": b"0", "1.png": b"1"}
    assert labelled(write_folder(tmp_path / "f", files | {"metadata.parquet": table}))[:2] == (
        {"0.png": 1, "1.png": 0},
        ("cat", "dog"),
    )
    captions = as_parquet(file_name=["0.png", "1.png"], text=["a dog", "a cat"])
    assert labelled(write_folder(tmp_path / "g", files | {"metadata.parquet": captions}))[1] is None
    path = write_folder(tmp_path / "h", files | {"metadata.parquet": table[:-9]})
    with pytest.raises(DataError, match=r"h: metadata.parquet: not a whole Parquet file"):
        labelled(path)
    (tmp_path / "labels.parquet").write_bytes(captions)
    with pytest.raises(DataError, match=r"expected the columns file and label; found file_name, text"):
        labelled(tmp_path / "g", str(tmp_path / "labels.parquet"))


def test_a_long_value_that_parquet_repeats_for_free_is_refused_before_it_is_repeated(tmp_path):
    table = as_parquet(file_name=[f"{number}.png" for number in range(150)], label=["x" * 1_000_000] * 150)
    assert len(table) < 100_000
    path = write_folder(tmp_path / "f", {"0.png": b"0", "metadata.parquet": table})
    with pytest.raises(
        DataError, match=r"f: metadata.parquet: a label or name of 1,000,000 bytes, expected at most 65,"
    ):
        labelled(path)


def test_metadata_without_labels_is_ignored(tmp_path):
    files = {"cat/0.png": b"0", "dog/1.png": b"1", "metadata.csv": b"file_name,text\ncat/0.png,a cat\n"}
    assert labelled(write_folder(tmp_path / "f", files))[1] == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "metadata.csv",
            "file_name,class_id,class_name\n0.png,1,dog\n",
            "classes in several columns, class_id, class_",
        ),
        (
            "metadata.jsonl",
            '{"id": 1, "path": "0.png", "label": "a"}',
            "names of files in several columns, id, path; re",
        ),
        (
            "metadata.csv",
            "a" * 200_000,
            r"cannot be read \(field larger than field limit .*; fix it, or choose the cla",
        ),
    ],
)
def test_metadata_of_which_the_columns_are_unclear_are_refused(tmp_path, name, text, message):
    path = write_folder(tmp_path / "f", {"0.png": b"0", name: text.encode()})
    with pytest.raises(DataError, match=f"f: {name}: {message}"):
        labelled(path)
    assert labelled(path, "none")[1] is None
    parts = {"x/0.png": b"0", "y/0.png": b"0", f"x/{name}": ("a" * 200_000).encode()}
    assert labelled(write_folder(tmp_path / "g", parts))[1] == ("x", "y")


def test_a_line_without_a_label_among_others_is_an_error(tmp_path):
    lines = '{"file_name": "0.png", "text": "a dog"}\n{"file_name": "1.png", "label": "cat"}\n'
    path = write_folder(tmp_path / "f", {"0.png": b"0", "1.png": b"1", "metadata.jsonl": lines.encode()})
    with pytest.raises(DataError, match=r"metadata.jsonl:1: expected a file and a label, found None and None"):
        labelled(path)


def test_a_name_that_occurs_twice_in_json_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"0.png": b"0", "dataset.json": b'{"labels": {"0.png": 1, "0.png": 2}}'})
    with pytest.raises(DataError, match=r"dataset.json: cannot be read \('0.png' occurs twice\)"):
        labelled(path)
    names = [f"{number}.png" for number in range(60_000)]  # a comparison of all pairs takes minutes
    with pytest.raises(ValueError, match=r"'59999.png' occurs twice"):
        read_json("{" + ",".join(f'"{name}": 1' for name in (*names, names[-1])) + "}")


def test_labels_of_a_subfolder_are_refused_since_the_folders_are_not_the_classes(tmp_path):
    files = {f"{folder}/{number}.png": b"%d" % number for folder in "xy" for number in range(2)}
    table = {"x/metadata.csv": b"file_name,label\n0.png,dog\n1.png,cat\n"}
    path = write_folder(tmp_path / "f", files | table)
    with pytest.raises(DataError, match=r"f: x/metadata.csv has the labels of the images in its folder only"):
        labelled(path)
    assert labelled(path / "x")[1] == ("cat", "dog")
    assert labelled(path, "none")[1] is None


@pytest.mark.parametrize("kind", ["folder", "a.zip"])
def test_cls_files_label_the_images_of_their_name(tmp_path, kind):
    files = {"a.1.png": b"0", "a.1.cls": b"tensor(10)", "b.jpg": b"1", "b.cls": b"2", "a.txt": b"caption"}
    labels, classes, _, _ = labelled(WRITERS[kind](tmp_path / kind, files))
    assert labels == {"a.1.png": 10, "b.jpg": 2} and len(classes) == 11


def test_cls_files_without_an_image_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"its 1 \.cls files belong to none of its images: 'y\.cls' needs an image"):
        labelled(write_folder(tmp_path / "f", {"x.png": b"0", "y.cls": b"1"}))


def named(form, *names):
    """Return names whose accents are composed (NFC) or not (NFD), as systems write them differently."""
    return [unicodedata.normalize(form, name) for name in names]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_labels_and_captions_match_across_unicode_normalization_forms(tmp_path, forms):
    images, texts = (named(form, "caf\u00e9", "na\u00efve") for form in forms)
    files = {f"{name}.png": b"image" for name in images}
    files |= {f"{name}.cls": b"%d" % (number + 3) for number, name in enumerate(texts)}
    files |= {f"{name}.txt": name.encode() for name in texts}
    labels, classes, _, source = labelled(write_zip(tmp_path / "a.zip", files))
    assert [classes[labels[f"{name}.png"]] for name in images] == ["3", "4"]
    captions = source.attachments("caption")
    expected = {f"{image}.png": text.encode() for image, text in zip(images, texts, strict=True)}
    assert {entry.name: captions.fetch(number) for number, entry in enumerate(source.entries)} == expected


def test_names_in_different_unicode_normalization_forms_keep_their_own_labels(tmp_path):
    names = [named(form, "caf\u00e9")[0] for form in ("NFC", "NFD")]
    files = {f"{name}.png": b"image" for name in names}
    labels, classes, _, _ = labelled(
        write_zip(tmp_path / "a.zip", files | {f"{name}.cls": b"%d" % number for number, name in enumerate(names)})
    )
    assert [classes[labels[f"{name}.png"]] for name in names] == ["0", "1"]
