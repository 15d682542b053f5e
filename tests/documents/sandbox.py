"""A folder with everything that the documented commands read: small runs, data sets, pictures and files."""

import json
import re
import shutil
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from hdit_cli.main import main
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.write import recipe_toml
from tests.conftest import TINY
from tests.generate.conditional import write_network

NUM_CLASSES, NUM_PICTURES = 10, 20
SYNSETS = ("n01440764", "n01443537")
SMALLER = (
    (r"--(n|count) \d+", r"--\1 4"),
    (r"@\d{2,}", "@2"),
    (r"--repro \d+", "--repro 1"),
    (r"num_images=[\d_]+", "num_images=40"),
    (r"prepare-data (mnist|emoji)[\w-]* ", "prepare-data photos/ "),
    (r"--(guidance|autoguidance) 1:3:[\d.]+", r"--\1 1:3:2"),
    (r"\| sbatch$", "> job.sh"),
    (r" SOURCE ", " photos/ "),
    (r"bench attention", "bench attention --sizes 9 --head-dim 8 --seconds 0.1"),
    (r"(bench scaling .*)--sizes \S+ --most \d+", r"\1--sizes 64 --most 5 --seconds 0.1"),
    (r"(bench data .*)--size \d+ (.*) --seconds \d+", r"\1--size 16 \2 --seconds 0.1"),
    (r"bench (train|sample) (\w+)", r"bench \1 \2 --set \1.batch_size=2 --seconds 0.1"),
)
"""What makes a documented command smaller, so that it takes seconds."""
SCORES = r"^(.*\bhdit (?:eval-fid (?!compare)|sweep )(?!.*(?:--paired|--extractor)).*?)( >.*)?$"
SMALL_SCORE = " --extractor efficientnet-lite0"
CONDITIONAL = {
    "sr|flow": {"degrade": [{"kind": "downscale", "factor": 4}]},
    "inpaint": {"degrade": [{"kind": "mask"}], "condition_channels": 4},
    "style": {"mapping_cond_dim": 5},
    "attributes|vectors": {"condition_channels": 0, "mapping_cond_dim": 5},
}
"""The networks of runs whose names match."""


def smaller(text):
    """Return a documented command on less data, with an extractor that needs no download."""
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    if match := re.match(SCORES, text):
        text = f"{match[1]}{SMALL_SCORE}{match[2] or ''}"
    if "hdit sweep" in text:
        text += "" if "--count " in text else " --count 4"
        text += " --confirm 4"
    if re.search(r"hdit (eval-fid (?!compare).*--extractor|sweep)", text) and "--allow-small-n" not in text:
        text = re.sub(r"(--extractor \S+)", r"\1 --allow-small-n", text)
    return text


def picture(path, size=(20, 30), channels=3, dtype=np.uint8, seed=0):
    """Write a picture of random values; its kind is that of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, channels) if channels > 1 else size
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


def pictures(folder, size=(20, 30), **kind):
    """Write pictures in ten folders of classes, each with a caption."""
    for number in range(NUM_PICTURES):
        path = folder / f"{number % NUM_CLASSES}" / f"{number}.png"
        picture(path, size, seed=number, **kind)
        path.with_suffix(".txt").write_text(f"picture {number}")


def call(*words):
    """Run a command, which has to succeed."""
    assert main([str(word) for word in words]) == 0, words


class Sandbox:
    """Makes what a command reads, in a folder of its own."""

    def __init__(self, source):
        """Make a data set, a run, a second one, and networks for conditions, once."""
        self.source = source
        pictures(source / "photos")
        pictures(source / "set", (16, 24))
        call("prepare-data", source / "set", "--out", source / "data", "--size", "16x24", "--workers", "0")
        tables = json.loads(json.dumps(TINY))
        tables["model"] |= {"num_classes": NUM_CLASSES}
        tables["data"] |= {"path": str(source / "data")}
        tables["train"] |= {
            "num_images": 32,
            "checkpoint_every_images": 8,
            "ema_profiles": [0.05, 0.1],
            "ema_snapshot_every_images": 8,
        }
        tables["sample"] |= {"steps": 2}
        (source / "tiny.toml").write_text(recipe_toml(check_recipe(tables, "tiny")))
        call("train", source / "tiny.toml", "--out", source / "run", "--set", "train.num_images=24", "--device", "cpu")
        for name, kind in CONDITIONAL.items():
            write_network(source / f"{name.partition('|')[0]}.safetensors", **kind)
        score = ("--extractor", "efficientnet-lite0", "--allow-small-n", "--device", "cpu")
        call("eval-fid", "stats", source / "data", "--out", source / "ref.npz", *score)
        with (source / "score.json").open("w") as file, redirect_stdout(file):
            call("eval-fid", source / "set", "--ref", source / "data", *score, "--json")
        call("convert", source / "run", source / "theirs.safetensors", "--format", "k-diffusion")

    def provide(self, folder, text):
        """Put what a command names and does not write into a folder."""
        whole = text
        text = re.sub(r"(--out|--back|--plot|--report|--nearest|--sheet|--webp|>) \S+", "", self._inputs(text))
        text = re.sub(r"recipe copy .*|(?<=convert )(\S+) \S+", r"\1", text)
        for word in re.findall(r"[\w./*-]+", text.replace("=", " ")):
            self._provide(folder, word.rstrip("/"), is_folder=word.endswith("/"))
        if "--finish" in whole and "slurm" not in whole:  # the parts that it merges
            call(*whole.replace("--finish", "--task 0/1 --workers 0").split()[1:])

    def _inputs(self, text):
        """Return a command without its --out where that is read, too."""
        return text.replace("--out ", "") if "--repro" in text else text

    def _provide(self, folder, word, is_folder):
        path, name = folder / word, Path(word).name
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if word.startswith("runs/"):
            self._run(path, name)
        elif word.startswith("data/"):
            shutil.copytree(self.source / "data", path)
        elif name in FILES:
            FILES[name](self, path)
        elif word.startswith("samples"):
            pictures(path, (16, 24))
        elif is_folder or word in FOLDERS:
            FOLDERS.get(word, pictures)(path)
        elif path.suffix in ENDINGS:
            ENDINGS[path.suffix](self, path)

    def _run(self, path, name):
        kind = next((kind for kind in CONDITIONAL if re.search(kind, name)), None)
        if kind is None:
            shutil.copytree(self.source / "run", path)
        else:
            path.mkdir()
            shutil.copy(self.source / f"{kind.partition('|')[0]}.safetensors", path / "weights.safetensors")


def small(folder):
    """Write pictures that are four times smaller than the networks' images."""
    for number in range(3):
        picture(folder / f"{number}.png", (4, 6), seed=number)


def imagenet(folder):
    """Write a folder per class, in `train` as ImageNet has it."""
    root = folder if folder.name == "train" else folder / "train"
    for number, synset in enumerate(SYNSETS):
        picture(root / synset / f"{synset}_1.JPEG", seed=number)


def ffhq(folder):
    """Write FFHQ's folders."""
    root = folder if folder.name == "images1024x1024" else folder / "images1024x1024"
    for name in ("00000/00000.png", "69000/69000.png"):
        picture(root / name)


def masks(folder):
    """Write a mask for each photo."""
    for number in range(NUM_PICTURES):
        path = folder / f"{number % NUM_CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask(path)


def mask(path):
    """Write a mask."""
    painted = np.zeros((20, 30), np.uint8)
    painted[5:12, 8:20] = 255
    Image.fromarray(painted).save(path)


def archive(path, names):
    """Write a tar of pictures."""
    inside = path.with_name("inside")
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for number, name in enumerate(names):
            picture(inside / name, seed=number)
            tar.add(inside / name, name)
    shutil.rmtree(inside)


def vectors(path):
    """Write a table of vectors for the photos."""
    rows = [f"{number % NUM_CLASSES}/{number}.png,{number},1\n" for number in range(NUM_PICTURES)]
    path.write_text("file,v0,v1\n" + "".join(rows))


VALIDATION = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]
FLOWERS = ["jpg/image_00001.jpg", "jpg/image_00002.jpg"]
FOLDERS = {
    "small": small,
    "imagenet": imagenet,
    "imagenet/train": imagenet,
    "ffhq": ffhq,
    "ffhq/images1024x1024": ffhq,
    "masks": masks,
    "photos": pictures,
    "scans": lambda path: pictures(path, channels=1, dtype=np.uint16),
    "ct": lambda path: [picture(path / f"{n}.npy", channels=1, dtype=np.float32, seed=n) for n in range(3)],
    "bands": lambda path: [picture(path / f"{n}.npy", channels=4, dtype=np.uint16, seed=n) for n in range(3)],
}
FILES = {
    "mask.png": lambda _, path: mask(path),
    "masks.zip": lambda box, path: shutil.make_archive(str(path.with_suffix("")), "zip", box.source / "photos"),
    "flowers.tgz": lambda _, path: archive(path, FLOWERS),
    "ILSVRC2012_img_val.tar": lambda _, path: archive(path, VALIDATION),
    "labels.csv": lambda _, path: path.write_text("file,label\n" + "".join(f"{name},a\n" for name in FLOWERS)),
    "LOC_val_solution.csv": lambda _, path: path.write_text(
        "ImageId,PredictionString\n" + "".join(f"{name[:-5]},{SYNSETS[0]} 1 2 3 4\n" for name in VALIDATION)
    ),
    "embeddings.csv": lambda _, path: vectors(path),
    "classes.csv": lambda _, path: vectors(path),
    "theirs.safetensors": lambda box, path: shutil.copy(box.source / "theirs.safetensors", path),
}
ENDINGS = {
    ".png": lambda _, path: picture(path),
    ".toml": lambda box, path: shutil.copy(box.source / "tiny.toml", path),
    ".npz": lambda box, path: shutil.copy(box.source / "ref.npz", path),
    ".npy": lambda _, path: np.save(path, np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)),
    ".json": lambda box, path: shutil.copy(box.source / "score.json", path),
}
