"""The tab Sample: images of a seed, while they are denoised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hdit_core.play.commands import sampling
from hdit_core.play.live_sampling import Frame
from hdit_core.play.page.markup import pictures, status
from hdit_core.play.page.tab_context import HIDDEN, Page, stop_button


class SampleTab:
    """Builds the tab and runs its button."""

    def __init__(self, page: Page) -> None:
        import gradio as gr

        self.page = page
        with gr.Row():
            button = gr.Button("Sample", variant="primary", scale=0, min_width=160, elem_id="sample")
            stop = stop_button(scale=0, min_width=100, elem_id="stop")
        line = gr.HTML(status("Press Sample: the images appear as they are denoised."), elem_id="sample-status")
        slider = gr.Slider(
            1,
            2,
            1,
            step=1,
            label="From noise to the images",
            info="the right end shows the finished images",
            interactive=True,
            visible=False,
            elem_id="moment",
        )
        images = gr.HTML(elem_id="sample-images")
        command = gr.HTML(elem_id="sample-command")
        page.on_click(button, stop, self.sample, {}, [line, images, command, page.last, slider])
        slider.input(show_moment, [page.last, slider], [line, images], **HIDDEN)

    def sample(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, images, command, the finished images, and the slider of their trajectory."""
        import gradio as gr

        yield status("waiting for the model"), gr.skip(), "", None, gr.skip()
        for frame, command in self.page.watched(sampling, values, visitor):
            if not isinstance(frame, Frame):
                yield frame, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            elif frame.is_last:
                end = len(frame.trajectory) + 1
                slider = gr.Slider(1, end, end, step=1, visible=end > 1)
                yield status(frame.text), pictures(frame), command, frame, slider
            else:
                yield status(frame.text), pictures(frame), gr.skip(), gr.skip(), gr.skip()


def show_moment(frame: Frame | None, number: Any) -> Sequence[Any]:
    """Return status line and images of a point of the trajectory, counted from 1; after the last one, the images."""
    import gradio as gr

    if frame is None:
        return gr.skip(), gr.skip()
    index = max(int(number), 1) - 1
    if index >= len(frame.trajectory):
        return status(frame.text), pictures(frame)
    moment = frame.trajectory[index]
    return status(moment.text), pictures(replace(frame, images=moment.images, is_last=False))
