// The transcript: messages as they come in, and as the server has them. The server's rendering always wins in the end.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});
  const FETCH_MS = 10_000;

  const made = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
  const isSelected = (node) => {
    const selection = getSelection();
    return Boolean(selection && !selection.isCollapsed && node.contains(selection.anchorNode));
  };

  // A fragment has no scope that a selector could name.
  const articlesOf = (fragment) => [...fragment.children].filter((node) => node.matches("article"));

  // Signed out, gone, or what else the server says instead of a page.
  class Refused extends Error {
    constructor(state) {
      super(state);
      this.state = state;
    }
  }

  const page = async (url) => {
    const response = await fetch(url, { redirect: "manual", signal: AbortSignal.timeout(FETCH_MS) });
    if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) throw new Refused("signed-out");
    if (response.status === 404) throw new Refused("gone");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const template = document.createElement("template");
    template.innerHTML = await response.text();
    return template.content;
  };

  chat.Log = class {
    #syncing = null;
    #again = false;
    #held = new Set();

    // makeReply(article, log): follows a reply that is being written.
    constructor(node, base, { makeReply, scroll }) {
      Object.assign(this, { node, base, makeReply, scroll, replies: new Map() });
      for (const article of node.querySelectorAll("article")) this.#adopt(article);
      document.addEventListener("toggle", (event) => this.#toggled(event), true);
      node.addEventListener("click", (event) => this.#clicked(event));
      document.addEventListener("selectionchange", () => {
        for (const [article, change] of [...this.#held]) {
          if (isSelected(article)) continue;
          this.#held.clear();
          change();
        }
      });
    }

    get articles() {
      return [...this.node.querySelectorAll(":scope > article")];
    }

    get writing() {
      return [...this.replies.values()].find((reply) => !reply.ended) ?? null;
    }

    #adopt(article) {
      for (const code of article.querySelectorAll(".reply-text.prose pre")) this.#withCopy(code);
      if (article.dataset.status === "writing" && article.dataset.runId && !this.replies.has(article.dataset.runId)) {
        this.replies.set(article.dataset.runId, this.makeReply(article, this));
      }
    }

    #withCopy(pre) {
      const button = made("code-template");
      button.dataset.copy = pre.textContent;
      const holder = document.createElement("div");
      holder.className = "code";
      pre.replaceWith(holder);
      holder.append(pre, button);
      pre.tabIndex = 0;
    }

    said(clientId) {
      return this.articles.find((article) => article.dataset.clientId === clientId) ?? null;
    }

    // What the person said, before the server has it.
    addSaid(clientId, text) {
      const article = made("said-template");
      article.dataset.clientId = clientId;
      article.querySelector(".said-text").textContent = text;
      this.node.append(article);
      return article;
    }

    // state: "" once the server has it, "waiting" or "refused" with what to say of it.
    mark(article, state, words = "", { canEdit = true } = {}) {
      const line = article.querySelector(".said-state");
      if (!line) return;
      if (state) article.dataset.state = state;
      else delete article.dataset.state;
      line.hidden = !state;
      line.querySelector("[data-state]").textContent = words;
      line.querySelector("[data-resend]").hidden = state !== "refused";
      line.querySelector("[data-take-back]").hidden = !canEdit;
    }

    addReply(runId, messageId, clientId) {
      const article = made("reply-template");
      article.dataset.runId = runId;
      article.dataset.local = "";
      if (messageId) article.id = `m-${messageId}`;
      const said = clientId && this.said(clientId);
      if (said) said.after(article);
      else this.node.append(article);
      const reply = this.makeReply(article, this);
      this.replies.set(runId, reply);
      return reply;
    }

    line(runId, key) {
      const line = made("line-template");
      line.dataset.key = key;
      line.querySelector("details").dataset.step = `${this.base}steps/${runId}/${encodeURIComponent(key)}/`;
      return line;
    }

    // What a reply waits for, until the server's own rendering is here, which has links too.
    parked(waits) {
      const box = made("parked-template");
      const last = box.querySelector("p");
      for (const { words } of waits) {
        const line = document.createElement("p");
        line.className = "parked-what";
        line.dir = "auto";
        line.textContent = `${words}.`;
        last.before(line);
      }
      return box;
    }

    // A reply has ended: its text gives way to what the server made of it.
    finish(reply, frame) {
      const { article, live } = reply;
      article.dataset.local = "";
      article.dataset.status = frame.type === "run.failed" ? "failed" : frame.stopped ? "stopped" : "done";
      if (frame.message_id) article.id = `m-${frame.message_id}`;
      reply.wait?.remove();
      const words = this.#ending(frame);
      if (words) {
        const end = document.createElement("p");
        end.className = "reply-end";
        end.textContent = words;
        article.querySelector(".reply-foot").before(end);
      }
      this.#whenFree(article, () => {
        if (!live?.isConnected) return;
        reply.blocks?.remove();
        if (!frame.html) return live.remove();
        live.className = "reply-text prose";
        live.innerHTML = frame.html;
        for (const code of live.querySelectorAll("pre")) this.#withCopy(code);
      });
    }

    #ending({ type, problem, stopped, text }) {
      if (type === "run.failed") return [problem?.title ?? "The answer failed", problem?.detail].filter(Boolean).join(": ");
      if (stopped) return "Stopped.";
      return text ? "" : "It ended without an answer.";
    }

    #whenFree(article, change) {
      if (isSelected(article)) this.#held.add([article, change]);
      else change();
    }

    // --- what the server has -----------------------------------------------------------------------------------

    // Bring the transcript up to date. Returns whether that could be done; a Refused error says why it never will.
    sync() {
      if (this.#syncing) {
        this.#again = true;
        return this.#syncing;
      }
      this.#syncing = this.#sync().finally(() => {
        this.#syncing = null;
        if (!this.#again) return;
        this.#again = false;
        this.sync().catch(() => {});
      });
      return this.#syncing;
    }

    async #sync() {
      const after = this.#settled();
      let fragment;
      try {
        fragment = await page(`${this.base}transcript/?after=${after}`);
      } catch (error) {
        if (error instanceof Refused) throw error;
        return false;
      }
      if (fragment.querySelector(".log-earlier") && after) {
        // More than a page is new: begin afresh rather than leave a hole.
        for (const article of this.articles) if (article.dataset.place) article.remove();
        this.node.querySelector(".log-earlier")?.remove();
        this.node.prepend(fragment.querySelector(".log-earlier"));
      }
      this.#merge(fragment, after);
      this.scroll.settle();
      return true;
    }

    // The place up to which nothing here can change any more.
    #settled() {
      let place = 0;
      for (const article of this.articles) {
        if (article.dataset.status === "writing" || "local" in article.dataset || !article.dataset.place) break;
        place = Number(article.dataset.place);
      }
      return place;
    }

    #merge(fragment, after) {
      let last = this.articles.findLast((article) => Number(article.dataset.place ?? Infinity) <= after) ?? null;
      for (const theirs of articlesOf(fragment)) {
        const ours = document.getElementById(theirs.id) ?? (theirs.dataset.clientId ? this.said(theirs.dataset.clientId) : null);
        const node = ours ? this.#settle(ours, theirs) : theirs;
        if (last ? last.nextElementSibling !== node : !node.isConnected) {
          if (last) last.after(node);
          else if (this.node.querySelector(":scope > .log-earlier")) this.node.querySelector(":scope > .log-earlier").after(node);
          else this.node.prepend(node);
        }
        if (!ours) this.#adopt(node);
        last = node;
      }
    }

    #settle(ours, theirs) {
      if (ours.matches(".said")) {
        Object.assign(ours, { id: theirs.id });
        ours.dataset.place = theirs.dataset.place;
        this.mark(ours, "");
        return ours;
      }
      const ends = theirs.dataset.status !== "writing";
      if (!ends) this.#settleWait(ours, theirs);
      if (!ends || (ours.dataset.status !== "writing" && !("local" in ours.dataset))) {
        ours.dataset.place = theirs.dataset.place;
        return ours;
      }
      if (isSelected(ours)) {
        this.#held.add([ours, () => this.sync().catch(() => {})]);
        return ours;
      }
      for (const open of ours.querySelectorAll("details[open]")) {
        const key = open.closest("[data-key]").dataset.key;
        const line = [...theirs.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
        const details = line?.querySelector("details");
        if (!details) continue;
        details.open = true;
        details.dataset.loaded = "";
        details.querySelector(".step-more").replaceWith(open.querySelector(".step-more"));
      }
      const focused = ours.contains(document.activeElement);
      ours.replaceWith(theirs);
      if (focused) document.getElementById("text")?.focus({ preventScroll: true });
      const reply = this.replies.get(theirs.dataset.runId);
      if (reply && !reply.ended) reply.replaced(theirs);
      this.#adopt(theirs);
      return theirs;
    }

    // What a reply waits for is the server's to say, while it does.
    #settleWait(ours, theirs) {
      const [box, fresh] = [ours, theirs].map((article) => article.querySelector("[data-parked]"));
      if (!box || !fresh || !this.replies.get(ours.dataset.runId)?.waiting || isSelected(ours)) return;
      if (box.innerHTML !== fresh.innerHTML && !box.contains(document.activeElement)) box.replaceWith(fresh);
    }

    // --- what a reader opens -----------------------------------------------------------------------------------

    #toggled({ target }) {
      if (this.node.contains(target)) this.scroll.look();
      if (target.matches?.("details[data-step]") && target.open && !("loaded" in target.dataset)) this.#load(target);
    }

    // A step that ends while it is open shows what came of it.
    reopen(line) {
      const details = line.querySelector("details");
      delete details?.dataset.loaded;
      if (details?.open) this.#load(details);
    }

    async #load(details) {
      const more = details.querySelector(".step-more");
      const say = (words) => {
        const line = document.createElement("p");
        line.className = "soft";
        line.textContent = words;
        more.replaceChildren(line);
      };
      details.dataset.loaded = "";
      const slow = setTimeout(() => say("Loading …"), 300);
      try {
        const fragment = await page(details.dataset.step);
        more.replaceChildren(fragment);
      } catch {
        delete details.dataset.loaded;
        say("This could not be loaded. Close and open it to try again.");
      } finally {
        clearTimeout(slow);
      }
    }

    async #clicked(event) {
      const link = event.target.closest(".log-earlier a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const holder = link.closest(".log-earlier");
      if (holder.dataset.loading !== undefined) return;
      holder.dataset.loading = "";
      link.textContent = "Loading …";
      try {
        const fragment = await page(`${this.base}transcript/?before=${holder.dataset.before}`);
        const first = holder.nextElementSibling ?? this.node;
        const added = articlesOf(fragment);
        this.scroll.keeping(first, () => holder.replaceWith(fragment));
        for (const article of added) this.#adopt(article);
        (this.node.querySelector(".log-earlier a") ?? this.node).focus({ preventScroll: true });
      } catch {
        link.textContent = "Earlier messages (not loaded: try again)";
      }
      delete holder.dataset.loading;
    }
  };

  chat.Refused = Refused;
})();
