// The refresh control: reloads every region marked `data-live` at the chosen interval, and says when it does not.
//
// It rests while the tab is hidden, while tasks or text in a region are selected, while a dialog or a menu is open, and
// when every region says that it has come to its end (`data-live="ended"`).
(() => {
  "use strict";
  const control = document.querySelector("[data-refresh]");
  if (!control) return;
  const select = control.querySelector("[data-refresh-interval]");
  const state = control.querySelector("[data-refresh-state]");
  const remembered = document.cookie.match(/(?:^|; )refresh=(\d+)/)?.[1];
  if ([...select.options].some((option) => option.value === remembered)) select.value = remembered;
  else select.value = control.dataset.refresh || "5";

  let last = Date.now();
  let failed = false;

  const regions = () => [...document.querySelectorAll("[data-live]")];
  const going = () => regions().filter((region) => region.dataset.live !== "ended");
  const say = (words) => {
    if (state.textContent !== words) state.textContent = words;
  };

  const paused = () => {
    if (document.hidden) return "Paused";
    if (document.querySelector("dialog[open], details[data-menu][open]")) return "Paused while a menu is open";
    if (document.querySelector("[data-select] :checked, [data-bulk] :checked")) {
      return `Paused while ${document.querySelector("[data-select]")?.dataset.select || "tasks"} are selected`;
    }
    const selection = getSelection();
    if (selection && !selection.isCollapsed && regions().some((region) => selection.intersectsNode?.(region) ?? region.contains(selection.anchorNode))) {
      return "Paused while text is selected";
    }
    return "";
  };

  const refresh = () => {
    last = Date.now();
    for (const region of regions()) {
      if (!region.classList.contains("htmx-request")) htmx.trigger(region, "refresh");
    }
  };

  const tick = () => {
    const every = Number(select.value) * 1000;
    if (!going().length) return say(regions().length ? "Up to date" : "");
    if (!every) return say(failed ? "Not up to date" : "");
    const reason = paused();
    if (reason) return say(reason);
    if (!failed) say("");
    if (Date.now() - last >= every) refresh();
  };

  control.querySelector("[data-refresh-now]").addEventListener("click", (event) => {
    if (!regions().length || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    refresh();
  });
  select.addEventListener("change", () => {
    document.cookie = `refresh=${select.value}; Path=/; Max-Age=31536000; SameSite=Lax`;
    last = Date.now();
    tick();
  });
  document.addEventListener("visibilitychange", tick);

  // A region that could not be reloaded is shown as stale until it can.
  const stale = (region, words) => {
    failed = true;
    region.dataset.stale = "";
    say(words);
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.matches("[data-live]")) control.dataset.working = "";
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.target.matches("[data-live]")) return;
    delete control.dataset.working;
    if (event.detail.successful) {
      failed = false;
      delete event.target.dataset.stale;
    } else {
      stale(event.target, `Not up to date since ${new Date(last).toLocaleTimeString()}. Trying again.`);
    }
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const region = event.detail.target;
    if (!region.matches("[data-live]")) return;
    // Signed out meanwhile: the answer is the sign-in page. Go there, and back here after it.
    if (new URL(event.detail.xhr.responseURL).pathname !== location.pathname && !event.detail.xhr.response.includes(`id="${region.id}"`)) {
      event.detail.shouldSwap = false;
      location.reload();
    }
  });

  setInterval(tick, 500);
})();
