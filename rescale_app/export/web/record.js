/** The record of an LR file: scale, original size, network and fingerprint of the weights.
 *
 * A line of JSON in a PNG text chunk named "rescale", a JPEG comment that starts with "rescale:", or
 * a line of EXIF's ImageHistory that does (PNG, JPEG, WebP).
 */

import { formatOf, readContainer } from "./containers.js";
import { recordInExif } from "./exif.js";

/** An error whose message is meant for the user. */
export class FileError extends Error {}

/** Reads a file but for its pixels: {format, lossless, record, exif, profile, losses}.
 *
 * format: PNG, JPEG or WebP. record: {network, scale: [vertical, horizontal], size: [height, width], weights}; null if the
 * file has none. For the others see readContainer.
 */
export async function readRecord(bytes) {
  const format = formatOf(bytes);
  if (!format) throw new FileError("is not a PNG, JPEG or WebP file");
  let found;
  try {
    found = await readContainer(bytes, format);
  } catch (error) {
    if (error instanceof RangeError) throw new FileError("is damaged or incomplete");
    throw error;
  }
  const text = found.text ?? (found.exif && recordInExif(found.exif));
  return { ...found, format, record: text ? parse(text) : null };
}

/** Scale and original size that a file name states, as in photo.s2.5.1920x1080.png; or null. */
export function hintInName(name) {
  const hints = [...name.matchAll(/\.s(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?\.([1-9]\d{0,8})x([1-9]\d{0,8})(?!\d)/g)];
  const hint = hints.at(-1);
  if (!hint) return null;
  const [, vertical, horizontal, width, height] = hint;
  return { scale: [Number(vertical), Number(horizontal ?? vertical)], size: [Number(height), Number(width)] };
}

function parse(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch {
    throw new FileError("has a malformed record");
  }
  const isPair = (pair, check) => Array.isArray(pair) && pair.length === 2 && pair.every(check);
  if (record?.version > 1) throw new FileError("was written by a later version than this page");
  if (
    record?.version !== 1 ||
    !isPair(record.scale, (side) => Number.isFinite(side) && side >= 1) ||
    !isPair(record.size, (side) => Number.isInteger(side) && side > 0) ||
    typeof record.network !== "string" ||
    typeof record.weights !== "string"
  ) {
    throw new FileError("has a malformed record");
  }
  return record;
}
