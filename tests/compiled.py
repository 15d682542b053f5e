"""The compiled code of this machine's cache, for tests whose processes have a cache folder of their own."""

from pathlib import Path

from hdit_core.files import cache_folder


def share_compiled(cache: Path) -> None:
    """Link the compiled code into a new `$XDG_CACHE_HOME`, where it would take 20 s to compile."""
    compiled, link = cache_folder() / "native", cache / "hdit" / "native"
    compiled.mkdir(mode=0o700, parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(compiled)
