"""How a page looks in a browser: its size, its colors, the contrast of its texts."""

from typing import Any

# Text that is visible, and the contrast that it has to the backgrounds behind it.
_CONTRASTS = """
const parse = (color) => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
const luminance = (rgb) => rgb.map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const parent = (e) => e.assignedSlot ?? e.parentElement ?? e.getRootNode().host;
const background = (e) => {
  const layers = [];
  for (; e; e = parent(e)) {
    const color = parse(getComputedStyle(e).backgroundColor);
    layers.push(color);
    if (color[3] === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const found = [];
const visit = (root) => {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.shadowRoot) visit(node.shadowRoot);
    if (node.nodeType !== Node.TEXT_NODE || !node.data.trim()) continue;
    const element = node.parentElement;
    if (!element?.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (!element.getClientRects().length) continue;
    if (element.matches('style, script, option, .tag')) continue;
    const behind = background(element);
    const ink = over(parse(getComputedStyle(element).color), behind);
    const [low, high] = [luminance(ink), luminance(behind)].sort((a, b) => a - b);
    found.push([node.data.trim().slice(0, 40), (high + 0.05) / (low + 0.05)]);
  }
};
visit(document.body);
return found;
"""
_NEEDED = 4.5


def set_device(browser: Any, width: int, dark: bool = False) -> None:
    """Sets the width of the window, and the color scheme."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def faint_texts(browser: Any) -> list[Any]:
    """Texts with their contrast, where it is below 4.5:1."""
    contrasts = browser.execute_script(_CONTRASTS)
    assert len(contrasts) > 5
    return [each for each in contrasts if each[1] < _NEEDED]
