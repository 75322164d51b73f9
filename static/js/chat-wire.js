// The line to the server: a WebSocket that is opened again whenever it is lost, and that notices when it is dead.
//
// `onstate` hears how it stands: "connecting", "open", "lost" (with the time of the next try), "signed-out", "gone".
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});

  const FIRST_MS = 200;
  const LONGEST_MS = 10_000;
  const OPENING_MS = 8_000;
  // During a run the server says something at least every 2 s; otherwise it answers pings.
  const SILENCE_MS = 5_000;
  const IDLE_MS = 20_000;
  const STEADY_MS = 5_000;
  const [ELSEWHERE, SIGNED_OUT, GONE, CROWDED] = [4000, 4401, 4404, 4429];

  chat.Wire = class {
    #socket = null;
    #timer = 0;
    #tries = 0;
    #openedAt = 0;
    #startedAt = 0;
    #heardAt = 0;
    #pingedAt = 0;

    // busy(): whether frames are due, so that silence means a dead line.
    constructor(url, { busy, onopen, onframe, onstate }) {
      Object.assign(this, { url, busy, onopen, onframe, onstate, state: "connecting", retryAt: 0, crowded: false });
      window.addEventListener("online", () => this.now());
      window.addEventListener("offline", () => this.#ping());
      window.addEventListener("pageshow", (event) => event.persisted && this.now());
      document.addEventListener("visibilitychange", () => {
        if (document.hidden) return;
        if (this.state === "lost") this.now();
        else this.#ping();
      });
      setInterval(() => this.#watch(), 500);
    }

    open() {
      clearTimeout(this.#timer);
      const socket = new WebSocket(this.url);
      this.#socket = socket;
      this.#startedAt = this.#heardAt = Date.now();
      this.#openedAt = this.#pingedAt = 0;
      this.#say("connecting");
      socket.onopen = () => {
        if (socket !== this.#socket) return;
        this.#openedAt = this.#heardAt = Date.now();
        this.crowded = false;
        this.#say("open");
        this.onopen();
      };
      socket.onmessage = ({ data }) => {
        if (socket !== this.#socket) return;
        this.#heardAt = Date.now();
        this.#pingedAt = 0;
        let frame;
        try {
          frame = JSON.parse(data);
        } catch {
          return;
        }
        if (frame.type !== "pong") this.onframe(frame);
      };
      socket.onclose = ({ code }) => {
        if (socket === this.#socket) this.#lost(code);
      };
    }

    // Try again at once.
    now() {
      if (this.state !== "lost") return;
      this.#tries = Math.min(this.#tries, 3);
      this.open();
    }

    send(frame) {
      if (this.state !== "open" || this.#socket?.readyState !== WebSocket.OPEN) return false;
      this.#socket.send(JSON.stringify(frame));
      return true;
    }

    // The line is not to be used any more.
    end(state) {
      clearTimeout(this.#timer);
      const socket = this.#socket;
      this.#socket = null;
      socket?.close();
      this.#say(state);
    }

    #lost(code) {
      const wasSteady = this.#openedAt && Date.now() - this.#openedAt > 1_000;
      this.#socket = null;
      if (code === SIGNED_OUT) return this.end("signed-out");
      if (code === GONE) return this.end("gone");
      if (code === ELSEWHERE && wasSteady) return this.open();
      this.crowded = code === CROWDED;
      const longest = this.crowded ? LONGEST_MS : Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#tries);
      this.#tries += 1;
      const wait = longest * (0.6 + 0.4 * Math.random());
      this.retryAt = Date.now() + wait;
      this.#timer = setTimeout(() => this.open(), wait);
      this.#say("lost");
    }

    // The line is dead though it looks open: closing it in good order could take a minute.
    #drop() {
      const socket = this.#socket;
      this.#socket = null;
      socket?.close();
      this.#lost(0);
    }

    #ping() {
      if (!this.#pingedAt && this.send({ type: "ping" })) this.#pingedAt = Date.now();
    }

    #watch() {
      const now = Date.now();
      if (this.state === "connecting" && now - this.#startedAt > OPENING_MS) return this.#drop();
      if (this.state !== "open") return;
      if (now - this.#openedAt > STEADY_MS) this.#tries = 0;
      const silence = now - this.#heardAt;
      if (this.busy() ? silence > SILENCE_MS : this.#pingedAt && now - this.#pingedAt > SILENCE_MS) this.#drop();
      else if (silence > IDLE_MS) this.#ping();
    }

    #say(state) {
      this.state = state;
      this.onstate(state);
    }
  };

})();
