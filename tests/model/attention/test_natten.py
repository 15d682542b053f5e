"""NATTEN, by a fake module with its interface, and the real one if it is installed.

No GPU is needed: the fake computes attention by its definition, and reports the kernels that NATTEN would select.
"""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from hdit_core.model.attention import natten
from hdit_core.model.attention.interface import KernelTarget
from tests.model.neighborhoods import CASES, assert_by_definition, brute_force, random_qkv

HERE = KernelTarget(torch.device("cpu"), torch.float32, 8)


def na2d(query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None, backend=None):
    """Has the signature of version 0.21.7, without tuning arguments; the default scale is 1 / sqrt(D)."""
    assert stride == dilation == 1 and not is_causal and backend is None
    return brute_force(query * (scale or query.shape[-1] ** -0.5), key, value, kernel_size)


def choose(query, key, value, torch_compile):
    """Selects a kernel as the newest version does on a Hopper GPU."""
    assert not torch_compile
    fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] in (32, 64, 128)
    return "hopper-fna" if fits and query.requires_grad else "cutlass-fna"


@pytest.fixture
def install(monkeypatch):
    """Return a function that installs a fake NATTEN module."""

    def put(version="0.21.7", na2d=na2d, choose=choose, **attributes):
        modules = {name: ModuleType(name) for name in ("natten", "natten.functional", "natten.backends")}
        modules["natten"].__version__ = version
        modules["natten.functional"].na2d = na2d
        modules["natten.backends"].choose_backend = choose
        for name, value in attributes.items():
            setattr(modules["natten"], name, value)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.mark.parametrize("version", ["0.21.7", "0.21.7+torch2130cu130", "0.22.0"])
def test_natten_from_version_0_21_7_on_is_used(install, version):
    install(version, HAS_LIBNATTEN=True)
    assert natten.unavailable(HERE) is None
    assert natten.describe(HERE) == f"natten {version} cutlass-fna (CPU)"


@pytest.mark.parametrize("version", ["0.17.5", "0.20.0", "0.21.6", "0.21.6+torch2110cu130"])
def test_older_versions_are_not_used(install, version):
    install(version)
    assert natten.unavailable(HERE) == f"natten {version} is too old; 0.21.7 or later is needed"


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_nattens_layout_and_scale_are_those_of_the_definition(install, case):
    install()
    assert_by_definition(natten.attend, case)


def test_the_log_names_the_kernel_that_natten_selects(install):
    install()
    assert natten.describe(KernelTarget(torch.device("cpu"), torch.bfloat16, 64)) == "natten 0.21.7 hopper-fna (CPU)"
    assert natten.describe(KernelTarget(torch.device("cpu"), torch.bfloat16, 24)) == "natten 0.21.7 cutlass-fna (CPU)"


def none(query, key, value, torch_compile):
    raise NotImplementedError("NATTEN could not find a suitable backend for this use case.")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"HAS_LIBNATTEN": False},
            "natten 0.21.7 was built without its CUDA kernels (libnatten); install the build",
        ),
        ({"choose": none}, "natten 0.21.7 has no kernel for CPU, float32, head_dim = 8"),
        ({"choose": lambda q, k, v, torch_compile: "flex-fna"}, "has no kernel"),
        (
            {"na2d": lambda q, k, v, kernel_size, scale: 1 / 0},
            "fails its self-test: ZeroDivisionError: division by zero",
        ),
        (
            {"na2d": lambda q, k, v, kernel_size, scale: na2d(q, k, v, kernel_size)},
            "self-test: outputs have a relative",
        ),
        ({"na2d": lambda q, k, v, kernel_size, scale: na2d(q, k, v, 3, scale=scale)}, "outputs have a relative error"),
        (
            {"na2d": lambda q, k, v, kernel_size, scale: na2d(q, k.detach(), v, kernel_size, scale=scale)},
            "fails its self-test",
        ),
    ],
)
def test_an_unusable_natten_is_reported_with_the_reason(install, keys, message):
    install(**keys)
    assert message in natten.unavailable(HERE)


def test_float64_is_not_supported(install):
    install()
    found = natten.unavailable(KernelTarget(torch.device("cpu"), torch.float64, 8))
    assert found == "natten 0.21.7 supports float16, bfloat16 and float32, found float64"


def test_without_natten_the_reason_has_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "natten", None)
    assert natten.unavailable(HERE).startswith("natten")
    monkeypatch.delitem(sys.modules, "natten")
    monkeypatch.setattr(sys, "meta_path", [])
    assert natten.unavailable(HERE) == "natten is not installed (https://natten.org/install)"


class BrokenImport:
    """Finds natten and fails to load it, as a build for another torch does."""

    def find_spec(self, name, path=None, target=None):
        if name == "natten":
            raise ImportError("libnatten.so: undefined symbol: _ZN3c106detail14torchCheckFail\nand more")


def test_a_build_that_cannot_be_imported_is_reported_in_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "natten", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenImport()])
    expected = "natten cannot be imported: ImportError: libnatten.so: undefined symbol: _ZN3c106detail14torchCheckFail"
    assert natten.unavailable(HERE) == f"{expected}; install the build for this torch"


def test_torch_compile_traces_natten(install):
    def cheap(q, k, v, kernel_size, scale):
        return q * scale + k * kernel_size + v

    install(na2d=cheap)
    q, k, v, _ = random_qkv(*CASES[0][:-1])
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda q, k, v: natten.attend(q + 1, k, v, 3) * 2)(q, k, v)
    assert found.graph_break_count == 0


def test_the_real_natten_computes_the_definition():
    """On a CPU NATTEN has no gradients, and takes seconds where hdit's kernels take milliseconds."""
    if importlib.util.find_spec("natten") is None:
        pytest.skip("natten is not installed")
    import natten as real

    if natten.kernel(real, KernelTarget(torch.device("cpu"), torch.float32, 16)) is None:
        pytest.skip(f"natten {real.__version__} does not run on a CPU with this torch")
    q, k, v, _ = random_qkv(2, 7, 9, 2, 16, torch.float32)
    torch.testing.assert_close(natten.attend(q, k, v, 5), brute_force(q, k, v, 5), rtol=1e-5, atol=1e-5)
    assert natten.unavailable(HERE).startswith(f"natten {real.__version__} ")
