"""The best checkpoint of a run, by the scores on its way: kept for ever, and found as RUN/best.

RUN/best         a link to the folder in RUN/checkpoints, so that `hdit sample --ckpt RUN/best` draws with it
RUN/best.json    which it is, and its score
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdit_core.files import TEMPORARY, flush_folder, write_whole


def best_checkpoint(run: Path) -> Path | None:
    """Return the folder of a run's best checkpoint; None where none is marked, or it is gone."""
    link = run / "best"
    return run / "checkpoints" / link.readlink().name if link.is_symlink() and link.is_dir() else None


def mark_best(run: Path, folder: Path, score: Mapping[str, Any]) -> None:
    """Make a checkpoint the best of its run; the one before may go from now on.

    Args:
        folder: in RUN/checkpoints.
        score: what it is the best by, as JSON knows it.
    """
    link, temporary = run / "best", run / f"{TEMPORARY}best"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("checkpoints") / folder.name)  # relative: a run may be moved
    temporary.replace(link)
    flush_folder(run)
    record = {"checkpoint": f"checkpoints/{folder.name}", **score}
    write_whole(run / "best.json", json.dumps(record, indent=1) + "\n")
