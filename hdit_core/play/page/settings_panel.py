"""The settings of sampling, which the tabs Sample, Edit and Compare share."""

from collections.abc import Sequence
from typing import Any, get_args

from hdit_core.play.live_sampling import class_label
from hdit_core.play.page.tab_context import Page
from hdit_core.play.request import IN_TURN, MOST_IMAGES, MOST_STEPS
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import Sampler, SampleRecipe, Schedule

WEIGHT_NAMES = {"ema": "EMA", "model": "raw (model)"}


def class_choices(num_classes: int, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return labels and values of the classes to choose from."""
    classes = [(_class_choice(number, names), str(number)) for number in range(num_classes)]
    return [("each class in turn", IN_TURN), *classes, ("no class (unconditional)", str(num_classes))]


def _class_choice(number: int, names: Sequence[str]) -> str:
    """Return the name of a class with the number that `hdit sample --class` takes."""
    label = class_label(number, names)
    return label if label == f"class {number}" else f"{label} ({number})"


def weight_choices(weights: list[str]) -> list[tuple[str, str]]:
    """Return labels and values of the weights to choose from."""
    return [(WEIGHT_NAMES.get(name, f"EMA of length {name}"), name) for name in weights]


def build_settings(page: Page) -> None:
    """Build the settings with the model's defaults."""
    import gradio as gr

    recipe = page.models.main.recipe
    has_classes = bool(recipe.model.num_classes)
    gr.Markdown("### Settings")
    fields = page.settings
    fields["class"] = gr.Dropdown(
        class_choices(recipe.model.num_classes, page.models.class_names()),
        value=IN_TURN,
        label="Class",
        visible=has_classes,
        elem_id="class",
    )
    with gr.Row():
        fields["count"] = gr.Number(_count(recipe), label="Images", info=f"1 to {MOST_IMAGES}", min_width=90)
        fields["seed"] = gr.Number(0, label="Seed", info="of the noise", min_width=90)
        fields["steps"] = gr.Number(recipe.sample.steps, label="Steps", info=f"1 to {MOST_STEPS:,}", min_width=90)
    with gr.Accordion("More settings", open=False):
        _build_sampler(fields, recipe.sample)
        with gr.Group(visible=has_classes):
            _build_guidance(fields, recipe.sample)
        weights = page.models.weights(page.models.names()[0])
        page.weights = gr.Dropdown(
            weight_choices(weights),
            value=page.models.main_weights if page.models.main_weights in weights else None,
            label="Weights",
            info="for Sample and Edit; Compare has its own",
            visible=len(weights) > 1,
        )


def _count(recipe: Recipe) -> int:
    """Return how many images are sampled by default: few of them, a class each where that is possible."""
    return min(max(recipe.model.num_classes, 8), 10) if max(recipe.model.image_size) <= 128 else 4


def _build_sampler(fields: dict[str, Any], sample: SampleRecipe) -> None:
    import gradio as gr

    with gr.Row():
        fields["sampler"] = gr.Dropdown(list(get_args(Sampler)), value=sample.sampler, label="Sampler", min_width=160)
        fields["schedule"] = gr.Dropdown(
            list(get_args(Schedule)), value=sample.schedule, label="Noise schedule", min_width=160
        )


def _build_guidance(fields: dict[str, Any], sample: SampleRecipe) -> None:
    import gradio as gr

    low, high = (f"{level:g}" for level in sample.guidance_interval) if sample.guidance_interval else ("", "")
    fields["guidance"] = gr.Number(sample.guidance, label="Guidance scale", info="1 disables guidance", step=0.5)
    with gr.Row():
        fields["low"] = gr.Textbox(low, label="Guide from sigma", placeholder="0", min_width=120)
        fields["high"] = gr.Textbox(high, label="Guide to sigma", placeholder="no limit", min_width=120)
