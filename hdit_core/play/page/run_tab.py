"""The tab Run: status, sample grids and curves of the run, refreshed while it trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdit_core.play.page.markup import charts, sheet, status
from hdit_core.play.page.tab_context import HIDDEN, error_line
from hdit_core.play.run_view import grid_of, grids_of, state_of, view_run

SECONDS_BETWEEN_LOOKS = 10.0  # drawing the curves takes about a second


class RunTab:
    """Builds the tab and refreshes it.

    Args:
        run: the run directory.
        tab: the tab itself; it is refreshed while it is shown.
    """

    def __init__(self, run: Path, tab: Any) -> None:
        import gradio as gr

        self.run = run
        line = gr.HTML(status("reading the log"), elem_id="run-status")
        slider = gr.Slider(1, 2, 1, step=1, label="Sample grid", visible=False, elem_id="grid")
        grid, curves = gr.HTML(elem_id="run-grid"), gr.HTML(elem_id="run-curves")
        seen = gr.State(None)
        outputs = [line, curves, slider, grid, seen]
        timer = gr.Timer(SECONDS_BETWEEN_LOOKS, active=False)
        timer.tick(self.look, [seen, slider], outputs, **HIDDEN)
        tab.select(lambda: gr.Timer(active=True), None, timer, **HIDDEN)
        tab.select(self.look, [seen, slider], outputs, **HIDDEN)
        slider.input(self.show_grid, slider, grid, **HIDDEN)

    def look(self, seen: Any, place: Any) -> Sequence[Any]:
        """Return status line, curves, slider, grid and what was seen; nothing new where the run has not changed."""
        import gradio as gr

        now = state_of(self.run)
        if seen is not None and now == seen[0]:
            return [gr.skip()] * 5
        before = seen[1] if seen is not None else 0
        try:
            view = view_run(self.run)
        except Exception as problem:  # such as a run that was removed
            return error_line(problem), *[gr.skip()] * 3, (now, before)
        count = len(view.grids)
        follows = seen is None or place is None or place >= before
        chosen = count if follows else min(int(place), count)
        slider = gr.Slider(1, max(2, count), max(1, chosen), step=1, visible=count > 1)
        grid = self.show_grid(chosen) if count else ""
        return status(view.text), charts(view.curves), slider, grid, (now, count)

    def show_grid(self, place: Any) -> str:
        """Return a sample grid, counted from 1."""
        grids = list(grids_of(self.run))
        if not grids:
            return ""
        num_images = grids[min(max(int(place), 1), len(grids)) - 1]
        return sheet(grid_of(self.run, num_images), f"samples after {num_images:,} images")
