"""A hundred thousand small images in one preparation: memory grows by little more than their names."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.format.verify import verify

LEAST, MOST = 10_000, 100_000
BYTES_AN_IMAGE = 1000  # 640 were measured, 510 of them for name, size and class of each input

CODE = """
import json, resource, sys
from pathlib import Path
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
summary = prepare_data(PrepareSettings(sys.argv[1], Path(sys.argv[2]), (8, 12)))
peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"images": summary.images, "classes": summary.classes, "peak_bytes": peak_kb * 1024}))
"""


def write_tar(path, count):
    """Write noise of 8x12 pixels into a tar, each image another."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 12, 3), np.uint8)).save(buffer, "PNG", compress_level=0)
            member = tarfile.TarInfo(f"class-{number % 100:03}/{number:07}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
            tar.members.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS counts ru_maxrss in bytes")
def test_memory_is_constant_except_for_the_names(tmp_path):
    found = {}
    for count in (LEAST, MOST):
        write_tar(tmp_path / f"{count}.tar", count)
        command = [sys.executable, "-c", CODE, str(tmp_path / f"{count}.tar"), str(tmp_path / str(count))]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        found[count] = json.loads(run.stdout)
        assert (found[count]["images"], found[count]["classes"]) == (count, 100)
    peaks = {count: summary["peak_bytes"] for count, summary in found.items()}
    print(", ".join(f"{count:,} images: {peak / 2**20:.0f} MiB" for count, peak in peaks.items()))
    assert peaks[MOST] - peaks[LEAST] < (MOST - LEAST) * BYTES_AN_IMAGE
    assert verify(tmp_path / str(MOST)).defects == ()
