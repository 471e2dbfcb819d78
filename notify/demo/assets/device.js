/** A device on the page: a client of its own, its inbox, bell, toasts and plug. */

import { connect } from "/client/notify.js";
import { fetchToken } from "/demo/backend.js";
import { Network } from "/demo/network.js";

const SHOWN = 60; // rows of the inbox: a page, not an archive
const EXPIRY_MS = 500; // after which the service's clock, too, says so
const TOASTS = 3;
const TOAST_MS = 4_000;
const WIRE = 150; // rows of the wire's log

const LOOK = {
  "order.shipped": ["parcel", (data) => [`Order ${data.order} is on its way`, data.note]],
  "chat.typing": ["dots", (data) => [`${data.who} is typing…`, "seen by whoever is there right now"]],
  "build.progress": ["gauge", (data) => [`Build ${data.build} at ${data.percent} %`, "replaces what still waits"]],
  "meeting.soon": ["clock", (data) => [data.title, "came when it was due"]],
  "login.code": ["key", (data) => [`Your code is ${data.code}`, "gone when it has expired"]],
  "news.headline": ["people", (data) => [data.headline, "for everyone who is subscribed"]],
  "load.item": ["stack", (data) => [`Item ${data.number} of ${data.of}`, ""]],
};

const TOLD = {
  connecting: "connecting…",
  replaying: "catching up…",
  live: "live",
  stopped: "stopped",
  closed: "closed",
};

export class Device {
  #element;
  #list;
  #items = new Map(); // by seq
  #waiting = []; // to be drawn with the next frame
  #drawing = false;
  #replayed = 0;
  #expected = null; // the number of a burst's next item
  network = new Network();

  constructor({ user, device, name, icon, place, onEvent }) {
    const element = document.getElementById("device").content.firstElementChild.cloneNode(true);
    this.#element = element;
    this.#list = element.querySelector(".list");
    this.onEvent = onEvent;
    this.name = device;
    element.classList.add(device);
    element.querySelector(".kind use").setAttribute("href", `#${icon}`);
    element.querySelector(".name b").textContent = name;
    place.append(element);

    this.client = connect({
      url: location.origin,
      token: () => fetchToken(user),
      device,
      share: false, // two devices on one page are two on purpose
      WebSocket: this.network.WebSocket,
      fetch: this.network.fetch,
    });
    this.#follow();
    this.#wire();

    const plug = element.querySelector("input");
    plug.setAttribute("aria-label", `${name} online`);
    plug.addEventListener("change", () => {
      this.network.online = plug.checked;
      element.classList.toggle("offline", !plug.checked);
      element.querySelector(".switch span").textContent = plug.checked ? "Online" : "Offline";
      if (plug.checked) this.client.reconnect();
      this.onEvent(plug.checked ? "back" : "cut", this);
    });
    element.querySelector(".all").addEventListener("click", () => {
      const newest = Math.max(...this.#items.keys());
      this.#mark({ upTo: newest });
    });
    this.#load();
  }

  get unread() {
    return this.client.unread ?? 0;
  }

  async #load() {
    try {
      const { items } = await this.client.inbox({ limit: SHOWN });
      for (const item of items.reverse()) this.#add(item, { old: true, read: item.read_at !== null });
    } catch (error) {
      this.#toast("bell", "The inbox could not be loaded", error.message);
    }
  }

  #follow() {
    const { client } = this;
    client.on("notification", (frame) => {
      const replayed = client.state === "replaying";
      if (replayed && frame.seq !== undefined) this.#replayed += 1;
      if (frame.seq !== undefined) this.#add(frame, { replayed });
      this.#announce(frame, replayed);
      this.onEvent("arrived", this, frame);
    });
    client.on("read", ({ up_to: upTo, seqs }) => {
      for (const [seq, item] of this.#items) {
        if (upTo !== undefined ? seq <= upTo : seqs.includes(seq)) this.#setRead(item);
      }
      this.onEvent("read", this);
    });
    client.on("retract", ({ of }) => this.#remove(of));
    client.on("truncated", () => this.#load());
    client.on("caught_up", () => {
      if (this.#replayed > 0) {
        this.#toast("check", `${this.#replayed} came while it was away`, "in order, none lost, none twice", true);
        this.onEvent("replayed", this, this.#replayed);
      }
      this.#replayed = 0;
    });
    client.on("unread", ({ unread }) => {
      const badge = this.#element.querySelector(".badge");
      badge.hidden = unread === 0;
      badge.textContent = unread > 99 ? "99+" : unread;
      this.#element.querySelector(".bell").classList.toggle("has", unread > 0);
      this.#element.querySelector(".all").disabled = unread === 0;
    });
    client.on("state", ({ state, retryIn, code, reason, transport }) => {
      const told = this.#element.querySelector(".state");
      this.#element.dataset.state = this.network.online ? state : "offline";
      if (!this.network.online) told.textContent = "offline";
      else if (state === "waiting") told.textContent = `trying again in ${(retryIn / 1000).toFixed(1)} s`;
      else told.textContent = TOLD[state] + (state === "stopped" ? `: ${reason} (${code})` : "");
      if (state === "live" && transport === "sse") told.textContent += " by SSE";
    });
  }

  #mark(what) {
    this.client.markRead(what).catch((error) => this.#toast("bell", "Not marked", error.message));
  }

  // The inbox

  #add(frame, { old = false, read = false, replayed = false } = {}) {
    if (this.#items.has(frame.seq)) return;
    this.#items.set(frame.seq, { frame, read, old, replayed, node: null });
    this.#waiting.push(frame.seq);
    const until = frame.data?.expires_at ? Date.parse(frame.data.expires_at) - Date.now() : null;
    if (until !== null) {
      setTimeout(() => {
        this.#remove(frame.seq);
        if (this.network.online) this.client.recount().catch(() => {});
      }, Math.max(until, 0) + EXPIRY_MS);
    }
    if (this.#drawing) return;
    this.#drawing = true;
    // A hidden page gets no frames to draw in, and this one may be behind another window.
    (document.hidden ? setTimeout : requestAnimationFrame)(() => this.#draw());
  }

  #draw() {
    this.#drawing = false;
    for (const seq of this.#waiting.splice(0).slice(-SHOWN)) {
      const item = this.#items.get(seq);
      if (item === undefined) continue;
      item.node = this.#build(item);
      const below = [...this.#list.children].find((node) => Number(node.dataset.seq) < seq);
      this.#list.insertBefore(item.node, below ?? null);
    }
    while (this.#list.children.length > SHOWN) {
      const last = this.#list.lastElementChild;
      this.#items.delete(Number(last.dataset.seq));
      last.remove();
    }
    this.#element.classList.toggle("has-items", this.#items.size > 0);
  }

  #build(item) {
    const { frame } = item;
    const [icon, [title, note]] = describe(frame);
    const node = document.createElement("li");
    node.dataset.seq = frame.seq;
    node.classList.toggle("unread", !item.read);
    node.classList.toggle("old", item.old);
    const open = document.createElement("button");
    open.type = "button";
    const time = new Date(frame.created_at).toLocaleTimeString([], { hourCycle: "h23", timeStyle: "medium" });
    const place = text("em", "");
    if (item.replayed) place.append(text("i", "replayed"));
    place.append(`#${frame.seq}`);
    open.append(drawIcon(icon), text("b", title), text("small", time), text("span", note ?? ""), place);
    open.addEventListener("click", () => !item.read && this.#mark({ seqs: [frame.seq] }));
    node.append(open);
    return node;
  }

  #setRead(item) {
    item.read = true;
    item.node?.classList.remove("unread");
  }

  #remove(seq) {
    const item = this.#items.get(seq);
    if (item === undefined) return;
    this.#items.delete(seq);
    item.node?.classList.add("going");
    setTimeout(() => {
      item.node?.remove();
      this.#element.classList.toggle("has-items", this.#items.size > 0);
    }, 350);
  }

  // Toasts

  #announce(frame, replayed) {
    if (frame.type === "load.item") {
      const { number, of } = frame.data;
      if (number === 1) this.#expected = 1;
      this.#expected = this.#expected === number ? number + 1 : NaN;
      if (number === of && !replayed) {
        this.#toast("stack", `${of} arrived`, this.#expected === of + 1 ? "in order, none lost, none twice" : "", true);
      }
      return;
    }
    if (replayed) return;
    const [icon, [title, note]] = describe(frame);
    this.#toast(icon, title, note, false, frame.seq === undefined);
  }

  #toast(icon, title, note = "", good = false, momentary = false) {
    const place = this.#element.querySelector(".toasts");
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.classList.toggle("good", good);
    toast.append(drawIcon(icon), text("b", title), text("span", note));
    if (momentary) toast.append(text("i", "not stored"));
    place.prepend(toast);
    while (place.children.length > TOASTS) place.lastElementChild.remove();
    setTimeout(() => toast.classList.add("going"), TOAST_MS);
    setTimeout(() => toast.remove(), TOAST_MS + 300);
    const bell = this.#element.querySelector(".bell svg");
    bell.classList.remove("rings");
    void bell.getBoundingClientRect(); // begins the animation anew
    bell.classList.add("rings");
  }

  // The wire

  #wire() {
    const rows = this.#element.querySelector(".wire ol");
    const count = this.#element.querySelector(".wire summary span");
    let frames = 0;
    this.network.addEventListener("frame", ({ detail: { direction, text: json } }) => {
      frames += 1;
      count.textContent = frames;
      const row = text("li", json);
      row.className = direction;
      rows.prepend(row);
      if (rows.children.length > WIRE) rows.lastElementChild.remove();
    });
  }
}

function describe({ type, data }) {
  const [icon, write] = LOOK[type] ?? ["bell", () => [type, JSON.stringify(data)]];
  return [icon, write(data ?? {})];
}

export function drawIcon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

export function text(tag, content) {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}
