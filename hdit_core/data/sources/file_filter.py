"""Decides which files of a source are inputs: one rule for folders, archives, shards, lists, streams and scores.

Hidden files, files of operating systems and editors, texts, and the image grid of `hdit sample` are skipped. They are
not inputs, so they do not count as unusable. All other files are inputs, and their content is checked.
"""

import logging
import re
from collections.abc import Iterable, Sequence

from hdit_core.errors import counted

logger = logging.getLogger("hdit")

SAMPLES_RECORD, SAMPLES_SHEET = "samples.json", "grid.png"
"""Files that `hdit sample` writes with its images; the grid of `a/` is now `a-grid.png`."""

_OWN = re.compile(r"(^|/)(samples\.json|restored-[0-9]+\.jsonl|\.lock)$")  # of sample folders; skipped without a word
_SAMPLE = re.compile(r"[0-9]{8,}\.png")
_HIDDEN = re.compile(r"(^|/)\.(?!\.?(/|$))")
_SYSTEM_FOLDER = re.compile(
    r"(^|/)(__macosx|__pycache__|@eadir|@tmp|@sharebin|@recycle|@recently-snapshot|#recycle|#snapshot|\$recycle\.bin"
    r"|recycler|system volume information|found\.[0-9]{3}|lost\+found|network trash folder|temporary items)/",
    re.IGNORECASE,
)
_SYSTEM_FILE = re.compile(
    r"(^|/)((eh)?thumbs(_vista)?\.db(:.*)?|thumbcache_.*\.db|desktop\.ini|autorun\.inf|picasa\.ini|icon\r"
    r"|zbthumbnail\.info|([^/]*:)?zone\.identifier|~\$[^/]*|[^/]*~"
    r"|[^/]*\.(tmp|temp|bak|swp|part|partial|filepart|crdownload|download|aria2|!ut|!qb|thm))$",
    re.IGNORECASE | re.DOTALL,
)
_TEXT = re.compile(
    r"(^|/)((readme|licen[cs]e|copying|authors|notice|changelog|makefile|metadata\.parquet|(md5|sha(1|256|512))sums?)"
    r"|[^/]*\.(txt|text|caption|md|rst|csv|tsv|json|jsonl|ndjson|xml|yaml|yml|toml|ini|cfg|html?|css|js|py|ipynb|sh|pdf"
    r"|docx?|xlsx?|log|url|webloc|lnk|nfo|sfv|md5|sha1|sha256|sha512|sig|asc|xmp|aae|pp3|dop|torrent|dvc|cls))$",
    re.IGNORECASE,
)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden, or belongs to an operating system or an editor."""
    return bool(_HIDDEN.search(name) or _SYSTEM_FOLDER.search(name) or _SYSTEM_FILE.search(name))


def is_text(name: str) -> bool:
    """Return whether a file is a text about the images, judged by its name."""
    return bool(_TEXT.search(name))


def common_folders(names: Iterable[str]) -> str:
    """Return the common parent folders of all names, as `"a/b/"`: an archive often wraps everything in one folder."""
    least = greatest = None
    for name in names:
        least = name if least is None or name < least else least
        greatest = name if greatest is None or name > greatest else greatest
    if least is None or greatest is None:
        return ""
    folders = [name.split("/")[:-1] for name in (least, greatest)]
    shared = 0
    while shared < min(map(len, folders)) and folders[0][shared] == folders[1][shared]:
        shared += 1
    return "".join(f"{folder}/" for folder in folders[0][:shared])


def _sheets_of_numbered(names: Sequence[str]) -> set[str]:
    """Return the image grids of folders without a record in which all images have numbers as in `hdit sample`."""
    sheets: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(SAMPLES_SHEET) and (prefix := _folder_of_sheet(name)) is not None:
            sheets.setdefault(prefix, []).append(name)
    if not sheets:
        return set()
    found = {prefix: [False, True] for prefix in sheets}
    for name in names:
        folder, slash, file = name.rpartition("/")
        images = found.get(f"{folder}{slash}")
        if images and file != SAMPLES_SHEET and not (is_hidden(file) or is_text(file)):
            images[0] = True
            images[1] = images[1] and _SAMPLE.fullmatch(file) is not None
    numbered = [prefix for prefix, (has_any, are_numbered) in found.items() if has_any and are_numbered]
    return {sheet for prefix in numbered for sheet in sheets[prefix]}


def _folder_of_sheet(name: str) -> str | None:
    """Return the folder of samples whose image grid has this name, with a trailing slash; None for other names."""
    prefix = name.removesuffix(SAMPLES_SHEET)
    if not prefix or prefix.endswith("/"):
        return prefix
    return f"{prefix[:-1]}/" if prefix.endswith("-") and not prefix.endswith("/-") and prefix != "-" else None


def _sheets(prefix: str) -> set[str]:
    """Return the possible paths of the image grid of a folder; the prefix ends in a slash or is empty."""
    return {f"{prefix}{SAMPLES_SHEET}"} | ({f"{prefix[:-1]}-{SAMPLES_SHEET}"} if prefix else set())


def choose_inputs(names: Sequence[str], where: str, is_folder: bool = False) -> list[bool]:
    """Return whether each file is an input, and log the number of others.

    Args:
        names: names of the files, with forward slashes.
        where: name of the source in the log.
        is_folder: names are relative to the user's folder; otherwise, a common parent folder is ignored, so that a
            hidden folder in a list is not skipped.
    """
    start = 0 if is_folder else len(common_folders(names))
    records = {name for name in names if name.rpartition("/")[2] == SAMPLES_RECORD}
    recorded = {sheet for name in records for sheet in _sheets(name.removesuffix(SAMPLES_RECORD))}
    sheets = recorded | _sheets_of_numbered(names)
    chosen = [not (is_hidden(name[start:]) or is_text(name) or name in sheets) for name in names]
    pairs = zip(names, chosen, strict=True)
    skipped = [name for name, is_input in pairs if not (is_input or name in sheets or _OWN.search(name))]
    if skipped:
        files = counted(len(skipped), "hidden, system or text file")
        logger.info("%s: skipped %s%s %r", where, files, " such as" if len(skipped) > 1 else ",", skipped[0])
    return chosen
