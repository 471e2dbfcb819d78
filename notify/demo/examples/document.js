/** A shared document: a replicated growable array of characters, whose edits are stored notifications. */

import { send } from "/demo/backend.js";
import { ADA, BEN, findSide, receivePlainly, receiveWithClient } from "/demo/sides.js";

const SEND_MS = 40; // edits and cursors of a moment travel together
const AGAIN_MS = 1_000;

/** The text. Each character has an id (a counter and a site) and stands right of the one it was typed after. */
class Text {
  #chars = []; // { key, n, site, char, gone }
  #places = new Set();
  #clock = 0;

  get value() {
    return this.#chars.filter(({ gone }) => !gone).map(({ char }) => char).join("");
  }

  get length() {
    return this.#chars.reduce((sum, { gone }) => sum + !gone, 0);
  }

  /** The key of the visible character left of a position; null at the beginning. */
  keyAt(position) {
    return position === 0 ? null : this.#visible()[position - 1]?.key ?? null;
  }

  positionOf(key) {
    if (key === null) return 0;
    let position = 0;
    for (const char of this.#chars) {
      if (!char.gone) position += 1;
      if (char.key === key) return position;
    }
    return position;
  }

  /** Make the edit that replaces `removed` characters at a position by `added`, and apply it. */
  edit(position, removed, added, site) {
    const visible = this.#visible();
    const edit = {
      gone: visible.slice(position, position + removed).map(({ key }) => key),
      after: this.keyAt(position),
      n: this.#clock + 1,
      site,
      text: added,
    };
    this.apply(edit);
    return edit;
  }

  /** Apply an edit of anybody's; the same one twice is applied once. */
  apply({ gone, after, n, site, text }) {
    for (const char of this.#chars) if (gone.includes(char.key)) char.gone = true;
    let left = after;
    [...text].forEach((char, place) => {
      const key = `${n + place}.${site}`;
      this.#clock = Math.max(this.#clock, n + place);
      if (!this.#places.has(key)) {
        this.#places.add(key);
        let at = left === null ? 0 : this.#chars.findIndex((other) => other.key === left) + 1;
        // Of two that were typed at the same place the later one stands left, the site decides between equals.
        while (at < this.#chars.length && isLater(this.#chars[at], n + place, site)) at += 1;
        this.#chars.splice(at, 0, { key, n: n + place, site, char, gone: false });
      }
      left = key;
    });
  }

  #visible() {
    return this.#chars.filter(({ gone }) => !gone);
  }
}

function isLater(char, n, site) {
  return char.n > n || (char.n === n && char.site > site);
}

class Editor {
  #side;
  #area;
  #text = new Text();
  #document = "";
  #site = Math.random().toString(36).slice(2, 6);
  #shown = "";
  #outbox = [];
  #sending = false;
  #cursorTimer = null;
  #cursor = null; // of the other one
  #edits = 0;
  #cursors = 0;

  constructor({ name, me, other, otherName, receive }) {
    this.#side = findSide(name);
    this.#area = this.#side.find("textarea");
    this.me = me;
    this.other = other;
    this.otherName = otherName;
    receive({
      user: me,
      device: "document",
      onState: (state, detail) => this.#side.show(state, detail),
      onFrame: (frame) => this.#hear(frame),
    });
    this.#area.addEventListener("input", () => this.#typed());
    for (const type of ["keyup", "click", "focus"]) this.#area.addEventListener(type, () => this.#tellCursor());
    this.#area.addEventListener("scroll", () => (this.#side.find(".carets").scrollTop = this.#area.scrollTop));
  }

  #typed() {
    const now = this.#area.value;
    const was = this.#shown;
    let start = 0;
    while (start < now.length && start < was.length && now[start] === was[start]) start += 1;
    let end = 0;
    while (end < now.length - start && end < was.length - start && now.at(-1 - end) === was.at(-1 - end)) end += 1;
    const [from, to] = [[...was.slice(0, start)].length, [...was.slice(start, was.length - end)].length];
    const edit = this.#text.edit(from, to, now.slice(start, now.length - end), this.#site);
    this.#shown = now;
    this.#outbox.push(edit);
    this.#drawCaret();
    if (!this.#sending) this.#send();
    this.#tellCursor();
  }

  /** Send edits in their order, and again until they are stored: an edit that comes twice counts once. */
  async #send() {
    this.#sending = true;
    while (this.#outbox.length > 0) {
      await new Promise((resolve) => setTimeout(resolve, SEND_MS));
      const edits = this.#outbox.splice(0);
      const data = { document: this.#document, edits };
      try {
        await send({ to: [this.me, this.other], type: "document.edit", data });
      } catch {
        this.#outbox.unshift(...edits);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
    this.#sending = false;
  }

  #tellCursor() {
    this.#cursorTimer ??= setTimeout(() => {
      this.#cursorTimer = null;
      const position = [...this.#area.value.slice(0, this.#area.selectionStart)].length;
      const data = { document: this.#document, after: this.#text.keyAt(position) };
      send({ to: this.other, type: "document.cursor", data, ttl: 0 }).catch(() => {});
    }, SEND_MS);
  }

  #hear({ id, type, data }) {
    if (type === "document.begin" && id > this.#document) {
      this.#document = id;
      this.#text = new Text();
      this.#cursor = null;
      this.#show();
    } else if (data?.document !== this.#document) {
      return;
    } else if (type === "document.edit") {
      this.#edits += 1;
      this.#side.find(".edits").textContent = this.#edits;
      const { selectionStart, selectionEnd } = this.#area;
      const ends = [selectionStart, selectionEnd].map((end) => this.#text.keyAt([...this.#shown.slice(0, end)].length));
      for (const edit of data.edits) this.#text.apply(edit);
      this.#show(ends);
    } else if (type === "document.cursor") {
      this.#cursors += 1;
      this.#side.find(".cursors").textContent = this.#cursors;
      this.#cursor = { after: data.after };
      this.#drawCaret();
    }
  }

  #show(ends) {
    const value = this.#text.value;
    if (value !== this.#shown) {
      this.#area.value = this.#shown = value;
      if (ends) {
        const units = ends.map((key) => [...value].slice(0, this.#text.positionOf(key)).join("").length);
        this.#area.setSelectionRange(units[0], units[1]);
      }
    }
    this.#drawCaret();
  }

  /** The other one's cursor, in a copy of the text that lies under the real one. */
  #drawCaret() {
    const place = this.#side.find(".carets");
    if (this.#cursor === null) {
      place.replaceChildren();
      return;
    }
    const letters = [...this.#shown];
    const position = this.#text.positionOf(this.#cursor.after);
    const caret = document.createElement("i");
    caret.dataset.who = this.otherName;
    place.replaceChildren(letters.slice(0, position).join(""), caret, letters.slice(position).join(""));
    place.scrollTop = this.#area.scrollTop;
  }
}

new Editor({ name: "ada", me: ADA, other: BEN, otherName: "Ben", receive: receiveWithClient });
new Editor({ name: "ben", me: BEN, other: ADA, otherName: "Ada", receive: receivePlainly });
document.getElementById("fresh").addEventListener("click", () => {
  send({ to: [ADA, BEN], type: "document.begin", data: null });
});
