"""Edits of images: variations, inpainting, interpolation, and their sampling job."""

import hashlib

import pytest
import torch

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.generate.edit.img2img import img2img, sigmas_of
from hdit_core.generate.edit.inpaint import inpaint, sections_of, seed_of_round
from hdit_core.generate.edit.interpolate import Endpoint, interpolate, parse_endpoint, slerp, uses_fresh_noise
from hdit_core.generate.generate import generate
from hdit_core.generate.job import SamplingJob
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import to_uint8
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import stream
from tests.generate.exact_denoiser import CorrelatedDenoiser, GaussianDenoiser

SIZE = (16, 24)
SAMPLERS = ["dpmpp_3m_sde", "heun"]


@pytest.fixture(scope="module")
def weights():
    """Random weights everywhere, so that every input shows in the output."""
    return lambda name, shape: stream(0, name, 0).standard_normal(shape, "float32") * 0.2


@pytest.fixture
def denoiser(tiny_recipe, weights):
    network = HourglassTransformer(tiny_recipe.model)
    for name, tensor in network.state_dict().items():
        values = torch.from_numpy(weights(name, tensor.shape))
        tensor.copy_(values.abs() if "scale" in name else values)
    return Denoiser(network.eval(), tiny_recipe)


def pipeline_of(denoiser, seed=5, size=SIZE, **settings):
    values = {"batch_size": 2, "steps": 4} | settings
    return SamplingPipeline(denoiser, denoiser.recipe.sample.model_copy(update=values), seed, size)


def picture(size=SIZE, channels=3):
    levels = torch.from_numpy(stream(7, "picture", 0).integers(0, 256, (1, channels, *size)))
    return levels.float() / 127.5 - 1


def sampled(pipeline, numbers, classes):
    drawn = generate(
        pipeline.denoiser,
        numbers,
        seed=pipeline.seed,
        class_ids=classes,
        settings=pipeline.settings,
        image_size=pipeline.image_size,
    )
    return torch.cat([batch.images for batch in drawn])


@torch.inference_mode()
def drawn(draw, numbers, classes=None):
    return draw(list(numbers), classes)


def test_a_variation_of_strength_0_equals_the_image(denoiser):
    found = drawn(img2img(pipeline_of(denoiser), picture(), 0.0), [0, 3], [1, 2])
    assert (to_uint8(found) == to_uint8(picture().expand(2, -1, -1, -1))).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_variation_of_strength_1_is_the_sample_of_its_index(denoiser, sampler):
    pipeline = pipeline_of(denoiser, sampler=sampler, guidance=2.0)
    found = drawn(img2img(pipeline, picture(), 1.0), [4, 7], [1, 2])
    assert torch.equal(found, sampled(pipeline, [4, 7], [1, 2]))


def test_stronger_variations_are_farther_from_the_image(tiny_recipe):
    pipeline = pipeline_of(GaussianDenoiser(tiny_recipe), steps=20)
    spreads = [
        (drawn(img2img(pipeline, picture(), strength), range(4), [0] * 4) - picture()).std().item()
        for strength in (0.1, 0.3, 0.5, 0.7)
    ]
    assert spreads == sorted(spreads) and spreads[0] < 0.05 and spreads[-1] > 0.3


@pytest.mark.parametrize(("strength", "walked"), [(0.0, 0), (0.01, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_the_strength_is_the_fraction_of_the_steps(denoiser, strength, walked):
    pipeline = pipeline_of(denoiser)
    assert torch.equal(sigmas_of(pipeline, strength), pipeline.sigmas[4 - walked :])


def test_strength_0_6_of_50_steps_is_30_steps_despite_rounding(denoiser):
    assert len(sigmas_of(pipeline_of(denoiser, steps=50), 0.6)) == 31


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(denoiser, strength):
    with pytest.raises(UsageError, match=r"--strength .*: expected a number from 0 .* to 1"):
        img2img(pipeline_of(denoiser), picture(), strength)


def hole(size=SIZE):
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[..., 3:9, 5:20] = True
    return mask


@pytest.mark.parametrize(("sampler", "rounds"), [("dpmpp_3m_sde", 1), ("dpmpp_3m_sde", 3), ("dpm_adaptive", 1)])
def test_outside_the_mask_the_image_is_unchanged(denoiser, sampler, rounds):
    found = drawn(inpaint(pipeline_of(denoiser, sampler=sampler), picture(), hole(), rounds), [0, 1], [1, 2])
    known = ~hole()[0, 0].numpy()
    before = to_uint8(picture().expand(2, -1, -1, -1))
    assert (to_uint8(found)[:, known] == before[:, known]).all()
    assert (to_uint8(found)[:, ~known] != before[:, ~known]).any()
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_everything_in_one_round_equals_sampling(denoiser, sampler):
    pipeline = pipeline_of(denoiser, sampler=sampler)
    found = drawn(inpaint(pipeline, picture(), torch.ones(1, 1, *SIZE, dtype=torch.bool), 1), [4, 7], [1, 2])
    assert torch.equal(found, sampled(pipeline, [4, 7], [1, 2]))


def test_resampling_rounds_bring_the_inpainted_region_nearer_to_the_expected_one(changed):
    denoiser = CorrelatedDenoiser(changed({"model.num_classes": 0, "model.channels": 1}), correlation=0.8)
    pipeline = pipeline_of(denoiser, size=(8, 12), steps=20, sampler="heun")
    known, mask = torch.full((1, 1, 8, 12), 0.8), torch.ones(1, 1, 8, 12, dtype=torch.bool)
    mask[..., 2, :] = False
    expected = 0.8 * 12 * 0.8 / (0.2 + 12 * 0.8)  # of a new pixel, given twelve that are 0.8
    errors = [
        abs(drawn(inpaint(pipeline, known, mask, rounds), range(60))[mask.expand(60, -1, -1, -1)].mean() - expected)
        for rounds in (1, 4, 10)
    ]
    assert errors[0] > 1.8 * errors[1] > 1.8**2 * errors[2]


@pytest.mark.parametrize(("steps", "rounds"), [(1, 3), (7, 2), (50, 4), (50, 1)])
def test_the_stages_of_inpainting_cover_the_whole_schedule(steps, rounds):
    parts = list(sections_of(steps, rounds))
    assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])] and parts[-1][1] == steps
    assert all(begin < end for begin, end in parts) and (len(parts) == 1 or rounds > 1)


def test_every_round_has_its_own_noise_and_the_first_that_of_the_seed():
    seeds = [seed_of_round(9, turn) for turn in range(100)]
    assert seeds[0] == 9 and len(set(seeds)) == 100 and all(0 <= seed < 2**64 for seed in seeds)


def noises():
    return torch.from_numpy(stream(1, "two", 0).standard_normal((2, 3, 32, 48), "float32"))


def test_slerp_keeps_its_ends_and_its_middle_has_the_norm_of_noise():
    a, b = noises()
    way = slerp(a, b, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64))
    assert torch.equal(way[0], a) and torch.equal(way[3], b)
    assert (way.flatten(1).std(1) - 1).abs().max() < 0.03
    straight = (a + b) / 2
    assert straight.std() < 0.75


def test_slerp_moves_at_constant_speed_along_an_arc():
    a, b = (torch.zeros(1, 2, 3) for _ in range(2))
    a[0, 0, 0], b[0, 1, 2] = 2.0, 2.0
    way = slerp(a, b, torch.linspace(0, 1, 4, dtype=torch.float64))
    angles = torch.atan2(way[:, 0, 1, 2], way[:, 0, 0, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 4))
    torch.testing.assert_close(way.flatten(1).norm(dim=1), torch.full((4,), 2.0))


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_slerp_between_equal_or_opposite_vectors_is_finite_and_keeps_its_ends(factor):
    a, _ = noises()
    way = slerp(a, factor * a, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert way.isfinite().all() and torch.equal(way[0], a) and torch.equal(way[2], factor * a)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_and_last_frame_are_the_samples_of_their_indices(denoiser, sampler):
    pipeline = pipeline_of(denoiser, sampler=sampler)
    draw = interpolate(pipeline, parse_endpoint("3", pipeline), parse_endpoint("7", pipeline), frames=3)
    frames = torch.cat([drawn(draw, numbers) for numbers in ([0, 1], [2])])
    assert torch.equal(frames[[0, 2]], sampled(pipeline, [3, 7], [0, 1]))
    assert torch.equal(drawn(draw, [1, 2]), frames[1:])


def test_consecutive_frames_are_nearer_than_the_ends(tiny_recipe):
    pipeline = pipeline_of(GaussianDenoiser(tiny_recipe), steps=20, sampler="dpmpp_2m_sde")
    frames = drawn(
        interpolate(pipeline, parse_endpoint("1", pipeline), parse_endpoint("4", pipeline), frames=9), range(9)
    )
    steps = (frames[1:] - frames[:-1]).flatten(1).norm(dim=1)
    assert steps.max() < (frames[0] - frames[8]).norm() / 3
    assert (frames.flatten(1).std(1) - 0.4).abs().max() < 0.05


def test_classes_are_interpolated_between_the_ends(tiny_recipe):
    denoiser = GaussianDenoiser(tiny_recipe, mean=0.5, std=0.01)
    pipeline = pipeline_of(denoiser, steps=20, sampler="heun")
    start = pipeline.noise([0])[0]
    frames = drawn(interpolate(pipeline, Endpoint(start, 0, 0), Endpoint(start, 0, 2), frames=3), range(3))
    torch.testing.assert_close(frames.mean((1, 2, 3)), torch.tensor([0.0, 0.5, 1.0]), atol=0.02, rtol=0)
    assert {tuple(classes) for classes in denoiser.asked} == {(0, 0, 0), (2, 2, 2)}


def test_noise_from_a_file_is_refused_with_stochastic_samplers(denoiser):
    ends = [Endpoint(pipeline_of(denoiser).noise([0])[0], None, 1), Endpoint(pipeline_of(denoiser).noise([1])[0], 1, 1)]
    with pytest.raises(UsageError, match=r"--sampler dpmpp_3m_sde: adds fresh noise.*use --sampler dpmpp_2m"):
        interpolate(pipeline_of(denoiser, sampler="dpmpp_3m_sde"), *ends, frames=3)
    for settings in ({"sampler": "dpmpp_2m"}, {"sampler": "dpmpp_3m_sde", "eta": 0.0}):
        assert drawn(interpolate(pipeline_of(denoiser, **settings), *ends, frames=3), [1]).isfinite().all()


def test_samplers_that_draw_fresh_noise_are_detected(denoiser):
    drawing = {name for name in ("euler", "heun", "lms", "dpmpp_2m") if uses_fresh_noise(settings_of(denoiser, name))}
    assert not drawing
    for name in ("euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        assert uses_fresh_noise(settings_of(denoiser, name))


def settings_of(denoiser, sampler):
    return denoiser.recipe.sample.model_copy(update={"sampler": sampler})


def test_an_end_that_is_no_index_is_refused(denoiser):
    pipeline = pipeline_of(denoiser)
    assert parse_endpoint("8", pipeline).class_id == 2 and parse_endpoint("8", pipeline, 0).class_id == 0
    with pytest.raises(UsageError, match=r"9+: larger than the largest image index"):
        parse_endpoint("9" * 30, pipeline)
    with pytest.raises(UsageError, match="class 9: the network has the classes 0 to 2"):
        parse_endpoint("8", pipeline, 9)


def test_an_edit_job_is_bit_identical_for_any_batch_size_and_records_its_settings(denoiser):
    found = {}
    for batch_size in (1, 3):
        pipeline = pipeline_of(denoiser, batch_size=batch_size)
        draw = inpaint(pipeline, picture(), hole(), 2)
        job = SamplingJob(pipeline, range(3), generate_batch=draw, edit={"kind": "inpaint"})
        found[batch_size] = torch.cat([batch.images for batch in job.batches(range(3))])
        assert [one for batch in job.batches([1, 4]) for one in batch.class_ids] == [1, 1]
    assert torch.equal(found[1], found[3])
    assert job.provenance()["edit"] == {"kind": "inpaint"} and job.provenance()["seed"] == 5


def test_an_edit_job_refuses_an_unknown_class(denoiser):
    pipeline = pipeline_of(denoiser)
    draw = img2img(pipeline, picture(), 0.5)
    with pytest.raises(UsageError, match="class 7"):
        SamplingJob(pipeline, range(2), 7, generate_batch=draw, edit={})


def test_other_sizes_than_the_trained_one_are_edited_and_impossible_ones_refused(denoiser):
    pipeline = pipeline_of(denoiser, size=(24, 16))
    assert drawn(img2img(pipeline, picture((24, 16)), 0.5), [0], [1]).shape == (1, 3, 24, 16)
    with pytest.raises(UsageError, match=r"--size 18x32: height 18 is not a multiple of 4"):
        pipeline_of(denoiser, size=(18, 32))


def test_an_end_is_identified_by_its_noise(denoiser):
    pipeline = pipeline_of(denoiser)
    end = parse_endpoint("3", pipeline)
    expected = hashlib.sha256(pipeline.noise([3])[0].numpy().tobytes()).hexdigest()
    assert end.identity == {"noise_sha256": expected, "number": 3, "class": 0}
