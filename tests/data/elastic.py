"""What enters the network in the first steps of a run, for ranks and workers that change on the way."""

import numpy as np
import torch

from hdit_core.data.loader.batch import NETWORK_INPUTS, load_batches
from hdit_core.data.loader.build import build_order, open_reader
from hdit_core.data.loader.order import images_at
from hdit_core.distributed import World
from hdit_core.train.step.batch_plan import batch_size_phases, micro_batches, steps

NAMES = (*NETWORK_INPUTS, "uniform")


def inputs_of(recipe, plan, world, workers):
    """Return for each step of the plan a dict from image numbers to a dict of tensors, read by all ranks in turn."""
    reader, train = open_reader(recipe.data), recipe.train
    found = [{} for _ in plan]
    for rank in range(world):
        pieces = [micro_batches(step, World(rank, world), train.micro_batch_size) for step in plan]
        batches = load_batches(
            reader,
            [piece for of_step in pieces for piece in of_step],
            seed=train.seed,
            workers=workers,
            augment_prob=recipe.data.augment_prob,
            class_dropout=train.class_dropout,
            num_classes=recipe.model.num_classes,
            order=build_order(recipe.data, reader.manifest.contents, train.seed, batch_size_phases(train)),
        )
        for place, of_step in enumerate(pieces):
            for _ in of_step:
                batch = next(batches).to("cpu")
                for row, number in enumerate(batch.numbers.tolist()):
                    tensors = {name: getattr(batch, name) for name in NAMES}
                    found[place][number] = {name: tensor[row] for name, tensor in tensors.items() if tensor is not None}
        batches.close()
    return found


def same_inputs(recipe, segments, steps_each=2):
    """Check that a run whose ranks and workers are those of the segments in turn sees what one process alone sees."""
    plan = [step for step, _ in zip(steps(recipe.train, 0, 0), range(steps_each * len(segments)), strict=False)]
    expected = inputs_of(recipe, plan, 1, 0)
    assert [sorted(step) for step in expected] == [
        list(range(step.num_images, step.num_images + step.batch_size)) for step in plan
    ]
    for place, (world, workers) in enumerate(segments):
        part = slice(steps_each * place, steps_each * (place + 1))
        for ours, theirs in zip(inputs_of(recipe, plan[part], world, workers), expected[part], strict=True):
            assert ours.keys() == theirs.keys()
            for number, one in ours.items():
                assert one.keys() == theirs[number].keys()
                assert all(torch.equal(one[name], theirs[number][name]) for name in one), (world, workers, number)
    return expected


def image_at(seed, n, num_images):
    """Return which image of the data set the n-th image of a run is."""
    return int(images_at(seed, np.array([n]), num_images)[0])
