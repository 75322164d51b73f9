// The line above the composer: how the connection stands, in words, and what can be done about it.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});

  // A shorter loss is not worth a word.
  const QUIET_MS = 800;
  const SLOW_MS = 3_000;
  const NEWS_MS = 4_000;

  const put = (node, words = "") => {
    if (node.textContent !== words) node.textContent = words;
    node.hidden = !words;
  };

  chat.Standing = class {
    constructor(node, wire, { signIn, home, onnow }) {
      Object.assign(this, { node, wire, signIn, home, lossShown: false, reconnectedAt: 0, madeAt: Date.now() });
      this.words = node.querySelector("[data-line]");
      this.button = node.querySelector("[data-line-button]");
      this.link = node.querySelector("[data-line-link]");
      this.button.addEventListener("click", () => {
        wire.now();
        onnow();
      });
    }

    show(state) {
      const how = this.#how(state);
      this.lossShown = Boolean(how?.isLoss);
      this.node.toggleAttribute("data-shown", Boolean(how));
      this.node.toggleAttribute("data-loss", this.lossShown);
      put(this.words, how?.words);
      put(this.button, how?.button);
      put(this.link, how?.link?.[0]);
      if (how?.link) this.link.href = how.link[1];
    }

    #how({ lostAt, isFirst, isSending }) {
      const now = Date.now();
      const { state, retryAt, crowded } = this.wire;
      if (state === "signed-out") {
        return { words: "You are signed out. What you write is kept in this browser.", link: ["Sign in again", this.signIn] };
      }
      if (state === "gone") return { words: "This conversation is gone: it was deleted.", link: ["New chat", this.home] };
      if (lostAt && now - lostAt > QUIET_MS) {
        const what = this.#loss(crowded);
        const wait = Math.round((retryAt - now) / 1000);
        if (state !== "lost" || wait < 1) return { words: `${what}. Connecting again …`, isLoss: true };
        return { words: `${what}. Trying again in ${wait} s.`, button: "Now", isLoss: true };
      }
      if (state === "connecting" && isFirst && now - this.madeAt > SLOW_MS) return { words: "Connecting …" };
      if (isSending) return { words: "Sending …" };
      if (this.reconnectedAt && now - this.reconnectedAt < NEWS_MS) return { words: "Reconnected." };
      return null;
    }

    #loss(crowded) {
      if (crowded) return "Too many windows of Astra are open: close one";
      return navigator.onLine === false ? "You are offline" : "Connection lost";
    }
  };
})();
