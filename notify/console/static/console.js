// What the pages do beyond links and forms: refresh, pause, and say when they could not. Everything works without it but that.

const PAUSED = "notify-console-paused";
const SECONDS_LATE = 10; // without an answer for so long, the page says that it is old

const button = document.getElementById("pause");
const state = document.getElementById("refresh-state");
let answered = Date.now();
let refused = 0; // the status of the last answer, if it was none to show

const isSelecting = () => String(getSelection()) !== "";
const isPaused = () => sessionStorage.getItem(PAUSED) === "yes";

function say() {
  if (!button) return;
  const paused = isPaused();
  const age = Math.round((Date.now() - answered) / 1000);
  const late = !paused && age >= SECONDS_LATE;
  button.setAttribute("aria-pressed", String(paused));
  button.dataset.state = paused ? "paused" : late ? "late" : "live";
  const lost = refused ? `Answer ${refused}, ${age} s old` : `No answer for ${age} s`;
  const text = paused ? "Paused" : late ? lost : isSelecting() ? "Held for your selection" : "Live";
  if (state.textContent !== text) state.textContent = text;
}

button?.addEventListener("click", () => {
  sessionStorage.setItem(PAUSED, isPaused() ? "no" : "yes");
  answered = Date.now();
  say();
  if (!isPaused()) htmx.trigger("#live", "refresh");
});

document.addEventListener("htmx:beforeRequest", (event) => {
  // Nobody looks at a hidden tab, and nobody wants the text changed under a selection.
  if (event.target.id === "live" && (isPaused() || document.hidden || isSelecting())) {
    event.preventDefault();
    answered = Date.now();
  }
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "live") return;
  refused = event.detail.successful ? 0 : event.detail.xhr.status;
  if (event.detail.successful) answered = Date.now();
  say();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.getElementById("live")?.hasAttribute("hx-get")) htmx.trigger("#live", "refresh");
});

if (button) {
  button.hidden = false;
  setInterval(say, 1000);
  say();
}
