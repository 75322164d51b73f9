// Selecting tasks: the box of the page, ranges with Shift, and a bar that is there while something is selected. The boxes
// and the bar's buttons are a plain form; the page's refresh rests meanwhile (live.js).
(() => {
  "use strict";
  const table = () => document.querySelector("[data-select]");
  const bar = () => document.querySelector("[data-bulk]");
  const boxes = () => [...(table()?.querySelectorAll('input[name="ids"]') ?? [])];
  const every = () => bar()?.querySelector("[data-bulk-all]");
  // Which were ticked when all that match were chosen.
  const before = new WeakMap();
  let last = null;

  const show = () => {
    if (!bar()) return;
    const all = boxes();
    const whole = every()?.checked ?? false;
    // With all that match, each of these is meant: their boxes say so, and are not sent one by one.
    for (const box of all) {
      if (whole && !box.disabled) before.set(box, box.checked);
      if (whole !== box.disabled) box.checked = whole || (before.get(box) ?? false);
      box.disabled = whole;
    }
    const ticked = all.filter((box) => box.checked).length;
    const page = table().querySelector("[data-select-page]");
    page.checked = whole || (ticked > 0 && ticked === all.length);
    page.indeterminate = !page.checked && ticked > 0;
    page.disabled = whole || !all.length;
    const words = whole ? `All ${every().dataset.bulkAll} selected` : ticked ? `${ticked} selected` : "";
    const count = bar().querySelector("[data-bulk-count]");
    if (count.textContent !== words) count.textContent = words;
    bar().toggleAttribute("data-on", whole || ticked > 0);
  };

  const clear = () => {
    if (every()) every().checked = false;
    show();
    for (const box of boxes()) box.checked = false;
    show();
    // What had the focus is gone with the bar.
    (last?.isConnected ? last : table()?.querySelector("[data-select-page]"))?.focus();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-bulk-clear]")) return clear();
    const box = event.target.closest('[data-select] input[name="ids"]');
    if (!box) return;
    const all = boxes();
    const [from, to] = [all.indexOf(last), all.indexOf(box)];
    if (event.shiftKey && from >= 0) {
      for (const each of all.slice(Math.min(from, to), Math.max(from, to) + 1)) each.checked = box.checked;
    }
    last = box;
    show();
  });
  // A click with Shift is no selection of text.
  document.addEventListener("mousedown", (event) => {
    if (event.shiftKey && event.target.closest("[data-select] .tick")) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-select-page]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.closest("[data-select], [data-bulk]")) show();
  });
  // From a box, Enter leads to the bar: it stands behind all rows, and to send the form is not what Enter in a box means.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches('[data-select] input[type="checkbox"]')) return;
    event.preventDefault();
    if (bar()?.matches("[data-on]")) bar().querySelector(".bulk-verbs button")?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || !bar()?.matches("[data-on]")) return;
    if (event.target.closest("[data-select], [data-bulk]")) clear();
  });
  // Another filter: what is all has changed.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!event.target.matches(".filters") || !every()) return;
    every().checked = false;
    show();
  });
  document.addEventListener("htmx:afterSwap", show);
  addEventListener("pageshow", show);
  show();
})();
