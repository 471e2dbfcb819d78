/** The demo's first page: an app that sends, and two devices of one user. */

import { cancel, chooseUser, follow, send, subscribe } from "/demo/backend.js";
import { Device, drawIcon, text } from "/demo/device.js";
import { Tour } from "/demo/tour.js";

const BURST = 500;
const RECEIPTS = 7;
const FOLLOW_MS = 700;
const FINAL = new Set(["delivered", "read", "expired", "cancelled", "collapsed"]);

const user = chooseUser("you");
const TOPIC = `demo-news-${user}`;
const others = ["demo-ada", "demo-ben"];

document.getElementById("user").textContent = user;
document.getElementById("again").addEventListener("click", () => {
  chooseUser("you", { fresh: true });
  location.reload();
});

const theme = document.getElementById("theme");
document.documentElement.dataset.theme = localStorage.getItem("demo.theme") ?? "";
theme.addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
  const chosen = dark ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem("demo.theme", chosen);
});

const tour = new Tour(document.getElementById("tour"));
const place = document.getElementById("devices");
const onEvent = (what, device, detail) => tour.hear(what, device, detail);
const devices = [
  new Device({ user, device: "laptop", name: "Laptop", icon: "laptop", place, onEvent }),
  new Device({ user, device: "phone", name: "Phone", icon: "phone", place, onEvent }),
];

// What the buttons send

let order = 1041;
let build = 7;
let percent = 0;

const after = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();
const pick = (...choices) => choices[Math.floor(Math.random() * choices.length)];

const KINDS = {
  plain: () => {
    order += 1;
    const note = pick("arrives on Thursday", "left the warehouse", "with the courier");
    return { to: user, type: "order.shipped", data: { order, note } };
  },
  momentary: () => ({ to: user, type: "chat.typing", data: { who: "Ben" }, ttl: 0 }),
  collapse: () => {
    percent = percent >= 100 ? 20 : percent + 20;
    if (percent === 20) build += 1;
    return { to: user, type: "build.progress", data: { build, percent }, collapse_key: `build-${build}` };
  },
  scheduled: () => ({ to: user, type: "meeting.soon", data: { title: "Stand-up begins" }, deliver_at: after(6) }),
  expiring: () => {
    const data = { code: String(Math.random()).slice(2, 8), expires_at: after(12) };
    return { to: user, type: "login.code", data, ttl: 12 };
  },
  topic: () => {
    const headline = pick("Release day", "New office dog", "All systems calm");
    return { topic: TOPIC, type: "news.headline", data: { headline } };
  },
};

const LABELS = {
  plain: ["parcel", ({ data }) => `Order ${data.order}`],
  momentary: ["dots", () => "Ben is typing"],
  collapse: ["gauge", ({ data }) => `Build ${data.build}, ${data.percent} %`],
  scheduled: ["clock", () => "Stand-up"],
  expiring: ["key", ({ data }) => `Code ${data.code}`],
  topic: ["people", () => "News, 3 people"],
  burst: ["stack", () => `Last of ${BURST}`],
};

let last = null; // the id of what can still be withdrawn

async function act(kind) {
  if (kind === "cancel") {
    if (last === null) return tell("Nothing is pending. Send the stand-up, or take both devices offline first.");
    showRequest(`DELETE /v1/notifications/${last}`);
    await cancel(last);
    return undefined;
  }
  if (kind === "topic") await subscribe(TOPIC, user, ...others);
  let notifications;
  if (kind === "burst") {
    notifications = Array.from({ length: BURST }, (_, place) => ({
      to: user,
      type: "load.item",
      data: { number: place + 1, of: BURST },
    }));
    showRequest("POST /v1/notifications/batch", { notifications: [notifications[0], `… ${BURST - 1} more`] });
  } else {
    notifications = [KINDS[kind]()];
    showRequest("POST /v1/notifications", notifications[0]);
  }
  const { ids } = await send(...notifications);
  tour.hear("sent");
  if (kind === "collapse") {
    document.querySelector('[data-kind="collapse"] b').textContent = `Build at ${percent >= 100 ? 20 : percent + 20} %`;
  }
  addReceipt(kind, notifications.at(-1), ids.at(-1));
  return undefined;
}

document.getElementById("kinds").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (button === null) return;
  button.classList.remove("sent");
  void button.offsetWidth; // begins the animation anew
  button.classList.add("sent");
  try {
    await act(button.dataset.kind);
  } catch (error) {
    tell(error.message);
  }
});

function showRequest(line, body) {
  const place = document.getElementById("request");
  const code = text("code", line);
  place.replaceChildren(code);
  if (body !== undefined) code.append(`\n${JSON.stringify(body, null, 2)}`);
}

// Receipts

const receipts = document.getElementById("receipts");

function tell(message) {
  const row = text("li", message);
  row.className = "told";
  receipts.querySelector(".empty")?.remove();
  receipts.prepend(row);
  setTimeout(() => row.remove(), 5000);
}

function addReceipt(kind, notification, id) {
  receipts.querySelector(".empty")?.remove();
  const [icon, label] = LABELS[kind];
  const row = document.createElement("li");
  const pills = text("span", "");
  row.append(drawIcon(icon), text("b", label(notification)), pills);
  receipts.prepend(row);
  while (receipts.children.length > RECEIPTS) receipts.lastElementChild.remove();
  if (notification.ttl === 0) {
    pills.append(text("i", "not stored"));
    return;
  }
  last = id;
  watch(row, pills, id);
}

/** Ask how it stands until that can't change any more but by being read, or until nobody sees the row. */
async function watch(row, pills, id) {
  let asked = 0;
  while (row.isConnected && asked < 400) {
    asked += 1;
    const counts = await follow(id).catch(() => null);
    if (counts !== null) {
      const standing = Object.entries(counts).filter(([, count]) => count > 0);
      pills.replaceChildren(
        ...standing.map(([status, count]) => {
          const pill = text("i", count > 1 ? `${count} ${status}` : status);
          pill.className = status;
          return pill;
        }),
      );
      const final = standing.every(([status]) => FINAL.has(status));
      if (final && id === last) last = null;
      if (standing.every(([status]) => FINAL.has(status) && status !== "delivered")) return;
    }
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS + asked * 20));
  }
}

// For whoever plays with it in the browser's console.
window.devices = devices;
