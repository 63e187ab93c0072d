/** Restoring an image in tiles; the result is that of the whole image, up to rounding. */

import { modelInputs } from "./model_inputs.js";

const TILE = 512; // longest side of a tile in pixels of the result
const MARGIN = 4; // initial margin for learned offsets, in pixels of the small image

/** Restores an image.
 *
 * run: async function of the model's inputs, {name: {data, dims}}; returns {output, reach}, as
 *   {data, dims}.
 * lr: {data: RGBA, width, height}.
 * scale: [vertical, horizontal].
 * size: [height, width] of the result.
 * halo: pixels of the small image on each side that a sample of the features depends on.
 * onProgress: called with the completed fraction after every tile.
 * Returns the result's pixels, an RGBA Uint8ClampedArray.
 */
export async function restore(run, lr, scale, size, halo, onProgress) {
  const result = new Uint8ClampedArray(4 * size[0] * size[1]);
  const inSize = [lr.height, lr.width];
  let margin = [MARGIN, MARGIN];
  let done = 0;
  for (const rows of spans(size[0])) {
    for (const columns of spans(size[1])) {
      for (;;) {
        const tile = plan([rows, columns], scale, size, inSize, margin.map((side) => side + halo));
        const { output, reach } = await run({ image: crop(lr, tile.window), ...sampling(tile, scale) });
        // Exact if no sample is farther away than the margin, or outside of the image.
        const missing = reach.data.some((far, axis) => !(far <= margin[axis]) && !tile.isWhole[axis]);
        if (!missing) {
          write(result, size[1], output, tile, rows, columns);
          break;
        }
        margin = margin.map((side, axis) => Math.max(2 * side, Math.ceil(reach.data[axis]) || 0));
      }
      done += (rows[1] - rows[0]) * (columns[1] - columns[0]);
      onProgress(done / (size[0] * size[1]));
    }
  }
  return result;
}

/** Divides a side into parts of similar length: [first, end). */
function spans(side) {
  const count = Math.ceil(side / TILE);
  return Array.from({ length: count }, (_, i) => [i, i + 1].map((at) => Math.floor((side * at) / count)));
}

/** What to sample for a part of the result, and the window of the small image that it needs. */
function plan(part, scale, size, inSize, around) {
  // The last convolution takes one pixel more on each side.
  const sampled = part.map(([first, end], axis) => [Math.max(first - 1, 0), Math.min(end + 1, size[axis])]);
  const window = sampled.map(([first, end], axis) => {
    const at = (index) => Math.floor((index + 0.5) / scale[axis] - 0.5);
    return [Math.max(at(first) - around[axis], 0), Math.min(at(end - 1) + 2 + around[axis], inSize[axis])];
  });
  const isWhole = window.map(([first, end], axis) => first === 0 && end === inSize[axis]);
  return { sampled, window, isWhole };
}

function sampling({ sampled, window }, scale) {
  const inputs = modelInputs(scale, sampled.map(([first, end]) => end - first), {
    first: sampled.map(([first]) => first),
    origin: window.map(([first]) => first),
  });
  return Object.fromEntries(Object.entries(inputs).map(([name, data]) => [name, { data, dims: [data.length] }]));
}

/** A window of an image as a tensor (1, 3, h, w) in [0, 1]. */
function crop(image, [[top, bottom], [left, right]]) {
  const height = bottom - top;
  const width = right - left;
  const data = new Float32Array(3 * height * width);
  for (let row = 0, to = 0; row < height; row++) {
    let from = 4 * ((top + row) * image.width + left);
    for (let column = 0; column < width; column++, to++, from += 4) {
      for (let c = 0; c < 3; c++) data[c * height * width + to] = image.data[from + c] / 255;
    }
  }
  return { data, dims: [1, 3, height, width] };
}

/** Stores a part of the result; the array clamps and rounds to 8 bits. */
function write(result, stride, output, { sampled }, rows, columns) {
  const [, , height, width] = output.dims;
  for (let row = rows[0]; row < rows[1]; row++) {
    let from = (row - sampled[0][0]) * width + columns[0] - sampled[1][0];
    let to = 4 * (row * stride + columns[0]);
    for (let column = columns[0]; column < columns[1]; column++, from++, to += 4) {
      for (let c = 0; c < 3; c++) result[to + c] = 255 * output.data[c * height * width + from];
      result[to + 3] = 255;
    }
  }
}
