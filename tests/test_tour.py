"""The notebook docs/tour.ipynb runs, and is stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"


@pytest.fixture
def notebook():
    """Return the notebook as it is stored."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_tour_is_stored_without_outputs(notebook):
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" if cell.outputs] == []
    assert NOTEBOOK.stat().st_size < 10_000


def test_links_of_the_tour_are_pages_of_the_site(notebook):
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    pages = [target.partition(".html")[0] for target in text.split("](")[1:]]
    assert pages and all((NOTEBOOK.parent / f"{page}.md").exists() for page in pages)


@pytest.mark.slow
def test_the_tour_runs_from_digits_to_a_score(notebook, tmp_path):
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert printed.startswith("500 images of 10 classes\n20 steps, 320 images\nfd-efficientnet-lite0-10 ")
    assert any("image/png" in output.get("data", {}) for output in outputs)
