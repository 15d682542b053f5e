"""The closed forms against the reference implementation's own counts, and their properties."""

import json

import pytest
import torch
from safetensors import safe_open

from hdit_core.flops.count import OPERATIONS, count
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.model import LevelRecipe, ModelRecipe


def level(depth: int, width: int, attention: str, **settings) -> LevelRecipe:
    return LevelRecipe(depth=depth, width=width, attention=attention, **settings)


REFERENCE_MODELS = {
    "neighborhood": ModelRecipe(
        image_size=64,
        levels=(
            level(2, 32, "neighborhood", head_dim=16),
            level(1, 48, "neighborhood", head_dim=16, kernel_size=5),
            level(2, 64, "global", head_dim=16),
        ),
        num_classes=5,
        mapping_width=48,
    ),
    "shifted_window": ModelRecipe(
        image_size=64,
        levels=(
            level(2, 32, "shifted-window", head_dim=16),
            level(2, 64, "shifted-window", head_dim=16, window_size=4),
            level(1, 64, "global", head_dim=32),
        ),
        mapping_width=48,
    ),
    "global": ModelRecipe(
        image_size=32,
        patch_size=2,
        levels=(level(1, 32, "global", head_dim=16), level(2, 64, "global", head_dim=16)),
        num_classes=10,
        mapping_width=48,
        mapping_cond_dim=3,
    ),
}
BUFFERS = ("pos_emb.freqs", "time_emb.weight", "aug_emb.weight")


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("neighborhood", 64, 64),
        ("neighborhood", 64, 96),
        ("shifted_window", 64, 64),
        ("global", 32, 32),
        ("global", 48, 32),
    ],
)
def test_macs_equal_those_that_the_reference_counted(reference, name, height, width):
    recorded = reference(f"{name}.io")[f"{height}x{width}.mult_adds"]

    assert count(REFERENCE_MODELS[name], (height, width)).macs == int(recorded)


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_parameters_are_the_tensors_of_a_reference_checkpoint_without_its_buffers(reference, name):
    learned = [tensor for key, tensor in reference(name).items() if not key.endswith(BUFFERS)]

    assert count(REFERENCE_MODELS[name]).parameters == sum(tensor.numel() for tensor in learned)


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_the_networks_above_are_those_of_the_reference_checkpoints(request, name):
    path = request.config.rootpath / "tests" / "reference" / f"{name}.safetensors"
    with safe_open(path, "np") as file:
        config = json.loads(file.metadata()["config"])["model"]
    model = REFERENCE_MODELS[name]

    assert config["depths"] == [level.depth for level in model.levels]
    assert config["widths"] == [level.width for level in model.levels]
    assert [attention["type"] for attention in config["self_attns"]] == [level.attention for level in model.levels]


# k-diffusion's example configurations as its own counter counts them
CIFAR10 = ModelRecipe(
    image_size=32, patch_size=2, levels=(level(2, 256, "global"), level(4, 512, "global")), num_classes=10
)
MNIST = ModelRecipe(image_size=28, channels=1, levels=(level(8, 256, "global"),), num_classes=10)
FLOWERS_SHIFTED = ModelRecipe(
    image_size=256,
    levels=(level(2, 128, "shifted-window"), level(2, 256, "shifted-window"), level(4, 512, "global")),
)


@pytest.mark.parametrize(
    ("model", "parameters", "gmac"),
    [(CIFAR10, 20_981_809, "1.967"), (MNIST, 9_187_360, "0.3466"), (FLOWERS_SHIFTED, 22_361_274, "11.730")],
    ids=["cifar10", "mnist", "flowers, shifted windows"],
)
def test_the_references_examples_have_the_printed_counts(model, parameters, gmac):
    counted = count(model)

    assert counted.parameters == parameters
    assert f"{counted.macs / 1e9:.{len(gmac.split('.')[1])}f}" == gmac


SMALL, MEDIUM, LARGE = 8, 12, 16  # layers of the innermost level
TABLE_8B = [
    (16, (1024,), SMALL, 116_388_224, "29.399"),
    (16, (1280,), MEDIUM, 266_990_320, "67.957"),
    (16, (1536,), LARGE, 507_245_696, "129.467"),
    (8, (512, 1024), SMALL, 133_885_857, "44.437"),
    (8, (640, 1280), MEDIUM, 294_432_921, "91.452"),
    (8, (768, 1536), LARGE, 546_861_489, "163.298"),
    (4, (256, 512, 1024), SMALL, 138_694_322, "59.780"),
    (4, (320, 640, 1280), MEDIUM, 301_836_142, "115.328"),
    (4, (384, 768, 1536), LARGE, 557_416_522, "197.587"),
]
PRINTED_8B = ["116M 29", "267M 68", "507M 129", "134M 44", "294M 91", "547M 163", "139M 60", "302M 115", "557M 198"]


@pytest.mark.parametrize(("row", "printed"), list(zip(TABLE_8B, PRINTED_8B, strict=True)), ids=PRINTED_8B)
def test_tables_6_and_8b_are_reproduced(row, printed):
    patch_size, widths, depth, parameters, gmac = row
    outer = (level(2, width, "neighborhood") for width in widths[:-1])
    model = ModelRecipe(
        image_size=256,
        patch_size=patch_size,
        levels=(*outer, level(depth, widths[-1], "global")),
        num_classes=1000,
    )
    counted = count(model)

    assert counted.parameters == parameters
    assert f"{counted.macs / 1e9:.3f}" == gmac
    assert f"{counted.parameters / 1e6:.0f}M {counted.macs / 1e9:.0f}" == printed


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_the_parts_add_up_to_the_whole_by_level_and_by_operation(name):
    model = REFERENCE_MODELS[name]
    counted = count(model)
    levels = [counted.at(index) for index in (*range(len(model.levels)), None)]
    operations = [counted.of(operation) for operation in OPERATIONS]

    assert counted.macs == sum(part.macs for part in levels) == sum(part.macs for part in operations)
    assert counted.parameters == sum(part.parameters for part in levels) == sum(p.parameters for p in operations)
    assert counted.flops == 2 * counted.macs


def test_height_and_width_may_be_swapped():
    model = REFERENCE_MODELS["neighborhood"]

    assert count(model, (64, 96)) != count(model, (64, 64))
    assert count(model, (64, 96)).macs == count(model, (96, 64)).macs


def test_without_global_attention_flops_are_linear_in_pixels_except_for_the_conditioning():
    model = REFERENCE_MODELS["neighborhood"].model_copy(
        update={"levels": tuple(level(2, width, "neighborhood", head_dim=16) for width in (32, 48, 64))}
    )
    once, four_times = count(model, (128, 192)), count(model, (256, 384))

    assert 4 * (once.macs - once.of("conditioning").macs) == four_times.macs - four_times.of("conditioning").macs
    assert once.of("conditioning").macs == four_times.of("conditioning").macs


def test_global_attention_is_quadratic_in_pixels():
    model = REFERENCE_MODELS["global"]

    assert 16 * count(model, (32, 48)).of("attention").macs == count(model, (64, 96)).of("attention").macs


def test_a_level_without_attention_has_no_parameters_flops_or_norm_for_it():
    with_attention = ModelRecipe(image_size=32, levels=(level(2, 64, "global"), level(2, 128, "global")))
    without = ModelRecipe(image_size=32, levels=(level(2, 64, "none"), level(2, 128, "global")))
    attending = ("attention", "attention projections")

    assert not any(count(without).at(0).of(operation).parts for operation in attending)
    assert 2 * count(without).at(0).of("conditioning").macs == count(with_attention).at(0).of("conditioning").macs


def test_parameters_with_a_condition_image_and_a_vector_are_those_of_the_network():
    model = REFERENCE_MODELS["global"].model_copy(update={"condition_channels": 5})
    with torch.device("meta"):
        network = HourglassTransformer(model)

    assert count(model).parameters == sum(parameter.numel() for parameter in network.parameters())
