// Level meters: WS /v1/levels, open while there is something to watch and the page can be seen.

import { openSocket } from "./api.js";

const RETRY_MS = 3000;

/** Where a level in dBov is on a meter, 0 to 1: from -60 to 0. */
export const share = (level) => Math.min(1, Math.max(0, (level + 60) / 60));

export function show(bar, level) {
  bar.style.transform = `scaleX(${share(level).toFixed(2)})`;
}

export class Levels {
  constructor(onLevels) {
    this.onLevels = onLevels;
    this.wanted = [];
    this.socket = null;
    this.notBefore = 0;
  }

  /** The calls to be watched from now on. Said again and again: a call can be heard only once it is answered. */
  watch(ids) {
    this.wanted = document.hidden ? [] : ids;
    if (!this.wanted.length) {
      this.close();
    } else if (!this.socket) {
      if (Date.now() >= this.notBefore) this.open();
    } else if (this.socket.readyState === WebSocket.OPEN) {
      this.tell();
    }
  }

  close() {
    if (!this.socket) return;
    const socket = this.socket;
    this.socket = null;
    socket.close();
  }

  open() {
    const socket = openSocket("/v1/levels");
    this.socket = socket;
    socket.onopen = () => this.tell();
    socket.onmessage = (message) => this.onLevels(JSON.parse(message.data).levels || {});
    socket.onclose = () => {
      if (this.socket === socket) this.socket = null;
      this.notBefore = Date.now() + RETRY_MS;
    };
  }

  tell() {
    this.socket.send(JSON.stringify({ calls: this.wanted }));
  }
}
