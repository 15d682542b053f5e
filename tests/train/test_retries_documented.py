"""The number and duration of retries in docs/training.md agree with the code."""

from pathlib import Path

from hdit_core.data.format import retry_reads
from hdit_core.data.loader import workers
from hdit_core.data.remote import store
from hdit_core.distributed import TIMEOUT_S
from hdit_core.errors import DataError, HditError, StoppedEarly, UsageError
from hdit_core.locks import FolderLock


def test_the_table_of_retries_has_the_numbers_of_the_code():
    page = Path(__file__).parents[2] / "docs" / "training.md"
    rows = [line.split("|")[2:4] for line in page.read_text().splitlines() if line.startswith("|")]
    found = [(how_long.strip(), then.strip()) for how_long, then in rows]
    attempts = f"{len(retry_reads.PAUSES_S)} further attempts within {sum(retry_reads.PAUSES_S):.0f} s"
    saved = f"the last whole step is saved, exit code {StoppedEarly.exit_code}"
    start = found.index((attempts, saved))
    assert found[start : start + 9] == [
        (attempts, saved),
        (attempts, f"exit code {StoppedEarly.exit_code}"),
        (f"{workers.TIMEOUT_S:.0f} s", saved),
        (attempts, f"exit code {StoppedEarly.exit_code}"),
        (f"{store.ATTEMPTS['wrong content']} attempts", f"exit code {DataError.exit_code}"),
        (f"{store.ATTEMPTS['refused']} attempts", f"exit code {DataError.exit_code}"),
        (f"{store.ATTEMPTS['invalid']} attempt", f"exit code {DataError.exit_code}"),
        (f"{TIMEOUT_S} s", f"exit code {HditError.exit_code}"),
        (f"{FolderLock.WAIT_S:.0f} s", f"exit code {UsageError.exit_code}"),
    ]
