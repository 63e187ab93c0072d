"""The web page as a Gradio application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from rescale_app.html.components import script, style
from rescale_app.html.rendering import render
from rescale_app.page.handlers import (
    BY_SCALE,
    BY_SIDE,
    MAX_EFFORT,
    QUALITY,
    RESTORE,
    SCALE,
    SHRINK,
    Handlers,
)
from rescale_app.page.weights import can_optimize
from rescale_data.image_file import IMAGE_SUFFIXES

_TITLE = "Rescale"
_DROP = "Drop an image anywhere, or paste one."
_EMPTY = (
    "Drop a small image that was created on this page or by the command rescale down, paste it, or "
    "choose it. The file contains all that is needed to restore it."
)
# System fonts: those of the theme would be downloaded.
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
# Run in the browser before an event. The names of uploaded files are those on the visitor's device;
# in their paths Gradio omits some characters.
_SHOW = "() => rescaleShow('#{}')"
_NAME = "(file, name, ...others) => [file, file?.orig_name ?? '', ...others]"


def build(
    handlers: Handlers, samples: Mapping[str, Path], first: tuple[Markup, Markup]
) -> gr.Blocks:
    """Builds the page.

    Args:
        handlers: its event handlers.
        samples: name -> sample image; the first one is shown.
        first: its round trips through PNG and JPEG as HTML.
    """
    # Uploads are kept for a day, for changes of the settings.
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(render("page_header.html"))
        with gr.Tabs(selected=SHRINK) as tabs:
            with gr.Tab("Make small", id=SHRINK):
                _shrink_tab(handlers, samples, first)
                hand_over = {
                    gr.Button(visible="hidden", elem_id="restore-png"): handlers.hand_over_png,
                    gr.Button(visible="hidden", elem_id="restore-jpeg"): handlers.hand_over_jpeg,
                }
            with gr.Tab("Restore", id=RESTORE):
                small, outputs = _restore_tab(handlers)
        for button, select in hand_over.items():
            button.click(select, None, [tabs, small[0]], **_AT_ONCE).then(
                handlers.restore, small, outputs, js=_NAME, **_QUEUED
            ).then(None, js=_SHOW.format("restore-status"), **_AT_ONCE)
        page.unload(handlers.leave)
    return page


def appearance() -> dict[str, Any]:
    """Theme, CSS and scripts, as keyword arguments of ``launch``."""
    here = Path(__file__)
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="zinc",
        radius_size="md",
        font=_FONTS,
        font_mono=_MONO_FONTS,
    ).set(
        # a contrast of 4.5:1 and more
        color_accent="*primary_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
    )
    own_style = here.with_name("page.css").read_text(encoding="utf-8")
    own_script = here.with_name("page.js").read_text(encoding="utf-8")
    return {
        "theme": theme,
        # Not as `css`, of which Gradio drops some rules. Its own are overridden by specificity.
        "head": f"<style>.gradio-container.gradio-container {{ {style()}{own_style} }}</style>"
        f"<script>{script()}</script><script>{own_script}</script>",
    }


# Handlers take turns themselves (`rescale_app.page.jobs`).
_QUEUED: dict[str, Any] = {
    "concurrency_limit": None,
    "trigger_mode": "multiple",
    "show_progress": "hidden",
    "api_visibility": "private",
}
_AT_ONCE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}


def _shrink_tab(
    handlers: Handlers, samples: Mapping[str, Path], first: tuple[Markup, Markup]
) -> None:
    rescalers = handlers.rescalers
    choices = [(title, name) for name, title in handlers.titles.items()]
    free = rescalers[choices[0][1]].architecture.fixed_scale is None
    paths = [*samples.values()]
    with gr.Row(elem_classes="rescale-layout"):
        with gr.Column(elem_classes="rescale-input"):
            picture = gr.UploadButton(
                "Choose an image",
                str(paths[0]),
                file_types=[*IMAGE_SUFFIXES],
                variant="primary",
                elem_id="picture",
            )
            gallery = gr.Gallery(
                [(str(path), name) for name, path in samples.items()],
                label="Samples",
                show_label=False,
                columns=len(samples),
                height="auto",
                object_fit="cover",
                allow_preview=False,
                selected_index=0,
                interactive=False,
                buttons=[],
                container=False,
                elem_id="samples",
            )
        with gr.Column(elem_classes="rescale-settings"):
            weights = gr.Radio(choices, value=choices[0][1], label="Method", elem_id="weights")
            by = gr.Radio(
                [BY_SCALE, BY_SIDE], value=BY_SCALE, label="Size by", visible=free, elem_id="by"
            )
            scale = gr.Slider(
                1.1,
                4,
                value=SCALE,
                step=0.01,
                label="Scale",
                buttons=[],
                visible=free,
                elem_id="scale",
            )
            longest = gr.Number(
                label="Longest side of the small image, pixels",
                precision=0,
                visible=False,
                elem_id="longest",
            )
            quality = gr.Slider(
                10, 100, value=QUALITY, step=1, label="JPEG quality", buttons=[], elem_id="quality"
            )
            effort = gr.Slider(
                0,
                MAX_EFFORT,
                value=0,
                step=1,
                label="Effort, steps",
                info="Refines the small image so that it is restored better; takes time.",
                buttons=[],
                visible=can_optimize(rescalers[choices[0][1]]),
                elem_id="effort",
            )
        with gr.Column(elem_classes="rescale-output"):
            with gr.Row(elem_classes="rescale-state"):
                status = gr.HTML(render("page_hint.html", text=_DROP), elem_id="status")
                cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="cancel")
            result = gr.HTML(first[0], elem_id="result")
            jpeg = gr.HTML(first[1], elem_id="jpeg")

    def controls(name: str, how: str) -> tuple[dict[str, Any], ...]:
        """Hides what does not apply to a network: the scale, the effort."""
        free = rescalers[name].architecture.fixed_scale is None
        return (
            gr.update(visible=free),
            gr.update(visible=free and how == BY_SCALE),
            gr.update(visible=free and how == BY_SIDE),
            gr.update(visible=can_optimize(rescalers[name])),
        )

    controlled = [by, scale, longest, effort]
    gr.on([weights.change, by.change], controls, [weights, by], controlled, **_AT_ONCE)
    by.change(handlers.longest_side, [by], longest, **_AT_ONCE)
    name = gr.Textbox(visible=False)
    inputs = [picture, name, by, scale, longest, weights, quality, effort]
    run: dict[str, Any] = {
        "fn": handlers.shrink,
        "inputs": inputs,
        "outputs": [status, cancel, result, jpeg],
        "js": _NAME,
        **_QUEUED,
    }
    sliders = [scale.change, quality.change, effort.change]
    gr.on([weights.change, longest.submit, longest.blur, *sliders], **run)
    show = _SHOW.format("status")
    picture.upload(None, None, None, js=show, **_AT_ONCE)
    picture.upload(**run)

    def sample(event: gr.SelectData) -> str:
        return str(paths[event.index])

    gallery.select(sample, None, picture, js=show, **_AT_ONCE).then(**run)
    cancel.click(handlers.cancel_shrink, **_AT_ONCE)


def _restore_tab(handlers: Handlers) -> tuple[list[Any], list[Any]]:
    """Returns the inputs and outputs of `Handlers.restore`."""
    choices = [("Automatic", ""), *((title, name) for name, title in handlers.titles.items())]
    with gr.Row(elem_classes="rescale-layout"):
        with gr.Column(elem_classes="rescale-input"):
            small = gr.UploadButton(
                "Choose a small image",
                file_types=[*IMAGE_SUFFIXES],
                variant="primary",
                elem_id="small",
            )
        with gr.Column(elem_classes="rescale-output"):
            with gr.Row(elem_classes="rescale-state"):
                status = gr.HTML("", elem_id="restore-status")
                cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="restore-cancel")
            with gr.Column(visible=False, elem_id="given") as fields:
                with gr.Row():
                    scale = gr.Number(label="Scale", elem_id="given-scale")
                    width, height = (
                        gr.Number(
                            label=f"{side} of the original",
                            precision=0,
                            elem_id=f"given-{side.lower()}",
                        )
                        for side in ("Width", "Height")
                    )
                weights = gr.Radio(choices, value="", label="Method", elem_id="given-weights")
                start = gr.Button("Restore", variant="primary", elem_id="given-start")
            restored = gr.HTML(render("page_empty.html", text=_EMPTY), elem_id="restored")
    outputs = [status, cancel, restored, fields, scale, width, height]
    inputs = [small, gr.Textbox(visible=False)]
    given = [scale, width, height, weights]
    small.upload(None, None, None, js=_SHOW.format("restore-status"), **_AT_ONCE)
    small.upload(handlers.restore, inputs, outputs, js=_NAME, **_QUEUED)
    start.click(handlers.restore_given, [*inputs, *given], outputs[:3], js=_NAME, **_QUEUED)
    cancel.click(handlers.cancel_restore, **_AT_ONCE)
    return inputs, outputs
