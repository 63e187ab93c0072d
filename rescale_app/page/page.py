"""The page itself, as a Gradio application."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from rescale_app.page import results, round_trip
from rescale_app.page.results import NETWORKS
from rescale_app.page.widget import notice, script, style
from rescale_app.page.workspace import Workspace
from rescale_app.rescaler import Progress, Rescaler
from rescale_data.image_file import IMAGE_SUFFIXES

BY_SCALE, BY_SIDE = "Scale", "Longest side"
_TITLE = "Rescale"
_HEADER = (
    "<header class='rescale-header'><h1>Rescale</h1><p>Shrink a picture so that it can be "
    "restored. The small one is an ordinary picture; what restoring needs is hidden in it."
    "</p></header>"
)
_EMPTY = "<p class='rescale-empty'>Drop a picture on the left, or take a sample.</p>"
_EMPTY_LR = (
    "<p class='rescale-empty'>Drop a small picture here that was made on this page or by "
    "<code>rescale down</code>. It tells by itself how to restore it.</p>"
)
# Fonts that the machine has: the theme's own come from elsewhere.
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


class Handlers:
    """What happens when something is dropped or moved.

    Args:
        rescalers: name of weights -> the network with them.
        workspace: where files go.
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
        progress: gr.Progress = gr.Progress(),  # noqa: B008  so Gradio finds it
    ) -> str:
        """The round trip of the picture ``file`` as HTML, or what is wrong."""
        if file is None:
            return _EMPTY
        if by == BY_SIDE and not longest:
            return notice("Say how long the longest side shall be.", "hint")
        source = Path(file)
        rescaler = self.rescalers[weights]
        folder = self.workspace.fresh(_visitor(request), "shrink")
        try:
            target: float | round_trip.LongestSide | None = scale
            if rescaler.method.name != "aidn":
                target = None
            elif by == BY_SIDE and longest:
                target = round_trip.LongestSide(round(longest))
            trip = round_trip.make_round_trip(
                source, rescaler, target, int(quality), folder, _steps(progress)
            )
        except (ValueError, OSError, MemoryError) as error:
            return notice(_message(error, source))
        return results.round_trip_html(trip)

    def restore(
        self,
        file: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """The picture restored from the LR picture ``file`` as HTML, or what is wrong."""
        if file is None:
            return _EMPTY_LR
        source = Path(file)
        folder = self.workspace.fresh(_visitor(request), "restore")
        try:
            restored = round_trip.restore(source, self.rescalers, folder, _steps(progress))
        except (ValueError, OSError, MemoryError) as error:
            return notice(_message(error, source))
        return results.restored_html(restored)

    def leave(self, request: gr.Request) -> None:
        """Removes the files of a visitor who has gone."""
        self.workspace.forget(_visitor(request))


def build(
    rescalers: Mapping[str, Rescaler], workspace: Workspace, samples: Mapping[str, Path]
) -> gr.Blocks:
    """Puts the page together.

    Args:
        rescalers: name of weights -> the network with them; at least one.
        workspace: where files go.
        samples: name -> picture to try things with.
    """
    handlers = Handlers(rescalers, workspace)
    choices = [
        (f"{NETWORKS[rescaler.method.name]}: {name}", name) for name, rescaler in rescalers.items()
    ]
    pictures = [*IMAGE_SUFFIXES]
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, 7200)) as page:
        gr.HTML(_HEADER)
        with gr.Tabs():
            with gr.Tab("Shrink and compare"), gr.Row():
                with gr.Column(scale=1, min_width=270, elem_classes="rescale-controls"):
                    picture = gr.File(
                        label="Picture", file_types=pictures, height=140, elem_id="picture"
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
                        [BY_SCALE, BY_SIDE], value=BY_SCALE, label="Shrink by", elem_id="by"
                    )
                    scale = gr.Slider(
                        1.1, 4, value=2.5, step=0.01, label="Scale", elem_id="scale", buttons=[]
                    )
                    longest = gr.Number(
                        label="Longest side of the small picture, pixels",
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
                        info="The small picture also goes through a JPEG file: what survives? The "
                        "weights aidn-plus are made for it.",
                        elem_id="quality",
                        buttons=[],
                    )
                with gr.Column(scale=3, min_width=320):
                    result = gr.HTML(_EMPTY, elem_id="result", min_height=260)
            with gr.Tab("Restore"), gr.Row():
                with gr.Column(scale=1, min_width=270, elem_classes="rescale-controls"):
                    small = gr.File(
                        label="Small picture", file_types=pictures, height=140, elem_id="small"
                    )
                with gr.Column(scale=3, min_width=320):
                    restored = gr.HTML(_EMPTY_LR, elem_id="restored", min_height=260)

        def controls(name: str, how: str) -> tuple[dict[str, Any], ...]:
            """VQIR has a factor of its own."""
            free = rescalers[name].method.name == "aidn"
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
        # One computation at a time, and of many moves of a slider the last one.
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
    """Theme, CSS and scripts, as keywords of ``launch``."""
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


def _steps(progress: gr.Progress) -> Progress:
    def tell(text: str, done: float) -> None:
        progress(done, desc=text)

    return tell


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _message(error: Exception, source: Path) -> str:
    """One line that names the file as the visitor knows it."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace(str(source), source.name)
    return text if source.name in text else f"{source.name}: {text}"
