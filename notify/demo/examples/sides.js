/** What the examples share: two people of this browser, Ada on our client and Ben on the plain WebSocket. */

import { connect } from "/client/notify.js";
import { chooseUser, fetchToken } from "/demo/backend.js";
import { openPlain } from "/demo/plain.js";

const THEME = localStorage.getItem("demo.theme");
if (THEME) document.documentElement.dataset.theme = THEME; // as chosen on the first page

export const ADA = chooseUser("ada");
export const BEN = chooseUser("ben");

/** A place in the page for one of the two. */
export function findSide(name) {
  const element = document.querySelector(`[data-who="${name}"]`);
  const find = (selector) => element.querySelector(selector);
  const status = find(".status");
  const show = (state, detail = "") => {
    status.dataset.state = state;
    status.textContent = detail ? `${state}: ${detail}` : state;
  };
  return { element, find, show };
}

/** Receive with our client. What came before is read from the inbox, oldest first, and then everything live. */
export function receiveWithClient({ user, device, onFrame, onState, history = true }) {
  const client = connect({ url: location.origin, token: () => fetchToken(user), device, share: false });
  const loaded = history ? readHistory(client).then((frames) => frames.forEach((frame) => onFrame(frame, true))) : null;
  client.on("notification", async (frame) => {
    await loaded; // what is old comes first
    onFrame(frame, client.state === "replaying");
  });
  client.on("state", ({ state, reason }) => onState(state, state === "waiting" || state === "stopped" ? reason : ""));
  return client;
}

async function readHistory(client) {
  const frames = [];
  let before;
  do {
    const page = await client.inbox({ before, limit: 500 });
    frames.push(...page.items);
    before = page.next;
  } while (before !== null);
  return frames.reverse();
}

/** Receive without it. What came before is replayed by the service: `after=0` asks for all there is. */
export function receivePlainly({ user, device, onFrame, onState, after = 0, ...codec }) {
  let replaying = true;
  return openPlain({
    user,
    device,
    after,
    ...codec,
    onState,
    onFrame: (frame, bytes) => {
      if (frame.op === "welcome") replaying = true;
      if (frame.op === "caught_up") replaying = false;
      if (frame.op === "notification") onFrame(frame, replaying, bytes);
    },
  });
}
