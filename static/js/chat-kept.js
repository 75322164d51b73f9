// The message that was written while a reply was: it is sent when the reply is complete, unless that failed.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});

  const SHOWN = 300;

  chat.Kept = class {
    // send(text) tells whether the text was taken.
    constructor(node, store, { isBusy, send, edit, shown }) {
      Object.assign(this, { node, store, isBusy, deliver: send, edit, shown });
      this.text = store.kept;
      this.button = node.querySelector("[data-send-kept]");
      this.button.addEventListener("click", () => this.send());
      node.querySelector("[data-edit-kept]").addEventListener("click", () => edit(this.#take()));
    }

    add(text) {
      this.#set(this.text ? `${this.text}\n\n${text}` : text);
      this.show(this.isBusy());
      return true;
    }

    show(waits, why = "Not sent, because the answer failed:") {
      this.node.hidden = !this.text;
      this.node.querySelector("[data-text]").textContent = this.text.slice(0, SHOWN);
      this.node.querySelector("strong").textContent = waits ? "Will be sent after this answer:" : why;
      this.button.hidden = waits;
      this.shown();
    }

    send() {
      if (this.text && !this.isBusy() && this.deliver(this.text)) this.#take();
      else this.show(this.isBusy());
    }

    #set(text) {
      this.text = this.store.kept = text;
    }

    #take() {
      const text = this.text;
      this.#set("");
      this.show(this.isBusy());
      return text;
    }
  };
})();
