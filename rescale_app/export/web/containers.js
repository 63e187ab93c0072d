/** What PNG, JPEG and WebP files hold beside their pixels. */

import { latin1 } from "./exif.js";

const PREFIX = "rescale:"; // of a JPEG comment that is a record
// Texts that programs write about themselves, or about the file.
const TRIVIAL_TEXTS = ["Software", "date:create", "date:modify", "date:timestamp"];
const RAW_EXIF = "Raw profile type exif"; // ImageMagick's
// What these chunks of a PNG hold for sRGB: code points of ITU-T H.273; gamma and chromaticity in 1/100000.
const SRGB_CODES = [1, 13, 0, 1];
const SRGB_GAMMA = [45455];
const SRGB_CHROMATICITY = [31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000];
const TOLERANCE = 500;

/** What restored files do not hold, in words. */
export const LOSSES = {
  frames: "Only the first of several images is restored.",
  colors: "The colors (CMYK) are converted to RGB, without a color profile.",
  profile: "The color profile is damaged or not for RGB, and is dropped.",
  space: "The color space of the PNG (gAMA, cHRM, cICP) is dropped; pixels are treated as sRGB.",
  depth: "The file has 16 bits per channel, of which this page reads 8.",
  metadata: "Metadata other than EXIF (XMP, IPTC, comments, texts) is dropped.",
  exif: "EXIF is broken and is dropped.",
};

/** PNG, JPEG, WebP, or null. */
export function formatOf(bytes) {
  const start = latin1(bytes.subarray(0, 12));
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (start.startsWith("\xff\xd8")) return "JPEG";
  if (start.startsWith("RIFF") && start.endsWith("WEBP")) return "WebP";
  return null;
}

/** Reads a file of a format.
 *
 * Returns {lossless, text, exif, profile, losses}: the record outside of EXIF, EXIF as a TIFF
 * structure and an ICC profile of RGB, if the file has them; losses is a Set of keys of LOSSES.
 * Throws a RangeError if the file is damaged.
 */
export async function readContainer(bytes, format) {
  const found = { lossless: false, losses: new Set() };
  await READERS[format](bytes, found);
  if (found.profile && latin1(found.profile.subarray(16, 20)) !== "RGB ") {
    found.losses.add("profile");
    delete found.profile;
  }
  return found;
}

const READERS = { PNG: readPng, JPEG: readJpeg, WebP: readWebp };

async function readPng(bytes, found) {
  const view = viewOf(bytes);
  const space = {};
  found.lossless = true;
  for (let at = 8; ; ) {
    const length = view.getUint32(at);
    const kind = latin1(bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new RangeError();
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IEND") break;
    if (kind === "IHDR" && data[8] > 8) found.losses.add("depth");
    else if (kind === "acTL" && viewOf(data).getUint32(0) > 1) found.losses.add("frames");
    else if (kind === "eXIf") found.exif = data;
    else if (kind === "iCCP") await readProfile(data, found);
    else if (["tEXt", "zTXt", "iTXt"].includes(kind)) await readText(kind, data, found);
    if (["iCCP", "sRGB", "gAMA", "cHRM", "cICP"].includes(kind)) space[kind] = data;
    at += 12 + length;
  }
  if (isOtherSpace(space)) found.losses.add("space");
}

async function readProfile(data, found) {
  try {
    found.profile = await inflate(data.subarray(data.indexOf(0) + 2));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    found.losses.add("profile");
  }
}

async function readText(kind, data, found) {
  const end = data.indexOf(0);
  const key = latin1(data.subarray(0, end));
  if (key === "rescale") found.text = await pngText(kind, data.subarray(end + 1));
  else if (key === RAW_EXIF) {
    const digits = (await pngText(kind, data.subarray(end + 1))).split("\n").slice(3).join("");
    const raw = Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
    found.exif ??= withoutHeader(raw);
  } else if (!TRIVIAL_TEXTS.includes(key)) found.losses.add("metadata");
}

/** The text of a chunk, of which the key has been read. */
async function pngText(kind, rest) {
  if (kind === "tEXt") return latin1(rest);
  if (kind === "zTXt") return latin1(await inflate(rest.subarray(1)));
  const compressed = rest[0];
  rest = rest.subarray(2); // language and translated keyword follow
  for (let i = 0; i < 2; i++) rest = rest.subarray(rest.indexOf(0) + 1);
  return new TextDecoder().decode(compressed ? await inflate(rest) : rest);
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new RangeError();
  }
}

/** Whether a PNG without ICC profile states another color space than sRGB. */
function isOtherSpace({ iCCP, sRGB, gAMA, cHRM, cICP }) {
  if (cICP) return SRGB_CODES.some((code, i) => cICP[i] !== code);
  if (iCCP || sRGB) return false;
  const differs = (data, expected) =>
    data && expected.some((value, i) => Math.abs(viewOf(data).getUint32(4 * i) - value) > TOLERANCE);
  return differs(gAMA, SRGB_GAMMA) || differs(cHRM, SRGB_CHROMATICITY);
}

function readJpeg(bytes, found) {
  const view = viewOf(bytes);
  const profile = [];
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw new RangeError();
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) { at += 1; continue; } // fill byte
    if (marker === 0xda) break; // the scan follows
    const length = view.getUint16(at + 2);
    const data = bytes.subarray(at + 4, at + 2 + length);
    const start = latin1(data.subarray(0, 35));
    if (marker === 0xfe && start.startsWith(PREFIX)) found.text = latin1(data.subarray(PREFIX.length));
    else if (marker === 0xe1 && start.startsWith("Exif\0\0")) found.exif ??= withoutHeader(data);
    else if (marker === 0xe2 && start.startsWith("ICC_PROFILE\0")) profile.push(data.subarray(12));
    else if (marker === 0xe2 && start.startsWith("MPF\0")) found.losses.add("frames");
    else if (isMetadata(marker, start, data)) found.losses.add("metadata");
    else if (isFrameHeader(marker) && data[5] === 4) found.losses.add("colors");
    at += 2 + length;
  }
  joinProfile(profile, found);
}

function isMetadata(marker, start, data) {
  if (marker === 0xfe) return data.length > 0;
  if (marker === 0xe1) return start.startsWith("http://ns.adobe.com/x");
  return marker === 0xed && latin1(data).includes("8BIM\x04\x04"); // IPTC
}

function isFrameHeader(marker) {
  return marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
}

/** Joins the parts of a profile, of which each begins with its number and their count. */
function joinProfile(parts, found) {
  if (!parts.length) return;
  parts.sort((one, other) => one[0] - other[0]);
  if (parts.every((part, i) => part[0] === i + 1 && part[1] === parts.length)) {
    found.profile = Uint8Array.from(parts.flatMap((part) => [...part.subarray(2)]));
  } else found.losses.add("profile");
}

function readWebp(bytes, found) {
  const view = viewOf(bytes);
  let frames = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const kind = latin1(bytes.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    if (at + 8 + length > bytes.length) throw new RangeError();
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "VP8L") found.lossless = true;
    else if (kind === "EXIF") found.exif = withoutHeader(data);
    else if (kind === "ICCP") found.profile = data;
    else if (kind === "XMP ") found.losses.add("metadata");
    else if (kind === "ANMF") frames += 1;
    at += 8 + length + (length % 2);
  }
  if (frames > 1) found.losses.add("frames");
}

/** EXIF without the header that it has in JPEG. */
function withoutHeader(exif) {
  return latin1(exif.subarray(0, 6)) === "Exif\0\0" ? exif.subarray(6) : exif;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
