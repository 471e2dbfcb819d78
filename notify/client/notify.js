/**
 * A user's notifications, in a browser or in Node 20 and newer. One module, no dependencies, no build step.
 *
 *     import { connect } from "https://the.service/client/notify.js";
 *
 *     const client = connect({ url: "https://the.service", token: () => fetch("/my/token").then((r) => r.text()) });
 *     client.on("notification", async (frame) => show(frame.type, frame.data));
 *     client.on("unread", ({ unread }) => (badge.textContent = unread));
 *     client.on("state", ({ state }) => (dot.className = state));
 *
 * What it promises:
 * - Handlers meet each entry in order, once per page, over any number of connections. An entry is acknowledged after
 *   its handlers are through: `on` waits for what a handler returns, `addEventListener` for `event.waitUntil(promise)`.
 *   One that fails is not acknowledged: an `error` event tells of it, and it is handed out again after a pause, before
 *   anything else, until it succeeds or the `error` event's `preventDefault()` says to skip it.
 * - It comes back by itself, by the table of close codes in the service's contract, and goes on where it was.
 * - Tabs of one user share one connection, where the browser has Web Locks.
 *
 * One file on purpose: a page takes it with one import and no build. Types: notify.d.ts.
 */

/** Milliseconds between which the ceiling of the backoff doubles; the pause itself is any part of it (full jitter). */
const SHORTEST_CEILING = 500;
const LONGEST_CEILING = 20_000;
/** A connection that held this long was a good one: the backoff after it begins anew. */
const STEADY_MS = 20_000;
/** For the handshake and the welcome; the service itself allows 15 s for opening a mailbox. */
const WELCOME_MS = 20_000;
/** For an answer to a ping of ours, when the connection is doubted. */
const PROBE_MS = 5_000;
/** Beyond the service's ping interval: silence for longer is doubted. */
const SILENCE_MS = 10_000;
/** For a token to be made. */
const TOKEN_MS = 20_000;
/** Until a token is asked for again that was not to be had, or was no newer. */
const REFRESH_AGAIN_MS = 5_000;
/** Of a token's remaining life, when a fresh one is presented: early enough to try it and fail. */
const FRESH_SHARE = 0.8;
/** The longest timer: browsers overflow at 24 days, and a clock that jumped is noticed within it. */
const TICK_MS = 30_000;
/** A timer this late means that the machine slept. */
const SLEPT_MS = 10_000;
/** One ack tells of everything before it; more of them than this serve nobody. */
const ACK_GAP_MS = 50;
const ACK_EVERY = 100;
/** WebSocket attempts in a row that came to nothing before the event stream is tried. */
const BLOCKED_AFTER = 2;
/** When an event stream looks whether WebSockets work again: first, doubling up to last. */
const FIRST_UPGRADE_MS = 15_000;
const LAST_UPGRADE_MS = 600_000;
/** The same where a WebSocket has worked before: the service was merely away while they were tried. */
const STREAM_LEAST_MS = 1_000;
/** Entries that tabs keep for one that was frozen. */
const RECENT = 100;
/** A tab that can be seen doubts the leading tab after this silence, and takes over after that without an answer. */
const LEADER_SILENCE_MS = 20_000;
const LEADER_ANSWER_MS = 8_000;
/** What any tab may say to the others; everything else is a sign of life of the one that leads. */
const ASKED = new Set(["hello", "wake"]);
/** How long a leader that was told to stop keeps the lock: the others hear of it before one of them would lead. */
const RETIRE_MS = 500;
/** How often a page that is looked at may ask for the count: what expires leaves it without a frame. */
const RECOUNT_MS = 60_000;

const TOKEN_EXPIRED = 4501;
const UNAUTHENTICATED = 4401;
const LOST = 1006;
const HTTP_CLOSE = { 400: 4400, 401: UNAUTHENTICATED, 403: 4403 };

/** Start receiving. Returns at once; `state` events tell how it goes. Throws TypeError for options that can't work. */
export function connect(options) {
  return new NotifyClient(options);
}

/** What went wrong with a request: `status` is its HTTP status (0: no answer), `problem` the service's explanation. */
export class NotifyError extends Error {
  constructor(message, status = 0, problem = null) {
    super(message);
    this.name = "NotifyError";
    this.status = status;
    this.problem = problem;
  }
}

const promised = new WeakMap();

/** An event of a client; `detail` is the frame. */
export class NotifyEvent extends Event {
  constructor(type, detail, cancelable = false) {
    super(type, { cancelable });
    this.detail = detail;
  }

  /** Hold the acknowledgement until `promise` resolves. To be called before the listener returns. */
  waitUntil(promise) {
    promised.set(this, [...(promised.get(this) ?? []), promise]);
  }
}

/** A connection of a user's device, as long as it is wanted. */
export class NotifyClient extends EventTarget {
  #options;
  #tokens;
  #line;
  #tabs = null;
  #inbox;
  #state = { state: "connecting", transport: null, leader: true };
  #welcome = null;
  #unread = null;
  #changes = 0; // of the count, to tell whether an answer to a question about it is still the truth
  #counting = false;
  #countedAt = 0;
  #closed = false;
  #cleanups = [];

  constructor({ url, token, device, WebSocket = globalThis.WebSocket, fetch = globalThis.fetch, share = true } = {}) {
    super();
    // Called as a plain function: a browser's own fetch refuses to be anybody's method.
    const request = (...given) => fetch(...given);
    this.#options = { base: readBase(url), device: device ?? rememberDevice(), WebSocket, fetch: request, share };
    this.#tokens = new Tokens(token);
    this.#inbox = new Deliveries({
      dispatch: (frame, first) => this.#dispatch(frame, first),
      failed: (error, frame, attempt) => this.#fail(error, frame, attempt),
      handled: () => this.#line.acknowledge(),
    });
    this.#line = new Line(this.#options, this.#tokens, this.#inbox, {
      state: (state, more) => this.#enter({ state, leader: true, ...more }),
      frame: (frame) => this.#receive(frame),
      lost: () => this.#inbox.rewind(),
      stopped: () => this.#tabs?.retire(),
      error: (error) => this.#fail(error),
    });
    this.#watchPage();
    this.#start();
  }

  /** `connecting`, `replaying`, `live`, `waiting` (for the next attempt), `stopped` or `closed`. */
  get state() {
    return this.#state.state;
  }

  /** The user, once the service has said who that is. */
  get user() {
    return this.#welcome?.user ?? null;
  }

  get device() {
    return this.#options.device;
  }

  /** How many notifications are unread; null until it is known. */
  get unread() {
    return this.#unread;
  }

  /** Call `handler(detail, event)` at every event of a type; what it returns is waited for. Returns how to undo it. */
  on(type, handler) {
    const listener = (event) => {
      try {
        const result = handler(event.detail, event);
        if (typeof result?.then === "function") event.waitUntil(result);
      } catch (error) {
        event.waitUntil(Promise.reject(error));
      }
    };
    this.addEventListener(type, listener);
    return () => this.removeEventListener(type, listener);
  }

  /** Mark read: `{ upTo: seq }` or `{ seqs: [...] }`. All devices hear of it. Resolves to `{ unread }`. */
  async markRead({ upTo, seqs }) {
    return this.#request("POST", "/v1/inbox/read", upTo === undefined ? { seqs } : { up_to: upTo });
  }

  /** A page of the inbox, newest first: `{ items, unread, next }`; `next` goes into `before`. */
  async inbox({ before, limit, unread } = {}) {
    const query = new URLSearchParams(
      Object.entries({ before, limit, unread }).filter(([, value]) => value !== undefined && value !== null),
    );
    return this.#request("GET", `/v1/inbox?${query}`);
  }

  /** Ask for the count of unread ones: what expires leaves it without a frame. `unread` follows. */
  async recount() {
    const before = this.#changes;
    const { unread } = await this.inbox({ limit: 1 });
    if (before !== this.#changes) return false; // a frame has told more meanwhile, and this may be older
    this.#countedAt = Date.now();
    this.#count(unread);
    return true;
  }

  /** Try now: ends a pause, doubts an open connection, and starts again after `stopped`. */
  reconnect() {
    if (this.#closed) return;
    if (this.state === "stopped") this.#join();
    else if (this.#line.running) this.#line.wake(true);
    else this.#wakeLeader(true);
  }

  /** End it for good. What no handler has finished will be sent again next time. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    for (const undo of this.#cleanups) undo();
    this.#line.stop();
    this.#tabs?.leave();
    this.#inbox.close();
    this.#enter({ state: "closed" });
  }

  // Getting a connection: one's own, or another tab's

  async #start() {
    if (this.#options.share && typeof window !== "undefined" && navigator.locks && globalThis.BroadcastChannel) {
      let failures = 0;
      while (!this.#closed && this.#tabs === null) {
        try {
          const user = readClaims(await this.#tokens.fresh()).sub;
          if (this.#closed || typeof user !== "string") break;
          const { base, device } = this.#options;
          this.#tabs = new Tabs(`notify ${JSON.stringify([base, user, device])}`, {
            lead: () => this.#line.start(),
            follow: () => this.#line.stop(),
            message: (message) => this.#hear(message),
          });
        } catch (error) {
          const pause = Math.random() * ceilingOf(++failures);
          this.#enter({ state: "waiting", reason: describe(error), retryIn: pause });
          await sleep(pause);
        }
      }
    }
    this.#join();
  }

  #join() {
    if (this.#closed) return;
    if (this.#tabs === null) {
      this.#line.start();
      return;
    }
    this.#enter({ state: "connecting", leader: false });
    this.#tabs.join();
    this.#tabs.post({ say: "hello", ...this.#inbox.position });
  }

  #watchPage() {
    const listen = (target, type, handler) => {
      if (typeof target?.addEventListener !== "function") return;
      target.addEventListener(type, handler);
      this.#cleanups.push(() => target.removeEventListener(type, handler));
    };
    const page = globalThis.document;
    if (page === undefined) return;
    const wake = () => {
      if (page.visibilityState === "hidden") return;
      this.#wake();
    };
    listen(page, "visibilitychange", wake);
    listen(page, "resume", () => this.#wake()); // thawed, visible or not
    listen(globalThis, "online", () => this.#wake(true));
    listen(globalThis, "offline", () => this.#line.wake());
    // A page that is put aside keeps neither socket nor lock: it may stay frozen for days, and the others go on.
    listen(globalThis, "pagehide", () => {
      this.#line.stop();
      this.#tabs?.leave();
    });
    listen(globalThis, "pageshow", (event) => event.persisted && this.state !== "stopped" && this.#join());
  }

  #wake(online = false) {
    if (this.#line.running) this.#line.wake(online);
    else this.#wakeLeader(online);
    this.#tabs?.doubt();
    if (this.#line.open && Date.now() - this.#countedAt > RECOUNT_MS) this.#recountForAll();
    if (this.#state.code === UNAUTHENTICATED && this.state === "stopped") this.#tryOtherToken();
  }

  /**
   * Have the tab with the connection look after it: it may be in the background, where a timer can be a minute late, so
   * it is told again when the answer to its ping is overdue.
   */
  #wakeLeader(hopeful) {
    const tell = () => this.#line.running || this.#tabs?.post({ say: "wake", hopeful });
    tell();
    setTimeout(tell, PROBE_MS + RETIRE_MS);
  }

  /** After a 4401 only another token helps; whoever comes back to the page may have signed in meanwhile. */
  async #tryOtherToken() {
    const refused = this.#tokens.latest;
    const token = await this.#tokens.fresh().catch(() => refused);
    if (token !== refused && this.state === "stopped") this.#join();
  }

  // What the service says, and what tabs tell each other

  #receive(frame) {
    const previous = this.#inbox.received;
    if (frame.op === "welcome") {
      this.#inbox.begin(frame);
      this.#admit(frame);
      this.#line.acknowledge(true);
    } else {
      this.#inbox.add(frame);
    }
    this.#tabs?.post({ say: "frame", frame, previous, epoch: this.#inbox.position.epoch });
  }

  #hear(message) {
    if (message.say === "hello") {
      if (!this.#line.running) return;
      this.#tabs.post({
        say: "sync",
        to: message.from,
        state: this.#state,
        welcome: this.#welcome,
        unread: this.#unread,
        ...this.#inbox.since(message),
      });
    } else if (message.say === "wake") {
      if (this.#line.running) this.#line.wake(message.hopeful);
    } else if (this.#line.running) {
      return; // two leaders for a moment, while one takes over: each has the service's own word
    } else if (message.say === "state") {
      if (this.state === "stopped" && message.state.state !== "stopped") this.#join(); // another tab has started again
      if (message.state.state === "stopped") this.#tabs.retire();
      this.#enter({ ...message.state, leader: false });
    } else if (message.say === "unread") {
      this.#count(message.unread);
    } else if (message.say === "sync") {
      if (message.to !== this.#tabs.id) return;
      this.#enter({ ...message.state, leader: false });
      if (message.welcome !== null && this.#welcome === null) this.#admit(message.welcome, message.unread);
      this.#inbox.catchUp(message);
    } else if (message.say === "frame") {
      const { frame, previous, epoch } = message;
      if (frame.op === "welcome") {
        if (this.#inbox.position.epoch !== frame.epoch) this.#inbox.begin(frame);
        this.#admit(frame);
      } else if (!isMomentary(frame) && this.#inbox.lacks(previous, epoch)) {
        this.#tabs.post({ say: "hello", ...this.#inbox.position });
      } else {
        this.#inbox.add(frame);
      }
    }
  }

  #admit(welcome, unread = welcome.unread) {
    this.#welcome = welcome;
    this.#emitLoose(new NotifyEvent("welcome", welcome));
    this.#count(unread);
  }

  /** Hand a frame to its handlers; resolves when all of them are through. */
  async #dispatch(frame, first) {
    const fresh = first && frame.seq > (this.#welcome?.head ?? 0);
    if (fresh && frame.op === "notification") this.#count(this.#unread + 1);
    if (fresh && frame.op === "read" && frame.unread !== undefined) this.#count(frame.unread);
    if (fresh && frame.op === "retract") this.#recountForAll();
    if (frame.op === "caught_up" && this.#line.running) this.#enter({ ...this.#state, state: "live" });
    await this.#emit(new NotifyEvent(frame.op, frame));
  }

  #emit(event) {
    this.dispatchEvent(event);
    const waits = promised.get(event);
    if (waits === undefined) return undefined;
    return Promise.allSettled(waits).then((results) => {
      const failure = results.find((result) => result.status === "rejected");
      if (failure !== undefined) throw failure.reason;
    });
  }

  /** Tell of an error. Returns whether it shall be passed over. */
  #fail(error, frame, attempt) {
    // Said once even where nobody listens for `error`; the frame is left out, it is the user's own.
    if (attempt === 1) console.warn("notify: a handler failed; the entry stays unacknowledged and comes again", error);
    const event = new NotifyEvent("error", { error, frame, attempt }, true);
    Promise.resolve(this.#emit(event)).catch((reason) => console.error("notify: an error handler failed", reason));
    return event.defaultPrevented;
  }

  #enter(state) {
    if (this.#closed && state.state !== "closed") return;
    const known = { transport: null, leader: true, ...state };
    if (JSON.stringify(known) === JSON.stringify(this.#state)) return;
    const previous = this.#state.state;
    this.#state = known;
    if (known.leader) this.#tabs?.post({ say: "state", state: known });
    this.#emitLoose(new NotifyEvent("state", { ...known, previous }));
  }

  #count(unread) {
    this.#changes += 1;
    if (typeof unread !== "number" || Number.isNaN(unread) || unread === this.#unread) return;
    this.#unread = unread;
    this.#emitLoose(new NotifyEvent("unread", { unread }));
  }

  /** Emit what needs no acknowledgement: a handler that fails is told of, and nothing waits for it. */
  #emitLoose(event) {
    Promise.resolve(this.#emit(event)).catch((error) => this.#fail(error));
  }

  /** Ask the service for the count, where frames don't tell it; one tab asks for all. */
  async #recountForAll() {
    if (!this.#line.running || this.#counting) return;
    this.#counting = true;
    try {
      for (let tries = 0; tries < 3; tries += 1) {
        if (!(await this.recount())) continue;
        this.#tabs?.post({ say: "unread", unread: this.#unread });
        break;
      }
    } catch {
      // The next welcome or read mark says it.
    } finally {
      this.#counting = false;
    }
  }

  async #request(method, path, body) {
    const { base, fetch } = this.#options;
    for (let fresh = false; ; fresh = true) {
      const token = await (fresh ? this.#tokens.fresh() : this.#tokens.current());
      let response;
      try {
        response = await fetch(base + path, {
          method,
          headers: { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) },
          body: body && JSON.stringify(body),
          credentials: "omit",
          cache: "no-store",
        });
      } catch (error) {
        throw new NotifyError(`the service can't be reached: ${describe(error)}`);
      }
      if (response.status === 401 && !fresh && this.#tokens.renewable) continue;
      if (response.ok) return response.status === 204 ? undefined : response.json();
      const problem = await response.json().catch(() => null);
      throw new NotifyError(problem?.detail ?? `the service answered ${response.status}`, response.status, problem);
    }
  }
}

/** The entries of one page: in order, without duplicates, one at a time. Knows no connection. */
class Deliveries {
  #on;
  #queue = [];
  #recent = [];
  #epoch;
  #handled; // everything up to here is through
  #busy = null; // the entry whose handlers are at work
  #closed = false;
  #retry = null;
  received; // everything up to here is here

  constructor(on) {
    this.#on = on;
  }

  /** Where to go on from; empty before the first welcome. */
  get position() {
    return this.#handled === undefined ? {} : { epoch: this.#epoch, seq: this.#handled };
  }

  /** Take a connection's beginning: on from where this page stands, or wherever the service says. */
  begin({ epoch, after, recovered }) {
    const same = epoch === this.#epoch && recovered && this.#handled !== undefined;
    if (same && after <= this.#handled) {
      this.rewind();
    } else {
      this.#place(epoch, after);
    }
  }

  #place(epoch, seq) {
    this.#epoch = epoch;
    this.#handled = this.received = seq;
    this.#queue.length = 0;
    this.#recent.length = 0;
    this.#busy = null;
    this.#retry?.();
  }

  /** Forget what is not through: it is sent again. */
  rewind() {
    this.#queue.length = 0;
    this.received = this.#busy?.seq ?? this.#handled;
  }

  add(frame) {
    if (isMomentary(frame)) {
      // Not stored: now or never, in no order with the others.
      Promise.resolve(this.#on.dispatch(frame, true)).catch((error) => this.#on.failed(error, frame, 1));
      return;
    }
    const seq = frame.op === "truncated" ? frame.to : frame.op === "caught_up" ? undefined : frame.seq;
    if (seq !== undefined) {
      if (seq <= this.received) {
        if (seq <= this.#handled) this.#on.handled();
        return;
      }
      this.#recent.push({ frame, previous: this.received });
      if (this.#recent.length > RECENT) this.#recent.shift();
      this.received = seq;
    }
    this.#queue.push({ frame, seq });
    this.#work();
  }

  async #work() {
    if (this.#busy !== null) return;
    while (this.#queue.length > 0 && !this.#closed) {
      const entry = (this.#busy = this.#queue.shift());
      let attempt = 0;
      while (this.#busy === entry) {
        try {
          attempt += 1;
          await this.#on.dispatch(entry.frame, attempt === 1);
          break;
        } catch (error) {
          if (this.#closed) return;
          if (this.#busy !== entry || this.#on.failed(error, entry.frame, attempt)) break;
          await new Promise((resolve) => {
            this.#retry = resolve;
            setTimeout(resolve, Math.random() * ceilingOf(attempt));
          });
          if (this.#closed) return;
        }
      }
      if (this.#busy !== entry) return; // placed anew meanwhile: another run of this has taken over
      this.#busy = null;
      if (entry.seq !== undefined) {
        this.#handled = entry.seq;
        this.#on.handled();
      }
    }
  }

  get handled() {
    return this.#handled;
  }

  get idle() {
    return this.#queue.length === 0;
  }

  close() {
    this.#closed = true;
    this.#queue.length = 0;
    this.#retry?.();
  }

  // Between tabs

  /** Whether a frame that follows `previous` would leave something out here. */
  lacks(previous, epoch) {
    if (previous === undefined) return false;
    if (this.received === undefined || epoch !== this.#epoch) {
      this.#place(epoch, previous);
      return false;
    }
    return previous > this.received;
  }

  /** What a tab that stands at `seq` has missed, as far as it is still here. */
  since({ epoch, seq }) {
    const known = seq !== undefined && epoch === this.#epoch;
    const frames = known ? this.#recent.filter(({ frame }) => (frame.to ?? frame.seq) > seq) : [];
    return { epoch: this.#epoch, received: this.received, frames };
  }

  /** Take what another tab has kept. What nobody has any more is told as `truncated`. */
  catchUp({ epoch, received, frames }) {
    if (received === undefined) return;
    if (this.received === undefined || epoch !== this.#epoch) {
      this.#place(epoch, received);
      return;
    }
    const from = frames.length > 0 ? frames[0].previous : received;
    if (from > this.received) this.add({ op: "truncated", from: this.received + 1, to: from });
    for (const { frame } of frames) this.add(frame);
  }
}

/** Keeps one connection: opens it, doubts it, keeps its token fresh, and comes back by the contract's table. */
class Line {
  #options;
  #tokens;
  #inbox;
  #on;
  #turn = 0; // odd while running
  #connection = null;
  #endPause = null;
  #refused = null; // the token that a 4401 was the answer to
  #blocked = 0;
  #worked = false; // a WebSocket has, so a stream is only what is left of an outage
  #upgradeAfter = FIRST_UPGRADE_MS;
  #timer = null;
  #tickDue = 0;
  #acked;
  #ackedAt = 0;
  #ackCount = 0;
  #ackTimer = null;

  constructor(options, tokens, inbox, on) {
    this.#options = options;
    this.#tokens = tokens;
    this.#inbox = inbox;
    this.#on = on;
  }

  get running() {
    return this.#turn % 2 === 1;
  }

  get open() {
    return this.#connection?.welcomed ?? false;
  }

  start() {
    if (this.running) return;
    this.#turn += 1;
    this.#run(this.#turn);
  }

  stop() {
    if (!this.running) return;
    this.#turn += 1;
    this.#flushAck();
    this.#drop();
    this.#endPause?.();
  }

  /** Something happened that makes now a better moment than later. */
  wake(hopeful = false) {
    if (hopeful) this.#blocked = 0; // failures of an outage say nothing about the network there is now
    if (this.#connection !== null) this.#doubt(this.#connection);
    else if (hopeful || globalThis.navigator?.onLine !== false) this.#endPause?.();
  }

  async #run(turn) {
    let failures = 0;
    let maxAge = REFRESH_AGAIN_MS;
    this.#refused = null;
    while (turn === this.#turn) {
      this.#on.state("connecting");
      const lost = await this.#hold(turn, maxAge);
      if (turn !== this.#turn) return;
      this.#on.lost();
      failures = lost.welcomed && lost.held >= STEADY_MS ? 0 : failures + 1;
      maxAge = lost.code === UNAUTHENTICATED ? REFRESH_AGAIN_MS : 0; // after a refusal one was asked for just now
      const pause = await this.#choosePause(lost, failures);
      if (turn !== this.#turn) return;
      if (pause === null) {
        this.#turn += 1;
        this.#on.state("stopped", { code: lost.code, reason: lost.reason });
        this.#on.stopped();
        return;
      }
      if (pause > 0) {
        this.#on.state("waiting", { code: lost.code, reason: lost.reason, retryIn: Math.round(pause) });
        await this.#pause(pause);
      }
    }
  }

  /** Returns milliseconds, or null when coming back as it is can't work. */
  async #choosePause(lost, failures) {
    const { code, retryAfter, token } = lost;
    if (code === UNAUTHENTICATED && this.#tokens.renewable && this.#refused === null) {
      this.#refused = token;
      const other = await this.#tokens.fresh().catch(() => token);
      return other === token ? null : 0;
    }
    if (code >= 4400 && code < 4500) return null;
    if (code === TOKEN_EXPIRED && !this.#tokens.renewable) return null;
    if (retryAfter !== undefined) return retryAfter;
    if (lost.planned || (code === TOKEN_EXPIRED && failures <= 1)) return 0;
    return Math.random() * ceilingOf(failures);
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => (this.#endPause = null));
  }

  /** Hold one connection. Resolves when it is lost, and says why. */
  async #hold(turn, maxAge) {
    let token;
    try {
      token = await this.#tokens.fresh(maxAge);
    } catch (error) {
      this.#on.error(error);
      return { code: LOST, reason: `no token: ${describe(error)}`, welcomed: false, held: 0 };
    }
    if (turn !== this.#turn) return null;
    const { WebSocket } = this.#options;
    const stream = WebSocket === undefined || WebSocket === null || this.#blocked >= BLOCKED_AFTER;
    const startedAt = Date.now();
    return new Promise((resolve) => {
      const connection = {
        token,
        stream,
        welcomed: false,
        heardAt: startedAt,
        welcomeBy: startedAt + WELCOME_MS,
        doubtedUntil: Infinity,
        silence: Infinity,
        refreshAt: Infinity,
        halfLife: Infinity,
        upgradeAt: Infinity,
        goodbye: null,
        end: (code, reason, more = {}) => {
          if (this.#connection !== connection) return;
          this.#drop();
          this.#judge(connection, code, more);
          const { goodbye, welcomed } = connection;
          resolve({
            code: goodbye?.code ?? code,
            reason: goodbye?.reason ?? (reason || "the connection was lost"),
            retryAfter: goodbye?.retry_after_ms,
            token: connection.token,
            welcomed,
            held: Date.now() - startedAt,
            ...more,
          });
        },
        gone: resolve,
      };
      this.#connection = connection;
      this.#acked = undefined;
      const on = {
        message: (text) => this.#connection === connection && this.#hear(connection, text),
        closed: (code, reason, more) => connection.end(code, reason, more),
      };
      connection.transport = stream
        ? new EventStream(this.#options, this.#inbox.position, token, () => this.#tokens.current(), on)
        : new Socket(this.#options, this.#inbox.position, token, on);
      this.#arm();
    });
  }

  /** Learn from a connection's end whether WebSockets get through here. */
  #judge(connection, code, { timedOut, planned }) {
    if (connection.welcomed || planned || code !== LOST) return;
    if (connection.stream) this.#blocked = 0;
    else if (globalThis.navigator?.onLine !== false) this.#blocked += timedOut ? BLOCKED_AFTER : 1;
  }

  #drop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    const connection = this.#connection;
    this.#connection = null;
    connection?.transport?.close();
    if (!this.running) connection?.gone(null);
  }

  #hear(connection, text) {
    connection.heardAt = Date.now();
    connection.doubtedUntil = Infinity;
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      connection.end(LOST, "what came is no JSON");
      return;
    }
    if (frame.op === "welcome") {
      connection.welcomed = true;
      connection.welcomeBy = Infinity;
      connection.silence = frame.ping_interval * 1000 + SILENCE_MS;
      this.#refused = null;
      this.#planRefresh(connection, frame.expires_in);
      if (connection.stream) {
        connection.upgradeAt = Date.now() + (this.#worked ? STREAM_LEAST_MS : this.#upgradeAfter);
      } else {
        this.#blocked = 0;
        this.#worked = true;
      }
      const { user, session, recovered } = frame;
      const transport = connection.stream ? "sse" : "websocket";
      this.#on.state("replaying", { transport, user, session, recovered });
      this.#on.frame(frame);
    } else if (frame.op === "authenticated") {
      this.#planRefresh(connection, frame.expires_in);
    } else if (frame.op === "disconnect") {
      connection.goodbye = frame;
    } else if (frame.op === "error") {
      this.#on.error(Object.assign(new NotifyError(frame.detail), { code: frame.code }));
    } else if (["notification", "retract", "read", "truncated", "caught_up"].includes(frame.op)) {
      this.#on.frame(frame);
    }
    this.#check(); // timers of background tabs are late; messages are not
  }

  #planRefresh(connection, expiresIn) {
    if (!this.#tokens.renewable) return;
    const life = expiresIn * 1000;
    connection.refreshAt = Date.now() + Math.max(life * FRESH_SHARE, 1000);
    connection.halfLife = Date.now() + Math.max(life / 2, 1000);
  }

  /** Find out whether a connection still works; one that can't be asked is believed unless the machine slept. */
  #doubt(connection, slept = false) {
    const now = Date.now();
    if (connection.stream) {
      if (slept) {
        connection.end(LOST, "the machine slept", { planned: true });
        return;
      }
    } else if (connection.welcomed && connection.doubtedUntil === Infinity) {
      connection.doubtedUntil = now + PROBE_MS;
      connection.transport.send({ op: "ping" });
    }
    if (now >= connection.halfLife) connection.refreshAt = Math.min(connection.refreshAt, now);
    this.#check();
  }

  /** Do what is due. */
  #check() {
    const connection = this.#connection;
    if (connection === null) return;
    const now = Date.now();
    if (now >= connection.welcomeBy) connection.end(LOST, "no welcome in time", { timedOut: true });
    else if (now >= connection.doubtedUntil) connection.end(LOST, "no answer to a ping");
    else if (now - connection.heardAt >= connection.silence && connection.doubtedUntil === Infinity) {
      if (connection.stream) connection.end(LOST, "nothing was heard");
      else this.#doubt(connection);
    }
    if (this.#connection !== connection) return;
    if (now >= connection.refreshAt) this.#refresh(connection);
    if (now >= connection.upgradeAt) this.#tryUpgrade(connection);
    this.#arm();
  }

  #arm() {
    clearTimeout(this.#timer);
    const connection = this.#connection;
    if (connection === null) return;
    const { welcomeBy, doubtedUntil, refreshAt, upgradeAt, heardAt, silence } = connection;
    // What has just been doubted is watched by `doubtedUntil` instead.
    const silentAt = doubtedUntil === Infinity ? heardAt + silence : Infinity;
    const now = Date.now();
    const next = Math.min(welcomeBy, doubtedUntil, refreshAt, upgradeAt, silentAt, now + TICK_MS);
    this.#tickDue = Math.max(next, now + 20);
    this.#timer = setTimeout(() => {
      const slept = Date.now() - this.#tickDue > SLEPT_MS;
      if (slept && this.#connection !== null) this.#doubt(this.#connection, true);
      else this.#check();
    }, this.#tickDue - now);
  }

  async #refresh(connection) {
    connection.refreshAt = connection.halfLife = Infinity; // until it is known when next
    try {
      const token = await this.#tokens.fresh();
      if (this.#connection !== connection) return;
      if (connection.stream) {
        connection.end(LOST, "a fresh token", { planned: true });
      } else {
        connection.token = token;
        connection.transport.send({ op: "auth", token });
        connection.refreshAt = Date.now() + REFRESH_AGAIN_MS; // unless it is answered
      }
    } catch (error) {
      if (this.#connection !== connection) return;
      this.#on.error(error);
      connection.refreshAt = Date.now() + REFRESH_AGAIN_MS;
    }
    this.#arm();
  }

  /** While an event stream serves, look whether WebSockets work again; without credentials, so nothing begins. */
  #tryUpgrade(connection) {
    this.#upgradeAfter = Math.min(this.#upgradeAfter * 2, LAST_UPGRADE_MS);
    connection.upgradeAt = Date.now() + this.#upgradeAfter;
    this.#worked = false;
    const { base, WebSocket } = this.#options;
    if (WebSocket === undefined || WebSocket === null) return;
    try {
      const probe = new WebSocket(`${base.replace(/^http/, "ws")}/v1/ws`, ["notify.v1"]);
      const patience = setTimeout(() => probe.close(), WELCOME_MS);
      probe.onerror = () => {};
      probe.onclose = () => clearTimeout(patience);
      probe.onopen = () => {
        probe.close(1000);
        this.#blocked = 0;
        this.#upgradeAfter = FIRST_UPGRADE_MS;
        connection.end(LOST, "WebSockets work again", { planned: true });
      };
    } catch {
      // Still blocked.
    }
  }

  /** Tell the service how far the handlers are: at once, unless that was told a moment ago. */
  acknowledge(again = false) {
    if (again) this.#acked = undefined;
    if (!this.open) return;
    this.#ackCount += 1;
    const wait = this.#ackedAt + ACK_GAP_MS - Date.now();
    if (wait <= 0 || this.#ackCount >= ACK_EVERY) this.#flushAck();
    else this.#ackTimer ??= setTimeout(() => this.#flushAck(), wait);
  }

  #flushAck() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    this.#ackCount = 0;
    const seq = this.#inbox.handled;
    if (!this.open || seq === undefined || seq === this.#acked) return;
    this.#acked = seq;
    this.#ackedAt = Date.now();
    this.#connection.transport.acknowledge(seq);
  }
}

/** A WebSocket, as a line sees it. */
class Socket {
  #socket = null;

  constructor({ base, device, WebSocket }, position, token, on) {
    try {
      const url = `${base.replace(/^http/, "ws")}/v1/ws?${describePosition(device, position)}`;
      this.#socket = new WebSocket(url, ["notify.v1", `bearer.${token}`]);
    } catch (error) {
      queueMicrotask(() => on.closed(LOST, describe(error)));
      return;
    }
    this.#socket.onmessage = (event) => on.message(event.data);
    this.#socket.onclose = (event) => on.closed(event.code, event.reason);
    this.#socket.onerror = () => {}; // `close` follows and says more
  }

  send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  acknowledge(seq) {
    this.send({ op: "ack", seq });
  }

  /** Close without waiting: on a dead network the other side's answer would take minutes. */
  close() {
    const socket = this.#socket;
    if (socket === null) return;
    socket.onmessage = socket.onclose = null;
    try {
      socket.close(1000);
    } catch {
      // It was closed already.
    }
  }
}

/** Server-sent events over fetch, with acks by POST: for networks that block WebSockets. */
class EventStream {
  #abort = new AbortController();
  #options;
  #token;
  #epoch; // what the seqs of this stream belong to; an ack that comes late counts in no other
  #wanted = -1;
  #acking = false;

  constructor(options, position, token, current, on) {
    this.#options = options;
    this.#token = current;
    this.#read(`${options.base}/v1/stream?${describePosition(options.device, position)}`, token, on);
  }

  async #read(url, token, on) {
    try {
      const response = await this.#options.fetch(url, {
        headers: { Authorization: `Bearer ${token}`, Accept: "text/event-stream" },
        signal: this.#abort.signal,
        credentials: "omit",
        cache: "no-store",
      });
      if (!response.ok || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        const seconds = Number(response.headers.get("retry-after") ?? NaN);
        const retryAfter = Number.isFinite(seconds) ? seconds * 1000 * (1 + Math.random() / 2) : undefined;
        on.closed(HTTP_CLOSE[response.status] ?? LOST, `the service answered ${response.status}`, { retryAfter });
        this.close();
        return;
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      let rest = "";
      let data = [];
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
          else if (line.startsWith("id:")) this.#epoch = line.slice(3, line.lastIndexOf(":")).trim();
          else if (line === "" && data.length > 0) {
            on.message(data.join("\n"));
            data = [];
          }
        }
      }
      on.closed(LOST, "the stream ended");
    } catch (error) {
      on.closed(LOST, describe(error));
    }
  }

  send() {}

  async acknowledge(seq) {
    this.#wanted = Math.max(this.#wanted, seq);
    if (this.#acking) return;
    this.#acking = true;
    const { base, device, fetch } = this.#options;
    let done = -1;
    while (done < this.#wanted && !this.#abort.signal.aborted) {
      const reached = this.#wanted;
      const response = await Promise.resolve(this.#token())
        .then((token) =>
          fetch(`${base}/v1/inbox/ack`, {
            method: "POST",
            headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
            body: JSON.stringify({ device, seq: reached, epoch: this.#epoch }),
            credentials: "omit",
            keepalive: true, // the page may be leaving
          }),
        )
        .catch(() => null);
      if (response?.ok) done = reached;
      else await sleep(1000);
    }
    this.#acking = false;
  }

  close() {
    this.#abort.abort();
  }
}

/** The tabs of one user and device: whoever holds the lock leads and has the connection, the others listen in. */
class Tabs {
  #name;
  #on;
  #channel = null;
  #waiting = null; // aborts the request for the lock
  #release = null; // gives the lock back
  #heardAt = Date.now();
  #askedAt = 0;
  #watch = null;
  id = Math.random().toString(36).slice(2);

  constructor(name, on) {
    this.#name = name;
    this.#on = on;
  }

  /** Listen, and lead when nobody else does. */
  join(steal = false) {
    if (this.#channel === null) {
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }) => {
        if (!ASKED.has(data.say)) this.#heardAt = Date.now();
        this.#on.message(data);
      };
    }
    if (this.#release !== null || (this.#waiting !== null && !steal)) return;
    this.#waiting?.abort();
    const waiting = (this.#waiting = new AbortController());
    let release = null;
    const held = () => {
      if (waiting.signal.aborted) return undefined;
      this.#waiting = null;
      clearInterval(this.#watch);
      return new Promise((resolve) => {
        this.#release = release = resolve;
        this.#on.lead();
      });
    };
    // A request that steals may not carry a signal (Web Locks, section 3.2.1).
    const request = steal
      ? navigator.locks.request(this.#name, { steal }, held)
      : navigator.locks.request(this.#name, { signal: waiting.signal }, held);
    request.catch(() => {
      // Another tab has taken over from this one, because it took this one for dead.
      if (release === null || this.#release !== release) return;
      this.#release = null;
      this.#on.follow();
      this.join();
      this.post({ say: "hello" });
    });
    this.#watchLeader();
  }

  post(message) {
    this.#channel?.postMessage({ from: this.id, ...message });
  }

  #watchLeader() {
    clearInterval(this.#watch);
    this.#heardAt = Date.now();
    this.#watch = setInterval(() => this.doubt(), LEADER_SILENCE_MS / 2);
  }

  /** Ask a silent leader for a sign of life, and take over when none comes. Only a tab that can be seen does. */
  doubt() {
    if (this.#waiting === null || globalThis.document?.visibilityState === "hidden") return;
    const now = Date.now();
    if (now - this.#heardAt < LEADER_SILENCE_MS || now - this.#askedAt < LEADER_ANSWER_MS) return;
    this.#askedAt = now;
    this.post({ say: "hello" });
    setTimeout(() => {
      const late = Date.now() - now > LEADER_ANSWER_MS * 2; // this tab itself slept
      if (this.#waiting !== null && this.#heardAt < now && !late) this.join(true);
    }, LEADER_ANSWER_MS);
  }

  /** Neither lead nor wait to lead, but listen: the service said stop, or another tab learned that it did. */
  retire(patience = RETIRE_MS) {
    clearInterval(this.#watch);
    this.#waiting?.abort();
    this.#waiting = null;
    const release = this.#release;
    this.#release = null;
    if (patience > 0) setTimeout(() => release?.(), patience);
    else release?.();
  }

  /** Be gone, at once: the next tab takes over. */
  leave() {
    this.retire(0);
    this.#channel?.close();
    this.#channel = null;
  }
}

/** Where tokens come from. */
class Tokens {
  #source;
  #token = null;
  #madeAt = 0;
  #expiresAt = 0;
  #asking = null;

  constructor(source) {
    if (typeof source !== "function" && (typeof source !== "string" || source === "")) {
      throw new TypeError("notify: `token` must be a token, or better a function that returns a fresh one");
    }
    this.#source = source;
  }

  /** Whether there can ever be another one. */
  get renewable() {
    return typeof this.#source === "function";
  }

  /** The one made last. */
  get latest() {
    return this.#token;
  }

  /** A token made now, or at most `maxAge` milliseconds ago. Whoever asks meanwhile gets the same one. */
  fresh(maxAge = 0) {
    if (!this.renewable) return Promise.resolve(this.#source);
    if (this.#token !== null && Date.now() - this.#madeAt < maxAge) return Promise.resolve(this.#token);
    this.#asking ??= this.#ask().finally(() => (this.#asking = null));
    return this.#asking;
  }

  /** A token that is good for a request now. */
  current() {
    return this.#token !== null && Date.now() < this.#expiresAt ? Promise.resolve(this.#token) : this.fresh();
  }

  async #ask() {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new NotifyError("`token` took too long")), TOKEN_MS);
    });
    const token = await Promise.race([(async () => this.#source())(), late]).finally(() => clearTimeout(timer));
    if (typeof token !== "string" || token === "") throw new NotifyError("`token` returned no token");
    this.#token = token.trim();
    this.#madeAt = Date.now();
    const { exp } = readClaims(this.#token);
    this.#expiresAt = typeof exp === "number" ? exp * 1000 - REFRESH_AGAIN_MS : 0;
    return this.#token;
  }
}

/** What a token says of itself, unchecked: only the service can check it. Empty for what is no JWT. */
function readClaims(token) {
  try {
    const payload = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (character) => character.charCodeAt(0))));
  } catch {
    return {};
  }
}

/** The service's base URL; without one, wherever this module came from. */
function readBase(url) {
  const module = import.meta.url;
  const own = /^https?:/.test(module) ? new URL("..", module) : "none:";
  const base = new URL(url ?? own, globalThis.location?.href);
  base.protocol = { "ws:": "http:", "wss:": "https:" }[base.protocol] ?? base.protocol;
  if (!/^https?:$/.test(base.protocol)) {
    throw new TypeError("notify: `url` must be the service's, such as https://the.service");
  }
  return base.origin + base.pathname.replace(/\/+$/, "");
}

/** A name for this browser, so that each browser of a user gets everything. In Node: the service's default. */
function rememberDevice() {
  try {
    const known = localStorage.getItem("notify.device");
    if (known) return known;
    const made = `web-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    localStorage.setItem("notify.device", made);
    return made;
  } catch {
    return "default";
  }
}

/** Whether it is stored nowhere, and so has no place in any order. */
function isMomentary(frame) {
  return frame.op === "notification" && frame.seq === undefined;
}

function describePosition(device, { epoch, seq }) {
  return new URLSearchParams({ device, ...(seq !== undefined && { after: seq, epoch }) });
}

function ceilingOf(failures) {
  return Math.min(LONGEST_CEILING, SHORTEST_CEILING * 2 ** Math.min(Math.max(failures - 1, 0), 10));
}

function describe(error) {
  return error instanceof Error ? error.message : String(error);
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
