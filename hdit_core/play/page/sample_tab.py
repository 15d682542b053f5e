"""The tab Sample: images of a seed, while they are denoised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hdit_core.play.commands import command, sample_job
from hdit_core.play.live_sampling import Frame, MakeJob, samples
from hdit_core.play.page.markup import command_line, pictures, status
from hdit_core.play.page.tab_context import HIDDEN, Page, stop_button
from hdit_core.play.request import read_form


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
        same = gr.HTML(elem_id="sample-command")
        page.on_click(button, stop, self.sample, {}, [line, images, same, page.last, slider])
        slider.input(show_moment, [page.last, slider], [line, images], **HIDDEN)

    def sample(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, images, command, the finished images, and the slider of their trajectory."""
        import gradio as gr

        commands: list[list[str]] = []

        def start() -> MakeJob:
            models = self.page.models
            denoiser = models.open_main(values["weights"] or None)
            form = read_form(values, denoiser.recipe)
            job = sample_job(form, f"seed-{form.seed}")
            commands.append(command(job, models.main_path, values["weights"], form, denoiser.recipe.sample))
            return samples(denoiser, form)

        yield status("waiting for the model"), gr.skip(), "", None, gr.skip()
        for frame in self.page.watched(start, visitor):
            if not isinstance(frame, Frame):
                yield frame, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            elif frame.is_last:
                end = len(frame.trajectory) + 1
                slider = gr.Slider(1, end, end, step=1, visible=end > 1)
                yield status(frame.text), pictures(frame), command_line(commands[0]), frame, slider
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
