"""Kernels that Triton interprets: numbers on a CPU, no GPU and no compiler."""

import importlib
import importlib.util
from pathlib import Path

import pytest

import hdit_core.model.triton

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture
def interpreted(monkeypatch):
    """Let launches run on CPU tensors, by kernels of this test's own: what is decorated before stays compiled."""
    from hdit_core.model.triton import launch

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = Path(hdit_core.model.triton.__file__).with_name("kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(launch, "kernels", module)
    _multiply_bfloat16(monkeypatch)


def _multiply_bfloat16(monkeypatch):
    """Fix the interpreter's products: it stores bfloat16 as 16-bit integers, and multiplies those."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    create_dot = interpreter.InterpreterBuilder.create_dot

    def widened(x):
        if x.dtype.scalar.name != "bf16":
            return x
        return interpreter.TensorHandle((x.data.astype("uint32") << 16).view("float32"), triton.language.float32)

    def mended(self, a, b, *rest):
        return create_dot(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", mended)
