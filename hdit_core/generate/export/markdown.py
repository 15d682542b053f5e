"""Text from data as literal Markdown: no markup, HTML or YAML, and no characters that reorder or hide other text."""

import string

LONGEST_NAME = 60

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


def as_text(name: str) -> str:
    """Return a name as literal Markdown text: truncated, unprintable characters written out, markup escaped."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return "".join(map(_shown, shown))


def _shown(letter: str) -> str:
    if letter.isprintable():
        return _ENTITIES.get(letter) or (f"\\{letter}" if letter in string.punctuation else letter)
    return "".join(map(_shown, letter.encode("unicode_escape", "surrogatepass").decode()))
