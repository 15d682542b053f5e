"""Files: atomic writes, checksums, and content whose errors name the path."""

from hdit_core.files.atomic import (
    TEMPORARY,
    atomic_file,
    atomic_folder,
    flush_folder,
    forget_cached,
    remove_temporaries,
    write_atomic,
)
from hdit_core.files.content import (
    check_bounded,
    is_bounded,
    naming,
    read_bytes,
    read_json,
    read_text,
    write_file,
)
from hdit_core.files.digests import (
    CHUNK_BYTES,
    Digest,
    DigestingWriter,
    crc32,
    digest,
)
from hdit_core.files.paths import (
    STDIN,
    STDIN_NAME,
    cache_folder,
    check_output,
)

__all__ = [
    "CHUNK_BYTES",
    "STDIN",
    "STDIN_NAME",
    "TEMPORARY",
    "Digest",
    "DigestingWriter",
    "atomic_file",
    "atomic_folder",
    "cache_folder",
    "check_bounded",
    "check_output",
    "crc32",
    "digest",
    "flush_folder",
    "forget_cached",
    "is_bounded",
    "naming",
    "read_bytes",
    "read_json",
    "read_text",
    "remove_temporaries",
    "write_atomic",
    "write_file",
]
