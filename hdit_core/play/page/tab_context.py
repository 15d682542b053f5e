"""What all tabs share: the models, the settings, and how a button runs a job that can be stopped."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, no_type_check

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import HditError, is_out_of_memory
from hdit_core.play.background import Sessions, Stopped
from hdit_core.play.commands import Computation
from hdit_core.play.live_sampling import Frame, watch
from hdit_core.play.models import Models
from hdit_core.play.page.markup import command_line, status
from hdit_core.play.request import SampleForm, read_form

logger = logging.getLogger("hdit")

Component = Any
"""A component of gradio."""

Handle = Callable[[Mapping[str, Any], str | None], Iterator[Sequence[Any]]]
"""(values by name, the visitor) -> the values of the outputs, several times."""

QUEUE = "model"  # all computations wait in it: one runs at a time
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Page:
    """The page while it is built and while it is used.

    Attributes:
        models: those that visitors can choose.
        settings: fields of the settings, by the names of `read_form`.
        weights: the field with the weights of the main model.
        last: what the visitor sampled last, a `Frame`.
        visitor: who pressed a button last, in each visitor's session.
        sessions: their running computations.
    """

    models: Models
    settings: dict[str, Component] = field(default_factory=dict)
    weights: Component = None
    last: Component = None
    visitor: Component = None
    sessions: Sessions = field(default_factory=Sessions)

    def on_click(
        self,
        button: Component,
        stop: Component,
        handle: Handle,
        inputs: Mapping[str, Component],
        outputs: Sequence[Component],
        js: str | None = None,
    ) -> Any:
        """Return the event of a computation that a button starts, one at a time for all visitors, and another stops.

        Args:
            button, stop: start and stop it.
            handle: yields the values of the outputs; the first output is a status line.
            inputs: fields in addition to the settings, by name.
            outputs: what the computation changes.
            js: changes the inputs in the browser before they are sent.
        """
        import gradio as gr

        fields = {**self.settings, "weights": self.weights, **inputs}

        @no_type_check  # a decorator would hide from gradio that this is a generator
        def run(visitor: str | None, *values: Any) -> Iterator[Sequence[Any]]:
            if self.sessions.begin(visitor, id(stop)):
                yield from self._computed(handle(dict(zip(fields, values, strict=True)), visitor), visitor, id(stop))
            else:
                yield status("stopped"), *[gr.skip()] * (len(outputs) - 1), gr.Button(interactive=False)

        def ask(request: gr.Request) -> str | None:
            self.sessions.ask(request.session_hash, id(stop))
            return request.session_hash

        given = [self.visitor, *fields.values()]
        _show_waiting(button, stop, outputs[0])
        asked = button.click(ask, None, self.visitor, concurrency_limit=None, **HIDDEN)
        event = asked.then(run, given, [*outputs, stop], concurrency_limit=1, concurrency_id=QUEUE, js=js, **HIDDEN)
        event.then(None, None, stop, js=set_interactive(False))
        self._let_stop(stop, outputs[0], event)
        return event

    def _let_stop(self, stop: Component, line: Component, event: Any) -> None:
        """Let a button stop the computation that an event runs."""
        import gradio as gr

        def end(request: gr.Request) -> Sequence[Any]:
            self.sessions.stop(request.session_hash, id(stop))
            self.sessions.wait(request.session_hash, id(stop))  # so that nothing of it follows the line "stopped"
            return status("stopped"), gr.Button(interactive=False)

        stop.click(end, None, [line, stop], **HIDDEN).then(None, None, None, cancels=[event])

    def _computed(self, shown: Iterator[Sequence[Any]], visitor: str | None, owner: int) -> Iterator[Sequence[Any]]:
        """Yield what a computation shows, with its Stop button, while it can be stopped."""
        import gradio as gr

        with self.sessions.running(visitor, owner):
            for values in shown:
                yield *values, gr.Button(interactive=True)

    def watched(
        self,
        make: Callable[[Denoiser, SampleForm], Computation],
        values: Mapping[str, Any],
        visitor: str | None,
        model: str | None = None,
    ) -> Iterator[tuple[Frame | str, str]]:
        """Yield the frames of a computation, and if it fails or is stopped, a line with the reason.

        Behind each is the command line for the finished images, empty before.

        Args:
            make: returns the computation of a network and a form.
            values: of the fields of `read_form`, and the weights.
            visitor: whose it is.
            model: its name; None for the main one.
        """
        stop, weights = self.sessions.stop_event(visitor), values["weights"] or None
        try:
            chosen = self.models.named(model or self.models.names()[0])
            denoiser = self.models.open(chosen.name, weights)
            form = read_form(values, denoiser.recipe)
            made, line = make(denoiser, form), ""
            if made.command is not None:
                words = made.command.line(chosen.path, weights, form, denoiser.recipe.sample)
                line = command_line(words, made.command.files)
            for frame in watch(made.make_job, stop, class_names=self.models.class_names(model)):
                yield frame, line if frame.is_last else ""
        except Stopped:
            yield status("stopped"), ""
        except Exception as problem:
            yield error_line(problem), ""


def _show_waiting(button: Component, stop: Component, line: Component) -> None:
    """Say in the browser that a computation waits, and let it be stopped, when its button is pressed."""
    show_at_once(button.click, "waiting: one computation runs at a time", line)
    button.click(None, None, stop, js=set_interactive(True))


def show_at_once(listen: Callable[..., Any], text: str, line: Component) -> None:
    """Show a text when something happens, before the server answers, which may be busy.

    Args:
        listen: of the component to which it happens, such as `button.click`.
        text: what to show.
        line: the status line.
    """
    listen(None, None, line, js=f"() => {json.dumps(status(text))}")


def stop_button(**layout: Any) -> Component:
    """Return a button that stops a computation, and can be pressed while one runs or waits."""
    import gradio as gr

    return gr.Button("Stop", interactive=False, **layout)


def set_interactive(interactive: bool) -> str:
    """Return JavaScript that makes a component usable, or not, before the server answers."""
    return f"() => ({json.dumps({'__type__': 'update', 'interactive': interactive})})"


def error_line(problem: Exception) -> str:
    """Return a line about an error; one that is no mistake of the visitor is logged with its traceback."""
    if isinstance(problem, HditError):
        return status(str(problem), error=True)
    if is_out_of_memory(problem):
        return status("out of memory; ask for fewer images", error=True)
    logger.error("hdit play failed", exc_info=problem)
    return status(f"internal error ({type(problem).__name__}); its details are in the terminal", error=True)
