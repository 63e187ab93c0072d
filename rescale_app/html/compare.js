/* <rescale-compare>: images of one scene under a draggable divider, zoomed and moved together.
 *
 *   <rescale-compare width="451" height="300" left="hr" right="restored">
 *     <img data-name="hr" data-label="Original" src="..">
 *     <img data-name="restored" data-label="AIDN" src="..">
 *     <img data-name="lr" data-label="LR" data-enlarged src="..">
 *     <img data-name="errors" data-label="Errors" data-errors src="..">
 *   </rescale-compare>
 *
 * width, height: size of the scene in pixels, to which every image is scaled. left, right: the
 * images on either side of the divider. data-enlarged: a small image, shown with visible pixels.
 * data-errors: colours represent errors, by the legend of the attributes errors-max (8-bit levels)
 * and errors-colors (comma-separated). Further attributes: panes adds a row of all images that
 * follow zoom and position; plain shows only images and divider; keep="name" keeps
 * the view when the element is replaced by another one of this name and size.
 */
(() => {
  "use strict";

  const MAX_ZOOM = 32;
  const PIXELS_FROM = 2; // zoom from which pixels are drawn as squares
  const kept = new Map();

  const STYLE = `
    :host { display: block; color: var(--rescale-ink, #1c2024); font: 14px/1.4 var(--rescale-font,
      system-ui, sans-serif); --line: var(--rescale-line, #d9d9d6); --accent: var(--rescale-accent, #0b6e66);
      --surface: var(--rescale-surface, #fff); --soft: var(--rescale-soft, #6b7075); }
    * { box-sizing: border-box; }
    .bar { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin-bottom: 10px; }
    .sides { display: flex; align-items: center; gap: 8px; flex: 1 1 260px; min-width: 0; }
    .sides span { color: var(--soft); }
    select, button { font: inherit; color: inherit; background: var(--surface);
      border: 1px solid var(--line); border-radius: 7px; height: 34px; }
    select { flex: 1 1 0; width: 0; max-width: 230px; padding: 0 6px; } /* not as wide as its longest text */
    .zoom { display: flex; align-items: center; }
    .zoom button { min-width: 36px; padding: 0 9px; border-radius: 0; margin-left: -1px; cursor: pointer; }
    .zoom button:first-child { border-radius: 7px 0 0 7px; margin: 0; }
    .zoom button:last-child { border-radius: 0 7px 7px 0; }
    .zoom button:hover { color: var(--accent); }
    .zoom output { min-width: 58px; height: 34px; line-height: 32px; text-align: center; margin-left: -1px;
      border: 1px solid var(--line); font-variant-numeric: tabular-nums; }
    .view { position: relative; overflow: hidden; background: #1b1c1e; user-select: none;
      -webkit-user-select: none; }
    .stage { border-radius: 10px; cursor: grab; touch-action: pan-y; width: 100%; }
    .stage.near { touch-action: none; }
    .stage.moving { cursor: grabbing; }
    .layer { position: absolute; inset: 0; pointer-events: none; }
    .layer img { position: absolute; left: 0; top: 0; transform-origin: 0 0; max-width: none; }
    .tag { position: absolute; top: 10px; padding: 3px 9px; border-radius: 99px; font-size: 12.5px;
      background: rgb(12 13 14 / .72); color: #fff; pointer-events: none; white-space: nowrap;
      overflow: hidden; text-overflow: ellipsis; max-width: calc(50% - 14px); }
    .tag.left { left: 10px; } .tag.right { right: 10px; }
    .divider { position: absolute; top: 0; bottom: 0; width: 44px; margin-left: -22px;
      cursor: ew-resize; touch-action: none; }
    .divider::before { content: ""; position: absolute; left: 21px; top: 0; bottom: 0; width: 2px;
      background: #fff; box-shadow: 0 0 0 1px rgb(0 0 0 / .35); }
    .divider::after { content: "\\2039\\2009\\203A"; position: absolute; left: 3px; top: 50%; width: 38px;
      height: 38px; margin-top: -19px; border-radius: 50%; background: #fff; color: #1c2024;
      box-shadow: 0 1px 5px rgb(0 0 0 / .5); font: 600 21px/34px system-ui, sans-serif; text-align: center; }
    :is(.divider, .stage, select, button):focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
    .divider:focus-visible { outline: 0; }
    .divider:focus-visible::after { outline: 3px solid var(--accent); }
    .foot { display: flex; flex-wrap: wrap; gap: 6px 24px; align-items: center; margin-top: 9px;
      color: var(--soft); font-size: 12.5px; }
    .hint { flex: 1 1 240px; }
    .legend { display: grid; grid-template-columns: auto 180px; gap: 2px 9px; align-items: center; }
    .legend i { height: 11px; border-radius: 3px; }
    .ticks { grid-column: 2; display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; }
    .panes { display: grid; gap: 10px; margin-top: 14px; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
    figure { margin: 0; }
    figure .view { border-radius: 8px; aspect-ratio: 4 / 3; cursor: pointer; width: 100%; border: 0;
      padding: 0; height: auto; display: block; }
    figcaption { font-size: 12.5px; color: var(--soft); margin-top: 4px; overflow: hidden;
      text-overflow: ellipsis; white-space: nowrap; }
  `;

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** An element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  class RescaleCompare extends HTMLElement {
    connectedCallback() {
      if (!this.shadowRoot) this.attachShadow({ mode: "open" });
      // The page may replace the images of an existing element.
      this.changes = new MutationObserver(() => this.build());
      this.changes.observe(this, { childList: true, subtree: true, attributes: true });
      this.build();
    }

    disconnectedCallback() {
      this.changes.disconnect();
      this.remember();
    }

    /** Stores the current view for the next images of this size. */
    remember() {
      if (!this.pictures || !this.hasAttribute("keep")) return;
      const { left, right, split, view } = this;
      kept.set([this.getAttribute("keep"), ...this.size].join(" "), { left, right, split, view });
    }

    build() {
      this.remember();
      this.pictures = new Map([...this.querySelectorAll("img")].map((img) => [img.dataset.name, img]));
      this.size = [Number(this.getAttribute("width")), Number(this.getAttribute("height"))];
      this.watcher?.disconnect();
      this.shadowRoot.replaceChildren();
      const names = [...this.pictures.keys()];
      const wanted = kept.get([this.getAttribute("keep"), ...this.size].join(" ")) ?? {};
      const known = (name, other) => (this.pictures.has(name) ? name : other);
      this.left = known(wanted.left, known(this.getAttribute("left"), names[0]));
      this.right = known(wanted.right, known(this.getAttribute("right"), names.at(-1)));
      this.split = wanted.split ?? 0.5;
      this.view = wanted.view ?? null; // {zoom, x, y}, the scene's point in the middle; null: all of it
      this.views = [];

      this.stage = make("div", { class: "view stage", tabindex: "0", role: "group" });
      this.stage.setAttribute("aria-label", "Images: plus and minus zoom, arrows move, 0 shows all");
      this.stage.style.aspectRatio = `${this.size[0]} / ${this.size[1]}`;
      // as high as fits into the window, and not blown up beyond use
      this.stage.style.maxHeight = `max(240px, min(72vh, ${this.size[1] * 8}px))`;
      this.divider = make("div", { class: "divider", role: "slider", tabindex: "0",
        "aria-label": "Divider", "aria-valuemin": "0", "aria-valuemax": "100" });
      this.tags = [make("span", { class: "tag left" }), make("span", { class: "tag right" })];
      this.layers = [make("div", { class: "layer" }), make("div", { class: "layer" })];
      this.stage.append(...this.layers, ...this.tags, this.divider);

      const foot = make("div", { class: "foot" }, make("span", { class: "hint" },
        "Drag the divider. Ctrl + wheel, pinch or double-click zooms; drag moves."));
      if (this.querySelector("img[data-errors]")) foot.append(this.legend());
      const bar = this.bar();
      const plain = this.hasAttribute("plain");
      this.shadowRoot.append(make("style", {}, STYLE), ...(plain ? [this.stage] : [bar, this.stage, foot]));
      if (this.hasAttribute("panes")) this.shadowRoot.append(this.panes());

      this.listen();
      this.show();
      this.watcher = new ResizeObserver(() => this.draw());
      this.watcher.observe(this.stage);
    }

    bar() {
      this.choices = ["left", "right"].map((side) => {
        const choice = make("select", { "aria-label": side === "left" ? "Left of the divider" : "Right of the divider" });
        for (const [name, img] of this.pictures) choice.append(make("option", { value: name }, img.dataset.label));
        choice.addEventListener("change", () => { this[side] = choice.value; this.show(); });
        return choice;
      });
      const button = (label, text, act) => {
        const element = make("button", { type: "button", "aria-label": label, title: label }, text);
        element.addEventListener("click", act);
        return element;
      };
      this.percent = make("output", { "aria-label": "Zoom" });
      const zoom = make("div", { class: "zoom" },
        button("Zoom out", "\u2212", () => this.zoomBy(1 / 1.5)), this.percent,
        button("Zoom in", "+", () => this.zoomBy(1.5)),
        button("Actual pixels", "1:1", () => this.zoomBy(1 / this.current().zoom)),
        button("Show all", "Fit", () => { this.view = null; this.draw(); }));
      return make("div", { class: "bar" },
        make("div", { class: "sides" }, this.choices[0], make("span", {}, "|"), this.choices[1]), zoom);
    }

    legend() {
      const most = Number(this.getAttribute("errors-max"));
      const bar = make("i", {});
      bar.style.background = `linear-gradient(90deg, ${this.getAttribute("errors-colors")})`;
      const ticks = [0, most / 4, most / 2, (3 * most) / 4, `\u2265 ${most}`].map((tick) => make("span", {}, `${tick}`));
      return make("div", { class: "legend" }, make("span", {}, "Error, 8-bit levels"), bar, make("div", { class: "ticks" }, ...ticks));
    }

    panes() {
      const row = make("div", { class: "panes" });
      for (const [name, img] of this.pictures) {
        const pane = make("button", { class: "view", type: "button", title: "Show on the right of the divider" });
        pane.setAttribute("aria-label", `${img.dataset.label}: put it to the right of the divider`);
        const layer = make("div", { class: "layer" }, this.copy(img));
        pane.append(layer);
        pane.addEventListener("click", () => { this.right = name; this.show(); });
        this.views.push([pane, layer.firstChild]);
        row.append(make("figure", {}, pane, make("figcaption", {}, img.dataset.label)));
      }
      return row;
    }

    copy(img) {
      const copy = make("img", { src: img.src, alt: img.dataset.label, draggable: "false" });
      copy.style.width = `${this.size[0]}px`;
      copy.style.height = `${this.size[1]}px`;
      copy.enlarged = "enlarged" in img.dataset || "errors" in img.dataset;
      return copy;
    }

    /** Shows the selected images under the divider. */
    show() {
      [this.left, this.right].forEach((name, side) => {
        const img = this.pictures.get(name);
        this.layers[side].replaceChildren(this.copy(img));
        this.tags[side].textContent = img.dataset.label;
        this.choices[side].value = name;
      });
      this.draw();
    }

    fit() {
      const { clientWidth: width, clientHeight: height } = this.stage;
      return Math.min(width / this.size[0], height / this.size[1]) || 1;
    }

    current() {
      return this.view ?? { zoom: this.fit(), x: this.size[0] / 2, y: this.size[1] / 2 };
    }

    draw() {
      const { zoom, x, y } = this.current();
      const stage = this.stage;
      for (const [view, img] of [...this.layers.map((layer) => [stage, layer.firstChild]), ...this.views]) {
        const left = view.clientWidth / 2 - x * zoom;
        const top = view.clientHeight / 2 - y * zoom;
        img.style.transform = `translate(${left}px, ${top}px) scale(${zoom})`;
        img.style.imageRendering = img.enlarged || zoom >= PIXELS_FROM ? "pixelated" : "auto";
      }
      const percent = 100 * this.split;
      this.layers[1].style.clipPath = `inset(0 0 0 ${percent}%)`;
      this.divider.style.left = `${percent}%`;
      this.divider.setAttribute("aria-valuenow", Math.round(percent));
      this.percent.textContent = `${Math.round(100 * zoom)} %`;
      stage.classList.toggle("near", this.view !== null);
    }

    /** Zooms about a point, given from the middle of the stage in CSS pixels. */
    zoomBy(factor, right = 0, down = 0) {
      const { zoom, x, y } = this.current();
      const next = clamp(zoom * factor, Math.min(this.fit(), 1), MAX_ZOOM);
      this.look(next, x + right / zoom - right / next, y + down / zoom - down / next);
    }

    look(zoom, x, y) {
      const [width, height] = this.size;
      const side = (middle, length, room) => {
        const half = Math.min(room / zoom / 2, length / 2); // the scene stays within the stage
        return clamp(middle, half, length - half);
      };
      this.view = { zoom, x: side(x, width, this.stage.clientWidth), y: side(y, height, this.stage.clientHeight) };
      this.draw();
    }

    divide(split) {
      this.split = clamp(split, 0, 1);
      this.draw();
    }

    listen() {
      const stage = this.stage;
      const fromMiddle = (event) => {
        const box = stage.getBoundingClientRect();
        return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
      };
      const fingers = new Map();
      let dividing = false;

      stage.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        fingers.set(event.pointerId, fromMiddle(event));
        dividing = event.target === this.divider && fingers.size === 1;
        stage.setPointerCapture(event.pointerId);
        stage.classList.toggle("moving", !dividing);
      });
      stage.addEventListener("pointermove", (event) => {
        const before = fingers.get(event.pointerId);
        if (!before) return;
        const after = fromMiddle(event);
        if (dividing) {
          this.divide(after[0] / stage.clientWidth + 0.5);
        } else if (fingers.size === 2) {
          const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
          const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
          this.zoomBy(apart(after) / apart(before), (after[0] + other[0]) / 2, (after[1] + other[1]) / 2);
        } else if (this.view) {
          const { zoom, x, y } = this.view;
          this.look(zoom, x - (after[0] - before[0]) / zoom, y - (after[1] - before[1]) / zoom);
        }
        fingers.set(event.pointerId, after);
      });
      for (const end of ["pointerup", "pointercancel"]) {
        stage.addEventListener(end, (event) => {
          fingers.delete(event.pointerId);
          dividing = false;
          stage.classList.remove("moving");
        });
      }
      stage.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 300), ...fromMiddle(event));
      }, { passive: false });
      stage.addEventListener("dblclick", (event) => {
        if (event.target !== this.divider) this.zoomBy(2, ...fromMiddle(event));
      });
      stage.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        const onDivider = event.target === this.divider;
        if (onDivider && step && step[0]) this.divide(this.split + 0.02 * step[0]);
        else if (onDivider && (event.key === "Home" || event.key === "End")) this.divide(event.key === "End" ? 1 : 0);
        else if (event.key === "+" || event.key === "=") this.zoomBy(1.5);
        else if (event.key === "-") this.zoomBy(1 / 1.5);
        else if (event.key === "0") { this.view = null; this.draw(); }
        else if (!onDivider && step && this.view) {
          const { zoom, x, y } = this.view;
          this.look(zoom, x + (40 * step[0]) / zoom, y + (40 * step[1]) / zoom);
        } else return;
        event.preventDefault();
      });
    }
  }

  if (!customElements.get("rescale-compare")) customElements.define("rescale-compare", RescaleCompare);
})();
