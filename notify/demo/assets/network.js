/**
 * A network of one device, with a plug to pull: what the client uses in place of the browser's WebSocket and fetch.
 * Connections break off without a goodbye, as they do in a tunnel. It also shows what goes over the wire.
 */

const SECRET = /"token":"[^"]*"/;

export class Network extends EventTarget {
  #online = true;
  #sockets = new Set();
  #abort = new AbortController();

  get online() {
    return this.#online;
  }

  set online(online) {
    this.#online = online;
    if (online) {
      this.#abort = new AbortController();
    } else {
      for (const socket of this.#sockets) socket.cut();
      this.#abort.abort();
    }
  }

  #show(direction, text) {
    const detail = { direction, text: text.replace(SECRET, '"token":"…"') };
    this.dispatchEvent(new CustomEvent("frame", { detail }));
  }

  /** In place of the browser's own. */
  get WebSocket() {
    const network = this;
    return class {
      readyState = 0;
      #socket = null;

      constructor(url, protocols) {
        if (!network.online) {
          setTimeout(() => this.cut(), 100);
          return;
        }
        network.#sockets.add(this);
        const socket = (this.#socket = new WebSocket(url, protocols));
        socket.onopen = () => {
          this.readyState = 1;
          this.onopen?.({});
        };
        socket.onmessage = (event) => {
          network.#show("in", event.data);
          this.onmessage?.(event);
        };
        socket.onclose = (event) => this.#end(event.code, event.reason);
      }

      send(text) {
        network.#show("out", text);
        this.#socket.send(text);
      }

      close(code) {
        this.#socket?.close(code);
        this.#forget();
      }

      cut() {
        this.#socket?.close();
        this.#end(1006, "");
      }

      #end(code, reason) {
        if (this.readyState === 3) return;
        this.#forget();
        this.onclose?.({ code, reason });
      }

      #forget() {
        this.readyState = 3;
        network.#sockets.delete(this);
        if (this.#socket !== null) this.#socket.onmessage = this.#socket.onclose = this.#socket.onopen = null;
      }
    };
  }

  /** In place of the browser's own. */
  fetch = (url, options = {}) => {
    if (!this.online) return Promise.reject(new TypeError("this device is offline"));
    const signals = [this.#abort.signal, options.signal].filter(Boolean);
    return fetch(url, { ...options, signal: AbortSignal.any(signals) });
  };
}
