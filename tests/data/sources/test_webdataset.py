"""Webdataset shards as a source: samples and their classes."""

import io
import json
import shutil
import tarfile

import pytest
from PIL import Image

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.files.tar import TarSource
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.webdataset import ShardedSource
from hdit_core.errors import DataError
from tests.data.sources.files.test_folder_and_archive import contents, problems, write_tar


def write_shards(folder, *shards, ending="tar"):
    folder.mkdir(exist_ok=True)
    for number, files in enumerate(shards):
        write_tar(folder / f"{number:05}.{ending}", "w:gz" if ending != "tar" else "w", files)
    return folder


def classes_of(source):
    _, classes, numbers = label_source(source, "auto")
    return classes, numbers


SAMPLES = {"0001.jpg": b"one", "0001.cls": b"7", "0002.cls": b"3", "0002.png": b"two", "0002.txt": b"a caption"}


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.gz"])
def test_samples_are_images_with_their_class_file(tmp_path, ending):
    source = open_source(str(write_shards(tmp_path / "s", SAMPLES, {"0001.webp": b"3"}, ending=ending)))
    assert source.kind == "shards"
    assert contents(source) == [("00000/0001.jpg", b"one"), ("00000/0002.png", b"two")]
    assert problems(source) == {"00001/0001.webp": "no class in its shard"}
    classes, numbers = classes_of(source)
    assert classes == tuple(map(str, range(8)))  # a class that these shards happen to lack keeps its number
    assert numbers == [7, 3, -1]


def test_a_single_shard_is_recognized_by_its_contents(tmp_path):
    assert isinstance(open_source(str(write_tar(tmp_path / "a.tar", files=SAMPLES))), ShardedSource)
    plain = {"1.png": b"x", "2.png": b"y", "about.json": b"{}"}
    assert isinstance(open_source(str(write_tar(tmp_path / "b.tar", files=plain))), TarSource)


def test_the_json_files_of_an_annotation_tool_do_not_make_class_folders_a_shard(tmp_path):
    def opened(content):
        names = (f"{folder}/{number}" for folder in ("cat", "dog") for number in (0, 1))
        files = {f"{name}.{suffix}": content for name in names for suffix in ("png", "json")}
        return open_source(str(write_tar(tmp_path / "a.tar", files=files)))

    source = opened(b'{"version": "5.0.1", "shapes": [{"label": "x"}], "imagePath": "0.png"}')
    assert classes_of(source) == (("cat", "dog"), [0, 0, 1, 1])
    for described in (b'{"caption": "a cat"}', b'{"label": 3}', b'{"name": "0.png"}'):
        assert opened(described).kind == "shards"
    flat = {"000000000.jpg": b"1", "000000000.json": b'{"key": "000000000", "url": "u", "caption": null}'}
    assert open_source(str(write_tar(tmp_path / "b.tar", files=flat))).kind == "shards"


def test_a_name_that_is_not_unicode_is_a_reject(tmp_path):
    names = ("a\ud800.png", "b\udce9.png")
    files = {
        f"{n}.{end}": json.dumps({"name": name}).encode() for n, name in enumerate(names) for end in ("png", "json")
    }
    source = open_source(str(write_tar(tmp_path / "a.tar", files=files)))
    assert problems(source) == {"a/0.png": "the name in its .json has half of a surrogate pair"}
    assert source.entries[1].name == names[1]  # of a file whose name is not UTF-8


def test_a_pattern_selects_shards(tmp_path):
    folder = write_shards(tmp_path / "s", {"a.png": b"1"}, {"b.png": b"2"}, {"c.png": b"3"})
    source = open_source(f"{folder}/0000[12].tar")
    assert [content for _, content in contents(source)] == [b"2", b"3"]


def test_shards_without_classes_have_none_although_their_names_have_folders(tmp_path):
    source = open_source(str(write_shards(tmp_path / "s", {"x/a.png": b"1"}, {"y/b.png": b"2"})))
    assert classes_of(source) == (None, [-1, -1])


def test_tables_of_img2dataset_next_to_its_shards_are_ignored(tmp_path):
    folder = write_shards(tmp_path / "s", {"a.png": b"1", "a.json": b'{"caption": "x", "status": "success"}'})
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text("{}")
    assert [content for _, content in contents(open_source(str(folder)))] == [b"1"]


def test_class_names_can_be_in_the_json_of_a_sample(tmp_path):
    files = {"a.png": b"1", "a.json": b'{"label": "dog"}', "b.png": b"2", "b.json": b'{"label": "cat"}'}
    assert classes_of(ShardedSource("s", [write_tar(tmp_path / "s.tar", files=files)])) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize("ending", ["pyd", "pkl", "pickle", "pth", "npy", "npz", "pt", "ten", "py", "sh"])
def test_a_malicious_file_in_a_shard_is_a_reject_that_is_never_opened(tmp_path, ending):
    files = {"a.png": b"1", f"a.{ending}": b"cos\nsystem\n(S'touch /tmp/hdit-evil'\ntR.", "a.cls": b"0"}
    source = ShardedSource("s", [write_tar(tmp_path / "s.tar", files=files)])
    assert problems(source) == {f"s/a.{ending}": f"a .{ending} file of a shard, which is never opened"}
    assert contents(source) == [("s/a.png", b"1")]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.cls": b"1"}, {"s/a": "a sample without an image"}),
        ({"a.png": b""}, {"s/a.png": "empty file"}),
        (
            {"a.1.png": b"1", "a.2.png": b"2"},
            dict.fromkeys(("s/a.1.png", "s/a.2.png"), "one of 2 images of one sample"),
        ),
        ({"a.png": b"1", "a.cls": b"\xff"}, {"s/a.png": "its .cls cannot be read"}),
        ({"a.png": b"1", "a.json": b"{"}, {"s/a.png": "its .json cannot be read"}),
        ({"a.png": b"1", "a.json": b"[" * 100_000}, {"s/a.png": "its .json cannot be read"}),
        ({"a.png": b"1", "a.json": b" " * 1_100_000}, {"s/a.png": "its .json: 1,100,000 bytes"}),
        ({"a.png": b"1", "a.cls": b" "}, {"s/a.png": "its class is neither a number nor a name"}),
        ({"a.png": b"1", "a.cls": b"x" * 5000}, {"s/a.png": "its class is neither a number nor a name"}),
        ({"a.png": b"1", "a.cls": b"99999999999"}, {"s/a.png": "its class number is beyond 1,048,575"}),
        ({"a.png": b"1", "a.cls": b"1048576"}, {"s/a.png": "its class number is beyond 1,048,575"}),
    ],
)
def test_unusable_samples_are_rejects_with_their_reason(tmp_path, files, problem):
    assert problems(ShardedSource("s", [write_tar(tmp_path / "s.tar", files=files)])) == problem


def test_hidden_files_are_skipped_and_names_without_a_dot_are_kept(tmp_path):
    files = {".hidden.jpg": b"1", "a/._b.jpg": b"1", "noending": b"2"}
    source = ShardedSource("s", [write_tar(tmp_path / "s.tar", files=files)])
    assert contents(source) == []
    assert problems(source) == {"s/noending": "a . file of a shard, which is never opened"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"1", "a.cls": b"1", "b.png": b"1", "b.cls": b"cat"}, "others only names such as 'cat'"),
        (
            {"a.png": b"1", "a.cls": b"1", "a.json": b'{"class": "x"}', "b.png": b"1", "b.cls": b"1", "b.json": b"{}"},
            "class 1 is called None and 'x'",
        ),
        (
            {"a.png": b"1", "a.cls": b"1", "a.json": b'{"class": "x"}',
             "b.png": b"1", "b.cls": b"2", "b.json": b'{"class": "x"}'},
            "several class numbers have one name",
        ),
    ],
)  # fmt: skip
def test_shards_that_contradict_each_other_are_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        ShardedSource("s", [write_tar(tmp_path / "s.tar", files=files)])


def test_links_in_shards_are_never_followed(tmp_path):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = write_tar(tmp_path / "s.tar", files={"a.png": b"1"}, extra=[link])
    assert problems(ShardedSource("s", [path])) == {"s/b.png": "a link to a target outside the archive"}


@pytest.mark.parametrize("length", range(0, 3000, 97))
def test_a_cut_shard_is_an_error_that_names_it(tmp_path, length):
    path = write_tar(tmp_path / "s.tar", files={f"{n}.png": b"x" * 500 for n in range(3)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"s.tar: not a complete tar \(truncated at byte"):
        ShardedSource("s", [path])


def test_a_shard_that_shrinks_while_it_is_read_is_a_reject(tmp_path):
    path = write_tar(tmp_path / "s.tar", files={"a.png": b"x" * 5000})
    source = ShardedSource("s", [path])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="the shard was cut short while it was read"):
        source.fetch(0)


def test_prepared_shards_without_their_manifest_keep_their_classes(pictures, prepare, tmp_path):
    (tmp_path / "c.txt").write_text("cow\nemu\nbee\nant\n")
    prepare(pictures, name="one", classes=str(tmp_path / "c.txt"))
    (tmp_path / "shards").mkdir()
    for path in (tmp_path / "one").glob("*.tar"):
        shutil.copy(path, tmp_path / "shards")
    classes, numbers = classes_of(open_source(str(tmp_path / "shards")))
    assert classes == ("cow", "1", "bee", "ant")
    reader = ImageReader(tmp_path / "one")
    assert numbers == [reader.label(index) for index in range(23)]


def test_real_images_of_shards_become_a_data_set(prepare, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), (200, 10, 10)).save(buffer, "PNG")
    files = {"00.png": buffer.getvalue(), "00.json": json.dumps({"name": "../../evil", "label": 0}).encode()}
    write_shards(tmp_path / "s", files)
    assert prepare(tmp_path / "s").images == 1
    assert (ImageReader(tmp_path / "set").read(0)[0] == (200, 10, 10)).all()


def test_labels_are_joined_over_the_whole_shard(tmp_path):
    """As a writer leaves them that goes column by column, or that asks for another order (webdataset#140)."""
    images, labels = (
        {f"{n:05}.jpg": b"%d" % n for n in range(100)},
        {f"{n:05}.cls": b"%d" % (n % 3) for n in range(100)},
    )
    for name, mode in (("a.tar", "w"), ("a.tgz", "w:gz")):
        for files in (images | labels, labels | images):
            source = open_source(str(write_tar(tmp_path / name, mode, files)))
            assert source.kind == "shards"
            assert classes_of(source) == (("0", "1", "2"), [n % 3 for n in range(100)])
            assert [content for _, content in contents(source)] == list(images.values())


def test_keys_with_dots_have_their_labels(tmp_path):
    files = {"img_0.3.cls": b"1", "img_0.3.jpg": b"a", "img_1.3.cls": b"0", "img_1.3.jpg": b"b"}
    assert classes_of(open_source(str(write_tar(tmp_path / "a.tar", files=files)))) == (("0", "1"), [1, 0])
    files = {"v1.0.jpg": b"a", "v1.0.cls": b"1", "v1.1.jpg": b"b", "v1.1.cls": b"0"}
    assert classes_of(open_source(str(write_tar(tmp_path / "b.tar", files=files)))) == (("0", "1"), [1, 0])


@pytest.mark.parametrize("ending", ["class", "label", "lbl", "target", "CLS", "cls.txt"])
def test_labels_may_have_other_extensions(tmp_path, ending):
    files = {"a.png": b"1", f"a.{ending}": b"1", "b.png": b"2", f"b.{ending}": b"0"}
    assert classes_of(open_source(str(write_tar(tmp_path / "a.tar", files=files)))) == (("0", "1"), [1, 0])


@pytest.mark.parametrize("text", ["tensor(10)", "10.0", "np.int64(10)", "[10]", "+10", "1e1"])
def test_class_numbers_in_other_notations_are_read(tmp_path, text):
    files = {"a.png": b"1", "a.cls": text.encode(), "b.png": b"2", "b.cls": b"2"}
    assert classes_of(open_source(str(write_tar(tmp_path / "a.tar", files=files))))[1] == [10, 2]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"a.png": b"1", "a.cls": b"[0, 1]"},
            "its class '[0, 1]' looks like a printed Python object, not a number or a name",
        ),
        ({"a.png": b"1", "a.cls": b"-1"}, "its class number is negative"),
        ({"a.png": b"1", "a.cls": b"1", "a.json": b'{"label": 2}'}, "its class is 1 in .cls and 2 in .json"),
        ({"a.png": b"1", "a.cls": b"1", "a.b.cls": b"2"}, "several .cls files have its key"),
    ],
)
def test_an_ambiguous_label_is_a_reject_with_its_reason(tmp_path, files, problem):
    assert problems(open_source(str(write_tar(tmp_path / "s.tar", files=files)))) == {"s/a.png": problem}


@pytest.mark.parametrize("labels", [{"b/0.cls": b"1"}, {"labels/0.json": b'{"label": 1}', "x.cls": b"1"}])
def test_labels_that_belong_to_no_image_are_refused(tmp_path, labels):
    path = write_tar(tmp_path / "s.tar", files={"a/0.png": b"1", **labels})
    with pytest.raises(DataError, match=r"labels belong to none of its 1 images: a label such as .* needs an image"):
        open_source(str(path))


def test_a_shard_with_a_name_twice_is_refused(tmp_path):
    path = write_tar(tmp_path / "s.tar", files={"a.png": b"1", "a.cls": b"0"})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a.png")
        archive.addfile(member)
    with pytest.raises(DataError, match=r"holds two files 'a\.png': webdataset reads both, tar keeps the last"):
        open_source(str(path))
