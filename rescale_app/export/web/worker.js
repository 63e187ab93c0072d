/** Restores one file after another; the page ends this worker to cancel.
 *
 * Receives {file, geometry}; geometry is {scale, size} if the user entered it. Sends {step},
 * {progress}, {result} or {error, unknown}; unknown: scale and size are not known.
 */

import { enlarge } from "./bicubic.js";
import { LOSSES } from "./containers.js";
import { carriedExif } from "./exif.js";
import { modelInputs } from "./model_inputs.js";
import { encodePng } from "./png.js";
import { FileError, hintInName, readRecord } from "./record.js";
import { restore } from "./restore.js";

const runtimes = { wasm: "./runtime/ort.wasm.min.mjs", webgpu: "./runtime/ort.webgpu.min.mjs" };
const GPU_TEST_LIMIT = 60_000; // milliseconds
const sessions = new Map();
let engine;

self.addEventListener("message", async ({ data }) => {
  try {
    postMessage({ result: await process(data) });
  } catch (error) {
    if (!(error instanceof FileError)) console.error(error);
    const message = error instanceof FileError ? error.message : `could not be restored (${error.message ?? error})`;
    postMessage({ error: message, unknown: error instanceof UnknownGeometry });
  }
});

class UnknownGeometry extends FileError {}

async function process({ file, geometry }) {
  postMessage({ step: "Reading" });
  const bytes = new Uint8Array(await file.arrayBuffer());
  const { format, lossless, record, exif, profile, losses } = await readRecord(bytes);
  const lr = await decode(file, format);
  const known = record ?? geometry ?? hintInName(file.name);
  if (!known) {
    throw new UnknownGeometry(
      "contains no record that rescale made it. Websites and messengers often remove it; the original file has it",
    );
  }
  const models = await (await fetchFile("models.json")).json();
  const { model, warnings } = choose(models, record, lossless);
  check(lr, known, model.max_scale);
  const started = performance.now();
  const pixels = isUnchanged(known) ? lr.data : await compute(model, lr, known);
  const [height, width] = known.size;
  postMessage({ step: "Saving" });
  const carried = exif && carry(exif, known.size, losses);
  const png = await encodePng(pixels, width, height, { hasAlpha: lr.hasAlpha, profile, exif: carried });
  if (lr.isInexact) warnings.push("Colors under transparency are inexact in this browser.");
  for (const loss of Object.keys(LOSSES)) if (losses.has(loss)) warnings.push(LOSSES[loss]);
  return {
    png, width, height, warnings, model: model.name, engine: engine?.title ?? "",
    seconds: (performance.now() - started) / 1000,
  };
}

async function compute(model, lr, { scale, size }) {
  postMessage({ step: "Loading the network" });
  const run = await load(model);
  postMessage({ step: "Restoring" });
  const pixels = await restore(run, lr, scale, size, model.halo, (progress) => postMessage({ progress }));
  if (lr.hasAlpha) {
    const alpha = Uint8Array.from({ length: lr.width * lr.height }, (_, i) => lr.data[4 * i + 3]);
    enlarge(alpha, [lr.height, lr.width], size, scale).forEach((value, i) => { pixels[4 * i + 3] = value; });
  }
  return pixels;
}

/** The EXIF of the restored file; null if there is none, or it is broken. */
function carry(exif, size, losses) {
  try {
    return carriedExif(exif, size);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    losses.add("exif");
    return null;
  }
}

function isUnchanged({ scale }) {
  return scale[0] === 1 && scale[1] === 1;
}

/** The model that restores a file, by the fingerprint of its weights; else by its format. */
function choose(models, record, lossless) {
  if (record && !models.some((model) => model.network === record.network)) {
    throw new FileError(`was made by the network ${record.network}, which this page does not have`);
  }
  const own = record && models.find((model) => model.weights === record.weights);
  if (own) return { model: own, warnings: [] };
  const model = models.find((model) => model.lossy !== lossless) ?? models[0];
  const warnings = record
    ? [`Made with other weights than this page has (${record.weights}): expect a poor result.`]
    : [`The file does not name its weights: restored with ${model.name}.`];
  return { model, warnings };
}

function check(lr, { scale, size }, limit) {
  if (scale.some((side) => side > limit)) {
    throw new FileError(`has the scale ${scale.join(" × ")}, but this network restores scales up to ${limit}`);
  }
  const expected = size.map((side, axis) => Math.ceil(side / scale[axis] - 1e-9));
  if (lr.height !== expected[0] || lr.width !== expected[1]) {
    throw new FileError(
      `is ${lr.width} × ${lr.height}, but the small image of ${size[1]} × ${size[0]} at scale ` +
        `${scale.join(" × ")} is ${expected[1]} × ${expected[0]}`,
    );
  }
}

/** Decodes an image without color management: {data: RGBA, width, height, hasAlpha, isInexact}.
 *
 * A canvas turns the image upright. It also multiplies colors by their alpha, so transparent images
 * are decoded without one, where the browser can.
 */
async function decode(file, format) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new FileError("is damaged: this browser cannot read it");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  let hasAlpha = false;
  for (let i = 3; i < data.length && !hasAlpha; i += 4) hasAlpha = data[i] < 255;
  const exact = hasAlpha ? await decodeStraight(file, format, width, height) : data;
  return { data: exact ?? data, width, height, hasAlpha, isInexact: !exact };
}

/** Decodes a transparent image with colors as they are in the file; null if the browser cannot. */
async function decodeStraight(file, format, width, height) {
  if (!self.ImageDecoder) return null;
  const decoder = new ImageDecoder({
    data: await file.arrayBuffer(),
    type: `image/${format.toLowerCase()}`,
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const { image } = await decoder.decode();
  const isUpright = image.codedWidth === width && image.codedHeight === height;
  if (!isUpright || !["RGBA", "BGRA"].includes(image.format)) return null;
  const data = new Uint8ClampedArray(4 * width * height);
  await image.copyTo(data);
  if (image.format === "BGRA") {
    for (let i = 0; i < data.length; i += 4) [data[i], data[i + 2]] = [data[i + 2], data[i]];
  }
  image.close();
  decoder.close();
  return data;
}

/** The function that runs a model; sessions are kept. */
async function load(model) {
  engine ??= await start(model);
  if (!sessions.has(model.name)) sessions.set(model.name, await open(engine, model));
  return sessions.get(model.name);
}

/** Creates a session, and returns the function that runs it. */
async function open({ ort, providers }, model) {
  ort.env.logLevel = "error"; // otherwise also that operators on shapes run on the CPU
  const data = await (await fetchFile(model.file)).arrayBuffer();
  const session = await ort.InferenceSession.create(data, { executionProviders: providers });
  return async (inputs) => {
    const tensors = Object.entries(inputs).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]);
    return session.run(Object.fromEntries(tensors));
  };
}

/** Loads the runtime: for a GPU where there is one that computes correctly, otherwise for the CPU,
 * with threads if allowed.
 */
async function start(model) {
  let reason = "";
  if (await navigator.gpu?.requestAdapter()) {
    try {
      const gpu = { ort: await import(runtimes.webgpu), providers: ["webgpu"], title: "WebGPU" };
      await within(GPU_TEST_LIMIT, test(gpu, model));
      return gpu;
    } catch (error) {
      console.warn("WebGPU is not used:", error);
      reason = `; WebGPU failed a test (${error.message ?? error})`;
    }
  }
  const ort = await import(runtimes.wasm);
  const threads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  ort.env.wasm.numThreads = threads;
  const title = `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}${reason}`;
  return { ort, providers: ["wasm"], title };
}

/** Restores a small pattern, and compares it with the stored result. */
async function test(engine, model) {
  const run = await open(engine, model);
  const { side, scale, expected } = model.test;
  const data = Float32Array.from({ length: 3 * side * side }, (_, i) => ((37 * i) % 256) / 255);
  const inputs = modelInputs([scale, scale], [scale * side, scale * side]);
  const axes = Object.entries(inputs).map(([name, values]) => [name, { data: values, dims: [values.length] }]);
  const { output } = await run({ image: { data, dims: [1, 3, side, side] }, ...Object.fromEntries(axes) });
  const isClose = (value, i) => Math.abs(output.data[i] - value) <= 1 / 255;
  if (!expected.every(isClose)) throw new Error("wrong result");
}

function within(milliseconds, promise) {
  const late = (_, reject) => setTimeout(() => reject(new Error("no result in time")), milliseconds);
  return Promise.race([promise, new Promise(late)]);
}

async function fetchFile(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}
