"""The exported web page: its servers, and the page in a browser."""

import http.server
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescale_data.image_file import LRInfo, read_image

INFO = LRInfo("aidn", (2.5, 1.5), (20, 30), "sha256:0123456789abcdef")
PIXELS = np.zeros((8, 20, 3), np.uint8)


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }
    isolated = False

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class IsolatingHandler(Handler):
    isolated = True


class HandlerForOldBrowsers(Handler):
    """Serves a worker that finds no ImageDecoder."""

    def do_GET(self) -> None:
        if self.path != "/worker.js":
            super().do_GET()
            return
        content = b"delete self.ImageDecoder;" + Path(self.directory, "worker.js").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class ExportedPage:
    """The page in a browser."""

    def __init__(self, browser: Any, address: str, downloads: Path) -> None:
        self.browser, self.downloads = browser, downloads
        downloads.mkdir()
        behavior = {"behavior": "allow", "downloadPath": str(downloads)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
        browser.get(address)

    def find(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def shows(self, name: str) -> bool:
        return bool(self.find(name).is_displayed())

    def until(self, ready: Callable[[], Any], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, self.browser.find_element("tag name", "main").text
            time.sleep(0.1)

    def give(self, file: Path) -> None:
        self.find("file").send_keys(str(file))

    def restore(self, file: Path) -> NDArray[np.uint8]:
        self.give(file)
        self.until(lambda: not self.shows("progress"))
        assert self.shows("result"), self.find("notice").text
        return self.save(file)

    def save(self, file: Path) -> NDArray[np.uint8]:
        saved = self.saved(file)
        saved.unlink(missing_ok=True)
        self.find("save").click()
        self.until(saved.is_file, 30)
        return read_image(saved)

    def saved(self, file: Path) -> Path:
        return self.downloads / f"{file.stem}-restored.png"

    def refuse(self, file: Path) -> str:
        self.give(file)
        self.until(lambda: self.shows("notice"))
        assert not self.shows("result")
        return str(self.find("notice").text)
