"""Samples of the page equal those of `hdit sample`, and are shown while they are denoised."""

import threading

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from hdit_core.errors import NumericalError
from hdit_core.play.background import Report, Stopped
from hdit_core.play.live_sampling import Trajectory, samples, watch
from hdit_core.play.request import read_form


def frames_of(models, values, seconds=0.0, stop=None):
    denoiser = models.open("digits", values["weights"])
    form = read_form(values, denoiser.recipe)
    return watch(samples(denoiser, form), stop or threading.Event(), seconds)


def test_the_last_frame_has_all_images_with_their_captions(models, values):
    *_, last = frames_of(models, values | {"count": 6})
    assert last.is_last and last.text == "6 of 6 images"
    assert len(last.images) == 6 and last.images[0].shape == (16, 24, 3)
    assert list(last.captions) == [f"image {index}, class {index % 3}" for index in range(6)]
    *_, last = frames_of(models, values | {"class": "3"})
    assert last.captions[0] == "image 0, no class"


def test_captions_have_the_names_of_classes_that_have_any(models, values):
    denoiser = models.open("digits", None)
    form = read_form(values, denoiser.recipe)
    *_, last = watch(samples(denoiser, form), threading.Event(), class_names=("a\ncat", "1"))
    assert list(last.captions) == ["image 0, a cat", "image 1, class 1", "image 2, class 2"]


def test_unfinished_images_are_shown_at_their_noise_level(models, values, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hdit_core.play.live_sampling.newest_results", lambda work, stop: iter(work(Recorder(seen)) or seen)
    )
    frames = list(frames_of(models, values | {"count": 6, "steps": 4}))
    texts = [frame.text for frame in frames]
    assert texts[0] == "0 of 6 images, step 1 of 4, noise level 80"
    assert "4 of 6 images" in texts and texts[-1] == "6 of 6 images"
    assert len([text for text in texts if text.startswith("4 of 6 images, step ")]) == 4
    assert [len(frame.images) for frame in frames] == [4] * 5 + [6] * 5
    assert not np.array_equal(frames[0].images[0], frames[4].images[0])
    assert np.array_equal(frames[4].images[0], frames[-1].images[0])


def test_the_trajectory_has_the_steps_of_the_first_images_up_to_the_finished_ones(models, values):
    *_, last = frames_of(models, values | {"count": 6, "steps": 4, "sampler": "euler"})
    assert [moment.text.partition(",")[0] for moment in last.trajectory] == [f"step {k} of 4" for k in (1, 2, 3, 4)]
    assert all(len(moment.images) == 4 for moment in last.trajectory)  # the first batch
    distances = [np.abs(moment.images[0] - last.images[0].astype(float)).mean() for moment in last.trajectory]
    assert distances == sorted(distances, reverse=True) and distances[0] > 0


@pytest.mark.parametrize("steps", [24, 25, 1000])
def test_a_long_trajectory_is_thinned_evenly(steps):
    trajectory = Trajectory()
    for step in range(steps):
        trajectory.add([np.zeros((4, 4, 3), np.uint8)] * 20, str(step))
    kept = [int(moment.text) for moment in trajectory.moments]
    assert 12 <= len(kept) <= 24 and len(set(np.diff(kept))) == 1 and kept[0] == 0
    assert len(trajectory.moments[0].images) == 16


class Recorder(Report):
    """Keeps all that is reported."""

    def __init__(self, seen):
        self.seen = seen

    def check(self):
        pass

    def __call__(self, frame):
        self.seen.append(frame)


def test_a_job_that_is_stopped_ends_within_a_step(models, values):
    stop = threading.Event()
    frames = frames_of(models, values | {"steps": 1000}, stop=stop)
    next(frames)
    stop.set()
    with pytest.raises(Stopped):
        list(frames)


def test_nan_is_one_line(models, values):
    with pytest.raises(NumericalError, match="NaN or infinite") as problem:
        list(frames_of(models, values | {"guidance": 1e300}))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("changed_values", "options"),
    [
        ({}, []),
        ({"class": "1", "weights": "model"}, ["--class", "1", "--weights", "model"]),
        ({"guidance": 2.0, "low": 0.1, "high": 5.0}, ["--guidance", "2", "--guidance-interval", "0.1:5"]),
        ({"sampler": "heun", "schedule": "vp", "weights": "0.100"},
         ["--sampler", "heun", "--set", "sample.schedule=vp", "--weights", "0.100"]),
    ],
)  # fmt: skip
def test_the_pixels_equal_those_of_hdit_sample(changed_values, options, models, values, run, tmp_path):
    *_, last = frames_of(models, values | changed_values)
    command = [
        "sample",
        "--ckpt",
        str(run),
        "--count",
        "3",
        "--seed",
        "3",
        "--steps",
        "3",
        "--out",
        str(tmp_path / "s"),
    ]
    assert main([*command, *options]) == 0
    for index, image in enumerate(last.images):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "s" / f"{index:08d}.png")))
