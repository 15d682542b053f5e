"""Entries in packed columns: the same entries, and far less memory."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdit_core.data.sources.files.entry_table import EntryTable
from hdit_core.data.sources.source import Entry

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=6)  # with lone surrogates, as os.fsdecode gives
ENTRIES = st.lists(
    st.builds(
        Entry,
        TEXTS,
        st.integers(0, 2**64 - 1),
        st.integers(-(2**100), 2**100),
        st.none() | TEXTS,
        st.none() | TEXTS,
    ),
    max_size=8,
)


@given(ENTRIES)
def test_a_table_returns_its_entries(entries):
    table = EntryTable(entries)
    assert list(table) == entries == table and table[1:3] == entries[1:3]
    assert list(table.names) == [entry.name for entry in entries]


@given(ENTRIES)
def test_a_table_sorts_as_a_list_of_entries_does(entries):
    assert list(EntryTable(entries).sorted_by_name()) == sorted(entries, key=lambda entry: entry.name)


def test_a_selection_of_a_selection_has_the_rows_of_the_table():
    table = EntryTable(Entry(f"{number}.png", number) for number in range(20))
    some = table.take(range(0, 20, 3)).take([4, 1])
    assert list(some.names) == ["12.png", "3.png"] and some == [Entry("12.png", 12), Entry("3.png", 3)]
    assert some != EntryTable([Entry("3.png", 3)])


MEASURE = """
import gc, sys, tracemalloc
from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.files.entry_table import EntryTable
from hdit_core.data.sources.source import Entry

class Folder:
    kind, name, channels, classes = "folder", "pictures", None, None

    def __init__(self, count):
        self.entries = EntryTable(
            Entry(f"n{number % 100:08}/n{number % 100:08}_{number:08}.JPEG", number, 1_700_000_000_000_000_000 + number)
            for number in range(count)
        )

    def fetch(self, number):
        raise OSError("no images are read")

tracemalloc.start()
source = Folder(20_000)
inputs, classes, numbers = label_source(source, sys.argv[1])
gc.collect()
print(len(inputs), len(numbers), len(classes or ()), *tracemalloc.get_traced_memory())
"""


@pytest.mark.parametrize(("labels", "classes"), [("auto", 100), ("none", 0)])
def test_the_list_of_inputs_takes_less_than_150_bytes_a_name(labels, classes):
    command = [sys.executable, "-c", MEASURE, labels]  # type checks of the tests' process would be measured, too
    *counts, kept, peak = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert counts == [20_000, 20_000, classes]
    assert kept < 110 * 20_000 and peak < 150 * 20_000
