// One reply while it is written: takes the frames of its run in order, and shows them.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});
  const RESUME_MS = 3_000;
  const SHOWN_KINDS = new Set(["tool", "step"]);

  const duration = (ms) => {
    if (ms < 999.5) return `${Math.max(0, Math.round(ms))} ms`;
    if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
    const whole = Math.round(ms / 1000);
    return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  };
  const readable = (name) => {
    const words = String(name ?? "").replace(/[_-]+/g, " ").trim() || "a tool";
    return words[0].toUpperCase() + words.slice(1);
  };

  chat.Reply = class {
    #whole = "";
    #tail;
    // What the server has made of the finished blocks stands for this much of the text; the rest is shown as it is.
    #upto = 0;
    #resumedAt = 0;

    // article: as the server rendered it, or made from the template. log: makes lines and knows the addresses.
    constructor(article, log, { resume, changed }) {
      Object.assign(this, { article, log, resume, changed });
      this.runId = article.dataset.runId;
      this.seq = Number(article.dataset.seq ?? -1);
      this.ended = article.dataset.status !== "writing";
      this.waiting = "waiting" in article.dataset;
      this.stopping = false;
      this.beganAt = Date.now();
      this.steps = article.querySelector(".chat-steps");
      this.live = article.querySelector(".reply-text.live");
      this.wait = article.querySelector(".reply-wait");
      this.blocks = null;
      if (this.live) {
        this.#whole = this.live.textContent;
        this.#tail = document.createTextNode(this.#whole);
        this.live.replaceChildren(this.#tail);
      }
    }

    get text() {
      return this.#whole;
    }

    // Ask for a snapshot, but not over and over.
    askAgain() {
      if (this.ended || Date.now() - this.#resumedAt < RESUME_MS) return;
      if (this.resume(this.runId, Math.max(0, this.seq))) this.#resumedAt = Date.now();
    }

    // The line is a new one: what was asked on the old one will not be answered.
    reconnected() {
      this.#resumedAt = 0;
      this.askAgain();
    }

    take(frame) {
      if (this.ended) return;
      const { type, seq } = frame;
      // Told where nobody was heard of who writes it.
      this.state = type === "run.heartbeat" ? frame.state : undefined;
      if (type === "run.finished" || type === "run.failed") return this.#end(frame);
      if (type === "run.heartbeat") {
        this.beganAt = Math.min(this.beganAt, Date.now() - (Number(frame.elapsed_ms) || 0));
        if (seq > this.seq) this.askAgain();
        // With a state its wait is over, though nobody goes on with it yet.
        if (this.parked) this.parked.hidden = Boolean(frame.state);
        return this.changed(this);
      }
      if (type === "run.snapshot") {
        if (seq < this.seq) return;
        this.seq = seq;
        this.#resumedAt = 0;
        this.#wait(null);
        return this.#replace(frame);
      }
      if (seq <= this.seq) return;
      if (seq > this.seq + 1 && this.seq >= 0) return this.askAgain();
      if (this.seq < 0 && type !== "run.accepted") return this.askAgain();
      this.seq = seq;
      this.#resumedAt = 0;
      this.#wait(type === "run.waiting" ? (frame.waits ?? []) : null);
      if (type === "run.delta") this.#add(frame.text);
      else if (type === "run.step") this.#step(frame);
      else if (type === "run.block") this.#block(frame);
      else if (type === "run.withdrawn") {
        this.#unblock();
        this.#set(frame.text ?? "");
      }
      this.changed(this, type, frame);
    }

    // What the run waits for, or null when it goes on: then its time counts anew.
    #wait(waits) {
      if (!waits && this.waiting) {
        this.beganAt = this.saidAt = Date.now();
        this.wentOn = true;
      }
      this.waiting = Boolean(waits);
      this.article.toggleAttribute("data-waiting", this.waiting);
      this.parked?.remove();
      if (waits) this.live.after(this.log.parked(waits));
    }

    // The box that says what it waits for.
    get parked() {
      return this.article.querySelector("[data-parked]");
    }

    #add(text) {
      this.#whole += String(text ?? "");
      this.#tail.appendData(String(text ?? ""));
    }

    #set(text) {
      this.#whole = text;
      const rest = text.slice(this.#upto);
      // Only what differs is changed: a selection in the rest stays.
      const now = this.#tail.data;
      let same = 0;
      while (same < now.length && same < rest.length && now[same] === rest[same]) same += 1;
      this.#tail.replaceData(same, now.length - same, rest.slice(same));
    }

    #block({ html, start, end }) {
      if (start !== this.#upto || end > this.#whole.length) return;
      if (!this.blocks) {
        this.blocks = document.createElement("div");
        this.blocks.className = "reply-text prose";
        this.blocks.dir = "auto";
        this.live.before(this.blocks);
      }
      this.blocks.insertAdjacentHTML("beforeend", html);
      this.#upto = end;
      this.#set(this.#whole);
    }

    #unblock() {
      this.blocks?.remove();
      this.blocks = null;
      this.#upto = 0;
    }

    #replace({ text, steps, html, end }) {
      const same = html && this.#upto === end && this.#whole.slice(0, end) === String(text).slice(0, end);
      if (!same) this.#unblock();
      this.#set(String(text ?? ""));
      if (html && !same) this.#block({ html, start: 0, end });
      const known = new Set();
      for (const step of steps ?? []) {
        known.add(step.key);
        this.#step(step);
      }
      for (const line of [...this.steps.children]) if (!known.has(line.dataset.key)) line.remove();
      this.steps.hidden = !this.steps.children.length;
      this.changed(this, "run.snapshot");
    }

    #step({ key, name, kind, status, summary, ms, words }) {
      let line = [...this.steps.children].find((one) => one.dataset.key === key);
      const shown = SHOWN_KINDS.has(kind) || (kind === "wait" && words) || status === "failed" || (status === "started" && summary);
      if (!shown) {
        line?.remove();
      } else {
        if (!line) {
          line = this.log.line(this.runId, key);
          this.steps.append(line);
        }
        line.dataset.kind = kind;
        line.dataset.status = status;
        line.querySelector(".step-words").textContent = words || this.#words(name, kind, status, summary);
        line.querySelector(".step-took").textContent = status === "started" || ms === undefined ? "" : duration(ms);
        if (status === "started") line.dataset.since ??= String(Date.now());
        if (status !== "started") this.log.reopen(line);
      }
      this.steps.hidden = !this.steps.children.length;
    }

    #words(name, kind, status, summary) {
      if (kind === "model" || kind === "compose") return summary ? `The model did not answer: ${summary}` : "The model did not answer";
      if (!summary) return status === "failed" ? `${readable(name)} failed` : readable(name);
      return `${readable(name)}: ${summary}`;
    }

    // The words of the step that is under way, if one is.
    get doing() {
      const going = [...this.steps.children].filter((line) => line.dataset.status === "started");
      return going.at(-1) ?? null;
    }

    // The server's rendering of the ended reply has taken its place.
    replaced(article) {
      this.article = article;
      this.ended = true;
      this.changed(this, "replaced");
    }

    #end(frame) {
      this.ended = true;
      this.#wait(null);
      this.seq = Math.max(this.seq, frame.seq ?? 0);
      for (const line of [...this.steps.children]) if (!SHOWN_KINDS.has(line.dataset.kind) && line.dataset.kind !== "wait") line.remove();
      this.steps.hidden = !this.steps.children.length;
      this.log.finish(this, frame);
      this.changed(this, frame.type, frame);
    }
  };

  chat.duration = duration;
})();
