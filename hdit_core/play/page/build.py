"""Builds the page from its tabs."""

import html
from pathlib import Path
from typing import Any

from hdit_core.flops.count import count
from hdit_core.play.models import Models
from hdit_core.play.page.compare_tab import CompareTab
from hdit_core.play.page.edit_tab import EditTab
from hdit_core.play.page.run_tab import RunTab
from hdit_core.play.page.sample_tab import SampleTab
from hdit_core.play.page.settings_panel import build_settings
from hdit_core.play.page.tab_context import Page

FOLDER = Path(__file__).parent
EDITABLE_CHANNELS = (1, 3)


def build_page(models: Models) -> Any:
    """Return the page, a `gradio.Blocks`."""
    import gradio as gr

    page = Page(models)
    with gr.Blocks(title=f"hdit: {models.names()[0]}", analytics_enabled=False) as blocks:
        gr.HTML(_title(models), elem_id="title")
        page.last, page.visitor = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280, elem_id="settings"):
                build_settings(page)
            with gr.Column(scale=2, min_width=340, elem_id="tabs"), gr.Tabs():
                _build_tabs(page)
        _stop_on_leaving(blocks, page)
        blocks.load(None, js=(FOLDER / "page.js").read_text())
    return blocks


def _build_tabs(page: Page) -> None:
    import gradio as gr

    models = page.models
    with gr.Tab("Sample"):
        SampleTab(page)
    if models.main.recipe.model.channels in EDITABLE_CHANNELS:
        with gr.Tab("Edit"):
            EditTab(page)
    with gr.Tab("Compare") as tab:
        CompareTab(page, tab)
    if models.run is not None:
        with gr.Tab("Run", elem_id="run") as tab:
            RunTab(models.run, tab)


def _stop_on_leaving(blocks: Any, page: Page) -> None:
    """Stop the computation of a visitor who leaves."""
    import gradio as gr

    def leave(request: gr.Request) -> None:
        page.sessions.stop(request.session_hash)

    blocks.unload(leave)


def _title(models: Models) -> str:
    recipe, source = models.main.recipe, models.main.source
    size = "x".join(map(str, recipe.model.image_size))
    facts = [f"{count(recipe.model).parameters / 1e6:.3g}M parameters", size]
    facts += [f"{recipe.model.num_classes:,} classes"] if recipe.model.num_classes else []
    facts += [f"step {source.step:,}"] if source.step is not None else []
    return f"<h1>hdit: {html.escape(models.names()[0])}</h1><p>{html.escape(', '.join(facts))}</p>"


def style() -> dict[str, Any]:
    """Return the arguments of gradio that give the page its appearance: system fonts, and no link to other servers."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    return {"theme": theme, "css": (FOLDER / "page.css").read_text(), "footer_links": []}
