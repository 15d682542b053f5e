"""A tar through a pipe: every member once, every truncation noticed, no links followed."""

import io
import tarfile

import pytest

from hdit_core.data.image_sets.tar_stream import read_tar
from hdit_core.errors import DataError


def member(name, size=3, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def tar(*members, **settings):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", **settings) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(bytes(range(256)) * (info.size // 256 + 1)) if info.isreg() else None)
    return content.getvalue()


def images(content, wanted=lambda name: name.endswith(".png")):
    pipe = io.BytesIO(content)
    return list(read_tar(lambda size: pipe.read(min(size, 700)), wanted, "stdin"))  # which gives a few bytes at a time


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_wanted_members_come_in_order_and_others_are_skipped(kind):
    long = f"{'d' * 90}/{'e' * 60}.png"
    content = tar(member("a.png", 600), member("a.cls", 9000), member(long, 5), member("b.png", 512), format=kind)
    found = images(content)
    assert [name for name, _ in found] == ["a.png", long, "b.png"]
    assert [len(content) for _, content in found] == [600, 5, 512]
    assert found[0][1] == (bytes(range(256)) * 3)[:600]


def test_every_truncation_is_noticed():
    content = tar(*(member(f"{index}.png", 300) for index in range(4)))
    end = 4 * 1024 + 512  # with the mark of the end
    for length in range(0, end, 93):
        with pytest.raises(DataError, match=r"stdin: not a complete tar \(truncated"):
            images(content[:length])
    assert len(images(content[:end])) == 4


def test_a_flipped_bit_in_a_header_is_damage():
    content = bytearray(tar(member("0.png", 300), member("1.png", 300)))
    content[1024 + 3] ^= 4
    with pytest.raises(DataError, match=r"not a complete tar.*damaged header"):
        images(bytes(content))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_is_refused_by_name(kind):
    info = member("evil.png", 0, kind)
    info.linkname = "/etc/passwd"
    with pytest.raises(DataError, match=r"stdin: evil\.png: (a link, and a stream|not a regular file).*; leave it out"):
        images(tar(info))


def test_a_member_of_gigabytes_is_refused_before_it_is_read():
    with pytest.raises(DataError, match=r"huge\.png: .* bytes are more than 512 MiB"):
        images(member("huge.png", 3 << 30).tobuf() + bytes(1024))


def test_a_file_that_is_not_a_tar_is_reported():
    with pytest.raises(DataError, match=r"stdin: not a complete tar .*; send it complete and uncompressed"):
        images(b"GIF89a" * 1000)


def test_concatenated_tars_are_one_set():
    """As `cat a.tar b.tar` gives them, each padded to whole records of 10,240 bytes."""
    first, second = tar(member("0.png", 300), member("1.png", 600)), tar(member("0.png", 5))
    assert len(first) % 10_240 == 0
    assert [name for name, _ in images(first + second)] == ["0.png", "1.png", "0.png"]
    assert [len(content) for _, content in images(first + second + tar())] == [300, 600, 5]


def test_every_truncation_of_concatenated_tars_is_noticed():
    first, second = tar(member("0.png", 300)), tar(member("1.png", 300))
    for length in range(len(first) + 1, len(first) + 1024 + 512, 93):
        with pytest.raises(DataError, match=r"stdin: not a complete tar \(truncated"):
            images((first + second)[:length])


def test_trailing_data_after_a_tar_is_refused():
    with pytest.raises(DataError, match=r"not a complete tar .*damaged header at byte 10,240"):
        images(tar(member("0.png", 300)) + b"GIF89a" * 1000)
