/** Inputs of the exported ONNX models besides the image.
 *
 * Computes inverse_ratio, rows, row_phases, columns and column_phases, as Float32Arrays.
 *
 * ratio: output over input side, [vertical, horizontal]: the scale to restore with up.onnx,
 *   1 / scale to downscale with down.onnx. Not the ratio of the sides, which are rounded.
 * size: [height, width] of the output, or of a part of it.
 * unit: see the model's metadata, rescale.unit.
 * first: [row, column] of the first pixel of that part.
 * origin: for a model that is given only a part of the image: [row, column] of the first pixel of
 *   the part, divided by unit.
 */
export function modelInputs(ratio, size, { unit = 1, first = [0, 0], origin = [0, 0] } = {}) {
  const inputs = { inverse_ratio: Float32Array.from(ratio, (side) => 1 / (side * unit)) };
  for (const [axis, name] of ["row", "column"].entries()) {
    const position = (_, i) => (i + first[axis] + 0.5) / (ratio[axis] * unit);
    const at = Float64Array.from({ length: size[axis] }, position);
    inputs[`${name}s`] = Float32Array.from(at, (p) => p - 0.5 - origin[axis]);
    inputs[`${name}_phases`] = Float32Array.from(at, (p) => p - Math.floor(p + 1e-3) - 0.5);
  }
  return inputs;
}
