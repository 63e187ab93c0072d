/** The record of an LR file: scale, original size, network and fingerprint of the weights.
 *
 * A line of JSON in a PNG text chunk named "rescale", a JPEG comment that starts with "rescale:", or
 * a line of EXIF's ImageHistory that does (PNG, JPEG, WebP).
 */

const PREFIX = "rescale:";
const IMAGE_HISTORY = 0x9213;
/** Every byte as a character; a TextDecoder for Latin-1 is one for Windows-1252. */
const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

/** An error whose message is meant for the user. */
export class FileError extends Error {}

/** Returns {format, lossless, record}; record is null if the file has none.
 *
 * record: {network, scale: [vertical, horizontal], size: [height, width], weights}.
 */
export async function readRecord(bytes) {
  const format = formatOf(bytes);
  if (!format) throw new FileError("is not a PNG, JPEG or WebP file");
  let found;
  try {
    found = await READERS[format](bytes);
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) throw new FileError("is damaged or incomplete");
    throw error;
  }
  const text = found.text ?? (found.exif && recordInExif(found.exif));
  return { format, lossless: found.lossless, record: text ? parse(text) : null };
}

/** Scale and original size that a file name states, as in photo.s2.5.1920x1080.png; or null. */
export function hintInName(name) {
  const hints = [...name.matchAll(/\.s(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?\.([1-9]\d{0,8})x([1-9]\d{0,8})(?!\d)/g)];
  const hint = hints.at(-1);
  if (!hint) return null;
  const [, vertical, horizontal, width, height] = hint;
  return { scale: [Number(vertical), Number(horizontal ?? vertical)], size: [Number(height), Number(width)] };
}

function formatOf(bytes) {
  const start = latin1(bytes.subarray(0, 12));
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (start.startsWith("\xff\xd8\xff") || (bytes[0] === 0xff && bytes[1] === 0xd8)) return "JPEG";
  if (start.startsWith("RIFF") && start.endsWith("WEBP")) return "WebP";
  return null;
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

const READERS = { PNG: readPng, JPEG: readJpeg, WebP: readWebp };

async function readPng(bytes) {
  const view = viewOf(bytes);
  const found = { lossless: true };
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin1(bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new RangeError();
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "eXIf") found.exif = data;
    else if (kind === "tEXt" || kind === "zTXt" || kind === "iTXt") {
      found.text = (await pngText(kind, data)) ?? found.text;
    } else if (kind === "IEND") return found;
    at += 12 + length;
  }
  throw new RangeError();
}

/** The text of a chunk named "rescale"; null for another. */
async function pngText(kind, data) {
  const end = data.indexOf(0);
  if (latin1(data.subarray(0, end)) !== "rescale") return null;
  let rest = data.subarray(end + 1);
  if (kind === "tEXt") return latin1(rest);
  if (kind === "zTXt") return latin1(await inflate(rest.subarray(1)));
  const compressed = rest[0];
  rest = rest.subarray(2); // language and translated keyword follow
  for (let i = 0; i < 2; i++) rest = rest.subarray(rest.indexOf(0) + 1);
  return new TextDecoder().decode(compressed ? await inflate(rest) : rest);
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function readJpeg(bytes) {
  const view = viewOf(bytes);
  const found = { lossless: false };
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw new RangeError();
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) { at += 1; continue; } // fill byte
    if (marker === 0xda) return found; // the scan follows
    const length = view.getUint16(at + 2);
    const data = bytes.subarray(at + 4, at + 2 + length);
    const start = latin1(data.subarray(0, PREFIX.length));
    if (marker === 0xfe && start === PREFIX) found.text = latin1(data.subarray(PREFIX.length));
    else if (marker === 0xe1 && start.startsWith("Exif\0\0")) found.exif ??= data.subarray(6);
    at += 2 + length;
  }
}

async function readWebp(bytes) {
  const view = viewOf(bytes);
  const found = { lossless: false };
  for (let at = 12; at + 8 <= bytes.length; ) {
    const kind = latin1(bytes.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    if (at + 8 + length > bytes.length) throw new RangeError();
    if (kind === "VP8L") found.lossless = true;
    if (kind === "EXIF") {
      const data = bytes.subarray(at + 8, at + 8 + length);
      found.exif = latin1(data.subarray(0, 6)) === "Exif\0\0" ? data.subarray(6) : data;
    }
    at += 8 + length + (length % 2);
  }
  return found;
}

/** The record in the first directory of a TIFF structure; null if there is none, or it is broken. */
function recordInExif(bytes) {
  try {
    const view = viewOf(bytes);
    const little = latin1(bytes.subarray(0, 2)) === "II";
    const first = view.getUint32(4, little);
    const count = view.getUint16(first, little);
    for (let i = 0; i < count; i++) {
      const entry = first + 2 + 12 * i;
      if (view.getUint16(entry, little) !== IMAGE_HISTORY) continue;
      const length = view.getUint32(entry + 4, little);
      const at = length > 4 ? view.getUint32(entry + 8, little) : entry + 8;
      const lines = latin1(bytes.subarray(at, at + length)).replace(/\0+$/, "").split("\n");
      return lines.findLast((line) => line.startsWith(PREFIX))?.slice(PREFIX.length) ?? null;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return null;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
