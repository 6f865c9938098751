// The browser's reader of a release: zarrita over HTTP, with two codecs of our own.
// - crc32c: zarrita's own drops the checksum unread; this one checks it, so a flipped bit is an error, not a picture.
// - blosc: only lz4 inside blosc, in JavaScript; all codecs as WebAssembly would be half a megabyte.
import { FetchStore, get, open, registry } from "zarrita";

const TABLE = new Uint32Array(256).map((_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

export const crc32c = (bytes) => {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
};

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

class CheckedCrc32c {
  kind = "bytes_to_bytes";
  static fromConfig() { return new CheckedCrc32c(); }
  encode() { throw new Error("this reader does not write"); }
  decode(bytes) {
    const body = bytes.subarray(0, bytes.length - 4);
    if (crc32c(body) !== view(bytes).getUint32(bytes.length - 4, true)) throw new Error("damaged (checksum)");
    return body;
  }
  computeEncodedSize(size) { return size + 4; }
}

// LZ4 block format (lz4 doc/lz4_Block_format.md): literals, then a match further back; the last one has no match.
const unlz4 = (packed, out) => {
  let from = 0, to = 0;
  const length = (short) => {
    let whole = short;
    for (let more = short === 15 ? 255 : 0; more === 255; whole += more) more = packed[from++];
    return whole;
  };
  while (from < packed.length) {
    const token = packed[from++];
    const literals = length(token >> 4);
    out.set(packed.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from >= packed.length) break;
    const back = packed[from] | (packed[from + 1] << 8);
    from += 2;
    const end = to + length(token & 15) + 4;
    if (!back || back > to || end > out.length) throw new Error("damaged (lz4)");
    for (; to < end; to += 1) out[to] = out[to - back];
  }
  if (to !== out.length) throw new Error("damaged (lz4)");
  return out;
};

// Blosc 1 container (c-blosc README_CHUNK_FORMAT): 16 bytes of header, block starts, blocks of one or typesize streams.
export const unblosc = (bytes) => {
  const data = view(bytes);
  const flags = bytes[2], typesize = bytes[3];
  const size = data.getUint32(4, true), blockSize = data.getUint32(8, true);
  if (flags & 0x02) return bytes.subarray(16, 16 + size);
  if (flags >> 5 !== 1) throw new Error("not compressed by lz4");
  const out = new Uint8Array(size);
  for (let block = 0, at = 0; at < size; block += 1, at += blockSize) {
    const length = Math.min(blockSize, size - at);
    const streams = flags & 0x10 || length < blockSize ? 1 : typesize;
    const part = length / streams;
    let from = data.getInt32(16 + 4 * block, true);
    const plain = new Uint8Array(length);
    for (let stream = 0; stream < streams; stream += 1) {
      const packed = data.getInt32(from, true);
      from += 4;
      const body = bytes.subarray(from, from + packed);
      plain.set(packed === part ? body : unlz4(body, new Uint8Array(part)), stream * part);
      from += packed;
    }
    if (flags & 0x01 && typesize > 1) unshuffle(plain, typesize, out.subarray(at, at + length));
    else if (flags & 0x04) throw new Error("bit shuffle is not read here");
    else out.set(plain, at);
  }
  return out;
};

const unshuffle = (plain, typesize, out) => {
  const items = Math.floor(plain.length / typesize);
  for (let byte = 0; byte < typesize; byte += 1) {
    for (let item = 0; item < items; item += 1) out[item * typesize + byte] = plain[byte * items + item];
  }
  out.set(plain.subarray(items * typesize), items * typesize);
};

class Lz4Blosc {
  kind = "bytes_to_bytes";
  static fromConfig() { return new Lz4Blosc(); }
  encode() { throw new Error("this reader does not write"); }
  decode(bytes) { return unblosc(bytes); }
}

registry.set("crc32c", () => CheckedCrc32c);
registry.set("blosc", () => Lz4Blosc);

// A server that ignores ranges sends the whole file: cut out what was asked for.
const ranged = async (request) => {
  const answer = await fetch(request);
  const asked = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("Range") ?? "");
  if (!asked || answer.status !== 200) return answer;
  return new Response((await answer.arrayBuffer()).slice(Number(asked[1]), Number(asked[2]) + 1), { status: 206 });
};

// A function that reads image i of the array folder at `url`, or volume i's middle slice, as its stored values.
export const openImages = async (url) => {
  const array = await open.v3(new FetchStore(url, { fetch: ranged }), { kind: "array" });
  const slice = array.shape.length > 3 ? [array.shape[1] >> 1] : [];
  return async (index) => (await get(array, [index, ...slice, null, null])).data;
};
