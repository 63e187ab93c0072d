"""The web page as a Gradio application."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import gradio as gr

from rescale_app.html.components import notice, script, style
from rescale_app.page import results, round_trip
from rescale_app.page.workspace import Workspace
from rescale_app.rescaler import OnProgress, Rescaler
from rescale_data.image_file import IMAGE_SUFFIXES

BY_SCALE, BY_SIDE = "Scale", "Longest side"
_TITLE = "Rescale"
_HEADER = (
    "<header class='rescale-header'><h1>Rescale</h1><p>Downscale an image so that it can be "
    "restored. The small image looks ordinary; the information for restoring is hidden in it."
    "</p></header>"
)
_EMPTY = "<p class='rescale-empty'>Drop an image on the left, or select a sample.</p>"
_EMPTY_LR = (
    "<p class='rescale-empty'>Drop a small image that was created on this page or by "
    "<code>rescale down</code>. The file contains all that is needed to restore it.</p>"
)
# System fonts: those of the theme would be downloaded.
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


class Handlers:
    """Event handlers of the page.

    Args:
        rescalers: name of weights -> the network with them.
        workspace: folder for the files of visitors.
    """

    def __init__(self, rescalers: Mapping[str, Rescaler], workspace: Workspace) -> None:
        self.rescalers = rescalers
        self.workspace = workspace

    def shrink(
        self,
        file: str | None,
        by: str,
        scale: float,
        longest: float | None,
        weights: str,
        quality: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio detects it
    ) -> str:
        """Returns the round trip of the image ``file`` as HTML, or an error message."""
        if file is None:
            return _EMPTY
        if by == BY_SIDE and not longest:
            return notice("Enter the length of the longest side.", "hint")
        source = Path(file)
        rescaler = self.rescalers[weights]
        folder = self.workspace.fresh(_visitor(request), "shrink")
        try:
            target: float | round_trip.LongestSide | None = scale
            if rescaler.architecture.fixed_scale:
                target = None
            elif by == BY_SIDE and longest:
                target = round_trip.LongestSide(round(longest))
            trip = round_trip.make_round_trip(
                source, rescaler, target, int(quality), folder, _steps(progress)
            )
        except (RescaleError, OSError, MemoryError) as error:
            return notice(_message(error, source))
        return results.round_trip_html(trip)

    def restore(
        self,
        file: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """Returns the image restored from the LR image ``file`` as HTML, or an error message."""
        if file is None:
            return _EMPTY_LR
        source = Path(file)
        folder = self.workspace.fresh(_visitor(request), "restore")
        try:
            restored = round_trip.restore(source, self.rescalers, folder, _steps(progress))
        except (RescaleError, OSError, MemoryError) as error:
            return notice(_message(error, source))
        return results.restored_html(restored)

    def leave(self, request: gr.Request) -> None:
        """Removes the files of a visitor who has left."""
        self.workspace.forget(_visitor(request))


def build(
    rescalers: Mapping[str, Rescaler], workspace: Workspace, samples: Mapping[str, Path]
) -> gr.Blocks:
    """Builds the page.

    Args:
        rescalers: name of weights -> the network with them; at least one.
        workspace: folder for the files of visitors.
        samples: name -> sample image.
    """
    handlers = Handlers(rescalers, workspace)
    choices = [
        (f"{rescaler.architecture.title}: {name}", name) for name, rescaler in rescalers.items()
    ]
    suffixes = [*IMAGE_SUFFIXES]
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, 7200)) as page:
        gr.HTML(_HEADER)
        with gr.Tabs():
            with gr.Tab("Downscale and compare"), gr.Row():
                with gr.Column(scale=1, min_width=270, elem_classes="rescale-controls"):
                    picture = gr.File(
                        label="Image", file_types=suffixes, height=140, elem_id="picture"
                    )
                    with gr.Row(elem_classes="rescale-samples"):
                        buttons = {
                            path: gr.Button(name, size="sm", min_width=60)
                            for name, path in samples.items()
                        }
                    weights = gr.Dropdown(
                        choices, value=choices[0][1], label="Network and weights", elem_id="weights"
                    )
                    by = gr.Radio(
                        [BY_SCALE, BY_SIDE], value=BY_SCALE, label="Downscale by", elem_id="by"
                    )
                    scale = gr.Slider(
                        1.1, 4, value=2.5, step=0.01, label="Scale", elem_id="scale", buttons=[]
                    )
                    longest = gr.Number(
                        label="Longest side of the small image, pixels",
                        precision=0,
                        minimum=1,
                        visible=False,
                        elem_id="longest",
                    )
                    quality = gr.Slider(
                        10,
                        100,
                        value=90,
                        step=1,
                        label="JPEG quality",
                        info="The small image is also stored as a JPEG file and restored from it. "
                        "The weights aidn-plus are trained for this.",
                        elem_id="quality",
                        buttons=[],
                    )
                with gr.Column(scale=3, min_width=320):
                    result = gr.HTML(_EMPTY, elem_id="result", min_height=260)
            with gr.Tab("Restore"), gr.Row():
                with gr.Column(scale=1, min_width=270, elem_classes="rescale-controls"):
                    small = gr.File(
                        label="Small image", file_types=suffixes, height=140, elem_id="small"
                    )
                with gr.Column(scale=3, min_width=320):
                    restored = gr.HTML(_EMPTY_LR, elem_id="restored", min_height=260)

        def controls(name: str, how: str) -> tuple[dict[str, Any], ...]:
            """Hides the scale for a network with a fixed factor."""
            free = rescalers[name].architecture.fixed_scale is None
            return (
                gr.update(visible=free),
                gr.update(visible=free and how == BY_SCALE),
                gr.update(visible=free and how == BY_SIDE),
            )

        gr.on(
            [weights.change, by.change],
            controls,
            [weights, by],
            [by, scale, longest],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        # One computation at a time; of several slider events, only the last one is handled.
        settings: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "network",
            "trigger_mode": "always_last",
            "api_visibility": "private",
        }
        gr.on(
            [
                picture.change,
                weights.change,
                by.change,
                scale.change,
                longest.submit,
                longest.blur,
                quality.change,
            ],
            handlers.shrink,
            [picture, by, scale, longest, weights, quality],
            result,
            **settings,
        )
        gr.on([small.change], handlers.restore, [small], restored, **settings)
        for path, button in buttons.items():
            button.click(
                partial(str, path), None, picture, show_progress="hidden", api_visibility="private"
            )
        page.unload(handlers.leave)
    return page


def appearance() -> dict[str, Any]:
    """Theme, CSS and scripts, as keyword arguments of ``launch``."""
    own_style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="zinc",
        radius_size="md",
        font=_FONTS,
        font_mono=_MONO_FONTS,
    )
    return {
        "theme": theme,
        "css": style() + own_style,
        "head": f"<script>{script()}</script>",
    }


def _steps(progress: gr.Progress) -> OnProgress:
    def report(text: str, done: float) -> None:
        progress(done, desc=text)

    return report


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _message(error: Exception, source: Path) -> str:
    """The error in one line, with the name of the uploaded file."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace(str(source), source.name)
    return text if source.name in text else f"{source.name}: {text}"
