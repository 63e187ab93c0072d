/* Files that are dropped anywhere on the page or pasted, and buttons inside results. */
(() => {
  "use strict";

  const holdsFiles = (transfer) => Boolean(transfer) && [...transfer.types].includes("Files");

  /** The file input of the tab that is open. */
  function input() {
    return ["#picture", "#small"]
      .map((id) => document.querySelector(id))
      .find((button) => button?.offsetParent)
      ?.parentElement.querySelector("input[type=file]");
  }

  function take(files) {
    const target = input();
    if (!target || !files.length) return;
    const transfer = new DataTransfer();
    transfer.items.add(files[0]); // one at a time
    target.files = transfer.files;
    target.dispatchEvent(new Event("change", { bubbles: true }));
  }

  const over = (is) => document.body.classList.toggle("rescale-dropping", is);

  // In the capturing phase: whatever is under the pointer, the browser must not open the file.
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event.dataTransfer)) return;
    event.preventDefault();
    over(true);
  }, true);
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); }, true);
  addEventListener("drop", (event) => {
    if (!holdsFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.stopPropagation();
    over(false);
    take(event.dataTransfer.files);
  }, true);
  addEventListener("paste", (event) => {
    if (!holdsFiles(event.clipboardData)) return;
    event.preventDefault();
    take(event.clipboardData.files);
  });

  // Results are plain HTML: their buttons press those of the page.
  addEventListener("click", (event) => {
    const press = event.target.closest?.("[data-press]")?.dataset.press;
    if (press) document.getElementById(press).click();
  });

  /** Scrolls to an element that is not in view, once its tab is shown. */
  window.rescaleShow = (selector) => setTimeout(() => {
    const box = document.querySelector(selector)?.parentElement;
    if (!box) return;
    const { top } = box.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) box.scrollIntoView({ behavior: "smooth", block: "start" });
  }, 100);
})();
