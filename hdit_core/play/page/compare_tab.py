"""The tab Compare: two models, checkpoints or EMA lengths side by side, with the same seed."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hdit_core.play.commands import sampling
from hdit_core.play.live_sampling import Frame
from hdit_core.play.page.markup import pictures, status
from hdit_core.play.page.settings_panel import weight_choices
from hdit_core.play.page.tab_context import HIDDEN, Component, Page, stop_button

SIDES = ("left", "right")


class CompareTab:
    """Builds the tab and runs its button.

    Args:
        tab: the tab itself; the checkpoints to choose from are looked up when it is selected.
    """

    def __init__(self, page: Page, tab: Component) -> None:
        import gradio as gr

        self.page = page
        inputs: dict[str, Component] = {}
        images, commands = [], []
        with gr.Row():
            button = gr.Button("Compare", variant="primary", scale=0, min_width=160, elem_id="compare")
            stop = stop_button(scale=0, min_width=100)
        line = gr.HTML(status("Both sides have the same seed and settings."), elem_id="compare-status")
        with gr.Row():
            for side in SIDES:
                with gr.Column(min_width=140):  # side by side on a phone too
                    inputs |= self._build_choice(side)
                    images.append(gr.HTML(elem_id=f"{side}-images"))
                    commands.append(gr.HTML(elem_id=f"{side}-command"))
        page.on_click(button, stop, self.compare, inputs, [line, *images, *commands])
        models = [inputs[f"{side} model"] for side in SIDES]
        tab.select(lambda: [gr.Dropdown(page.models.names())] * len(models), None, models, **HIDDEN)

    def _build_choice(self, side: str) -> dict[str, Component]:
        import gradio as gr

        names = self.page.models.names()
        weights = self.page.models.weights(names[0])
        value = "model" if side == "right" and weights else self.page.models.main_weights
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label=f"Model, {side}", min_width=260, elem_id=f"{side}-model")
            kind = gr.Dropdown(
                weight_choices(weights),
                value=value if value in weights else None,
                label=f"Weights, {side}",
                min_width=260,
            )
        model.input(self.offer_weights, [model, kind], kind, **HIDDEN)
        return {f"{side} model": model, f"{side} weights": kind}

    def offer_weights(self, name: str, chosen: str | None) -> Component:
        """Return the field of the weights for another model."""
        import gradio as gr

        weights = self.page.models.weights(name)
        kept = chosen if chosen in weights else next(iter(weights), None)
        return gr.Dropdown(weight_choices(weights), value=kept)

    def compare(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, the images of both sides, and their commands."""
        import gradio as gr

        shown: list[Any] = [gr.skip(), gr.skip(), "", ""]
        yield status("waiting for the model"), *shown
        for place, side in enumerate(SIDES):
            asked = {**values, "weights": values[f"{side} weights"]}
            make = partial(sampling, folder=side)
            for frame, command in self.page.watched(make, asked, visitor, str(values[f"{side} model"])):
                if not isinstance(frame, Frame):
                    yield frame, *shown
                    return
                shown[place], shown[len(SIDES) + place] = pictures(frame), command
                yield status(f"{side}: {frame.text}"), *shown
        names = "; ".join(f"{side}: {_described(side, values)}" for side in SIDES)
        yield status(f"{names}; the same seed and settings"), *shown


def _described(side: str, values: Mapping[str, Any]) -> str:
    """Return the name of the model of a side with its weights."""
    model, weights = values[f"{side} model"], values[f"{side} weights"]
    labels = {value: label for label, value in weight_choices([weights] if weights else [])}
    return f"{model}, {labels[weights]}" if weights else str(model)
