"""The tab Edit: variations and inpainting of an image, and interpolation between two samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.images import from_uint8, to_uint8
from hdit_core.play import edits
from hdit_core.play.commands import Computation
from hdit_core.play.live_sampling import Frame
from hdit_core.play.page.markup import brush_canvas, fill_buttons, one_picture, pictures, status
from hdit_core.play.page.tab_context import HIDDEN, Component, Page, error_line, show_at_once, stop_button
from hdit_core.play.request import SampleForm, whole_number

Make = Callable[[Denoiser, SampleForm], Computation]

READ_MASK = "(...values) => [...values.slice(0, -1), window.hditMask()]"
"""Puts the painted mask into the last input."""
SHOW_RESULT = "() => window.hditShow('#edit-result')"
"""Scrolls until the result can be seen, which is below the image."""


class EditTab:
    """Builds the tab and runs its buttons."""

    def __init__(self, page: Page) -> None:
        import gradio as gr

        self.page = page
        self.image = gr.State(None)
        with gr.Tabs():
            with gr.Tab("Vary and inpaint"):
                self._build_image()
            with gr.Tab("Interpolate"):
                self._build_interpolate()

    def _build_image(self) -> None:
        import gradio as gr

        with gr.Row():
            with gr.Column(min_width=260):
                canvas = gr.HTML(elem_id="edit-image")
                chosen = self._build_source(canvas)
            with gr.Column(min_width=260):
                strength = gr.Slider(0, 1, 0.6, step=0.05, label="Strength", info="0 keeps the image, 1 ignores it")
                vary = gr.Button("Vary", variant="primary", elem_id="vary")
                gr.HTML(fill_buttons(), elem_id="fill")
                gr.Slider(
                    1, 50, 15, step=1, label="Brush size", info="% of the image", interactive=True, elem_id="brush-size"
                )
                gr.Checkbox(label="Erase", info="also with Shift held", interactive=True, elem_id="erase")
                rounds = gr.Number(
                    4, label="Rounds", info=f"1 to {edits.MOST_ROUNDS}; more blend better and take longer"
                )
                with gr.Row():
                    clear = gr.Button("Clear mask", min_width=100, elem_id="clear")
                    inpaint = gr.Button("Inpaint", variant="primary", min_width=100, elem_id="inpaint")
                stop = stop_button(elem_id="stop-edit")
        clear.click(None, js="() => window.hditClearMask()")  # the server does not know the mask
        mask = gr.Textbox(visible="hidden")
        with gr.Column(elem_id="edit-result"):
            line = gr.HTML(elem_id="edit-status")
            outputs = [line, gr.HTML(elem_id="edit-images"), gr.HTML(elem_id="edit-command")]
        for choice in chosen:
            choice.then(lambda: "", None, line, **HIDDEN)  # what it says is about another image
        varied = self.page.on_click(vary, stop, self.vary, {"image": self.image, "strength": strength}, outputs)
        fields = {"image": self.image, "rounds": rounds, "mask": mask}
        inpainted = self.page.on_click(inpaint, stop, self.inpaint, fields, outputs, READ_MASK)
        for event in (vary.click, varied.then, inpaint.click, inpainted.then):
            event(None, js=SHOW_RESULT)

    def _build_source(self, canvas: Component) -> Sequence[Any]:
        """Build the choice of an image, and return the events after which another one is chosen."""
        import gradio as gr

        line = status("Upload an image of any size, or use one of your samples.")
        chosen = gr.HTML(line, elem_id="edit-image-status")
        upload = gr.UploadButton("Upload an image", file_types=["image"], elem_id="upload")
        with gr.Row(elem_id="sample-source"):
            number = gr.Number(0, label="Sample", min_width=90, scale=0, elem_id="sample-number")
            use = gr.Button("Use this sample", min_width=120, elem_id="use-sample")
        outputs = [chosen, canvas, self.image]
        show_at_once(upload.upload, "reading the image", chosen)
        return [
            upload.upload(self.take_upload, upload, outputs, **HIDDEN),
            use.click(self.take_sample, [self.page.last, number], outputs, **HIDDEN),
        ]

    def _build_interpolate(self) -> None:
        import gradio as gr

        with gr.Row():
            start = gr.Number(0, label="From image", info="of the seed", min_width=80)
            end = gr.Number(1, label="To image", info="of the seed", min_width=80)
            frames = gr.Number(9, label="Frames", info=f"2 to {edits.MOST_FRAMES}", min_width=80)
        with gr.Row():
            button = gr.Button("Interpolate", variant="primary", scale=0, min_width=160, elem_id="interpolate")
            stop = stop_button(scale=0, min_width=100)
        line = gr.HTML(elem_id="interpolate-status")
        slider = gr.Slider(1, 2, 1, step=1, label="Frame", interactive=True, visible=False, elem_id="frame")
        shown, strip, between = gr.HTML(elem_id="interpolate-image"), gr.HTML(elem_id="frames"), gr.State(None)
        command = gr.HTML(elem_id="interpolate-command")
        inputs = {"start": start, "end": end, "frames": frames}
        self.page.on_click(button, stop, self.interpolate, inputs, [line, shown, strip, command, slider, between])
        slider.input(show_frame, [between, slider], shown, **HIDDEN)

    def take_upload(self, path: str | None) -> Sequence[Any]:
        """Return status line, canvas and pixels of an uploaded image."""
        import gradio as gr

        try:
            found = edits.uploaded_image(Path(path or ""), self.page.models.main)
        except Exception as problem:
            return error_line(problem), gr.skip(), gr.skip()
        remarks = "; ".join(found.remarks) or "read"
        return status(f"{Path(path or '').name}: {remarks}"), canvas_of(found.image), found.image

    def take_sample(self, last: Frame | None, number: Any) -> Sequence[Any]:
        """Return status line, canvas and pixels of an image that was sampled."""
        import gradio as gr

        try:
            if last is None:
                raise UsageError("nothing is sampled yet: press Sample in the tab Sample first")
            index = whole_number(number, "image", 0, len(last.images) - 1)
        except Exception as problem:
            return error_line(problem), gr.skip(), gr.skip()
        image = from_uint8(last.images[index][None].copy())[0]
        return status(last.captions[index]), canvas_of(image), image

    def vary(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, variations and their command."""

        def edit(denoiser: Denoiser, form: SampleForm) -> Computation:
            return edits.vary(denoiser, form, chosen_image(values), values["strength"])

        yield from self._edited(edit, values, visitor)

    def inpaint(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, inpainted images and their command."""

        def edit(denoiser: Denoiser, form: SampleForm) -> Computation:
            image = chosen_image(values)
            mask = edits.painted_mask(values["mask"], image.shape[1:])
            return edits.inpaint(denoiser, form, image, mask, values["rounds"])

        yield from self._edited(edit, values, visitor)

    def _edited(self, make: Make, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        yield status("waiting for the model"), _skip(), ""
        for frame, command in self.page.watched(make, values, visitor):
            if isinstance(frame, Frame):
                yield status(frame.text), pictures(frame), command
            else:
                yield frame, _skip(), command

    def interpolate(self, values: Mapping[str, Any], visitor: str | None) -> Iterator[Sequence[Any]]:
        """Yield status line, the shown frame, all frames as images, their command, the slider, and the frames."""
        import gradio as gr

        def edit(denoiser: Denoiser, form: SampleForm) -> Computation:
            return edits.interpolate(denoiser, form, values["start"], values["end"], values["frames"])

        yield status("waiting for the model"), _skip(), _skip(), "", _skip(), _skip()
        for frame, command in self.page.watched(edit, values, visitor):
            if not isinstance(frame, Frame):
                yield frame, _skip(), _skip(), command, _skip(), _skip()
            elif not frame.is_last:
                yield status(frame.text), "", pictures(frame), command, _skip(), _skip()
            else:
                images = list(frame.images)
                middle = len(images) // 2 + 1
                slider = gr.Slider(1, len(images), middle, step=1, visible=True)
                line = status("move the slider to go from one to the other")
                strip = replace(frame, captions=[f"frame {number + 1}" for number in frame.indices])
                yield line, show_frame(images, middle), pictures(strip), command, slider, images


def chosen_image(values: Mapping[str, Any]) -> Any:
    """Return the image to edit.

    Raises:
        UsageError: none is chosen.
    """
    if values["image"] is None:
        raise UsageError("no image is chosen: upload one, or use a sample")
    return values["image"]


def canvas_of(image: edits.Image) -> str:
    """Return the canvas for the brush over an image."""
    return brush_canvas(to_uint8(image[None])[0])


def show_frame(images: Sequence[Any] | None, number: Any) -> str:
    """Return one frame of an interpolation, counted from 1, large."""
    if not images:
        return ""
    index = min(max(int(number), 1), len(images)) - 1
    return one_picture(images[index], f"frame {index + 1} of {len(images)}")


def _skip() -> Component:
    import gradio as gr

    return gr.skip()
