"""Ways to damage a prepared data set, and what verification then names."""

import io
import tarfile

from hdit_core.data.format.manifest import read_manifest, root_of, write_manifest
from hdit_core.files import digest


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def files_of(verdict):
    return {damage.file for damage in verdict.defects}


def first_shard(folder):
    return folder / read_manifest(folder).contents.shards[0].name


def forge(folder, **changes):
    """Change a shard's bytes and make everything that is derived from them fit: only looking at the images helps."""
    manifest = read_manifest(folder)
    contents = manifest.contents
    shards = []
    for shard in contents.shards:
        found = digest(folder / shard.name)
        shards.append(
            shard.model_copy(update={"bytes": found.size_bytes, "crc32": found.crc32, "sha256": found.sha256})
        )
    contents = contents.model_copy(update={"shards": tuple(shards), **changes})
    write_manifest(folder, manifest.model_copy(update={"contents": contents, "root": root_of(contents)}))


def rewrite(path, change):
    """Write a shard again with its members changed by `change(name, content)`, each as long as it was."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            changed = change(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(changed)
            tar.addfile(member, io.BytesIO(changed))
    path.write_bytes(buffer.getvalue())
