"""A label as a number or a name, in the notation of any program."""

import re
import unicodedata
from collections.abc import Mapping

LONGEST_CLASS_NAME = 4096  # as in the manifest
MOST_CLASSES = 1 << 20

_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,2})?", re.IGNORECASE)
_HEXADECIMAL = re.compile(r"0x[0-9a-f]{1,8}", re.IGNORECASE)
_NUMBER_TYPE = r"\w*[tT]ensor|\w*[aA]rray|scalar|u?int(?:8|16|32|64)?_?|b?float(?:16|32|64)?|long"
_CALL = re.compile(rf"(?:[a-z]\w*\.)*(?:{_NUMBER_TYPE})\((.*)\)", re.DOTALL)
_ARGUMENT = re.compile(r",\s*(dtype|device|shape|requires_grad|grad_fn|weak_type)\s*=.*", re.DOTALL)
_QUOTED = re.compile(r"b?(['\"])(.*)\1", re.DOTALL)
_OBJECT = re.compile(
    r"<.*>|\[.*\]|\{.*\}|\(\s*[-+'\"0-9].*\)|\w+(\.\w+)*\(\s*([-+0-9'\"\[{<].*|.*=.*|)\)|\w+(\.\w+)+\(.*\)", re.DOTALL
)
_SEVERAL = re.compile(r"[+-]?[0-9.]+(\s*[,;|\s]\s*[+-]?[0-9.]+)+")
_MISSING = frozenset({"nan", "+nan", "-nan", "<na>", "nat", "none", "null", "inf", "-inf", "#n/a", "n/a"})
_MISSING_IN_R = "NA"  # not in lower case, since Na may be a class


def _whole(text: str) -> int | None:
    """Return the whole number in a text, None if it is not a number.

    Raises:
        ValueError: it is a number with a fraction.
    """
    if text.isdecimal():
        return int(text) if len(text) < 30 else None
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    if not value.is_integer():
        raise ValueError(f"its class {text[:40]!r} is a number with a fraction")
    return int(value)


def _unwrapped(text: str) -> str:
    """Return the number in `tensor(10)`, `np.int64(10)`, `[10]` or `b'10'`, and other texts unchanged."""
    if call := _CALL.fullmatch(text):
        text = _ARGUMENT.sub("", call[1]).strip()
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[2].strip()
    while (text[:1], text[-1:]) in {("[", "]"), ("(", ")")}:
        text = text[1:-1].strip().removesuffix(",")
    return text


def parse_label(label: object) -> int | str:
    """Return a label as a whole number, written in any form, or as a name.

    Raises:
        ValueError: it is missing, a fraction, several numbers, or a printed Python object; the message says which.
    """
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise ValueError("its class is neither a number nor a name")
    text = unicodedata.normalize("NFC", str(label)).strip().strip("\0").strip()
    if not 0 < len(text) <= LONGEST_CLASS_NAME:
        raise ValueError("its class is neither a number nor a name")
    number = _whole(text)
    if number is not None:
        return number
    inner = _unwrapped(text)
    if inner != text and (_DECIMAL.fullmatch(inner) or inner.isdecimal()):
        return _whole(inner) or 0
    if text.lower() in _MISSING or inner.lower() in _MISSING or text == _MISSING_IN_R:
        raise ValueError(f"its class {text[:40]!r} means a missing value")
    if _SEVERAL.fullmatch(text):
        raise ValueError(f"its class {text[:40]!r} is several numbers")
    if _OBJECT.fullmatch(text) or _QUOTED.fullmatch(text):
        raise ValueError(f"its class {text[:40]!r} looks like a printed Python object, not a number or a name")
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        raise ValueError(f"its class {text[:40]!r} has control characters")
    return text


def parse_class(label: object) -> int | str:
    """Return a label of a table or a `.cls` file, as `parse_label` does.

    Raises:
        ValueError: it is none, or a negative number: -1 marks images without a class, and would become class 0.
    """
    parsed = parse_label(label)
    if isinstance(parsed, int) and parsed < 0:
        raise ValueError(f"its class number {parsed} is negative; write class names, and no line for unknown classes")
    return parsed


def as_names(labels: Mapping[str, object]) -> dict[str, str]:
    """Return labels of a table as class names: whole numbers in one form, so that `1` and `1.0` are one class.

    Numbers of equal length are unchanged, since `02691156` is a name.

    Raises:
        ValueError: a label cannot be used; the message names its file.
    """
    parsed: dict[str, int | str] = {}
    for name, label in labels.items():
        try:
            parsed[name] = parse_class(label)
        except ValueError as problem:
            raise ValueError(f"'{name}': {problem}") from None
    raw = {str(label).strip() for label in labels.values()}
    if all(text.isdecimal() for text in raw) and len({len(text) for text in raw}) == 1:
        return {name: str(label).strip() for name, label in labels.items()}
    return {name: str(label) for name, label in parsed.items()}
