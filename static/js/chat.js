// Puts the chat together: what is sent, what comes in, and how things stand in words.
(() => {
  "use strict";
  const chat = globalThis.astraChat;
  const root = document.getElementById("chat");
  const form = document.getElementById("composer");
  if (!root || !form) return;

  // What could not be brought up to date is tried again after so long.
  const AGAIN_MS = 3_000;
  const { user, conversation, base } = root.dataset;
  const beginnings = new chat.Store(user, "new");
  const store = conversation ? new chat.Store(user, conversation) : beginnings;

  if (!conversation || "history" in root.dataset) {
    // The first message, and one from a page of old messages, is sent as a form; the next page shows the rest.
    new chat.Composer(form, store, {});
    form.addEventListener("submit", (event) => {
      if (!event.defaultPrevented && !conversation) chat.began.id = form.elements.client_id.value;
    });
    return;
  }

  const announcer = document.getElementById("announcer");
  const scroll = new chat.Scroll(document.getElementById("jump"));
  let wire = null;
  let wantsStop = false;
  let lostAt = 0;
  let isFirst = true;
  let again = 0;

  // --- words ---------------------------------------------------------------------------------------------------

  const announce = (words) => {
    announcer.textContent = words;
  };
  const put = (node, words) => {
    if (node.textContent !== words) node.textContent = words;
  };
  const seconds = (ms) => `${Math.max(0, Math.round(ms / 1000))} s`;

  const showStanding = () => {
    const wasShown = standing.lossShown;
    standing.show({ lostAt, isFirst, isSending: pending().some((one) => one.triedAt && Date.now() - one.triedAt > 1_500) });
    if (standing.lossShown && !wasShown) announce("Connection lost.");
  };

  const UNWRITTEN = {
    running: "The process that wrote it does not answer. Another one will go on …",
    queued: "The process that wrote it is gone. Another one goes on as soon as it can …",
    scheduled: "Waiting to be tried again …",
    blocked: "Held back until an operator lets it go on …",
  };
  // What it waited for has come.
  const GOES_ON = { running: "It goes on …", queued: "It goes on in a moment …", blocked: UNWRITTEN.blocked };

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
    else if (reply.waiting) words = GOES_ON[reply.state] ?? "";
    else if (reply.state) words = UNWRITTEN[reply.state] ?? "";
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
    if (reply.wentOn) {
      reply.wentOn = false;
      announce("It goes on.");
      chat.refreshList();
    }
    if (type === "run.step") {
      const doing = reply.doing ?? reply.steps.lastElementChild;
      if (doing) announce(doing.querySelector(".step-words").textContent);
    } else if (type === "run.waiting") {
      announce(`${(frame.waits ?? []).map(({ words }) => words).join(". ") || "The answer waits"}. It goes on by itself.`);
      update();
      chat.refreshList();
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
    if (failed) kept.show(isBusy());
    else kept.send();
  };

  const update = async () => {
    clearTimeout(again);
    try {
      if (!(await log.sync()) && wire.state === "open") again = setTimeout(update, AGAIN_MS);
    } catch (error) {
      if (error instanceof chat.Refused) wire.end(error.state);
    }
    lookBusy();
    kept.show(isBusy());
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
  const lookBusy = () => composer.setRunning(isBusy(), Boolean(log.writing?.stopping || (wantsStop && !log.writing)), Boolean(log.writing?.waiting));

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
      kept.add(one.text);
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
      kept.add(one.text);
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
    if (text) isBusy() ? kept.add(text) : say(text);
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

  const composer = new chat.Composer(form, store, { onsend: say, onkeep: (text) => kept.add(text), onstop: stop });

  const kept = new chat.Kept(document.getElementById("kept"), store, {
    isBusy,
    send: (text) => text.length <= composer.limit && say(text),
    edit: (text) => composer.putBack(text),
    shown: () => scroll.settle(),
  });

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
    if (standing.lossShown) {
      standing.reconnectedAt = Date.now();
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
    showStanding();
  };

  // --- begin ---------------------------------------------------------------------------------------------------

  let probes = 0;
  if (chat.began.id && log.said(chat.began.id)) beginnings.draft = chat.began.id = "";
  for (const one of [...outbox]) {
    const said = log.said(one.id);
    if (said) forget(one.id);
    else if (one.problem) showRefused(one);
    else log.mark(log.addSaid(one.id, one.text), "waiting", "Not sent yet.", { canEdit: false });
  }
  const address = new URL(`/ws/chat/${conversation}/`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  wire = new chat.Wire(address.href, { busy: () => Boolean(log.writing && !log.writing.waiting) || pending().length > 0, onopen, onframe, onstate });
  const standing = new chat.Standing(document.getElementById("chat-line"), wire, {
    signIn: `${root.dataset.signIn}?next=${encodeURIComponent(location.pathname)}`,
    home: root.dataset.home,
    onnow: () => composer.focus(),
  });
  wire.open();
  kept.show(isBusy(), "Not sent yet:");
  lookBusy();
  scroll.toEnd();
  if (!matchMedia("(pointer: coarse)").matches) composer.focus();
  setInterval(() => {
    showStanding();
    for (const reply of log.replies.values()) showReply(reply);
  }, 250);
})();
