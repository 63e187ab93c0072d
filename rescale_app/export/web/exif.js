/** EXIF, a TIFF structure: the record of an LR file in it, and what of it restored files carry. */

const IMAGE_HISTORY = 0x9213;
const ORIENTATION = 274;
const DETAILS = 34665; // refers to a directory
const SIDES = { 40962: 1, 40963: 0 }; // of the image: axis of each tag
const ASCII = 2;
const LONG = 4;
const PREFIX = "rescale:";

/** Every byte as a character; a TextDecoder for Latin-1 is one for Windows-1252. */
export const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

/** A structure of which nothing is copied; every method throws a RangeError where it is broken. */
class Tiff {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const start = latin1(bytes.subarray(0, 4));
    if (start !== "II*\0" && start !== "MM\0*") throw new RangeError();
    this.little = start[0] === "I";
    this.first = this.long(4);
  }

  short = (at) => this.view.getUint16(at, this.little);
  long = (at) => this.view.getUint32(at, this.little);

  /** Places of the entries of a directory, by tag. */
  entries(directory) {
    const places = Array.from({ length: this.short(directory) }, (_, i) => directory + 2 + 12 * i);
    return new Map(places.map((at) => [this.short(at), at]));
  }

  /** The bytes of a text. */
  text(entry) {
    const length = this.long(entry + 4);
    const at = length > 4 ? this.long(entry + 8) : entry + 8;
    if (at + length > this.bytes.length) throw new RangeError();
    return this.bytes.subarray(at, at + length);
  }

  remove(directory, entry) {
    const count = this.short(directory);
    const end = directory + 2 + 12 * count + 4; // and the place of the next directory
    if (end > this.bytes.length) throw new RangeError();
    this.bytes.copyWithin(entry, entry + 12, end);
    this.bytes.fill(0, end - 12, end);
    this.view.setUint16(directory, count - 1, this.little);
  }
}

const lines = (text) => latin1(text).replace(/\0+$/, "").split("\n");

/** The record, a line of JSON; null if there is none, or the structure is broken. */
export function recordInExif(bytes) {
  try {
    const tiff = new Tiff(bytes);
    const history = tiff.entries(tiff.first).get(IMAGE_HISTORY);
    if (history === undefined) return null;
    return lines(tiff.text(history)).findLast((line) => line.startsWith(PREFIX))?.slice(PREFIX.length) ?? null;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return null;
  }
}

/** The EXIF of a restored file of size [height, width]: without record, orientation and thumbnail.
 *
 * Returns null if nothing remains. Throws a RangeError if the structure is broken.
 */
export function carriedExif(bytes, size) {
  const tiff = new Tiff(bytes.slice());
  const { first } = tiff;
  const history = tiff.entries(first).get(IMAGE_HISTORY);
  if (history !== undefined) {
    const text = tiff.text(history);
    const others = lines(text).filter((line) => !line.startsWith(PREFIX)).join("\n");
    text.fill(0);
    if (others) text.set(Array.from(others, (character) => character.charCodeAt(0)));
    else tiff.remove(first, history);
  }
  const orientation = tiff.entries(first).get(ORIENTATION);
  if (orientation !== undefined) tiff.remove(first, orientation);
  const entries = tiff.entries(first);
  if (!entries.size) return null;
  tiff.view.setUint32(first + 2 + 12 * entries.size, 0, tiff.little); // the directory of the thumbnail
  if (entries.has(DETAILS)) {
    for (const [tag, at] of tiff.entries(tiff.long(entries.get(DETAILS) + 8))) {
      if (!(tag in SIDES)) continue;
      tiff.view.setUint16(at + 2, LONG, tiff.little);
      tiff.view.setUint32(at + 4, 1, tiff.little);
      tiff.view.setUint32(at + 8, size[SIDES[tag]], tiff.little);
    }
  }
  return tiff.bytes;
}
