"""``rescale demo``: serves the web page."""

from __future__ import annotations

import argparse
import importlib.util
import signal
from types import FrameType

from rescale_compat.errors import RescaleError

from rescale_app.page.serving import serve
from rescale_app.page.workspace import Workspace

DESCRIPTION = """\
Serve a web page to downscale, restore and compare images. All data stays on this machine, and
temporary files are removed at the end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        action="append",
        default=[],
        help="weights file, in addition to the included weights; may be repeated",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only; 0.0.0.0: all "
        "network interfaces)",
    )
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    parser.add_argument(
        "--max-size",
        type=int,
        default=64,
        metavar="MB",
        help="largest file that can be uploaded (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=24,
        metavar="MP",
        help="largest image, restored or to downscale (default: %(default)s)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C or SIGTERM.

    Returns:
        0; failures raise.

    Raises:
        ValueError: Gradio is not installed, an option is out of range, or weights do not fit.
        OSError: a weights file is missing, or the port is in use.
    """
    if importlib.util.find_spec("gradio") is None:
        raise RescaleError("the page needs Gradio: pip install 'rescale-basicsr[demo]'")
    if args.max_size < 1 or not (args.port is None or 1 <= args.port <= 65535):
        raise RescaleError("--max-size must be at least 1, --port from 1 to 65535")
    if not 0 < args.max_megapixels < float("inf"):
        raise RescaleError("--max-megapixels must be above 0")
    from rescale_app.page.weights import load_rescalers

    rescalers = load_rescalers(args.weights, args.device)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with Workspace() as workspace:
            serve(
                rescalers,
                workspace,
                host=args.host,
                port=args.port,
                max_megabytes=args.max_size,
                max_pixels=int(args.max_megapixels * 1e6),
                opens_browser=args.open,
            )
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
