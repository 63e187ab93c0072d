"""The page of ``rescale demo`` in a browser."""

import base64
import time
from pathlib import Path
from typing import Any

import numpy as np
from looks import set_device

ODD = "a <b>&amp; 'x' ü!.png"
TIMES = "\N{MULTIPLICATION SIGN}"
MEGAPIXELS = 2.5


def assert_equal(one: Any, other: Any) -> None:
    """Equal up to rounding: the page may compute in bfloat16."""
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 4


def until(met: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := met()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


class DemoPage:
    """The page in a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        self.address = address
        browser.get(address)
        until(lambda: self.all("#picture") and self.all("#result h2"))

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return until(lambda: self.all(selector))[0]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of an element, which may be replaced while it is read; empty without one."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.run(script, selector))

    def upload(self, file: Path, button: str = "picture") -> None:
        box = f"[class*=rescale-input]:has(#{button}) input[type=file]"
        self.one(box).send_keys(str(file))

    def wait_for(self, selector: str, text: str) -> None:
        until(lambda: text in self.text(selector))

    def wait_until_idle(self) -> None:
        until(lambda: "Drop an image" in self.text("#status"))

    def set(self, field: str, value: Any) -> None:
        number = self.one(f"#{field} input[type=number]")
        number.clear()
        number.send_keys(f"{value}\t")

    def choose(self, group: str, label: str) -> None:
        labels = f"#{group} label"
        until(
            lambda: [e.click() is None for e in self.all(labels) if e.text.strip() == label],
        )

    def links(self, where: str) -> list[str]:
        """The addresses of the download and of all images of a result."""
        return list(
            self.run(
                "return [...document.querySelectorAll(`${arguments[0]} a, ${arguments[0]} img`)]"
                ".map(e => e.href || e.src)",
                where,
            )
        )

    def status_code(self, link: str) -> int:
        return int(self._fetch(link, "done(response.status)"))

    def download(self, link: str) -> bytes:
        read = (
            "response.blob().then(blob => { const reader = new FileReader();"
            " reader.onload = () => done(reader.result.split(',')[1]);"
            " reader.readAsDataURL(blob) })"
        )
        return base64.b64decode(self._fetch(link, read))

    def give(self, event: str, file: Path) -> bool:
        """Drops or pastes a file; returns whether the browser is kept from opening it."""
        return bool(
            self.run(
                "const bytes = Uint8Array.from(atob(arguments[1]), c => c.charCodeAt(0));"
                "const data = new DataTransfer();"
                "data.items.add(new File([bytes], arguments[2], {type: 'image/png'}));"
                "const options = {bubbles: true, cancelable: true};"
                "const event = arguments[0] === 'paste'"
                " ? new ClipboardEvent('paste', {...options, clipboardData: data})"
                " : new DragEvent(arguments[0], {...options, dataTransfer: data});"
                "document.querySelector('.rescale-header').dispatchEvent(event);"
                "return event.defaultPrevented",
                event,
                base64.b64encode(file.read_bytes()).decode(),
                file.name,
            )
        )

    def device(self, width: int, dark: bool = False) -> None:
        set_device(self.browser, width, dark)

    def _fetch(self, link: str, then: str) -> Any:
        return self.browser.execute_async_script(
            f"const done = arguments[1]; fetch(arguments[0]).then(response => {{ {then} }});", link
        )
