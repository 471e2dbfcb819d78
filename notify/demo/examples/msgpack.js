/** Just enough MessagePack for frames of `notify.v1.msgpack` (https://msgpack.org): a reader, and a writer of acks. */

const TEXT = new TextDecoder();

/** Read one value out of an ArrayBuffer. */
export function decode(buffer) {
  const view = new DataView(buffer);
  let at = 0;

  const take = (size, read) => {
    const value = read(at);
    at += size;
    return value;
  };
  const u8 = () => take(1, (place) => view.getUint8(place));
  const u16 = () => take(2, (place) => view.getUint16(place));
  const u32 = () => take(4, (place) => view.getUint32(place));
  const bytes = (size) => take(size, (place) => new Uint8Array(buffer, place, size));
  const text = (size) => TEXT.decode(bytes(size));
  const list = (size) => Array.from({ length: size }, value);
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [value(), value()]));

  function value() {
    const tag = u8();
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 0x0f);
    if (tag < 0xa0) return list(tag & 0x0f);
    if (tag < 0xc0) return text(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    switch (tag) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return bytes(u8());
      case 0xc5: return bytes(u16());
      case 0xc6: return bytes(u32());
      case 0xca: return take(4, (place) => view.getFloat32(place));
      case 0xcb: return take(8, (place) => view.getFloat64(place));
      case 0xcc: return u8();
      case 0xcd: return u16();
      case 0xce: return u32();
      case 0xcf: return Number(take(8, (place) => view.getBigUint64(place)));
      case 0xd0: return take(1, (place) => view.getInt8(place));
      case 0xd1: return take(2, (place) => view.getInt16(place));
      case 0xd2: return take(4, (place) => view.getInt32(place));
      case 0xd3: return Number(take(8, (place) => view.getBigInt64(place)));
      case 0xd9: return text(u8());
      case 0xda: return text(u16());
      case 0xdb: return text(u32());
      case 0xdc: return list(u16());
      case 0xdd: return list(u32());
      case 0xde: return map(u16());
      case 0xdf: return map(u32());
      default: throw new TypeError(`MessagePack of a kind that frames don't have: ${tag}`);
    }
  }
  return value();
}

/** Write `{ op: "ack", seq }`, the one frame that the example sends. */
export function encodeAck({ op, seq }) {
  const text = (value) => [0xa0 | value.length, ...new TextEncoder().encode(value)];
  const words = [0x82, ...text("op"), ...text(op), ...text("seq"), 0xcf];
  const view = new DataView(new ArrayBuffer(words.length + 8));
  words.forEach((word, place) => view.setUint8(place, word));
  view.setBigUint64(words.length, BigInt(seq));
  return view.buffer;
}
