// An htmx swap ("morph") that changes only what differs, so that nothing flickers and focus, scroll position, open
// details and what is being typed stay as they are.
(() => {
  "use strict";

  const alike = (old, next) =>
    old.nodeType === next.nodeType && old.nodeName === next.nodeName && (old.id || "") === (next.id || "");

  const attributes = (old, next) => {
    for (const { name } of [...old.attributes]) {
      // Whether details are open is up to the reader.
      if (!next.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (name === "open" && old.nodeName === "DETAILS") continue;
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  };

  const morph = (old, next, added) => {
    if (!alike(old, next)) {
      const fresh = document.importNode(next, true);
      old.replaceWith(fresh);
      if (fresh.nodeType === Node.ELEMENT_NODE) added.push(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    // The same mark of content means that the content is the same, however it was loaded or unfolded since.
    if (old.dataset?.keep && old.dataset.keep === next.dataset?.keep) return;
    const typing = old === document.activeElement && old.matches("input, textarea, select");
    if (!typing) attributes(old, next);
    if (!typing) children(old, next, added);
  };

  const children = (parent, next, added) => {
    const named = new Map();
    for (const child of parent.children) if (child.id) named.set(child.id, child);
    let cursor = parent.firstChild;
    for (const child of [...next.childNodes]) {
      let match = child.id ? named.get(child.id) : null;
      if (!match && cursor && alike(cursor, child)) match = cursor;
      if (!match) {
        const fresh = document.importNode(child, true);
        parent.insertBefore(fresh, cursor);
        if (fresh.nodeType === Node.ELEMENT_NODE) added.push(fresh);
        continue;
      }
      if (match === cursor) cursor = cursor.nextSibling;
      else parent.insertBefore(match, cursor);
      morph(match, child, added);
    }
    while (cursor) {
      const gone = cursor;
      cursor = cursor.nextSibling;
      gone.remove();
    }
  };

  htmx.defineExtension("morph", {
    isInlineSwap: (style) => style === "morph",
    handleSwap: (style, target, fragment) => {
      if (style !== "morph") return false;
      const next = [...fragment.children].find((child) => child.id === target.id);
      if (!next) return false;
      const added = [];
      const focused = target.contains(document.activeElement);
      morph(target, next, added);
      // What had the focus is gone: go on from the region's heading, not from the top of the page.
      if (focused && !target.contains(document.activeElement)) {
        target.querySelector("h1[tabindex]")?.focus({ preventScroll: true });
      }
      // htmx looks again at the region itself (its address may have changed) and at what is new in it.
      return [target, ...added];
    },
  });
})();
