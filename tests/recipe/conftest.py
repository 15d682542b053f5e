"""Recipe files."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a recipe file and returns its path."""

    def make(content):
        path = tmp_path / "mine.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make
