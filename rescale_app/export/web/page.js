/** The page: takes a file, shows progress, compares and saves the result. */

const get = (id) => document.getElementById(id);
const shown = new Set(); // object URLs of the result that is shown
let worker = null;
let current = null;

function begin(file, geometry = null) {
  stop();
  current = file;
  show({ progress: true });
  get("bar").removeAttribute("value");
  worker ??= new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => fail(event.message ? `could not be restored (${event.message})` : "could not be restored", false);
  worker.busy = true;
  worker.postMessage({ file, geometry });
}

/** Ends a computation; an idle worker is kept, with the networks it has loaded. */
function stop() {
  if (worker?.busy) {
    worker.terminate();
    worker = null;
  }
}

function receive({ step, progress, result, error, unknown }) {
  if (step) get("step").textContent = `${step} …`;
  if (progress !== undefined) {
    get("bar").value = progress;
    get("step").textContent = `Restoring, ${Math.floor(100 * progress)} %`;
  }
  if (result || error) worker.busy = false;
  if (error) fail(error, unknown);
  if (result) deliver(result);
}

function fail(message, unknown) {
  stop();
  show({ notice: true, geometry: unknown });
  get("notice").textContent = `${current.name} ${message}.`;
  if (unknown) get("scale").focus();
}

function deliver({ png, width, height, warnings, model, engine, seconds }) {
  for (const url of shown) URL.revokeObjectURL(url);
  shown.clear();
  const [small, restored] = [current, png].map((blob) => URL.createObjectURL(blob));
  shown.add(small).add(restored);
  const compare = document.createElement("rescale-compare");
  const attributes = { width, height, left: "small", right: "restored" };
  for (const [name, value] of Object.entries(attributes)) compare.setAttribute(name, value);
  for (const [name, label, source, enlarged] of [
    ["small", "Small image", small, false],
    ["pixels", "Small, pixels", small, true],
    ["restored", "Restored", restored, false],
  ]) {
    const image = document.createElement("img");
    Object.assign(image.dataset, { name, label }, enlarged ? { enlarged: "" } : {});
    image.src = source;
    compare.append(image);
  }
  get("images").replaceChildren(compare);
  get("summary").textContent = `${current.name}: restored to ${width} × ${height}`;
  get("details").textContent = [`Weights ${model}`, engine, `${seconds.toFixed(1)} s`].filter(Boolean).join(" · ");
  get("warnings").replaceChildren(...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  Object.assign(get("save"), { href: restored, download: `${current.name.replace(/\.[^.]*$/, "")}-restored.png` });
  show({ result: true });
  get("result").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

function show({ notice = false, geometry = false, progress = false, result = false }) {
  for (const [id, visible] of Object.entries({ notice, geometry, progress, result })) get(id).hidden = !visible;
}

function take(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) begin(file);
}

get("file").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // the same file may be chosen again
});
get("cancel").addEventListener("click", () => {
  stop();
  show({});
});
get("geometry").addEventListener("submit", (event) => {
  event.preventDefault();
  const numbers = (id) => get(id).value.trim().replace(",", ".").split(/\s*[x×]\s*/i).map(Number);
  const [vertical, horizontal = vertical] = numbers("scale");
  const size = [numbers("height")[0], numbers("width")[0]];
  const isValid = [vertical, horizontal].every((side) => side >= 1 && side <= 4) && size.every((side) => Number.isInteger(side) && side > 0);
  if (isValid) begin(current, { scale: [vertical, horizontal], size });
  else {
    get("notice").textContent = "Scale must be a number from 1 to 4, as 2.5, width and height whole numbers.";
    show({ notice: true, geometry: true });
  }
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // the browser would open the file
    get("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
