// One request: asks for the comment before the server does, keeps what was typed, renews a claim while the page is seen.
(() => {
  "use strict";
  const article = document.querySelector("[data-approval]");
  if (!article) return;
  const kept = `comment:${article.dataset.approval}`;
  const comment = document.getElementById("comment");

  // What was typed survives reading the page again; once it is decided there is nothing to keep.
  if ("decided" in article.dataset) sessionStorage.removeItem(kept);
  if (comment) {
    if (!comment.value) comment.value = sessionStorage.getItem(kept) ?? "";
    comment.addEventListener("input", () => sessionStorage.setItem(kept, comment.value));
  }

  // Enter in a field decides nothing.
  document.getElementById("decide-form")?.addEventListener("submit", (event) => {
    if (event.submitter?.matches("[data-nothing]")) event.preventDefault();
  });

  // Whoever is against it says why.
  const form = document.querySelector("[data-decide]");
  form?.addEventListener("submit", (event) => {
    const against = ["reject", "request_changes"].includes(event.submitter?.value);
    if (!against || comment.value.trim()) return;
    event.preventDefault();
    document.getElementById("comment-error").hidden = false;
    comment.setAttribute("aria-invalid", "true");
    comment.setAttribute("aria-describedby", "comment-error comment-help");
    comment.focus();
  });
  comment?.addEventListener("input", () => {
    if (!form || !comment.value.trim()) return;
    document.getElementById("comment-error").hidden = true;
    comment.removeAttribute("aria-invalid");
    comment.setAttribute("aria-describedby", "comment-help");
  });

  // A text that is longer than its window can be opened to its whole length.
  for (const text of document.querySelectorAll("[data-document]")) {
    const button = text.parentElement.querySelector("[data-show-all]");
    if (!button || text.scrollHeight <= text.clientHeight + 1) {
      if (text.closest("details:not([open])")) button.hidden = false;
      continue;
    }
    button.hidden = false;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-show-all]");
    if (!button) return;
    const text = button.closest("dd").querySelector("[data-document]");
    button.textContent = text.classList.toggle("whole") ? "Show less" : "Show all";
  });

  // A claim of one's own is renewed while somebody looks at the page.
  const EVERY_MS = 120_000;
  const claim = document.querySelector("[data-renew]");
  if (!claim) return;
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  let last = Date.now();
  const renew = async () => {
    if (document.hidden || Date.now() - last < EVERY_MS) return;
    last = Date.now();
    const answer = await fetch(claim.dataset.renew, {
      method: "POST",
      headers: { "X-CSRFToken": token },
      body: new URLSearchParams({ renew: "1" }),
    }).catch(() => null);
    if (answer && answer.status !== 204) clearInterval(timer);
  };
  const timer = setInterval(renew, 5_000);
  document.addEventListener("visibilitychange", renew);
})();
