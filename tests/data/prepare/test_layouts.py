"""The published layouts of well-known data sets are supported."""

import io
import tarfile

import pytest

from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.prepare.label_files import read_classes
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.files.tar import TarSource
from hdit_core.data.sources.files.zip import ZipSource, is_zip
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError
from tests.data.prepare.test_class_assignment import labelled
from tests.data.sources.files.test_folder_and_archive import contents, write_tar


def open_archive(path):
    return ZipSource(path) if is_zip(path) else TarSource(path)


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("around", ["", "images1024x1024/", "ffhq/images1024x1024/"])
def test_ffhqs_numbered_folders_are_not_classes(around):
    names = [f"{around}{number // 1000 * 1000:05}/{number:05}.png" for number in (0, 999, 1000, 69_999)]
    classes, problems = labelled(names)
    assert set(classes.values()) == {None}
    assert not problems


def test_numbers_in_folders_that_do_not_follow_from_them_are_classes():
    classes, _ = labelled(["00000/00000.png", "00001/00001.png"])
    assert set(classes.values()) == {"00000", "00001"}


def test_ffhq_in_several_sizes_is_refused_before_a_face_is_taken_twice():
    with pytest.raises(DataError, match="are FFHQ's images in several sizes; give one of them as the source"):
        labelled(["images1024x1024/00000/00000.png", "thumbnails128x128/00000/00000.png"])


@pytest.mark.parametrize("around", ["", "ILSVRC/Data/CLS-LOC/"])
def test_a_folder_with_training_and_validation_set_is_refused(around):
    names = [f"{around}train/n01440764/a.JPEG", f"{around}train/n01443537/b.JPEG", f"{around}val/c.JPEG"]
    with pytest.raises(DataError, match="the folders train, val are splits, not classes; give one of them"):
        labelled(names)
    assert set(labelled(names, "none")[0].values()) == {None}


def test_imagenets_tar_of_tars_is_read_as_class_folders(tmp_path):
    outer = {
        "n01443537.tar": tar_of({"n01443537_2.JPEG": b"fish" * 300, "n01443537_1.JPEG": b"gold"}),
        "n01440764.tar": tar_of({"n01440764_1.JPEG": b"tench"}),
    }
    source = open_source(str(write_tar(tmp_path / "ILSVRC2012_img_train.tar", files=outer)))
    assert contents(source) == [
        ("n01440764/n01440764_1.JPEG", b"tench"),
        ("n01443537/n01443537_1.JPEG", b"gold"),
        ("n01443537/n01443537_2.JPEG", b"fish" * 300),
    ]
    _, classes, numbers = label_source(source, "auto")
    assert classes == ("n01440764", "n01443537")
    assert numbers == [0, 1, 1]


def test_a_damaged_tar_in_a_tar_is_an_error(tmp_path):
    inner = tar_of({"a.JPEG": b"x" * 2000})
    path = write_tar(tmp_path / "a.tar", files={"n1.tar": inner[:1000], "n2.tar": inner})
    with pytest.raises(DataError, match=r"a.tar: not a complete zip or tar archive \(.*byte"):
        open_archive(path)


def test_a_file_with_only_the_name_of_an_image_is_not_called_an_archive(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a text, which is no image")
    with pytest.raises(DataError, match=r"a.jpg: is no image, although it is called one, and no archive; copy"):
        open_archive(tmp_path / "a.jpg")


def test_a_file_with_only_the_name_of_a_tar_is_a_plain_file(tmp_path):
    inner = tar_of({"b.png": b"2"})
    path = write_tar(tmp_path / "a.tar", files={"a.tar": b"no tar", "b.tar": inner, "c.png": b"3"})
    assert contents(open_archive(path)) == [("a.tar", b"no tar"), ("b/b.png", b"2"), ("c.png", b"3")]


def test_class_tars_in_a_folder_are_classes(tmp_path):
    for wnid in ("n01443537", "n01440764"):
        (tmp_path / f"{wnid}.tar").write_bytes(tar_of({f"{wnid}_1.JPEG": b"x"}))
    _, classes, numbers = label_source(open_source(str(tmp_path)), "auto")
    assert classes == ("n01440764", "n01443537")
    assert numbers == [0, 1]


def test_imagenets_classes_are_a_thousand_sorted_wnids():
    classes = read_classes("imagenet")
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[207], classes[999]) == ("n01440764", "n02099601", "n15075141")


def flat_validation_set(folder, count=3):
    for number in range(1, count + 1):
        (folder / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(b"x")
    return FolderSource(folder)


def test_the_flat_validation_set_takes_its_classes_from_the_solution(tmp_path):
    (tmp_path / "val").mkdir()
    path = tmp_path / "LOC_val_solution.csv"
    path.write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000003,n02099601 85 1 499 272\n"
        "ILSVRC2012_val_00000001,n15075141 1 2 3 4 n15075141 5 6 7 8 \n"
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4\n"
    )
    inputs, classes, numbers = label_source(flat_validation_set(tmp_path / "val"), str(path), "imagenet")
    assert not any(one.problem for one in inputs)
    assert len(classes) == 1000
    assert numbers == [999, 0, 207]


def test_a_list_of_wnids_follows_the_order_of_the_file_names(tmp_path):
    (tmp_path / "val").mkdir()
    path = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    path.write_text("n15075141\nn01440764\nn02099601\n")
    source = flat_validation_set(tmp_path / "val")
    assert label_source(source, str(path), "imagenet")[2] == [999, 0, 207]
    assert label_source(source, str(path))[2] == [2, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a\nb\n", "l.txt: has 2 lines, the source 3 files; expected one label per line, in the order"),
        ("l.txt", "a\n\nb\n", "l.txt:2: expected a label, found an empty line"),
        ("ILSVRC2012_validation_ground_truth.txt", "490\n361\n171\n", "are not indices of the sorted class names"),
    ],
)
def test_an_implausible_list_of_labels_is_refused(tmp_path, name, text, message):
    (tmp_path / "val").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        label_source(flat_validation_set(tmp_path / "val"), str(tmp_path / name))


def class_folders(folder, names=("cat", "dog")):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(b"x")
    return FolderSource(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "emu\ndog\ncat\n"),
        ("c.json", '["emu", "dog", "cat"]'),
        ("c.json", '{"1": ["dog", "Hund"], "0": ["emu", "Emu"], "2": ["cat", "Katze"]}'),
    ],
)
def test_a_list_of_classes_gives_the_numbers(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    _, classes, numbers = label_source(class_folders(tmp_path / "pictures"), "auto", str(tmp_path / name))
    assert classes == ("emu", "dog", "cat")
    assert numbers == [2, 1]


def test_the_only_folder_is_a_class_if_the_list_has_its_name(tmp_path):
    (tmp_path / "c.txt").write_text("cat\ndog\n")
    for name in ("set/dog/new/1.png", "set/dog/old/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(str(tmp_path / "set"))
    assert label_source(source, "auto", str(tmp_path / "c.txt"))[1:] == (("cat", "dog"), [1, 1])
    assert label_source(source, "auto")[1] == ("new", "old")


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_a_list_of_classes_for_images_without_classes_is_refused(tmp_path, labels):
    (tmp_path / "c.txt").write_text("cat\ndog\n")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.png").touch()
    with pytest.raises(DataError, match=r"flat: no image has a class for --classes .*c.txt; put the images into class"):
        label_source(open_source(str(tmp_path / "flat")), labels, str(tmp_path / "c.txt"))


def test_an_image_of_a_class_that_is_not_in_the_list_is_a_reject(tmp_path):
    (tmp_path / "c.txt").write_text("dog\nemu\n")
    inputs, classes, numbers = label_source(class_folders(tmp_path / "p"), "auto", str(tmp_path / "c.txt"))
    assert classes == ("dog", "emu")
    assert numbers == [-1, 0]
    assert inputs[0].problem.startswith("its class 'cat' is not in ")


def test_the_first_word_of_each_line_is_the_class_if_all_are_wnids(tmp_path):
    path = tmp_path / "LOC_synset_mapping.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    assert read_classes(str(path)) == ("n01440764", "n01443537")
    path.write_text("great white shark\nn01443537 goldfish\n")
    assert read_classes(str(path)) == ("great white shark", "n01443537 goldfish")


def test_a_validation_set_takes_the_class_numbers_of_its_training_set(prepare, pictures, tmp_path):
    prepare(pictures, name="train")
    assert read_classes(str(tmp_path / "train")) == ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("c.txt", "", DataError, "c.txt: has no classes"),
        ("c.txt", "a\nb\na\n", DataError, "c.txt: has the class 'a' twice"),
        ("c.json", "{}", DataError, "c.json: has no classes"),
        ("c.json", '{"a": "b"}', DataError, 'expected a list of class names, or {"0": '),
        ("c.json", "[1, 2]", DataError, "expected a list of class names"),
        ("c.json", "7", DataError, "c.json: cannot be read as a list of classes"),
        ("c.json", "[" * 100_000, DataError, "c.json: cannot be read as a list of classes"),
        ("gone/c.txt", None, UsageError, "expected imagenet, a prepared data set, or a file of class names"),
    ],
)
def test_an_invalid_list_of_classes_is_refused(tmp_path, name, text, error, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        read_classes(str(tmp_path / name))


def test_a_class_that_a_long_list_repeats_is_found_without_comparing_all_pairs(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(map(str, [*range(200_000), 199_999])))  # all pairs take minutes
    with pytest.raises(DataError, match="has the class '199999' twice"):
        read_classes(str(tmp_path / "c.txt"))


def test_a_data_set_without_classes_gives_none(prepare, pictures, tmp_path):
    prepare(pictures, name="flat", labels="none")
    with pytest.raises(DataError, match="flat: is a data set without classes"):
        read_classes(str(tmp_path / "flat"))
