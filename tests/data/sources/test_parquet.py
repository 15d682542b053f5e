"""Parquet of the Hugging Face image kind as a source."""

import builtins
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError
from tests.data.sources.files.test_folder_and_archive import problems

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LABEL = {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}


def write(path, rows, features=None, **options):
    """Write rows like datasets.Dataset.to_parquet, with its metadata in the schema."""
    table = pa.Table.from_pylist(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def rows(count, label=lambda number: number % 2):
    return [{"image": {"bytes": b"%d" % n, "path": f"{n}.png"}, "label": label(n)} for n in range(count)]


def images(source):
    return [source.fetch(number) for number in range(len(source.entries))]


def classes_of(source):
    _, classes, numbers = label_source(source, "auto")
    return classes, numbers


def test_rows_are_images_and_classes_have_the_names_of_the_schema(tmp_path):
    features = {"image": {"_type": "Image"}, "label": LABEL}
    source = open_source(str(write(tmp_path / "any-name", rows(5), features, row_group_size=2)))
    assert source.kind == "parquet"
    assert images(source) == [b"0", b"1", b"2", b"3", b"4"]
    assert [entry.name for entry in source.entries][:2] == ["any-name/0000000-0.png", "any-name/0000001-1.png"]
    assert classes_of(source) == (("cat", "dog", "emu"), [0, 1, 0, 1, 0])  # a class without images keeps its number


@pytest.mark.parametrize("order", [[4, 1, 1, 3, 0, 4], [0, 4, 2], [3]])
def test_any_row_can_be_read_by_index(tmp_path, order):
    source = open_source(str(write(tmp_path / "a.parquet", rows(5), row_group_size=2)))
    assert [source.fetch(number) for number in order] == [b"%d" % number for number in order]


def png_of(levels):
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def conditioned_rows(count=5):
    numbers = np.random.Generator(np.random.Philox(1))
    rows = []
    for number in range(count):
        levels = numbers.integers(0, 256, (8, 12, 3)).astype(np.uint8)
        image = {"bytes": png_of(levels), "path": f"{number}.png"}
        mask = {"bytes": png_of(levels[..., 0]), "path": None}
        rows.append({"image": image, "mask": mask, "embedding": [0.5, float(number)], "text": f"caption {number}"})
    return rows


def test_columns_can_contain_condition_images_vectors_and_captions(tmp_path, prepare):
    table = conditioned_rows()
    table[3] |= {"mask": None, "text": None}
    table[4] |= {"embedding": [1.0]}
    write(tmp_path / "a.parquet", table, row_group_size=2)
    prepare(tmp_path / "a.parquet", condition="mask", vectors="embedding", captions=True)
    reader = ImageReader(tmp_path / "set")
    assert (len(reader), reader.condition_channels, reader.vector_dim) == (3, 1, 2)
    for number in range(3):
        np.testing.assert_array_equal(reader.condition(number)[..., 0], reader.read(number)[0][..., 0])
        assert reader.vector(number).tolist() == [0.5, number]
        assert reader.caption(number) == f"caption {number}"
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "set" / "rejects.jsonl").read_text().splitlines()]
    assert reasons == [
        "no condition image, which other images of the source have",
        "its vector has 1 numbers, expected 2 as the first one has",
    ]


def test_a_column_of_another_type_is_refused(tmp_path, prepare):
    write(tmp_path / "a.parquet", conditioned_rows())
    with pytest.raises(DataError, match=r"its column 'text' contains no images, bytes or \{bytes, path\}"):
        prepare(tmp_path / "a.parquet", condition="text")
    with pytest.raises(DataError, match=r"column text: has no vector for any image of SOURCE"):
        prepare(tmp_path / "a.parquet", vectors="text")


def test_a_folder_of_files_is_read_in_the_order_of_their_names(tmp_path):
    for number in (1, 0):
        write(tmp_path / "data" / f"train-{number:05}-of-00002.parquet", rows(2))
    (tmp_path / "README.md").write_text("---\n")
    source = open_source(str(tmp_path))
    assert [entry.name.split("/")[0] for entry in source.entries] == ["train-00000-of-00002"] * 2 + [
        "train-00001-of-00002"
    ] * 2
    assert images(source) == [b"0", b"1"] * 2


def test_two_splits_in_a_folder_are_refused_and_a_pattern_names_one(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}-00000-of-00001.parquet", rows(2))
    with pytest.raises(UsageError, match=r"contains the splits train, validation; name the files of one, for example "):
        open_source(str(tmp_path))
    assert len(open_source(str(tmp_path / "train-*.parquet")).entries) == 2


def test_bytes_may_be_the_column_itself_and_labels_text(tmp_path):
    found = write(tmp_path / "a.parquet", [{"img": b"1", "label": "dog"}, {"img": b"2", "label": "cat"}])
    source = open_source(str(found))
    assert images(source) == [b"1", b"2"]
    assert classes_of(source) == (("cat", "dog"), [1, 0])


def test_class_numbers_without_names_keep_their_values(tmp_path):
    source = open_source(str(write(tmp_path / "a.parquet", rows(3, label=lambda number: 2 * number))))
    assert classes_of(source) == (("0", "1", "2", "3", "4"), [0, 2, 4])


def test_a_test_set_whose_labels_are_secret_has_no_classes(tmp_path):
    path = write(tmp_path / "a.parquet", rows(3, label=lambda number: -1), {"label": LABEL})
    assert classes_of(open_source(str(path))) == (None, [-1, -1, -1])
    path = write(tmp_path / "b.parquet", [{"image": b"1"}, {"image": b"2"}])
    assert classes_of(open_source(str(path))) == (None, [-1, -1])


def test_rows_without_a_usable_class_are_rejects(tmp_path):
    labels = [0, None, -1, 3, 1]
    source = open_source(str(write(tmp_path / "a.parquet", rows(5, label=labels.__getitem__), {"label": LABEL})))
    assert {name[2:9]: problem for name, problem in problems(source).items()} == {
        "0000001": "no class in its row",
        "0000002": "no class in its row",
        "0000003": "its class is none of the file's classes",
    }


def test_the_path_of_an_image_in_a_row_is_never_opened(tmp_path):
    found = [{"image": {"bytes": None, "path": "/etc/passwd"}}, {"image": {"bytes": b"x", "path": "../../x.png"}}]
    source = open_source(str(write(tmp_path / "a.parquet", found)))
    with pytest.raises(ValueError, match="its row has no image, at most the path of one, which is never opened"):
        source.fetch(0)
    assert source.fetch(1) == b"x"
    assert source.entries[1].name == "a/0000001-x.png"


def test_a_row_that_decompresses_to_more_than_any_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hdit_core.data.sources.parquet.LARGEST_FILE_BYTES", 1 << 20)
    found = [{"image": b"1"}, {"image": bytes((1 << 20) + 1)}, {"image": b"3"}]
    path = write(tmp_path / "a.parquet", found, compression="zstd")
    assert path.stat().st_size < 5000
    source = open_source(str(path))
    with pytest.raises(ValueError, match="1,048,577 bytes are more than 1 MiB"):
        source.fetch(1)
    assert source.fetch(2) == b"3"


@pytest.mark.parametrize("about", [{"label": "x" * 100_000}, {"image": {"bytes": b"1", "path": "x" * 100_000}}])
def test_a_label_or_path_that_is_too_long_is_refused(tmp_path, about):
    path = write(tmp_path / "a.parquet", [row | about for row in rows(150)])
    with pytest.raises(
        DataError, match=r"a.parquet: a label or name of 100,000 bytes, expected at most 65,536; shorten"
    ):
        open_source(str(path))


def test_the_column_named_label_has_precedence(tmp_path):
    features = {"image": {"_type": "Image"}, "label": LABEL, "coarse": LABEL}
    found = [{"image": b"1", "coarse": 0, "label": 1}]
    assert classes_of(open_source(str(write(tmp_path / "a.parquet", found, features))))[1] == [1]
    fine = [{"image": b"1", "coarse_label": 0, "fine_label": 2}]
    features = {"fine_label": LABEL, "coarse_label": LABEL}
    assert classes_of(open_source(str(write(tmp_path / "b.parquet", fine, features))))[1] == [2]


@pytest.mark.parametrize(
    ("found", "features", "message"),
    [
        ([{"text": "x", "url": "y"}], None, "no images in its columns text, url; expected 'image', bytes or"),
        ([{"image": "x"}], None, "no images in its columns image; expected 'image'"),
        ([{"image": {"path": "x"}}], None, "no images in its columns image; expected 'image'"),
        (
            [{"image": b"1", "a": 0, "b": 0}],
            {"a": LABEL, "b": LABEL},
            "classes in several columns, a, b; rename",
        ),
        (
            [{"image": b"1", "label": 0}],
            {"label": {"_type": "ClassLabel", "names": ["x", "x"]}},
            "does not give each class of the column 'label' one name",
        ),
        (
            [{"image": b"1", "label": 0}],
            {"label": {"_type": "ClassLabel", "names": "xy"}},
            "does not give each class of the column 'label' one name",
        ),
    ],
)
def test_an_ambiguous_file_is_refused(tmp_path, found, features, message):
    with pytest.raises(DataError, match=message):
        open_source(str(write(tmp_path / "a.parquet", found, features)))


@pytest.mark.parametrize("notes", [b"{", b"[]", b"[" * 100_000, b'{"info": 7}', b'{"info": {"features": []}}'])
def test_unreadable_metadata_are_ignored(tmp_path, notes):
    table = pa.Table.from_pylist(rows(2)).replace_schema_metadata({"huggingface": notes})
    pq.write_table(table, tmp_path / "a.parquet")
    assert classes_of(open_source(str(tmp_path / "a.parquet"))) == (("0", "1"), [0, 1])


def test_files_that_name_different_classes_are_refused(tmp_path):
    write(tmp_path / "a.parquet", rows(2), {"label": LABEL})
    write(tmp_path / "b.parquet", rows(2), {"label": {**LABEL, "names": ["x", "y"]}})
    with pytest.raises(DataError, match="its files have different classes; prepare them one by one"):
        open_source(str(tmp_path))


def test_a_pickled_type_in_the_schema_is_not_loaded(tmp_path):
    """What older pyarrow unpickled: CVE-2023-47248."""
    payload = pickle.dumps(Payload(tmp_path / "evil"))
    notes = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    field = pa.field("image", pa.binary(), metadata=notes)
    pq.write_table(pa.table({"image": [b"1"]}, schema=pa.schema([field])), tmp_path / "a.parquet")
    assert images(open_source(str(tmp_path / "a.parquet"))) == [b"1"]
    assert not (tmp_path / "evil").exists()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_truncated_or_altered_file_is_an_error_or_a_reject(tmp_path):
    whole = write(tmp_path / "a.parquet", rows(40), {"label": LABEL}, row_group_size=7).read_bytes()
    path = tmp_path / "b.parquet"
    for length in range(4, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"b.parquet: not a complete Parquet file"):
            open_source(str(path))
    random = np.random.default_rng(0)
    for place in random.integers(4, len(whole), 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << random.integers(8)]) + whole[place + 1 :])
        try:
            source = open_source(str(path))
        except (DataError, UsageError):
            continue
        for number in range(len(source.entries)):
            try:
                source.fetch(number)
            except ValueError as problem:
                assert "arquet" in str(problem) or "no image" in str(problem)


def test_pyarrow_missing_is_one_line_with_the_command(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", rows(1))
    real = builtins.__import__

    def without_pyarrow(name, *rest, **more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed; run: pip install 'hdit-toolkit\[par"):
        open_source(str(path))


def test_images_of_parquet_become_a_data_set(pictures, prepare, tmp_path):
    files = sorted(pictures.rglob("0*.png"))
    found = [{"image": {"bytes": file.read_bytes(), "path": None}, "label": n % 2} for n, file in enumerate(files)]
    write(tmp_path / "a.parquet", found, {"label": LABEL}, row_group_size=5)
    summary = prepare(tmp_path / "a.parquet", name="one", workers=2)
    assert (summary.images, summary.classes) == (23, 3)
    prepare(pictures, name="two", labels="none")
    one, two = ImageReader(tmp_path / "one"), ImageReader(tmp_path / "two")
    assert all(np.array_equal(one.read(index)[0], two.read(index)[0]) for index in range(23))
