"""Image sets are tested by what a small feature extractor measures on them."""

from tests.evaluate.conftest import picture_folder, toy_extractor  # noqa: F401
