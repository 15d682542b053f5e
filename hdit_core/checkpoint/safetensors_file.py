"""Safetensors files of hdit: tensors, their recipe and a checksum of the content.

safetensors loads most single-bit flips as different weights without an error. The checksum of the content, names and
shapes included, detects them, also in a file that was copied out of its checkpoint.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hdit_core.errors import CheckpointError, is_out_of_memory
from hdit_core.files import Digest, DigestingWriter, naming

NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's name of each dtype, in the order in which tensors are stored, so that all are aligned."""

ALIGNMENT_BYTES = 8
SNIFFED_BYTES = 64
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""The first bytes of files of `torch.save`: a zip archive, or a bare pickle in older ones."""


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a CPU tensor, without a copy if it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of the tensors' data in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Digest:
    """Write a safetensors file and return its size and checksums.

    Args:
        tensors: on the CPU, with dtypes in `NAMES`.
        metadata: stored in the header.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    order = list(NAMES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header = _header_bytes({name: tensors[name] for name in names}, metadata)
    with naming(path), path.open("wb") as file:
        writer = DigestingWriter(file)
        writer.write(len(header).to_bytes(8, "little"))
        writer.write(header)
        for name in names:
            writer.write(bytes_of(tensors[name]))
    return writer.digest()


def _header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + num_bytes([tensor])
        table[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % ALIGNMENT_BYTES)


MAX_HEADER_BYTES = 10_000_000
MAX_TENSORS = 20_000
Tensors = dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], recipe_json: str, **more: str) -> Digest:
    """Write tensors; the file's metadata holds the recipe, the further entries, and a checksum of all content.

    Returns:
        The file's size and checksums.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "hdit": "1", "recipe": recipe_json, **more}
    return write_tensor_file(path, held, metadata | {"crc32": str(content_crc32(held, metadata))})


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, of hdit or another program.

    Raises:
        CheckpointError: the file is missing, not safetensors, too large, or does not match its checksum.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: corrupt, or not a safetensors file ({error})") from None
    except RuntimeError as error:  # torch maps the file into memory
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if metadata.get("hdit") is not None:
        actual, expected = content_crc32(tensors, metadata), metadata.get("crc32")
        if str(actual) != expected:
            raise CheckpointError(
                f"{path}: corrupt: its content has checksum {actual}, expected {expected}; use another copy"
            )
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file after checking its header, without reading tensors.

    Raises:
        CheckpointError: there is no such file, or its header is invalid.
    """
    header = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: its metadata is not a table of strings")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(header)} tensors are more than a checkpoint has (at most {MAX_TENSORS})")
    return metadata


def content_crc32(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Return a checksum over the metadata and every tensor's name, dtype, shape and bytes, in the order of names."""
    crc = metadata_crc32(metadata)
    for name in sorted(tensors):
        crc = tensor_crc32(name, tensors[name], crc)
    return crc


def metadata_crc32(metadata: Mapping[str, str]) -> int:
    """Return the checksum of the metadata, with which `content_crc32` begins."""
    content = {key: value for key, value in metadata.items() if key != "crc32"}
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def tensor_crc32(name: str, tensor: Tensor, crc: int) -> int:
    """Continue a checksum with a tensor's name, dtype, shape and bytes."""
    crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
    return zlib.crc32(bytes_of(tensor), crc)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with naming(path), path.open("rb") as file:
            start = file.read(SNIFFED_BYTES)
            size_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
            if not 2 <= size_bytes <= MAX_HEADER_BYTES or start[8:9] != b"{":
                raise CheckpointError(f"{path}: {_other_format(start)}")
            file.seek(8)
            header = json.loads(file.read(size_bytes).decode(), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt, or not a safetensors file ({error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: corrupt, or not a safetensors file (its header is not a table)")
    return header


def _other_format(start: bytes) -> str:
    """Return the kind of a file without a safetensors header, by its first bytes, and the fix."""
    if start.startswith(PICKLES):
        return (
            "a PyTorch pickle, not a safetensors file; convert it: "
            "hdit convert --i-trust-this-pickle FILE.pth FILE.safetensors"
        )
    if start.lstrip()[:1] == b"<":
        return "an HTML page, not a safetensors file; download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    return "not a safetensors file, or truncated"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("the header contains a name twice")
    return table
