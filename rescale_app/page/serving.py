"""Serves the page; nothing is loaded from other servers."""

from __future__ import annotations

import os
import signal
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescale_app.page.workspace import Workspace

if TYPE_CHECKING:
    from rescale_app.page.weights import Rescalers

_SAMPLES = {"Cat": "chelsea", "Coffee": "coffee", "Astronaut": "astronaut", "Rocket": "rocket"}
# Makes browsers block anything that Gradio would load from other servers.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
)


class LocalOnly:
    """ASGI middleware that restricts what the page loads to this server.

    Args:
        app: the application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Adds a Content-Security-Policy header to every response."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def serve(
    rescalers: Rescalers,
    workspace: Workspace,
    *,
    host: str,
    port: int | None,
    max_megabytes: int,
    max_pixels: int,
    opens_browser: bool,
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        rescalers: name of weights -> the network with them; at least one.
        workspace: folder for the files of visitors.
        host: address to listen on.
        port: None: the first free port from 7860.
        max_megabytes: largest file that can be uploaded.
        max_pixels: largest image, HR pixels.
        opens_browser: whether to open the page in the browser.

    Raises:
        OSError: the port is in use.
    """
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.uploads)
    from starlette.middleware import Middleware

    from rescale_app.page import page
    from rescale_app.page.handlers import Handlers

    handlers = Handlers(rescalers, workspace, max_pixels)
    samples = _samples(workspace)
    first = handlers.prepare(next(iter(samples.values())))
    application = page.build(handlers, samples, first)
    application.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=f"{max_megabytes}mb",
        allowed_paths=[str(workspace.root)],
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
        **page.appearance(),
    )
    try:
        print(f"The page is at {application.local_url} (press Ctrl-C to stop)", flush=True)
        if opens_browser:
            webbrowser.open(str(application.local_url))
        signal.pause()
    finally:
        application.close(verbose=False)


def _samples(workspace: Workspace) -> dict[str, Path]:
    """Writes sample images of scikit-image to files; label -> file."""
    import skimage.data

    from rescale_data.image_file import write_image

    folder = workspace.root / "samples"
    folder.mkdir()
    samples = {}
    for label, name in _SAMPLES.items():
        samples[label] = folder / f"{name}.png"
        write_image(samples[label], getattr(skimage.data, name)())
    return samples
