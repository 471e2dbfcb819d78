/**
 * The protocol without our client: a browser's WebSocket and what the contract asks of whoever uses it.
 * Connect, receive, acknowledge, come back, and tell the closes that mean "stop" from the others.
 */

import { fetchToken } from "/demo/backend.js";

const ONE = 500; // milliseconds: the first pause, doubled up to LONGEST
const LONGEST = 20_000;

/** Open a socket for `user` and keep one open. Returns `{ close }`. */
export function openPlain({ user, device, after, onFrame, onState, subprotocol = "notify.v1", ...codec }) {
  const { decode = JSON.parse, encode = JSON.stringify } = codec;
  let socket = null;
  let place = after === undefined ? {} : { after }; // where to go on: (epoch, seq), never seq alone
  let failures = 0;
  let retryAfter;
  let wanted = true;

  async function open() {
    onState("connecting");
    let token;
    try {
      token = await fetchToken(user);
    } catch {
      return later();
    }
    if (!wanted) return undefined;
    const query = new URLSearchParams({ device, ...place });
    // The token is offered as a subprotocol, since a browser can't set headers; it is never in the URL.
    socket = new WebSocket(`${location.origin.replace("http", "ws")}/v1/ws?${query}`, [subprotocol, `bearer.${token}`]);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => hear(decode(data), data.byteLength ?? data.length);
    socket.onerror = () => console.info(`${user}: the connection failed; its close says more`);
    socket.onclose = ({ code, reason }) => {
      if (!wanted) return;
      // 4400 to 4499: coming back as it is can't work. A token that ran out (4501) is replaced at once.
      if (code >= 4400 && code < 4500) onState("stopped", `${reason} (${code})`);
      else if (code === 4501) open();
      else later();
    };
    return undefined;
  }

  function later() {
    const ceiling = Math.min(LONGEST, ONE * 2 ** failures);
    failures += 1;
    const pause = retryAfter ?? Math.random() * ceiling;
    retryAfter = undefined;
    onState("waiting", `${(pause / 1000).toFixed(1)} s`);
    setTimeout(() => wanted && open(), pause);
  }

  function hear(frame, bytes) {
    if (frame.op === "welcome") {
      failures = 0;
      place = { after: frame.after, epoch: frame.epoch };
    } else if (frame.op === "caught_up") {
      onState("live");
    } else if (frame.op === "disconnect") {
      retryAfter = frame.retry_after_ms;
    }
    if (frame.seq !== undefined && frame.op !== "caught_up") {
      if (frame.seq <= place.after) return; // had already
      onFrame(frame, bytes);
      place.after = frame.seq;
      socket.send(encode({ op: "ack", seq: frame.seq })); // only now: what is not acknowledged comes again
    } else {
      onFrame(frame, bytes);
    }
  }

  open();
  return {
    close() {
      wanted = false;
      socket?.close(1000);
      onState("closed");
    },
  };
}
