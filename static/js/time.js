// Keeps relative times true. The words are those of the server's own `ago` and `age` tags.
(() => {
  "use strict";
  const MINUTE = 60, HOUR = 3600, DAY = 86400;

  const roughly = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < MINUTE) return `${whole} s`;
    if (whole < HOUR) return `${Math.floor(whole / MINUTE)} min`;
    return whole < 2 * DAY ? `${Math.floor(whole / HOUR)} h` : `${Math.floor(whole / DAY)} d`;
  };

  const relative = (seconds, shown) => {
    if (Math.abs(seconds) >= 30 * DAY) return shown;
    if (seconds <= -1) return `in ${roughly(-seconds)}`;
    return seconds < 5 ? "just now" : `${roughly(seconds)} ago`;
  };

  const tick = () => {
    if (document.hidden) return;
    for (const node of document.querySelectorAll("[data-ago], [data-age]")) {
      const seconds = (Date.now() - Date.parse(node.parentElement.dateTime)) / 1000;
      const words = "ago" in node.dataset ? relative(seconds, node.textContent) : roughly(seconds);
      if (node.textContent !== words) node.textContent = words;
    }
  };

  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("htmx:afterSettle", tick);
})();
