/** Writing PNG files: 8 bits per channel, with color profile and EXIF.
 *
 * A canvas would multiply colors by their alpha, and drop both.
 */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const RGB = 2;
const RGBA = 6;
const AVERAGE = 3; // the filter: a sample less the mean of those to the left and above
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** Encodes an image as a Blob.
 *
 * pixels: RGBA; alpha is written if hasAlpha. profile: ICC profile, exif: TIFF structure; or null.
 */
export async function encodePng(pixels, width, height, { hasAlpha = false, profile = null, exif = null } = {}) {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, hasAlpha ? RGBA : RGB], 8);
  const parts = [SIGNATURE, ...chunk("IHDR", header)];
  if (profile) {
    const name = new TextEncoder().encode("ICC profile\0\0"); // and the method, deflate
    parts.push(...chunk("iCCP", concatenated([name, await deflated([profile])])));
  }
  if (exif) parts.push(...chunk("eXIf", exif));
  const rows = filtered(pixels, width, height, hasAlpha ? 4 : 3);
  parts.push(...chunk("IDAT", await deflated(rows)), ...chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}

/** The rows of an image, each behind the number of its filter. */
function* filtered(pixels, width, height, channels) {
  let above = new Uint8Array(channels * width);
  for (let y = 0; y < height; y++) {
    const row = new Uint8Array(channels * width);
    const result = new Uint8Array(1 + channels * width);
    result[0] = AVERAGE;
    for (let x = 0, to = 0, from = 4 * y * width; x < width; x++, from += 4) {
      for (let c = 0; c < channels; c++, to++) {
        row[to] = pixels[from + c];
        const left = x ? row[to - channels] : 0;
        result[to + 1] = row[to] - ((left + above[to]) >> 1);
      }
    }
    yield result;
    above = row;
  }
}

function chunk(kind, data) {
  const start = new Uint8Array(8);
  new DataView(start.buffer).setUint32(0, data.length);
  start.set(new TextEncoder().encode(kind), 4);
  let crc = -1;
  for (const bytes of [start.subarray(4), data]) {
    for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  const end = new Uint8Array(4);
  new DataView(end.buffer).setInt32(0, ~crc);
  return [start, data, end];
}

async function deflated(pieces) {
  const source = pieces[Symbol.iterator]();
  const stream = new ReadableStream({
    pull(controller) {
      const { value, done } = source.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  const result = await new Response(stream.pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  return new Uint8Array(result);
}

function concatenated(arrays) {
  const result = new Uint8Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    result.set(array, at);
    at += array.length;
  }
  return result;
}
