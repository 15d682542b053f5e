"""The kinds of SOURCE, and the advice for anything else."""

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError


def test_a_single_image_is_a_source(tmp_path, prepare):
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(tmp_path / "photo.jpg")
    assert [entry.name for entry in open_source(str(tmp_path / "photo.jpg")).entries] == ["photo.jpg"]
    assert prepare(tmp_path / "photo.jpg").images == 1


def test_a_pattern_with_two_stars_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"x\*\*\.tar: (not a pattern|no such folder)"):  # Python 3.13 reads it as *
        open_source(str(tmp_path / "x**.tar"))


@pytest.mark.parametrize("name", ["t.parquet", "a.tar", "a.zip", "a.png", "a.txt"])
def test_an_empty_file_is_reported_as_empty(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"{name}: is empty; copy or download it again"):
        open_source(str(tmp_path / name))


def test_a_file_with_only_the_name_of_parquet_is_reported(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"t\.parquet: is not a Parquet file, in spite of its name; download it again"):
        open_source(str(tmp_path / "t.parquet"))


def test_a_snapshot_of_the_hub_is_refused_with_a_hint(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "main").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "blobs" / f"{number}").write_bytes(b"x")
        (tmp_path / "snapshots" / "main" / f"{number}.png").symlink_to(f"../../blobs/{number}")
    with pytest.raises(DataError, match=r"its 3 files, such as 0\.png, are links.*; copy it with its files: cp -rL"):
        open_source(str(tmp_path / "snapshots" / "main"))


def test_arrow_files_are_refused_with_a_hint(tmp_path):
    (tmp_path / "d" / "train").mkdir(parents=True)
    (tmp_path / "d" / "dataset_dict.json").write_text("{}")
    (tmp_path / "d" / "train" / "data-00000-of-00001.arrow").write_bytes(b"\xff\xff\xff\xff" + bytes(60))
    for source in (tmp_path / "d", tmp_path / "d" / "train", tmp_path / "d" / "train" / "data-00000-of-00001.arrow"):
        with pytest.raises(DataError, match=r"contains Arrow files.*save_to_disk.*load_from_disk\(.*to_parquet"):
            open_source(str(source))
