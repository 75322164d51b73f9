// The composer: keys, length, the draft, and the message that waits for the end of a reply.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});
  // From this share of the limit on the length is shown.
  const NEAR = 0.9;

  chat.Composer = class {
    #saving = 0;

    // onsend(text), onkeep(text), onstop(). Without `onsend` the form is sent as forms are.
    constructor(form, store, { onsend, onkeep, onstop }) {
      Object.assign(this, { form, store, onsend, onkeep, onstop, running: false });
      this.area = form.querySelector("textarea");
      this.send = form.querySelector(".send");
      this.stop = form.querySelector(".stop");
      this.later = form.querySelector("[data-later]");
      this.note = form.querySelector(".composer-note");
      this.hint = [...this.note.childNodes];
      this.limit = Number(form.dataset.limit);
      if (!this.area.value && !this.area.disabled) this.area.value = store.draft;
      this.area.addEventListener("input", () => this.#typed());
      this.area.addEventListener("keydown", (event) => this.#key(event));
      form.addEventListener("submit", (event) => this.#submit(event));
      this.stop.addEventListener("click", (event) => {
        event.preventDefault();
        this.onstop?.();
        this.focus();
      });
      this.later.addEventListener("click", () => this.#go());
      window.addEventListener("pagehide", () => this.#save());
      this.#look();
    }

    get text() {
      return this.area.value;
    }
    set text(value) {
      this.area.value = value;
      this.#typed();
      this.#save();
    }

    // Put a text back: before what has been typed since.
    putBack(text) {
      this.text = this.text.trim() ? `${text}\n\n${this.text}` : text;
      this.focus();
    }

    focus() {
      this.area.focus({ preventScroll: true });
    }

    setRunning(running, stopping = false, waiting = false) {
      const [waits, keys] = ["[data-waits]", ".keys"].map((which) => this.hint.find((node) => node.matches?.(which)));
      if (waits) [waits.hidden, keys.hidden] = [!waiting, waiting];
      if (running !== this.running) {
        this.running = running;
        this.form.toggleAttribute("data-running", running);
      }
      this.stop.disabled = stopping;
      const word = stopping ? "Stopping" : "Stop";
      const label = this.stop.querySelector("[data-stop-word]");
      if (label.textContent !== word) label.textContent = word;
      this.#look();
    }

    get #over() {
      return this.text.length - this.limit;
    }

    #look() {
      const over = this.#over;
      const isEmpty = !this.text.trim();
      if (!this.area.disabled) {
        this.send.disabled = over > 0;
        this.later.hidden = !this.running || isEmpty || over > 0;
        if (over > 0) this.#say(`${over.toLocaleString("en")} character${over === 1 ? "" : "s"} too many: ${this.limit.toLocaleString("en")} can be sent at once.`, true);
        else if (this.text.length > this.limit * NEAR) this.#say(`${(-over).toLocaleString("en")} characters left.`, false);
        else this.#say("", false);
      }
      if (!CSS.supports("field-sizing", "content")) {
        this.area.style.height = "auto";
        this.area.style.height = `${this.area.scrollHeight}px`;
      }
    }

    #say(words, isBad) {
      this.note.toggleAttribute("data-bad", isBad);
      if (words) this.note.textContent = words;
      else if (this.note.firstChild !== this.hint[0]) this.note.replaceChildren(...this.hint);
    }

    #typed() {
      this.#look();
      clearTimeout(this.#saving);
      this.#saving = setTimeout(() => this.#save(), 300);
    }

    #save() {
      clearTimeout(this.#saving);
      if (!this.area.disabled) this.store.draft = this.text;
    }

    #key(event) {
      // While an input method composes, Enter chooses a word. (229: Safari ends the composition before the key.)
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && !event.shiftKey && !event.altKey && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        if (this.running) this.#go();
        else if (this.text.trim() && this.#over <= 0) this.form.requestSubmit(this.send);
      }
      if (event.key === "Escape" && this.running && !this.stop.disabled) {
        event.preventDefault();
        this.onstop?.();
      }
    }

    #submit(event) {
      if (event.submitter?.name === "example") return this.#save();
      if (!this.text.trim() || this.#over > 0) {
        event.preventDefault();
        return this.focus();
      }
      if (!this.onsend) return this.#save();
      event.preventDefault();
      this.#go();
    }

    #go() {
      const text = this.text;
      if (!text.trim() || this.#over > 0) return;
      // Only what was taken is cleared.
      const taken = this.running ? this.onkeep?.(text) : this.onsend?.(text);
      if (taken !== false) this.text = "";
      this.focus();
    }
  };
})();
