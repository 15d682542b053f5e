"""The bytes of a safetensors file: always the same for the same tensors, and checksummed on their way to the disk.

safetensors' own writer gives the same file but for three things: it puts the metadata in an order that changes from
call to call, it makes the file private, and a full disk is an error of its own kind. And one would have to read the
file again for its checksums.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

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
    header = _header({name: tensors[name] for name in names}, metadata)
    with path.open("wb") as file:
        writer = DigestingWriter(file)
        writer.write(len(header).to_bytes(8, "little"))
        writer.write(header)
        for name in names:
            writer.write(bytes_of(tensors[name]))
    return writer.digest()


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + num_bytes([tensor])
        table[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % ALIGNMENT_BYTES)
