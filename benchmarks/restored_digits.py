"""Compare restored digits with the originals and with simpler restorations, by a classifier trained on other digits.

    python benchmarks/restored_digits.py condition --data data/mnist32-test --ckpt runs/mnist32-sr --out samples/bicubic
    python benchmarks/restored_digits.py zero-shot --data data/mnist32-test --ckpt runs/mnist32-inpaint \\
        --unconditional runs/mnist32 --every 5 --out samples/zero-shot
    python benchmarks/restored_digits.py accuracy --train data/mnist32-train --data data/mnist32-test samples/sr ...

`condition` writes the images that the network is given: for super-resolution, the digits upscaled by bicubic
interpolation. `zero-shot` fills in the same masks with an unconditional network, as `hdit edit inpaint` does.
`accuracy` prints the percentage of digits that a support vector machine reads rightly, in each folder and in the
originals, the mean PSNR, and the differences between the first folder and the others with 95 % intervals.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.svm import SVC

from hdit_core.checkpoint import load_denoiser
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.generate.condition.condition_images import Conditioned, ConditionMaker
from hdit_core.generate.condition.inputs import NamedInputs, open_inputs, output_name, path_of
from hdit_core.generate.edit.inpaint import inpaint
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import png_bytes, to_uint8

BATCH_SIZE = 50


def conditions(data: str, checkpoint: Path, every: int) -> Iterator[tuple[NamedInputs, int, Conditioned]]:
    """Yield the inputs, the place and the condition of every n-th digit, as `hdit restore --degrade` makes them."""
    inputs, maker = open_inputs(data), ConditionMaker(load_denoiser(checkpoint).recipe, degrade=True)
    for place in range(0, len(inputs), every):
        image = inputs.read(place)
        yield inputs, place, maker.make(image.pixels(maker.input_pixels), image.number)


def write(out: Path, name: str, image: torch.Tensor) -> None:
    """Write an image under the name that `hdit restore` gives it."""
    path = path_of(out, output_name(name, ".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(to_uint8(image[None])[0]))


def write_conditions(options: argparse.Namespace) -> None:
    """Write the condition images, without a mask's channel."""
    for inputs, place, conditioned in conditions(options.data, options.ckpt, options.every):
        image = conditioned.condition[:1]
        write(options.out, inputs.names[place], image)


@torch.inference_mode()
def write_zero_shot(options: argparse.Namespace) -> None:
    """Fill in the masks with an unconditional network."""
    denoiser = load_denoiser(options.unconditional)
    classes = denoiser.recipe.model.num_classes  # this number means no class
    pipeline = SamplingPipeline(denoiser, denoiser.recipe.sample, 0, denoiser.recipe.model.image_size)
    every = list(conditions(options.data, options.ckpt, options.every))
    for start in range(0, len(every), BATCH_SIZE):
        batch = every[start : start + BATCH_SIZE]
        images = torch.stack([each.condition[:1] for _, _, each in batch])
        filled = torch.stack([each.filled for _, _, each in batch if each.filled is not None])
        draw = inpaint(pipeline, images, filled, options.rounds)
        found = draw([place for _, place, _ in batch], [classes] * len(batch) if classes else None)
        for (inputs, place, _), image in zip(batch, found, strict=True):
            write(options.out, inputs.names[place], image)
        print(f"{start + len(batch)} of {len(every)}", file=sys.stderr)


def digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return all images of a data set as rows of pixels in [0, 1], and their classes."""
    reader = ImageReader(folder)
    pairs = [reader.read(index) for index in range(len(reader))]
    return np.stack([image.reshape(-1) for image, _ in pairs]) / 255, np.array([label for _, label in pairs])


def accuracy(options: argparse.Namespace) -> None:
    """Print accuracy and PSNR of each folder, and the differences between the first and the others."""
    classifier = SVC(C=10).fit(*digits(options.train))
    originals, classes = digits(options.data)
    names = [output_name(name, ".png") for name in open_inputs(str(options.data)).names]
    chosen = list(range(0, len(names), options.every))
    originals, classes = originals[chosen], classes[chosen]
    correct = {"originals": classifier.predict(originals) == classes}
    psnr = {}
    for folder in options.folders:
        paths = [path_of(folder, names[index]) for index in chosen]
        if missing := [path for path in paths if not path.is_file()]:
            sys.exit(f"{missing[0]}: missing; {len(missing)} of the {len(paths)} digits are")
        rows = np.stack([np.asarray(Image.open(path)).reshape(-1) for path in paths]) / 255
        correct[str(folder)] = classifier.predict(rows) == classes
        psnr[str(folder)] = psnr_of(rows, originals)
    first, *others = map(str, options.folders)
    result = {
        "images": len(chosen),
        "read_rightly_percent": {name: round(100 * float(each.mean()), 1) for name, each in correct.items()},
        "psnr_db": {name: round(float(np.mean(each)), 2) for name, each in psnr.items()},
        f"{first} minus": {
            other: {
                "read_rightly_percent": difference(100.0 * correct[first], 100.0 * correct[other]),
                "psnr_db": difference(psnr[first], psnr[other]),
            }
            for other in others
        },
    }
    print(json.dumps(result, indent=1))


def psnr_of(rows: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Return the PSNR of each row of pixels in [0, 1], in dB; 100 for rows without an error."""
    return -10 * np.log10(np.maximum(np.square(rows - originals).mean(1), 1e-10))


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float | list[float]]:
    """Return the mean of paired differences and its 95 % interval, by 10,000 bootstrap samples of the images."""
    differences = first - second
    chosen = np.random.default_rng(0).integers(len(differences), size=(10_000, len(differences)))
    low, high = np.percentile(differences[chosen].mean(1), [2.5, 97.5])
    return {"mean": round(float(differences.mean()), 2), "interval": [round(float(low), 2), round(float(high), 2)]}


def main() -> None:
    """Parse the command line and run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("condition", write_conditions), ("zero-shot", write_zero_shot)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--data", required=True, help="prepared digits")
        command.add_argument("--ckpt", type=Path, required=True, help="conditional run, for its degradations")
        command.add_argument("--every", type=int, default=1, metavar="N", help="take every n-th digit")
        command.add_argument("--out", type=Path, required=True, help="folder for the images")
    command.add_argument("--unconditional", type=Path, required=True, help="run of recipe mnist32")
    command.add_argument("--rounds", type=int, default=4, help="as in hdit edit inpaint")
    command = commands.add_parser("accuracy")
    command.set_defaults(run=accuracy)
    command.add_argument("--train", type=Path, required=True, help="prepared digits to train the classifier on")
    command.add_argument("--data", type=Path, required=True, help="prepared digits, the originals")
    command.add_argument("--every", type=int, default=1, metavar="N", help="take every n-th digit")
    command.add_argument("folders", type=Path, nargs="+", help="restored digits")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
