"""Text files from other systems: UTF-8, or UTF-16 and UTF-32 with a byte order mark."""

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose byte order mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def marked_encoding(content: bytes) -> str | None:
    """Return the encoding of a text by its byte order mark, None without one."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)


def decode_text(content: bytes) -> str:
    """Return a text.

    Raises:
        ValueError: its encoding is unknown; the message has the fix.
    """
    try:
        text = content.decode(marked_encoding(content) or "utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(f"byte {problem.start:,} is not {problem.encoding.upper()}; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it has zeros between its letters, perhaps UTF-16 without a byte order mark; save it as UTF-8")
    return text
