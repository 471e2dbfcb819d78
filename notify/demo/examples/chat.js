/** A chat: messages are stored and go to both; "is typing" is for whoever is there. */

import { send } from "/demo/backend.js";
import { ADA, BEN, findSide, receivePlainly, receiveWithClient } from "/demo/sides.js";

const TYPING_MS = 2_500; // how long "is typing" stands
const TYPING_GAP_MS = 1_500; // how often it is said

class Person {
  #side;
  #receive;
  #names;
  #open = null;
  #seen = new Set();
  #fade = null;
  #saidTyping = 0;
  #here = false; // caught up once since this person came

  constructor({ name, me, other, receive, names }) {
    this.#side = findSide(name);
    this.#receive = receive;
    this.#names = names;
    this.me = me;
    const form = this.#side.find("form");
    const input = this.#side.find("input");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = input.value.trim();
      if (text === "") return;
      input.value = "";
      try {
        await send({ to: [me, other], type: "chat.message", data: { from: me, text } });
      } catch (error) {
        input.value = text;
        this.#side.find(".typing").textContent = `not sent: ${error.message}`;
      }
    });
    input.addEventListener("input", () => {
      if (Date.now() - this.#saidTyping < TYPING_GAP_MS) return;
      this.#saidTyping = Date.now();
      send({ to: other, type: "chat.typing", data: { from: me }, ttl: 0 }).catch(() => {});
    });
    this.#side.find(".leave").addEventListener("click", () => (this.#open === null ? this.come() : this.leave()));
    this.come();
  }

  come() {
    const first = this.#seen.size === 0;
    this.#here = false;
    this.#open = this.#receive({
      user: this.me,
      device: "chat",
      onState: (state, detail) => {
        this.#here ||= state === "live";
        this.#side.show(state, detail);
      },
      onFrame: (frame) => this.#hear(frame, !first && !this.#here),
    });
    this.#side.find(".leave").textContent = "Leave";
  }

  leave() {
    this.#open.close();
    this.#open = null;
    this.#side.find(".leave").textContent = "Come back";
  }

  #hear({ id, type, data }, missed) {
    const typing = this.#side.find(".typing");
    clearTimeout(this.#fade);
    if (type === "chat.typing") {
      typing.textContent = `${this.#names[data.from] ?? "Somebody"} is typing…`;
      this.#fade = setTimeout(() => (typing.textContent = ""), TYPING_MS);
    } else if (type === "chat.message" && !this.#seen.has(id)) {
      this.#seen.add(id);
      typing.textContent = "";
      const row = document.createElement("li");
      row.textContent = data.text;
      row.classList.toggle("mine", data.from === this.me);
      row.classList.toggle("missed", missed);
      const talk = this.#side.find(".talk");
      talk.append(row);
      talk.scrollTop = talk.scrollHeight;
    }
  }
}

const names = { [ADA]: "Ada", [BEN]: "Ben" };
new Person({ name: "ada", me: ADA, other: BEN, names, receive: receiveWithClient });
new Person({ name: "ben", me: BEN, other: ADA, names, receive: receivePlainly });
