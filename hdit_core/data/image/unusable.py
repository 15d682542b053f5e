"""The error for a file that cannot be used as an image."""

import re


class UnusableImageError(Exception):
    """A file cannot be used; the message is the reason, which is the same on every machine."""


_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def is_archive(data: bytes) -> bool:
    """Return whether a file is an archive or compressed, by its first 512 bytes."""
    return data.startswith(_ARCHIVES) or data[257:262] == b"ustar"


def not_an_image(data: bytes) -> str:
    """Return the reason why a file that no decoder recognizes is refused."""
    if is_archive(data):
        return "an archive; unpack it, or give it as the source"
    return "not an image of a known format"


def reason_of(problem: Exception) -> str:
    """Return a library's message without the memory addresses and control characters in it."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "file", str(problem))
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{type(problem).__name__}: {text[:200]}" if text else type(problem).__name__
