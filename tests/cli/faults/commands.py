"""Every command of hdit that reads or writes files, on a folder with something for each of them."""

import shutil

import numpy as np
from PIL import Image

from hdit_core.recipe.write import recipe_toml
from hdit_core.train.run import train
from tests.generate.conditional import write_network

MODEL = "--ckpt {work}/in/run --steps 2 --device cpu"
SCORE = "--extractor efficientnet-lite0 --allow-small-n --device cpu"

COMMANDS = {
    "prepare-data": "prepare-data {work}/in/pictures --out {work}/out/data --size 16x24 --workers 1",
    "prepare-data attached": "prepare-data {work}/in/pictures --out {work}/out/data --size 16x24 --workers 1 "
    "--condition {work}/in/pictures --captions",
    "prepare-data task": "prepare-data {work}/in/pictures --out {work}/out/data --size 16x24 --workers 1 --task 0/2",
    "prepare-data tar": "prepare-data {work}/in/pictures.tar --out {work}/out/data --size 16x24 --workers 1",
    "data show": "data show {work}/in/data --sheet {work}/out/sheet.png",
    "data verify": "data verify {work}/in/data --deep",
    "train": "train {work}/in/tiny.toml --out {work}/out/run --device cpu",
    "resume": "train --resume {work}/in/run --set train.num_images=32 --device cpu",
    "fork": "train {work}/in/tiny.toml --from {work}/in/run --reset counter --out {work}/out/fork --device cpu",
    "dry run": "train {work}/in/tiny.toml --dry-run --device cpu",
    "repro": "train --repro 1 --resume {work}/in/run --save-images {work}/out/step.png --device cpu",
    "sample": "sample --count 3 --out {work}/out/samples " + MODEL,
    "sample tar": "sample --count 3 --out {work}/out/samples.tar " + MODEL,
    "sample npz": "sample --count 3 --out {work}/out/samples.npz " + MODEL,
    "restore": "restore {work}/in/pictures --ckpt {work}/in/net.safetensors --out {work}/out/restored --device cpu",
    "edit": "edit vary --init {work}/in/pictures/a/0.png --count 1 --out {work}/out/edits " + MODEL,
    "edit inpaint": "edit inpaint {work}/in/pictures/a/0.png {work}/in/mask.png --count 1 --rounds 1 "
    "--out {work}/out/inpainted " + MODEL,
    "edit interpolate": "edit interpolate 0 1 --frames 2 --out {work}/out/frames --webp {work}/out/frames.webp "
    + MODEL,
    "edit invert": "edit invert {work}/in/pictures/a/0.png --ckpt {work}/in/run --tolerance 0.1 --device cpu "
    "--out {work}/out/noise.safetensors --back {work}/out/back.png",
    "edit likelihood": "edit likelihood {work}/in/data --count 2 --ckpt {work}/in/run --tolerance 0.1 --device cpu",
    "export": "export {work}/in/run --to {work}/out/exported --count 2 --device cpu",
    "export diffusers": "export {work}/in/run --to {work}/out/exported --diffusers --device cpu",
    "convert": "convert {work}/in/run {work}/out/converted.safetensors --to k-diffusion",
    "ema": "ema --std 0.2 {work}/in/run --out {work}/out/ema.safetensors",
    "runs show": "runs show {work}/in/run --plot {work}/out/run.png",
    "runs list": "runs list {work}/in",
    "runs compare": "runs compare {work}/in/run {work}/in/run",
    "eval-fid": "eval-fid {work}/in/pictures --ref {work}/in/data --report {work}/out/report.html " + SCORE,
    "eval-fid stats": "eval-fid stats {work}/in/pictures --out {work}/out/stats.npz " + SCORE,
    "eval-fid paired": "eval-fid {work}/in/pictures --ref {work}/in/pictures --paired --device cpu",
    "sweep": "sweep {work}/in/run --ref {work}/in/data --n 2 --confirm 2 --ema ema,model --apply "
    "--out {work}/out/sweep " + SCORE,
    "plan": "plan {work}/in/tiny.toml --gpu h100",
    "flops": "flops {work}/in/tiny.toml --res 16x24,32x48 --plot {work}/out/scaling.svg",
    "slurm": "slurm train {work}/in/tiny.toml --out {work}/out/run --time 10",
    "recipe": "recipe copy {work}/in/tiny.toml {work}/out/copy.toml",
    "doctor": "doctor --device cpu",
}
WRITERS = [name for name, command in COMMANDS.items() if "/out/" in command and name != "slurm"] + ["resume"]
"""Those that write into `out`, or into a run."""


def fill(work, recipe_of, data):
    """Put pictures, a data set, a recipe, a run, a network for conditions and more in `in`, and make `out`."""
    numbers, inside = np.random.default_rng(0), work / "in"
    for index in range(4):
        picture = inside / "pictures" / "ab"[index % 2] / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (20, 30, 3), np.uint8)).save(picture)
        picture.with_suffix(".txt").write_text(f"picture {index}")
    shutil.make_archive(str(inside / "pictures"), "tar", inside / "pictures")
    Image.fromarray(numbers.integers(0, 2, (20, 30), np.uint8) * 255).save(inside / "mask.png")
    write_network(inside / "net.safetensors")
    (work / "out").mkdir()
    shutil.copytree(data, inside / "data")
    values = {"data.path": str(inside / "data"), "train.num_images": 16, "train.ema_profiles": [0.1, 0.2]}
    recipe = recipe_of(values | {"train.ema_snapshot_every_images": 8})
    (inside / "tiny.toml").write_text(recipe_toml(recipe))
    train(recipe, inside / "run")
    return work
