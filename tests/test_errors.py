"""Words of messages."""

import pytest

from hdit_core.errors import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "file", "1 file"),
        (0, "file", "0 files"),
        (1200, "file", "1,200 files"),
        (2, "class", "2 classes"),
        (2, "batch", "2 batches"),
        (2, "copy", "2 copies"),
    ],
)
def test_a_counted_noun_is_singular_for_one_and_plural_otherwise(count, noun, text):
    assert counted(count, noun) == text
