"""Write the classes of the digits as vectors, to compare a vector-conditioned network with a class-conditional one.

    python benchmarks/class_vectors.py classes.csv vectors.npy

`classes.csv` is for `hdit prepare-data mnist --vectors`: one number per class, 5.2 for the digit's and -0.58 for the
others, so that each has a mean of 0 and a standard deviation of sqrt(3). The network's first weights for E numbers have
a variance of 1 / (3 E), so that the vector is embedded with a variance of 1, as a class is.
`vectors.npy` is for `hdit sample --vectors`: row i is class i, so that sample i gets class i modulo 10, as from a
class-conditional network.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from hdit_core.data.sources.mnist import Mnist

NUM_CLASSES = 10


def main() -> None:
    """Parse the command line and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV of names and vectors")
    parser.add_argument("vectors", type=Path, help=".npy with a row per class")
    arguments = parser.parse_args()
    one_hot = np.eye(NUM_CLASSES, dtype=np.float32)
    vectors = math.sqrt(3) * (one_hot - one_hot.mean()) / one_hot.std()
    lines = [",".join(["file", *(f"v{number}" for number in range(NUM_CLASSES))])]
    for entry in Mnist().entries:
        digit = int(entry.name.partition("/")[0])
        lines.append(",".join([entry.name, *(f"{value:g}" for value in vectors[digit])]))
    arguments.table.write_text("\n".join(lines) + "\n")
    np.save(arguments.vectors, vectors)
    print(f"{arguments.table}: {len(lines) - 1} digits; {arguments.vectors}: {NUM_CLASSES} classes")


if __name__ == "__main__":
    main()
