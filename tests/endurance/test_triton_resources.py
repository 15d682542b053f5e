"""Every configuration of the Triton kernels for each dtype and width; compiling takes minutes."""

import pytest

from tests.benchmarks.test_triton_resources import assert_fits, compiled

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_configuration_fits_gpus_of_three_generations(tmp_path, dtype):
    assert_fits(compiled(tmp_path, "--dtypes", dtype, "--head-dims", "16", "32", "64", "128"))
