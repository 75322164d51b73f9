// Puts the chat together: what is sent, what comes in, and how things stand in words.
(() => {
  "use strict";
  const chat = globalThis.astraChat;
  const root = document.getElementById("chat");
  const form = document.getElementById("composer");
  if (!root || !form) return;

  const { user, conversation, base } = root.dataset;
  const beginnings = new chat.Store(user, "new");
  const store = conversation ? new chat.Store(user, conversation) : beginnings;
  const SENT_NEW = "astra:sent:new";

  if (!conversation || "history" in root.dataset) {
    // The first message, and one from a page of old messages, is sent as a form; the next page shows the rest.
    new chat.Composer(form, store, {});
    form.addEventListener("submit", (event) => {
      if (!event.defaultPrevented && !conversation) sessionStorage.setItem(SENT_NEW, form.elements.client_id.value);
    });
    return;
  }

  const line = document.getElementById("chat-line");
  const announcer = document.getElementById("announcer");
  const kept = document.getElementById("kept");
  const scroll = new chat.Scroll(document.getElementById("jump"));
  let wire = null;
  let wantsStop = false;
  let lostAt = 0;
  let lossShown = false;
  let reconnectedAt = 0;
  let isFirst = true;

  // --- words ---------------------------------------------------------------------------------------------------

  const announce = (words) => {
    announcer.textContent = words;
  };
  const put = (node, words) => {
    if (node.textContent !== words) node.textContent = words;
  };
  const seconds = (ms) => `${Math.max(0, Math.round(ms / 1000))} s`;

  const standing = () => {
    const now = Date.now();
    if (wire.state === "signed-out") {
      return { words: "You are signed out. What you write is kept in this browser.", link: ["Sign in again", `${root.dataset.signIn}?next=${encodeURIComponent(location.pathname)}`] };
    }
    if (wire.state === "gone") return { words: "This conversation is gone: it was deleted.", link: ["New chat", root.dataset.home] };
    if (lostAt && now - lostAt > 800) {
      const what = wire.crowded ? "Too many windows of Astra are open: close one" : navigator.onLine === false ? "You are offline" : "Connection lost";
      const wait = wire.retryAt - now;
      if (wire.state === "lost" && wait > 1_000) return { words: `${what}. Trying again in ${seconds(wait)}.`, button: "Now", loss: true };
      return { words: `${what}. Connecting again …`, loss: true };
    }
    if (wire.state === "connecting" && isFirst && now - loadedAt > 3_000) return { words: "Connecting …" };
    if (pending().some((one) => one.triedAt && now - one.triedAt > 1_500)) return { words: "Sending …" };
    if (reconnectedAt && now - reconnectedAt < 4_000) return { words: "Reconnected." };
    return null;
  };

  const showStanding = () => {
    const how = standing();
    line.toggleAttribute("data-shown", Boolean(how));
    line.toggleAttribute("data-loss", Boolean(how?.loss));
    if (how?.loss && !lossShown) announce("Connection lost.");
    lossShown = Boolean(how?.loss);
    put(line.querySelector("[data-line]"), how?.words ?? "");
    const button = line.querySelector("[data-line-button]");
    button.hidden = !how?.button;
    put(button, how?.button ?? "");
    const link = line.querySelector("[data-line-link]");
    link.hidden = !how?.link;
    put(link, how?.link?.[0] ?? "");
    if (how?.link) link.href = how.link[1];
  };
  line.querySelector("[data-line-button]").addEventListener("click", () => {
    wire.now();
    composer.focus();
  });

  const showReply = (reply) => {
    if (reply.ended || !reply.wait?.isConnected) return;
    const now = Date.now();
    const elapsed = now - reply.beganAt;
    const clock = elapsed >= 2_000 ? ` ${seconds(elapsed)}` : "";
    const doing = reply.doing;
    if (doing?.dataset.since) {
      const ms = now - Number(doing.dataset.since);
      put(doing.querySelector(".step-took"), ms >= 1_000 ? seconds(ms) : "");
    }
    let words = "";
    if (lostAt && now - lostAt > 800) words = "Waiting for the connection …";
    else if (reply.stopping) words = "Stopping …";
    else if (reply.waiting) words = "Waiting for a person to decide …";
    else if (doing) words = "";
    else if (!reply.text) words = elapsed >= 400 ? `Thinking …${clock}` : "";
    else if (now - reply.saidAt > 2_500) words = `Still writing …${clock}`;
    put(reply.wait.querySelector("[data-wait]"), words);
    reply.wait.hidden = !words;
  };

  // --- replies -------------------------------------------------------------------------------------------------

  const log = new chat.Log(document.getElementById("log"), base, {
    scroll,
    makeReply: (article, owner) =>
      new chat.Reply(article, owner, {
        resume: (run_id, last_seq) => wire.send({ type: "resume", run_id, last_seq }),
        changed,
      }),
  });

  function changed(reply, type, frame) {
    if (type === "run.delta" || type === "run.withdrawn") reply.saidAt = Date.now();
    showReply(reply);
    if (type === "run.step") {
      const doing = reply.doing ?? reply.steps.lastElementChild;
      if (doing) announce(doing.querySelector(".step-words").textContent);
    } else if (type === "run.finished") announce(frame.stopped ? "Stopped." : "The answer is complete.");
    else if (type === "run.failed") announce(`The answer failed. ${frame.problem?.title ?? ""}`);
    if (reply.ended) ended(reply.article.dataset.status === "failed", type !== "replaced");
    else if (type) scroll.follow();
    lookBusy();
  }

  const ended = (failed, isNews) => {
    scroll.settle();
    if (isNews) update();
    chat.refreshList();
    lookBusy();
    if (!failed) sendKept();
    else showKept();
  };

  const update = async () => {
    try {
      await log.sync();
    } catch (error) {
      if (error instanceof chat.Refused) wire.end(error.state);
    }
    lookBusy();
    showKept();
  };

  // --- what is sent --------------------------------------------------------------------------------------------

  // {id, text, problem?, tries, triedAt}; those with a problem were refused.
  const outbox = store.outbox;
  const pending = () => outbox.filter((one) => !one.problem);
  const isBusy = () => Boolean(log.writing) || pending().length > 0;
  const keepOutbox = () => {
    store.outbox = outbox.map(({ id, text, problem, tried }) => ({ id, text, problem, tried }));
  };
  const forget = (id) => {
    const at = outbox.findIndex((one) => one.id === id);
    if (at >= 0) outbox.splice(at, 1);
    keepOutbox();
    return at >= 0;
  };
  const lookBusy = () => composer.setRunning(isBusy(), Boolean(log.writing?.stopping || (wantsStop && !log.writing)));

  const transmit = (one) => {
    const article = log.said(one.id) ?? log.addSaid(one.id, one.text);
    if (wire.send({ type: "message", text: one.text, client_id: one.id })) {
      one.tried = true;
      one.triedAt = Date.now();
      log.mark(article, "");
    } else {
      log.mark(article, "waiting", "Not sent yet. It will be sent as soon as there is a connection.", { canEdit: !one.tried });
    }
    keepOutbox();
  };

  const say = (text) => {
    if (wire.state === "gone" || wire.state === "signed-out") return false;
    const one = { id: chat.newId(), text };
    outbox.push(one);
    transmit(one);
    scroll.toEnd();
    lookBusy();
    return true;
  };

  const refused = (one, problem) => {
    const article = log.said(one.id);
    const slug = String(problem.type ?? "").split("/").pop();
    if (slug === "reply-running") {
      forget(one.id);
      article?.remove();
      keep(one.text);
      if (!log.writing) update();
      return;
    }
    one.tries = (one.tries ?? 0) + 1;
    if (problem.status === 503 && one.tries <= 3) {
      one.triedAt = 0;
      setTimeout(() => outbox.includes(one) && transmit(one), 1_000 * (Number(problem.retry_after_s) || 2));
      if (article) log.mark(article, "waiting", `${problem.title}. Trying again by itself.`, { canEdit: false });
      return;
    }
    one.problem = problem;
    keepOutbox();
    showRefused(one);
    announce(`Not sent. ${problem.detail ?? problem.title ?? ""}`);
  };
  const showRefused = (one) => {
    const article = log.said(one.id) ?? log.addSaid(one.id, one.text);
    log.mark(article, "refused", `Not sent. ${one.problem.detail || one.problem.title || ""}`);
  };

  log.node.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-resend], [data-take-back]");
    const one = button && outbox.find(({ id }) => id === button.closest("article").dataset.clientId);
    if (!one) return;
    if (button.matches("[data-take-back]")) {
      forget(one.id);
      log.said(one.id)?.remove();
      composer.putBack(one.text);
    } else if (isBusy()) {
      forget(one.id);
      log.said(one.id)?.remove();
      keep(one.text);
    } else {
      delete one.problem;
      one.tries = 0;
      transmit(one);
    }
    lookBusy();
  });
  log.node.addEventListener("submit", (event) => {
    const again = event.target.closest("[data-again]");
    if (!again) return;
    event.preventDefault();
    let said = again.closest("article").previousElementSibling;
    while (said && !said.matches(".said")) said = said.previousElementSibling;
    const text = said?.querySelector(".said-text").textContent;
    if (text) isBusy() ? keep(text) : say(text);
    composer.focus();
  });

  // --- the message that waits for the end of a reply -------------------------------------------------------------

  const keep = (text) => {
    store.kept = store.kept ? `${store.kept}\n\n${text}` : text;
    showKept();
    return true;
  };
  const showKept = () => {
    const text = store.kept;
    kept.hidden = !text;
    put(kept.querySelector("[data-text]"), text.slice(0, 300));
    const waits = isBusy();
    put(kept.querySelector("strong"), waits ? "Will be sent after this answer:" : "Not sent, because the answer failed:");
    kept.querySelector("[data-send-kept]").hidden = waits;
    scroll.settle();
  };
  const sendKept = () => {
    const text = store.kept;
    if (!text || isBusy()) return showKept();
    if (text.length > composer.limit || !say(text)) return showKept();
    store.kept = "";
    showKept();
  };
  kept.addEventListener("click", ({ target }) => {
    if (target.closest("[data-send-kept]")) sendKept();
    if (target.closest("[data-edit-kept]")) {
      const text = store.kept;
      store.kept = "";
      showKept();
      composer.putBack(text);
    }
    composer.focus();
  });

  const stop = () => {
    const reply = log.writing;
    if (!reply) {
      wantsStop = pending().length > 0;
    } else {
      reply.stopping = true;
      wire.send({ type: "stop", run_id: reply.runId });
      showReply(reply);
    }
    lookBusy();
  };

  const composer = new chat.Composer(form, store, { onsend: say, onkeep: keep, onstop: stop });

  // --- what comes in -------------------------------------------------------------------------------------------

  const byRun = (id) => document.querySelector(`article[data-run-id="${CSS.escape(id)}"]`);

  const accepted = (frame) => {
    forget(frame.client_id);
    const said = log.said(frame.client_id) ?? log.addSaid(frame.client_id, frame.text ?? "");
    log.mark(said, "");
    let reply = log.replies.get(frame.run_id);
    if (!reply && !byRun(frame.run_id)) {
      reply = log.addReply(frame.run_id, frame.message_id, frame.client_id);
      announce("Astra is answering.");
      chat.refreshList();
    }
    reply?.take(frame);
    if (wantsStop && reply && !reply.ended) stop();
    wantsStop = false;
    scroll.follow();
    lookBusy();
  };

  const onframe = (frame) => {
    if (frame.type === "error") {
      const one = outbox.find(({ id }) => id === frame.client_id);
      if (one) refused(one, frame.problem ?? {});
      return lookBusy();
    }
    if (frame.type === "conversation.message") return update().then(() => scroll.follow());
    if (!frame.run_id) return;
    if (frame.type === "run.accepted") return accepted(frame);
    let reply = log.replies.get(frame.run_id);
    if (!reply) {
      if (byRun(frame.run_id)) return;
      if (frame.type === "run.finished" || frame.type === "run.failed") return update();
      reply = log.addReply(frame.run_id, frame.message_id);
      update();
    }
    reply.take(frame);
  };

  const onopen = () => {
    if (lossShown) {
      reconnectedAt = Date.now();
      announce("Reconnected.");
    }
    lostAt = 0;
    // Also the first time: something may have happened since the page was made.
    if (!isFirst || log.writing || outbox.length) update();
    if (!isFirst) chat.refreshList();
    isFirst = false;
    for (const reply of log.replies.values()) {
      if (reply.ended) continue;
      reply.reconnected();
      if (reply.stopping) wire.send({ type: "stop", run_id: reply.runId });
    }
    for (const one of pending()) transmit(one);
    showStanding();
  };

  const onstate = (state) => {
    if (state === "lost") {
      lostAt ||= Date.now();
      // A refused handshake does not say why: the site itself does.
      probes += 1;
      if (probes % 3 === 2) update();
    } else if (state === "open") probes = 0;
    else if (state === "signed-out" || state === "gone") {
      form.querySelector(".send").disabled = true;
      announce(state === "gone" ? "This conversation is gone." : "You are signed out.");
    }
    if (wire) showStanding();
  };

  // --- begin ---------------------------------------------------------------------------------------------------

  const loadedAt = Date.now();
  let probes = 0;
  if (sessionStorage.getItem(SENT_NEW) && log.said(sessionStorage.getItem(SENT_NEW))) {
    beginnings.draft = "";
    sessionStorage.removeItem(SENT_NEW);
  }
  for (const one of [...outbox]) {
    const said = log.said(one.id);
    if (said) forget(one.id);
    else if (one.problem) showRefused(one);
    else log.mark(log.addSaid(one.id, one.text), "waiting", "Not sent yet.", { canEdit: false });
  }
  const address = new URL(`/ws/chat/${conversation}/`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  wire = new chat.Wire(address.href, { busy: () => Boolean(log.writing && !log.writing.waiting) || pending().length > 0, onopen, onframe, onstate });
  wire.open();
  showKept();
  if (store.kept && !isBusy()) put(kept.querySelector("strong"), "Not sent yet:");
  lookBusy();
  scroll.toEnd();
  if (!matchMedia("(pointer: coarse)").matches) composer.focus();
  setInterval(() => {
    showStanding();
    for (const reply of log.replies.values()) showReply(reply);
  }, 250);
})();
