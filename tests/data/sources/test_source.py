"""Names of files by which images, condition images, masks and captions belong together."""

from hdit_core.data.sources.source import without_ending


def test_only_file_extensions_are_removed():
    names = ["a/b.PNG", "a.b.jpeg", "v1.5", "img.0001", "c", "d.npy", "x.cond.tiff", "a.b/c", "a/.png", "1.jp2"]
    expected = ["a/b", "a.b", "v1.5", "img.0001", "c", "d", "x.cond", "a.b/c", "a/.png", "1"]
    assert [without_ending(name) for name in names] == expected
