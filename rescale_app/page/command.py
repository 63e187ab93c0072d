"""``rescale demo``: serves the page."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rescale_app.page.workspace import Workspace

if TYPE_CHECKING:
    from rescale_app.rescaler import Rescaler

_SAMPLES = {"Cat": "chelsea", "Coffee": "coffee", "Astronaut": "astronaut", "Rocket": "rocket"}
# Whatever a part of Gradio would like to load from elsewhere, browsers do not let it.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        action="append",
        default=[],
        help="weights file, AIDN's or VQIR's, beside those that come along; may be given again",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone; 0.0.0.0: everyone "
        "who reaches it)",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument(
        "--max-size",
        type=int,
        default=64,
        metavar="MB",
        help="largest file that can be uploaded (default: %(default)s)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C or SIGTERM.

    Returns:
        0; failures raise.

    Raises:
        ValueError: Gradio is not installed, an option is out of range, or weights do not fit.
        OSError: no such weights, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install 'rescale-basicsr[demo]'")
    if args.max_size < 1 or not (args.port is None or 1 <= args.port <= 65535):
        raise ValueError("--max-size is at least 1, --port from 1 to 65535")
    rescalers = load_rescalers(args.weights, args.device)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with Workspace() as workspace:
            _serve(rescalers, workspace, args)
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def load_rescalers(files: Sequence[str], device: Any = "auto") -> dict[str, Rescaler]:
    """Loads the weights that come along, and those of ``files``.

    Args:
        files: weights files.
        device: as for `Rescaler`.

    Returns:
        Name -> network with the weights; those of ``files`` first.

    Raises:
        FileNotFoundError: no such file, or there are no weights at all.
        ValueError: the weights fit no network.
    """
    from rescale_app.rescaler import Rescaler, shipped_weights

    names = [*files, *shipped_weights()]
    if not names:
        raise FileNotFoundError("no weights come with this installation: name a file by --weights")
    rescalers = {}
    for name in names:
        short = Path(name).name
        rescalers[name if short in rescalers else short] = Rescaler(name, device)
    return rescalers


class LocalOnly:
    """ASGI middleware: what the page loads may come from this server alone.

    Args:
        app: the application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Adds the header that says so to every response."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _serve(rescalers: dict[str, Rescaler], workspace: Workspace, args: argparse.Namespace) -> None:
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.uploads)
    from starlette.middleware import Middleware

    from rescale_app.page import page

    application = page.build(rescalers, workspace, _samples(workspace))
    application.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=f"{args.max_size}mb",
        allowed_paths=[str(workspace.root)],
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
        **page.appearance(),
    )
    try:
        print(f"The page is at {application.local_url} (Ctrl-C ends it)", flush=True)
        if args.open:
            webbrowser.open(str(application.local_url))
        signal.pause()
    finally:
        application.close(verbose=False)


def _samples(workspace: Workspace) -> dict[str, Path]:
    """Pictures that scikit-image carries, as files."""
    import skimage.data

    from rescale_data.image_file import write_image

    folder = workspace.root / "samples"
    folder.mkdir()
    samples = {}
    for label, name in _SAMPLES.items():
        samples[label] = folder / f"{name}.png"
        write_image(samples[label], getattr(skimage.data, name)())
    return samples
