"""Decides which files of a source are inputs: one rule for folders, archives, shards, lists, streams and scores.

Skipped are hidden files, files that operating systems and editors leave behind, texts, and the sheet that `hdit sample`
writes beside its images. They are no inputs, so they do not count as unusable. The content of the others decides.
"""

import logging
import re
from collections.abc import Iterable, Sequence

logger = logging.getLogger("hdit")

SAMPLES_RECORD, SAMPLES_SHEET = "samples.json", "grid.png"
"""What `hdit sample` writes beside its images."""

_SAMPLE = re.compile(r"[0-9]{8,}\.png")
_HIDDEN = re.compile(r"(^|/)\.(?!\.?(/|$))")
_SYSTEM_FOLDER = re.compile(
    r"(^|/)(__macosx|__pycache__|@eadir|#recycle|#snapshot|\$recycle\.bin|recycler|system volume information"
    r"|lost\+found|network trash folder|temporary items)/",
    re.IGNORECASE,
)
_SYSTEM_FILE = re.compile(
    r"(^|/)((eh)?thumbs(_vista)?\.db(:.*)?|thumbcache_.*\.db|desktop\.ini|autorun\.inf|picasa\.ini|icon\r"
    r"|zbthumbnail\.info|~\$[^/]*|[^/]*~|[^/]*\.(tmp|temp|bak|swp|part|partial|crdownload|download))$",
    re.IGNORECASE | re.DOTALL,
)
_TEXT = re.compile(
    r"(^|/)((readme|licen[cs]e|copying|authors|notice|changelog|makefile|(md5|sha1|sha256)sums?)"
    r"|[^/]*\.(txt|text|caption|md|rst|csv|tsv|json|jsonl|ndjson|xml|yaml|yml|toml|ini|cfg|html?|css|js|py|ipynb|sh|pdf"
    r"|docx?|xlsx?|log|url|webloc|lnk|nfo|sfv|md5|sha1|sha256|cls))$",
    re.IGNORECASE,
)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden, or belongs to an operating system or an editor."""
    return bool(_HIDDEN.search(name) or _SYSTEM_FOLDER.search(name) or _SYSTEM_FILE.search(name))


def is_text(name: str) -> bool:
    """Return whether a file is a text about the images, by its name."""
    return bool(_TEXT.search(name))


def common_folders(names: Iterable[str]) -> str:
    """Return the folders that all names lie in, as `"a/b/"`: an archive often wraps everything in one."""
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
    """Return every `grid.png` whose neighbors all have numbers as `hdit sample` gives them: its record is lost."""
    sheets = {name: [False, True] for name in names if name.rpartition("/")[2] == SAMPLES_SHEET}
    if not sheets:
        return set()
    for name in names:
        folder, slash, file = name.rpartition("/")
        neighbors = sheets.get(f"{folder}{slash}{SAMPLES_SHEET}")
        if neighbors and file != SAMPLES_SHEET and not (is_hidden(file) or is_text(file)):
            neighbors[0] = True
            neighbors[1] = neighbors[1] and _SAMPLE.fullmatch(file) is not None
    return {name for name, (has_any, are_numbered) in sheets.items() if has_any and are_numbered}


def choose_inputs(names: Sequence[str], where: str, is_folder: bool = False) -> list[bool]:
    """Return for each file whether it is an input, and log how many are not.

    Args:
        names: of the files, with forward slashes.
        where: what to call the source in the log.
        is_folder: names are relative to a folder that the user named; elsewhere a folder around all names is ignored,
            so that the list of a hidden folder is not empty.
    """
    start = 0 if is_folder else len(common_folders(names))
    records = {name for name in names if name.rpartition("/")[2] == SAMPLES_RECORD}
    sheets = {name.removesuffix(SAMPLES_RECORD) + SAMPLES_SHEET for name in records} | _sheets_of_numbered(names)
    chosen = [not (is_hidden(name[start:]) or is_text(name) or name in sheets) for name in names]
    if skipped := chosen.count(False):
        first = names[chosen.index(False)]
        logger.info("%s: skipped %s hidden, system or text files such as %r", where, f"{skipped:,}", first)
    return chosen
