// Travelling through the inbox by keyboard. The focus itself travels, from link to link, so that Enter opens and a screen
// reader says where one is. No key approves or rejects anything. The list itself is live.js's; what is ticked, select.js's.
(() => {
  "use strict";
  const KEPT = "inbox-keys";
  const keys = document.querySelector("#keys");
  const on = keys.querySelector("[data-keys-on]");
  const told = document.querySelector("[data-inbox-said]");
  const links = () => [...document.querySelectorAll("#inbox [data-request]")];
  const focused = () => document.activeElement?.closest?.("#inbox tbody tr");
  // Where one was last, for when one comes back from elsewhere on the page.
  let last = null;

  const kept = () => {
    try { return localStorage.getItem(KEPT) !== "off"; } catch { return true; }
  };
  on.checked = kept();
  on.addEventListener("change", () => {
    try { localStorage.setItem(KEPT, on.checked ? "on" : "off"); } catch { /* then it is forgotten */ }
  });

  const say = (words) => {
    told.textContent = "";
    requestAnimationFrame(() => { told.textContent = words; });
  };
  const travel = (by) => {
    const all = links();
    if (!all.length) return;
    const at = all.findIndex((link) => link.closest("tr") === focused());
    const from = at >= 0 ? at : all.findIndex((link) => link.id === last);
    const next = at < 0 && from >= 0 ? from : Math.min(Math.max(from + by, 0), all.length - 1);
    all[next].focus({ focusVisible: true });
    all[next].closest("tr").scrollIntoView({ block: "nearest" });
  };
  const claim = () => {
    const button = focused()?.querySelector("[data-claim]");
    if (button) button.click();
    else say(focused() ? "You cannot claim this one." : "Go to a request first: press j.");
  };
  const select = () => {
    const box = focused()?.querySelector('input[name="ids"]');
    if (!box) return say(focused() ? "This one cannot be rejected together with others." : "Go to a request first: press j.");
    const link = document.activeElement;
    box.click();
    link.focus();
    say(box.checked ? "Selected." : "Not selected.");
  };
  const actions = {
    j: () => travel(1),
    k: () => travel(-1),
    c: claim,
    x: select,
    "/": () => document.querySelector("#q").focus(),
    "?": () => keys.showModal(),
  };

  document.querySelector("[data-keys-open]").addEventListener("click", () => keys.showModal());
  document.addEventListener("focusin", (event) => {
    const link = event.target.closest("#inbox tbody tr")?.querySelector("[data-request]");
    if (link) last = link.id;
  });
  document.addEventListener("keydown", (event) => {
    if (!on.checked || event.defaultPrevented || event.isComposing || event.repeat && !"jkArrowDownArrowUp".includes(event.key)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.isContentEditable || target.matches("input:not([type=checkbox]), textarea, select")) return;
    // Arrows scroll the page, but from request to request.
    const arrows = { ArrowDown: () => travel(1), ArrowUp: () => travel(-1) };
    const act = Object.hasOwn(actions, event.key) ? actions[event.key] : focused() && Object.hasOwn(arrows, event.key) ? arrows[event.key] : null;
    if (!act) return;
    event.preventDefault();
    act();
  });

  // Where the filters are folded away, their button says how many are set.
  const form = document.querySelector("#filters");
  const show = () => {
    const set = [...form.elements].filter((field) => field.closest(".more-filters") && field.value && field.name).length;
    form.querySelector("[data-filters-set]").textContent = set ? ` (${set})` : "";
  };
  for (const event of ["change", "input"]) form.addEventListener(event, show);
  addEventListener("pageshow", show);

  // A request that has the focus and is decided elsewhere disappears: the focus goes to the one that takes its place.
  let place = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const row = event.target.id === "inbox" ? focused() : null;
    place = row ? { id: row.id, part: document.activeElement.id, at: [...row.parentElement.children].indexOf(row) } : null;
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (!place) return;
    const { id, at } = place;
    const gone = !document.getElementById(id);
    place = null;
    if (!gone && focused()) return;
    const all = links();
    const next = gone ? all[Math.min(at, all.length - 1)] : document.querySelector(`#${id} [data-request]`);
    if (gone) say("The request you were at is no longer in this list.");
    (next ?? document.querySelector("#inbox .tabs [aria-current]"))?.focus({ preventScroll: true });
  });
})();
