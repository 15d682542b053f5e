"""The safetensors files that hdit writes equal those of safetensors itself, and are deterministic."""

import pytest
import torch
from safetensors.torch import load_file, save

from hdit_core.checkpoint.safetensors_file import NAMES, num_bytes, read_tensors, write_tensor_file, write_tensors
from hdit_core.files import CHUNK_BYTES, digest


@pytest.fixture
def tensors():
    """Return tensors of every type and of awkward shapes."""
    numbers = torch.arange(-12, 12).reshape(2, 3, 4)
    every_type = {f"{name}.{place}": numbers.to(dtype) for place, (dtype, name) in enumerate(NAMES.items())}
    transposed = {"t": torch.randn(3, 5).T, 'é\n"': torch.randn(2), "strided": torch.randn(4, 6)[:, ::2]}
    return every_type | transposed | {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "Z": torch.randn(1, 7)}


def test_a_file_has_the_bytes_that_safetensors_writes(tmp_path, tensors):
    path, metadata = tmp_path / "x.safetensors", {"recipe": '{"a": "\u20ac\\""}'}
    write_tensor_file(path, tensors, metadata)
    assert path.read_bytes() == save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def test_safetensors_reads_it(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    write_tensor_file(path, tensors, {})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_the_bytes_do_not_depend_on_the_order_in_which_tensors_come(tmp_path, tensors):
    names = ["one", "two"]
    for name, order in zip(names, (list(tensors), list(reversed(tensors))), strict=True):
        write_tensors(tmp_path / name, {key: tensors[key] for key in order}, "{}", b="2", a="1")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_checksum_taken_while_writing_is_that_of_the_file(tmp_path, tensors):
    large = tensors | {"large": torch.randn(3 * CHUNK_BYTES // 4 + 5)}
    path = tmp_path / "x.safetensors"
    found = write_tensor_file(path, large, {"a": "b"})
    assert found == digest(path) and found.size_bytes > num_bytes(large.values()) > 3 * CHUNK_BYTES


def test_every_type_is_read_back(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, "{}")
    found, metadata = read_tensors(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()) and metadata["recipe"] == "{}"


def test_an_unsupported_type_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="complex64"):
        write_tensor_file(tmp_path / "x", {"a": torch.zeros(2, dtype=torch.complex64)}, {})
