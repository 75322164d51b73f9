// What must outlive a reload: drafts (for this browser), and messages that have not been answered for (for this tab).
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});

  // Storage may be full or forbidden: then nothing is kept, and everything else goes on.
  const read = (store, key) => {
    try {
      return globalThis[store].getItem(key);
    } catch {
      return null;
    }
  };
  const write = (store, key, value) => {
    try {
      if (value) globalThis[store].setItem(key, value);
      else globalThis[store].removeItem(key);
    } catch {}
  };

  // The id of the message that began a conversation, from the page that sent it to the page that shows it.
  const BEGAN = "astra:began";
  chat.began = {
    get id() {
      return read("sessionStorage", BEGAN) ?? "";
    },
    set id(id) {
      write("sessionStorage", BEGAN, id);
    },
  };

  // `crypto.randomUUID` is there only on https and on localhost.
  chat.newId = () => {
    if (crypto.randomUUID) return crypto.randomUUID();
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  };

  chat.Store = class {
    constructor(user, conversation) {
      this.draftKey = `astra:draft:${user}:${conversation}`;
      this.outboxKey = `astra:outbox:${user}:${conversation}`;
      this.keptKey = `astra:kept:${user}:${conversation}`;
    }

    get draft() {
      return read("localStorage", this.draftKey) ?? "";
    }
    set draft(text) {
      write("localStorage", this.draftKey, text);
    }

    // The message that waits for the end of a reply.
    get kept() {
      return read("sessionStorage", this.keptKey) ?? "";
    }
    set kept(text) {
      write("sessionStorage", this.keptKey, text);
    }

    // [{id, text, problem?}]: sent or about to be, and not accepted yet; with a problem, refused.
    get outbox() {
      try {
        const found = JSON.parse(read("sessionStorage", this.outboxKey) ?? "[]");
        return Array.isArray(found) ? found : [];
      } catch {
        return [];
      }
    }
    set outbox(messages) {
      write("sessionStorage", this.outboxKey, messages.length ? JSON.stringify(messages) : "");
    }
  };
})();
