"""Image sets are tested with a small feature extractor."""

from tests.evaluate.conftest import picture_folder, toy_extractor  # noqa: F401
