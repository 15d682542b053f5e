"""The error for a file that cannot be used as an image."""

import re


class UnusableImageError(Exception):
    """A file cannot be used; the message is the reason, which is the same on every machine."""


def reason_of(problem: Exception) -> str:
    """Return a library's message without the memory addresses and control characters in it."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "file", str(problem))
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{type(problem).__name__}: {text[:200]}" if text else type(problem).__name__
