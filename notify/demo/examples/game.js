/** A game: where a dot is goes out 20 times a second and is never stored; a coin that is taken is. */

import { send } from "/demo/backend.js";
import { ADA, BEN, findSide, receivePlainly, receiveWithClient } from "/demo/sides.js";

const WIDTH = 640;
const HEIGHT = 480;
const STEP_MS = 50; // 20 positions a second
const IN_FLIGHT = 4; // positions on their way at most: a late one is worth nothing
const COINS = 12;
const REACH = 20; // pixels between a dot and a coin it takes
const TRAIL = 12;

/** The coins of a round: the same everywhere, since they follow from its name. */
function placeCoins(round) {
  let state = [...round].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) >>> 0, 7);
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Array.from({ length: COINS }, () => ({ x: 30 + random() * (WIDTH - 60), y: 30 + random() * (HEIGHT - 60) }));
}

/** What one player knows of the game: out of stored moves alone, in whatever order they came. */
class Field {
  round = "";
  coins = [];
  taken = new Map(); // coin: { id, who }, the lowest id first

  begin(id) {
    if (id <= this.round) return;
    this.round = id;
    this.coins = placeCoins(id);
    this.taken.clear();
  }

  take(id, { round, coin, who }) {
    if (round !== this.round) return;
    const known = this.taken.get(coin);
    if (known === undefined || id < known.id) this.taken.set(coin, { id, who });
  }

  count(who) {
    return [...this.taken.values()].filter((move) => move.who === who).length;
  }
}

class Player {
  #side;
  #canvas;
  #field = new Field();
  #at;
  #sent = null;
  #inFlight = 0;
  #asked = new Set();
  #others = []; // where the other one was, newest last
  #heard = [];
  #delays = [];
  bot = false;

  constructor({ name, me, other, receive, colors, start }) {
    this.#side = findSide(name);
    this.#canvas = this.#side.find("canvas");
    this.#at = start;
    this.me = me;
    this.other = other;
    this.colors = colors;
    receive({
      user: me,
      device: "game",
      onState: (state, detail) => this.#side.show(state, detail),
      onFrame: (frame) => this.#hear(frame),
    });
    this.#canvas.addEventListener("pointermove", (event) => {
      const box = this.#canvas.getBoundingClientRect();
      this.bot = false;
      const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.#at = { x: across * WIDTH, y: down * HEIGHT };
    });
    setInterval(() => this.#step(), STEP_MS);
    const draw = () => {
      this.#draw();
      requestAnimationFrame(draw);
    };
    draw();
  }

  #hear({ id, type, data }) {
    if (type === "game.at") {
      this.#others = [...this.#others.slice(1 - TRAIL), data];
      this.#heard.push(Date.now());
      this.#delays = [...this.#delays.slice(-40), Date.now() - data.sent];
    } else if (type === "game.round") {
      this.#field.begin(id);
      this.#asked.clear();
    } else if (type === "game.take") {
      this.#field.take(id, data);
    }
  }

  get round() {
    return this.#field.round;
  }

  #step() {
    if (this.bot) this.#chase();
    this.#reach();
    const { x, y } = this.#at;
    const moved = this.#sent === null || this.#sent.x !== x || this.#sent.y !== y;
    if (moved && this.#inFlight < IN_FLIGHT) {
      this.#sent = { x, y };
      this.#inFlight += 1;
      send({ to: this.other, type: "game.at", data: { x: Math.round(x), y: Math.round(y), sent: Date.now() }, ttl: 0 })
        .catch(() => {})
        .finally(() => (this.#inFlight -= 1));
    }
    this.#heard = this.#heard.filter((when) => when > Date.now() - 1000);
    this.#side.find(".rate").textContent = this.#heard.length;
    this.#side.find(".coins").textContent = this.#field.count(this.me);
    if (this.#delays.length > 0) {
      this.#side.find(".delay").textContent = this.#delays.toSorted((a, b) => a - b)[this.#delays.length >> 1];
    }
  }

  /** Go for the nearest coin, not quite straight. */
  #chase() {
    const free = this.#field.coins.filter((_, coin) => !this.#field.taken.has(coin));
    const distance = (coin) => Math.hypot(coin.x - this.#at.x, coin.y - this.#at.y);
    const goal = free.toSorted((a, b) => distance(a) - distance(b))[0] ?? { x: WIDTH / 2, y: HEIGHT / 2 };
    const sway = Math.sin(Date.now() / 300) * 0.6;
    const angle = Math.atan2(goal.y - this.#at.y, goal.x - this.#at.x) + sway;
    const pace = Math.min(7, distance(goal));
    this.#at = { x: this.#at.x + Math.cos(angle) * pace, y: this.#at.y + Math.sin(angle) * pace };
  }

  /** Take what is in reach: a move that counts, so it is stored and goes to both. */
  #reach() {
    this.#field.coins.forEach(({ x, y }, coin) => {
      if (this.#field.taken.has(coin) || this.#asked.has(coin)) return;
      if (Math.hypot(x - this.#at.x, y - this.#at.y) > REACH) return;
      this.#asked.add(coin);
      const data = { round: this.#field.round, coin, who: this.me };
      send({ to: [this.me, this.other], type: "game.take", data }).catch(() => this.#asked.delete(coin));
    });
  }

  #draw() {
    const pen = this.#canvas.getContext("2d");
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    this.#field.coins.forEach(({ x, y }, coin) => {
      const move = this.#field.taken.get(coin);
      pen.beginPath();
      pen.arc(x, y, move ? 4 : 11, 0, 7);
      pen.fillStyle = move ? this.colors[move.who] : "#e8a317";
      pen.globalAlpha = move ? 0.5 : 1;
      pen.fill();
      pen.globalAlpha = 1;
      if (move) return;
      pen.lineWidth = 2;
      pen.strokeStyle = "#fff8";
      pen.stroke();
    });
    this.#others.forEach(({ x, y }, place) => {
      const last = place === this.#others.length - 1;
      pen.globalAlpha = last ? 1 : (place / TRAIL) * 0.4;
      this.#dot(pen, x, y, this.colors[this.other], last ? 15 : 9);
    });
    pen.globalAlpha = 1;
    this.#dot(pen, this.#at.x, this.#at.y, this.colors[this.me], 15);
    pen.lineWidth = 3;
    pen.strokeStyle = "#fff";
    pen.stroke();
  }

  #dot(pen, x, y, color, size) {
    pen.beginPath();
    pen.arc(x, y, size, 0, 7);
    pen.fillStyle = color;
    pen.fill();
  }
}

const colors = { [ADA]: "#6d4df2", [BEN]: "#d9568b" };
const players = [
  new Player({ name: "ada", me: ADA, other: BEN, colors, start: { x: 90, y: 240 }, receive: receiveWithClient }),
  new Player({ name: "ben", me: BEN, other: ADA, colors, start: { x: 550, y: 240 }, receive: receivePlainly }),
];

const begin = () => send({ to: [ADA, BEN], type: "game.round", data: null });
document.getElementById("fresh").addEventListener("click", begin);
document.getElementById("bots").addEventListener("click", () => {
  for (const player of players) player.bot = true;
});
setTimeout(() => players.every((player) => player.round === "") && begin(), 1500);
