/** Enlarging a channel as MATLAB's imresize does, which is how transparency is restored. */

/** Keys' cubic convolution kernel with a = -0.5 (IEEE TASSP 1981). */
function cubic(x) {
  x = Math.abs(x);
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** Four samples with their weights for each output sample; the border is reflected. */
function contributions(inLength, outLength, scale) {
  return Array.from({ length: outLength }, (_, i) => {
    const center = (i + 0.5) / scale - 0.5;
    const first = Math.floor(center) - 1;
    const taps = [0, 1, 2, 3].map((tap) => {
      const index = (((first + tap) % (2 * inLength)) + 2 * inLength) % (2 * inLength);
      return [Math.min(index, 2 * inLength - 1 - index), cubic(center - first - tap)];
    });
    return taps;
  });
}

/** Enlarges a channel.
 *
 * samples: one after another, row by row. inSize, size: [height, width] before and after. scale:
 * [vertical, horizontal], the true one, not the ratio of the sides, which are rounded; from 1.
 * Returns a Uint8ClampedArray.
 */
export function enlarge(samples, inSize, size, scale) {
  const [rows, columns] = [0, 1].map((axis) => contributions(inSize[axis], size[axis], scale[axis]));
  const result = new Uint8ClampedArray(size[0] * size[1]);
  const row = new Float64Array(inSize[1]);
  for (let y = 0; y < size[0]; y++) {
    row.fill(0);
    for (const [from, weight] of rows[y]) {
      for (let x = 0; x < inSize[1]; x++) row[x] += weight * samples[from * inSize[1] + x];
    }
    for (let x = 0; x < size[1]; x++) {
      result[y * size[1] + x] = columns[x].reduce((sum, [from, weight]) => sum + weight * row[from], 0);
    }
  }
  return result;
}
