"""Headers of tars: the same members as Python's reader finds, also for hostile headers."""

import gzip
import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdit_core.data.sources.files.tar import TAR_DAMAGE, TarFile
from hdit_core.data.sources.files.tar_headers import DamagedTarError, members

NAMES = ["a.png", "b/" * 60 + "long.png", "x" * 300 + ".png", "é/ü.png", os.fsdecode(b"caf\xe9.png"), "./c/d.png"]


def archive_of(names, tar_format=tarfile.PAX_FORMAT, prepare=lambda member: None):
    """Return a tar with the name of each file for its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, errors="surrogateescape") as archive:
        for name in names:
            member, content = tarfile.TarInfo(name), os.fsencode(name)
            member.size = len(content)
            prepare(member)
            archive.addfile(member, io.BytesIO(content))
    return bytearray(buffer.getvalue())


def listed(data):
    return list(members(io.BytesIO(bytes(data))))


def header(name=b"a.png", size=b"00000000000", kind=b"0"):
    """Return one header, its checksum right."""
    block = bytearray(512)
    block[:100], block[124:136] = name.ljust(100, b"\0")[:100], size.ljust(12, b"\0")
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_every_kind_equal_those_of_tarfile(tar_format):
    data = archive_of(NAMES, tar_format)
    found = listed(data)
    with tarfile.open(fileobj=io.BytesIO(bytes(data)), errors="surrogateescape") as archive:
        theirs = [(one.name.removeprefix("./"), one.offset_data, one.size) for one in archive]
    assert [(one.name, one.offset, one.size_bytes) for one in found] == theirs
    assert [data[one.offset : one.offset + one.size_bytes] for one in found] == [os.fsencode(name) for name in NAMES]


def test_a_long_name_in_two_parts_is_put_together():
    names = ["b/" * 60 + "long.png", "short.png"]
    assert [one.name for one in listed(archive_of(names, tarfile.USTAR_FORMAT))] == names


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=150)),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_any_names_are_read_back(names, tar_format):
    names = [name.rstrip("/") or "x" for name in names]
    assert [one.name for one in listed(archive_of(names, tar_format))] == [name.removeprefix("./") for name in names]


def test_a_size_beyond_eight_gigabytes_is_read():
    size = b"\x80" + (1 << 35).to_bytes(11)
    file = io.BytesIO(header(size=size))
    found = members(file)
    assert next(found).size_bytes == 1 << 35
    with pytest.raises(DamagedTarError, match="truncated at byte 34,359,738,880"):
        next(found)


def test_the_size_in_a_pax_header_has_precedence():
    data = archive_of(["a.png"], prepare=lambda member: member.pax_headers.update({"size": "5"}))
    assert [one.size_bytes for one in listed(data)] == [5]


@pytest.mark.parametrize(
    ("kind", "what"),
    [(tarfile.CHRTYPE, "device"), (tarfile.BLKTYPE, "disk"), (tarfile.FIFOTYPE, "pipe"), (b"M", "x")],
)
def test_a_member_that_is_not_a_file_is_named_and_later_ones_are_read(kind, what):
    def prepare(member):
        member.type, member.linkname = (kind, "/etc/passwd") if member.name == what else (tarfile.REGTYPE, "")
        member.size = 0 if member.name == what else member.size

    found = listed(archive_of([what, "after.png"], prepare=prepare))
    assert [(one.name, one.problem) for one in found] == [
        (what, "not a regular file of the archive"),
        ("after.png", None),
    ]


def test_links_have_their_target_and_an_unknown_type_is_a_file():
    kinds = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "unknown": b"Z"}

    def prepare(member):
        member.type = kinds[member.name]
        member.linkname, member.size = ("./a/b.png", 0) if member.name != "unknown" else ("", member.size)

    for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        found = listed(archive_of(list(kinds), tar_format, prepare))
        assert [(one.symbolic_link, one.hard_link, one.problem) for one in found] == [
            ("./a/b.png", None, None),
            (None, "a/b.png", None),
            (None, None, None),
        ]
        assert found[2].size_bytes == len("unknown")


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_targets_of_links_are_complete(tar_format):
    def prepare(member):
        member.type, member.linkname, member.size = tarfile.LNKTYPE, "x" * 300, 0

    assert listed(archive_of(["a.png"], tar_format, prepare))[0].hard_link == "x" * 300


def test_a_hard_link_may_carry_a_copy_of_its_content():
    """As POSIX's pax writes it, where GNU tar declares the size and writes none (libarchive#392)."""
    first = header(b"a.png", b"00000000005") + b"hello".ljust(512, b"\0")
    link = bytearray(header(b"b.png", b"00000000005", kind=b"1"))
    link[157:162], link[148:156] = b"a.png", b" " * 8
    link[148:156] = b"%06o\0 " % sum(link)
    last = header(b"c.png", b"00000000002") + b"hi".ljust(512, b"\0") + bytes(1024)
    for copy in (b"", b"hello".ljust(512, b"\0")):
        found = listed(first + bytes(link) + copy + last)
        assert [(one.name, one.hard_link) for one in found] == [("a.png", None), ("b.png", "a.png"), ("c.png", None)]


def test_a_sparse_file_is_no_member_and_later_members_are_found():
    extended = bytearray(header(kind=b"S", size=b"00000001000"))
    extended[482] = 1
    extended[148:156] = b" " * 8
    extended[148:156] = b"%06o\0 " % sum(extended)
    data = bytes(extended) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"x" * 512 + header(b"b.png") + bytes(1024)
    assert [(one.name, one.problem is None) for one in listed(data)] == [("a.png", False), ("b.png", True)]


def test_a_sparse_file_in_the_pax_format_has_its_name_and_the_fix():
    records = b"22 GNU.sparse.major=1\n27 GNU.sparse.name=a/3.png\n"
    data = header(b"x", b"%011o" % len(records), kind=b"x") + records.ljust(512, b"\0")
    data += header(b"a/GNUSparseFile.0/3.png") + bytes(1024)
    assert [(one.name, one.problem) for one in listed(data)] == [
        ("a/3.png", "a sparse file; unpack the archive and give the folder")
    ]


@pytest.mark.parametrize("kind", [b"V", b"D"])
def test_the_name_of_an_archive_and_lists_of_files_are_no_members(kind):
    data = header(b"photos", kind=kind) + header(b"a.png") + bytes(1024)
    assert [(one.name, one.problem) for one in listed(data)] == [("a.png", None)]


def test_folders_are_skipped_also_in_old_tar_formats():
    data = header(b"a/", kind=b"5") + header(b"b/", kind=b"\0") + header(b"a/c.png", kind=b"\0") + bytes(1024)
    assert [one.name for one in listed(data)] == ["a/c.png"]


def test_every_truncated_or_flipped_header_is_noticed():
    data = archive_of(["a.png", "b.png", "c.png"])
    whole = listed(data)
    for length in range(0, 3 * 1024 + 512, 61):
        with pytest.raises(DamagedTarError, match="truncated at byte"):
            listed(data[:length])
    for block in (0, 1024, 2048):
        for place in [*range(block, block + 148, 7), *range(block + 156, block + 512, 7)]:
            flipped = bytearray(data)
            flipped[place] ^= 1
            with pytest.raises(DamagedTarError, match=f"damaged header at byte {block:,}"):
                listed(flipped)
    assert listed(data) == whole


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated at byte 0"),
        (b"no tar at all" * 100, "damaged header at byte 0"),
        (header(size=b"\xff" * 12) + bytes(1024), "damaged header at byte 0"),
        (header(size=b"-0000001000") + bytes(1024), "damaged header at byte 0"),
        (header(size=b"9999") + bytes(1024), "damaged header at byte 0"),
        (header(kind=b"L", size=b"\x80" + (1 << 40).to_bytes(11)), "a name of 1,099,511,627,776 bytes"),
        (header(kind=b"x", size=b"00000000012") + b"999 path=x".ljust(512, b"\0") + bytes(1024), "damaged header"),
        (header(kind=b"x", size=b"00000000012") + b"3 path=xxx".ljust(512, b"\0") + bytes(1024), "damaged header"),
        (header(kind=b"x", size=b"00000000012") + b"path=x".ljust(512, b"\0") + bytes(1024), "damaged header"),
        (header() + bytes(1024) + header() + bytes(1024), "something follows its end"),
    ],
)
def test_a_wrong_header_is_damage(data, message):
    with pytest.raises(DamagedTarError, match=message):
        listed(data)


def test_a_name_longer_than_any_path_is_a_problem_and_is_cut():
    found = listed(archive_of(["y" * 5000, "b.png"]))
    assert [(len(one.name), one.problem) for one in found] == [(4096, "a name of 5,000 bytes"), (5, None)]


def test_a_compressed_tar_that_expands_without_end_is_refused_early(tmp_path):
    """20 GB of zeros, of which not one more than allowed is unpacked: what is asked for first is its header."""
    path = tmp_path / "bomb.tgz"
    path.write_bytes(gzip.compress(header(size=b"\x80" + (20 << 30).to_bytes(11)) + bytes(1 << 20)))
    tar = TarFile(path)
    with pytest.raises(TAR_DAMAGE, match=r"reaches beyond byte 1,07"):
        list(tar.members())
    assert tar.file.tell() == 512
