"""What the tests of `hdit restore` share: jobs, and folders of restored images."""

import numpy as np
from PIL import Image

from hdit_core.checkpoint import load_denoiser
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.distributed import World
from hdit_core.generate.condition.condition_images import ConditionMaker
from hdit_core.generate.condition.inputs import open_inputs, stream_inputs
from hdit_core.generate.output.sample_format import SampleFormat, pixel_format
from hdit_core.generate.pipeline import ConditionInputs, SamplingPipeline
from hdit_core.generate.restore.job import RestoreJob
from hdit_core.generate.restore.restore import finish_folder, restore_inputs, share_of
from hdit_core.generate.restore.restored_folder import RestoredFolder
from hdit_core.generate.restore.tiles import Tiling

DOWNSCALE = {"kind": "downscale", "factor": 2}
MASK = {"kind": "mask", "shape": "center", "area": [0.2, 0.3]}
ALONE = World()
COLOR = SampleFormat(PixelFormat(3))


def job_of(path, *, degrade=False, tiling=None, masks=None, vectors=None, class_id=None, seed=0, **settings):
    denoiser = load_denoiser(path)
    sample = denoiser.recipe.sample.model_copy(update=settings)
    size = denoiser.recipe.model.image_size
    pipeline = SamplingPipeline(denoiser, sample, seed, size, None, lambda indices: ConditionInputs())
    maker = ConditionMaker(denoiser.recipe, degrade, seed)
    return RestoreJob(pipeline, maker, tiling or Tiling(size, 4), class_id, masks, vectors)


def restore(job, inputs, out, world=ALONE):
    """Restore the inputs at a place, and return the record."""
    folder = RestoredFolder(out, job.provenance(), SampleFormat(pixel_format(job.maker.recipe)), world.rank)
    folder.begin()
    folder.load_logs()
    listed = share_of(open_inputs(str(inputs)), world) if inputs != "-" else stream_inputs()
    done = restore_inputs(job, listed, folder, lambda count: None)
    return finish_folder(folder, done, str(inputs), ALONE)


def pixels(path):
    return np.asarray(Image.open(path))


def all_pixels(folder):
    return {
        str(path.relative_to(folder)): pixels(path) for path in sorted(folder.rglob("*.png")) if path.name != "grid.png"
    }
