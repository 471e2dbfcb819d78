/** The five things to try first, ticked off as they happen. */

export class Tour {
  #list;
  #missed = 0;
  #cut = false;

  constructor(list) {
    this.#list = list;
    this.#point();
  }

  /** Hear of what happened on the page. */
  hear(what, device) {
    if (what === "sent") {
      this.#tick("send");
      if (this.#cut) {
        this.#missed += 1;
        if (this.#missed >= 3) this.#tick("miss");
      }
    } else if (what === "cut" && device.name === "phone") {
      this.#cut = true;
      this.#tick("cut");
    } else if (what === "back") {
      this.#cut = false;
    } else if (what === "replayed") {
      this.#tick("replay");
    } else if (what === "read") {
      this.#tick("read");
    }
  }

  #tick(step) {
    this.#list.querySelector(`[data-step="${step}"]`).classList.add("done");
    this.#point();
  }

  /** Show which is next. */
  #point() {
    const steps = [...this.#list.children];
    const next = steps.find((step) => !step.classList.contains("done"));
    for (const step of steps) step.classList.toggle("next", step === next);
    this.#list.classList.toggle("finished", next === undefined);
  }
}
