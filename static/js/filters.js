// The filters of the task list: a time of one's own is asked for only where it is wanted, and where the filters are
// folded away, their button says how many are set.
(() => {
  "use strict";
  const form = document.querySelector(".tasks-filters");
  if (!form) return;
  const since = form.elements.since;
  const times = [form.elements.from, form.elements.to];
  const told = form.querySelector("[data-filters-set]");

  const show = () => {
    const own = since.value === "custom";
    for (const field of times) field.disabled = !own;
    const fields = ["endpoint", "agent", "user", "error"].map((name) => form.elements[name]);
    const timed = own ? times.some((field) => field.value) : since.value !== "";
    const set = fields.filter((field) => field?.value).length + (timed ? 1 : 0);
    told.textContent = set ? ` (${set})` : "";
  };

  // Before htmx reads the form.
  for (const event of ["change", "input"]) form.addEventListener(event, show, { capture: true });
  addEventListener("pageshow", show);
  show();
})();
