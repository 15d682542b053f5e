"""Safetensors files that say what they are: tensors, the recipe they belong to, and a checksum of all.

safetensors itself loads most single-bit flips as different weights without an error; the checksum of the content,
names and shapes included, catches them also in a file that was copied out of its checkpoint.
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

from hdit_core.errors import CheckpointError
from hdit_core.files import Digest, DigestingWriter

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
"""The format's name of each type, in the order in which the tensors follow each other: so that all are aligned."""

ALIGNMENT_BYTES = 8


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU, without a copy where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes the numbers of these tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Digest:
    """Write a safetensors file and return its size and checksums.

    Args:
        tensors: on the CPU, of the types in `NAMES`.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    places = list(NAMES)
    names = sorted(tensors, key=lambda name: (places.index(tensors[name].dtype), name))
    header = _header_bytes({name: tensors[name] for name in names}, metadata)
    with path.open("wb") as file:
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
    """Write tensors with the recipe, whatever more is to be kept, and the checksum of it all in the file's metadata.

    Returns:
        The file's size and checksums.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "hdit": "1", "recipe": recipe_json, **more}
    return write_tensor_file(path, held, metadata | {"crc32": str(content_crc32(held, metadata))})


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Read a safetensors file, ours or another's: its tensors and its metadata.

    Raises:
        CheckpointError: the file is missing, not safetensors, beyond all measure, or not what its checksum says.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({error})") from None
    if metadata.get("hdit") is not None:
        found, expected = content_crc32(tensors, metadata), metadata.get("crc32")
        if str(found) != expected:
            raise CheckpointError(
                f"{path}: damaged: its content has checksum {found}, expected {expected}; use an intact copy"
            )
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file after checking its header, without reading a tensor.

    Raises:
        CheckpointError: there is no such file, or its header is not one.
    """
    header = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: its metadata is not a table of strings")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(header)} tensors are more than a checkpoint has (at most {MAX_TENSORS})")
    return metadata


def content_crc32(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Return one checksum over the metadata and every tensor's name, dtype, shape and bytes, in the order of names."""
    crc = metadata_crc32(metadata)
    for name in sorted(tensors):
        crc = tensor_crc32(name, tensors[name], crc)
    return crc


def metadata_crc32(metadata: Mapping[str, str]) -> int:
    """Return the part of a file's checksum that is its metadata's."""
    said = {key: value for key, value in metadata.items() if key != "crc32"}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def tensor_crc32(name: str, tensor: Tensor, crc: int) -> int:
    """Go on with a checksum by one tensor's name, dtype, shape and bytes."""
    crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
    return zlib.crc32(bytes_of(tensor), crc)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= size_bytes <= MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: not a safetensors file, or cut short")
            header = json.loads(file.read(size_bytes).decode(), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: damaged, or not a safetensors file (its header is not a table)")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return table
