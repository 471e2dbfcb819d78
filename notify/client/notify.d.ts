/** A user's notifications, in a browser or in Node 20 and newer. See notify.js for what it promises. */

/** Whatever JSON an app sends. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Options {
  /** The service, such as `https://the.service`. Left out: wherever this module was loaded from. */
  url?: string | URL;
  /**
   * A JWT of the user, or better a function that returns (a promise of) a fresh one: it is called before each
   * connection, before the token in use expires, and when a page that slept wakes up.
   */
  token: string | (() => string | Promise<string>);
  /**
   * Names this device: what one device has acknowledged is not sent to it again, other devices get it all the same.
   * Left out, a browser makes itself a name and keeps it in localStorage; Node is `default`.
   */
  device?: string;
  /** The class to connect with, where there is no global one or another is wanted; `null`: only server-sent events. */
  WebSocket?: (new (url: string, protocols: string[]) => unknown) | null;
  /** What requests go through; the global `fetch` by default. */
  fetch?: typeof globalThis.fetch;
  /** Whether tabs of the same user and device share one connection; true by default. */
  share?: boolean;
}

export interface Notification<Data = Json> {
  op: "notification";
  /** Absent where nothing is stored (`ttl: 0`). */
  seq?: number;
  id: string;
  type: string;
  data: Data;
  /** The app that sent it, or the `source` of the CloudEvent that it came as. */
  source: string;
  created_at: string;
  /** If it was sent with one: the trace it belongs to (W3C Trace Context). */
  traceparent?: string;
}

export interface Welcome {
  op: "welcome";
  session: string;
  user: string;
  device: string;
  epoch: string;
  after: number;
  head: number;
  /** False when this client could not go on where it was: load the full state another way. */
  recovered: boolean;
  unread: number;
  ping_interval: number;
  expires_in: number;
}

export interface CaughtUp {
  op: "caught_up";
  seq: number;
}

/** These are gone for good, both ends included: load the full state another way, such as `client.inbox()`. */
export interface Truncated {
  op: "truncated";
  from: number;
  to: number;
}

/** Cancelled or replaced: take the notification that came as `of` off the screen. */
export interface Retract {
  op: "retract";
  seq: number;
  of: number;
  id: string;
}

/** A device of this user marked these read. */
export type Read = { op: "read"; seq: number; unread?: number } & (
  | { up_to: number; seqs?: undefined }
  | { seqs: number[]; up_to?: undefined }
);

export type StateName = "connecting" | "replaying" | "live" | "waiting" | "stopped" | "closed";

export interface State {
  state: StateName;
  previous: StateName;
  transport: "websocket" | "sse" | null;
  /** Whether the connection is this tab's own; otherwise another tab has it. */
  leader: boolean;
  /** Why there is no connection: a close code of the service's contract, or 1006. */
  code?: number;
  reason?: string;
  /** `waiting`: milliseconds until the next attempt. */
  retryIn?: number;
  user?: string;
  session?: string;
  recovered?: boolean;
}

export interface Failure {
  error: unknown;
  /** What the handler failed at. It comes again after a pause; `event.preventDefault()` skips it. */
  frame?: Notification | Retract | Read | Truncated | CaughtUp;
  attempt?: number;
}

export interface EventDetails {
  // The shape of `data` is between the app and its pages: name it as `(frame: Notification<Order>) => …`.
  notification: Notification<any>;
  read: Read;
  retract: Retract;
  welcome: Welcome;
  caught_up: CaughtUp;
  truncated: Truncated;
  state: State;
  unread: { unread: number };
  error: Failure;
}

export class NotifyEvent<Detail = unknown> extends Event {
  readonly detail: Detail;
  /** Hold the acknowledgement until `promise` resolves. To be called before the listener returns. */
  waitUntil(promise: Promise<unknown>): void;
}

export class NotifyError extends Error {
  /** The HTTP status; 0 when there was no answer. */
  readonly status: number;
  /** The problem details (RFC 9457), where the service gave any. */
  readonly problem: { type: string; title: string; status: number; detail: string } | null;
}

export interface InboxItem<Data = Json> {
  seq: number;
  id: string;
  type: string;
  data: Data;
  source: string;
  created_at: string;
  read_at: string | null;
}

export interface InboxPage<Data = Json> {
  items: InboxItem<Data>[];
  unread: number;
  next: string | null;
}

export class NotifyClient extends EventTarget {
  constructor(options: Options);
  readonly state: StateName;
  readonly user: string | null;
  readonly device: string;
  readonly unread: number | null;

  /** Call `handler(detail, event)` at every event of a type; what it returns is waited for. Returns how to undo it. */
  on<Type extends keyof EventDetails>(
    type: Type,
    handler: (detail: EventDetails[Type], event: NotifyEvent<EventDetails[Type]>) => unknown,
  ): () => void;

  addEventListener<Type extends keyof EventDetails>(
    type: Type,
    listener: ((event: NotifyEvent<EventDetails[Type]>) => void) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;

  /** Mark read everything up to a seq, or these seqs. All devices of the user hear of it. Throws NotifyError. */
  markRead(what: { upTo: number } | { seqs: number[] }): Promise<{ unread: number }>;

  /** A page of the inbox, newest first; `next` goes into `before`. Throws NotifyError. */
  inbox(query?: { before?: number | string | null; limit?: number; unread?: boolean }): Promise<InboxPage>;

  /**
   * Ask for the count of unread ones, after which `unread` is right: what expires leaves it without a frame.
   * Resolves to false when a frame came meanwhile that knew more. Throws NotifyError.
   */
  recount(): Promise<boolean>;

  /** Try now: ends a pause, doubts an open connection, and starts again after `stopped`. */
  reconnect(): void;

  /** End it for good. */
  close(): void;
}

/** Start receiving. Returns at once; `state` events tell how it goes. Throws TypeError for options that can't work. */
export function connect(options: Options): NotifyClient;
