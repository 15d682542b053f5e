"""Measure the quality of the demo's samples with a classifier trained on real digits.

    python benchmarks/demo_quality.py --data data/mnist32 --samples samples/mnist32

prints the percentage of samples that the classifier assigns to the class they were sampled for, and its accuracy on
held-out real digits.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hdit_core.data.loader.image_reader import ImageReader

NUM_CLASSES = 10


def real_digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return all images of a data set as rows of pixels in [0, 1], and their classes."""
    reader = ImageReader(folder)
    pairs = [reader.read(index) for index in range(len(reader))]
    return np.stack([image.reshape(-1) for image, _ in pairs]) / 255, np.array([label for _, label in pairs])


def samples(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of a folder as rows of pixels in [0, 1], and the classes they were sampled for.

    Those of a network that takes its classes as vectors are in turn (`benchmarks/class_vectors.py`).
    """
    record = json.loads((folder / "samples.json").read_text())
    files = sorted(folder.glob("[0-9]*.png"))
    if len(files) != record["num_images"]:
        sys.exit(f"{folder}: {len(files)} images, samples.json says {record['num_images']}")
    images = np.stack([np.asarray(Image.open(file)).reshape(-1) for file in files]) / 255
    return images, np.array(record["class_ids"] or [int(file.stem) % NUM_CLASSES for file in files])


def measure(data: Path, sample_folder: Path) -> dict[str, float | int]:
    """Return the accuracy of a support vector machine on samples and on held-out real digits, in percent."""
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    digits, classes = real_digits(data)
    seen, unseen, seen_classes, unseen_classes = train_test_split(
        digits, classes, test_size=0.2, random_state=0, stratify=classes
    )
    reader = SVC(C=10).fit(seen, seen_classes)
    images, asked = samples(sample_folder)
    return {
        "samples": len(images),
        "samples_read_as_asked_percent": round(100 * float(reader.score(images, asked)), 1),
        "real_digits_read_rightly_percent": round(100 * float(reader.score(unseen, unseen_classes)), 1),
    }


def main() -> None:
    """Parse the command line, print the result as JSON, and fail if the accuracy on samples is below --at-least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set prepared from mnist by hdit prepare-data")
    parser.add_argument("--samples", type=Path, required=True, help="folder written by hdit sample")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="PERCENT", help="exit 1 below this accuracy")
    arguments = parser.parse_args()
    result = measure(arguments.data, arguments.samples)
    print(json.dumps(result))
    if result["samples_read_as_asked_percent"] < arguments.at_least:
        sys.exit(f"the classifier assigns fewer than {arguments.at_least} % of the samples to the requested class")


if __name__ == "__main__":
    main()
