/** A price feed: ticks to a topic with `ttl: 0`, alerts stored; JSON on one side, MessagePack on the other. */

import { send, subscribe } from "/demo/backend.js";
import { decode, encodeAck } from "/demo/msgpack.js";
import { ADA, BEN, findSide, receivePlainly, receiveWithClient } from "/demo/sides.js";

const TICK_MS = 200;
const MARK = 5; // an alert at every multiple of it
const KEPT = 60; // prices in a line
const ALERTS = 30;
const TOPIC = `demo-prices-${ADA.replace("demo-", "")}`;
const START = { ACME: 101.2, GLOBEX: 57.4, INITECH: 33.9, UMBRELLA: 212.7 };

class Board {
  #rows = new Map();
  #alerts = new Set();
  #ticks = 0;
  #bytes = 0;

  constructor(name, receive) {
    this.side = findSide(name);
    receive({
      onState: (state, detail) => this.side.show(state, detail),
      onFrame: (frame, _old, bytes) => this.#hear(frame, bytes ?? JSON.stringify(frame).length),
    });
  }

  #hear({ id, type, data, created_at: at }, bytes) {
    if (type === "prices.tick") {
      this.#ticks += 1;
      this.#bytes += bytes;
      this.side.find(".ticks").textContent = this.#ticks;
      this.side.find(".bytes").textContent = this.#bytes.toLocaleString();
      this.side.find(".each").textContent = Math.round(this.#bytes / this.#ticks);
      for (const [symbol, price] of Object.entries(data)) this.#show(symbol, price);
    } else if (type === "prices.alert" && !this.#alerts.has(id)) {
      this.#alerts.add(id);
      const row = document.createElement("li");
      const time = new Date(at).toLocaleTimeString([], { hourCycle: "h23" });
      row.textContent = `${time}  ${data.symbol} ${data.rose ? "above" : "below"} ${data.mark}`;
      row.className = data.rose ? "up" : "down";
      const list = this.side.find(".alerts");
      list.prepend(row);
      if (list.children.length > ALERTS) list.lastElementChild.remove();
    }
  }

  #show(symbol, price) {
    let row = this.#rows.get(symbol);
    if (row === undefined) {
      const element = this.side.find("tbody").insertRow();
      element.insertCell().textContent = symbol;
      const cell = element.insertCell();
      const canvas = element.insertCell().appendChild(document.createElement("canvas"));
      canvas.width = 240;
      canvas.height = 34;
      row = { cell, canvas, prices: [] };
      this.#rows.set(symbol, row);
    }
    const before = row.prices.at(-1) ?? price;
    row.prices = [...row.prices.slice(1 - KEPT), price];
    row.cell.textContent = price.toFixed(2);
    row.cell.className = price > before ? "up" : price < before ? "down" : "";
    drawLine(row.canvas, row.prices);
  }
}

function drawLine(canvas, prices) {
  const pen = canvas.getContext("2d");
  const low = Math.min(...prices);
  const span = Math.max(...prices) - low || 1;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.beginPath();
  prices.forEach((price, place) => pen.lineTo((place / (KEPT - 1)) * canvas.width, 31 - ((price - low) / span) * 28));
  pen.lineWidth = 2;
  pen.strokeStyle = getComputedStyle(canvas).getPropertyValue("--accent");
  pen.stroke();
}

new Board("ada", (on) => receiveWithClient({ user: ADA, device: "prices", ...on }));
new Board("ben", (on) =>
  receivePlainly({ user: BEN, device: "prices", subprotocol: "notify.v1.msgpack", decode, encode: encodeAck, ...on }),
);

// The feed itself, which a real back end would be

const prices = { ...START };
let timer = null;
let sending = false;

async function tick() {
  if (sending) return; // a tick that would come late is left out
  sending = true;
  const alerts = [];
  for (const [symbol, price] of Object.entries(prices)) {
    const next = Math.max(1, Math.round((price + (Math.random() - 0.5) * price * 0.012) * 100) / 100);
    const mark = Math.max(Math.floor(price / MARK), Math.floor(next / MARK)) * MARK;
    if (Math.floor(price / MARK) !== Math.floor(next / MARK)) {
      alerts.push({ topic: TOPIC, type: "prices.alert", data: { symbol, mark, rose: next > price } });
    }
    prices[symbol] = next;
  }
  try {
    await send({ topic: TOPIC, type: "prices.tick", data: prices, ttl: 0 }, ...alerts);
  } catch (error) {
    console.warn("the feed pauses", error);
  } finally {
    sending = false;
  }
}

const button = document.getElementById("run");
button.addEventListener("click", async () => {
  if (timer === null) {
    await subscribe(TOPIC, ADA, BEN);
    timer = setInterval(tick, TICK_MS);
    button.textContent = "Stop the feed";
  } else {
    clearInterval(timer);
    timer = null;
    button.textContent = "Start the feed";
  }
});
