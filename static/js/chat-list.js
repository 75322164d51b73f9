// The list of conversations: renaming and deleting in dialogs, older ones on demand.
(() => {
  "use strict";
  const root = document.getElementById("chat");
  if (!root) return;

  const titleOf = (id) =>
    document.querySelector(`#c-${CSS.escape(id)} .chat-link`)?.title ?? document.getElementById("chat-title")?.textContent ?? "";

  const ask = (dialog, link, id) => {
    const form = dialog.querySelector("form");
    form.action = link.href;
    const field = form.querySelector("[name=title]");
    if (field) field.value = titleOf(id);
    const name = form.querySelector("[data-name]");
    if (name) name.textContent = titleOf(id);
    dialog.showModal();
    field?.select();
  };

  // The newest come first again, with the titles that they have now; what was loaded beyond them stays.
  const chat = (globalThis.astraChat ??= {});
  chat.refreshList = async () => {
    const nav = document.getElementById("chat-list");
    const response = await fetch(nav.dataset.url, { redirect: "manual" }).catch(() => null);
    if (!response?.ok) return;
    const found = new DOMParser().parseFromString(await response.text(), "text/html");
    const items = [...found.querySelectorAll("li")];
    let list = nav.querySelector("ul");
    if (!list && items.length) {
      list = document.createElement("ul");
      nav.replaceChildren(list);
    }
    let last = null;
    for (const item of items) {
      const ours = document.getElementById(item.id);
      const node = ours && ours.innerHTML === item.innerHTML ? ours : document.importNode(item, true);
      if (ours && node !== ours && !ours.contains(document.activeElement)) ours.replaceWith(node);
      const placed = node.isConnected ? node : (ours ?? node);
      if (last ? last.nextElementSibling !== placed : list.firstElementChild !== placed) last ? last.after(placed) : list.prepend(placed);
      last = placed;
    }
    const title = document.querySelector(".chat-list .current .chat-link")?.title;
    const heading = document.getElementById("chat-title");
    if (title && heading && heading.textContent !== title) {
      heading.textContent = title;
      document.title = `${title} · Astra`;
    }
  };

  document.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const link = event.target.closest("[data-rename], [data-delete]");
    if (link) {
      event.preventDefault();
      const dialog = document.getElementById(link.dataset.rename ? "rename-dialog" : "delete-dialog");
      return ask(dialog, link, link.dataset.rename ?? link.dataset.delete);
    }
    if (event.target.closest("[data-close]")) return event.target.closest("dialog").close();
    const older = event.target.closest("[data-older]");
    if (older) {
      event.preventDefault();
      const response = await fetch(older.dataset.older, { redirect: "manual" }).catch(() => null);
      if (!response?.ok) {
        older.textContent = "Older conversations (not loaded: try again)";
        return;
      }
      const found = new DOMParser().parseFromString(await response.text(), "text/html");
      const list = older.closest("nav").querySelector("ul");
      const items = [...found.querySelectorAll("li")].filter((item) => !document.getElementById(item.id));
      list.append(...items);
      const more = found.querySelector("[data-older]");
      if (more) older.dataset.older = more.dataset.older;
      else older.remove();
      items[0]?.querySelector("a").focus();
    }
  });
})();
