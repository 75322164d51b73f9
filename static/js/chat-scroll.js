// Follows the end of the transcript while the reader is there, and leaves the page alone when they read elsewhere.
(() => {
  "use strict";
  const chat = (globalThis.astraChat ??= {});
  const NEAR = 48;

  chat.Scroll = class {
    constructor(button) {
      this.button = button;
      this.follows = true;
      button.addEventListener("click", () => {
        this.toEnd();
        document.getElementById("text")?.focus({ preventScroll: true });
      });
      window.addEventListener("scroll", () => this.look(), { passive: true });
      window.addEventListener("resize", () => this.follow());
      if ("scrollRestoration" in history) history.scrollRestoration = "manual";
    }

    get #distance() {
      const page = document.documentElement;
      return page.scrollHeight - innerHeight - scrollY;
    }

    look() {
      this.follows = this.#distance < NEAR;
      this.button.hidden = this.follows;
      if (this.follows) delete this.button.dataset.news;
    }

    toEnd() {
      this.follows = true;
      window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
      this.look();
    }

    // Call after something was added at the end.
    follow() {
      if (this.follows) window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
      else {
        this.button.dataset.news = "";
        this.button.hidden = false;
      }
    }

    // Call after something changed, but nothing was added.
    settle() {
      if (this.follows) this.toEnd();
      else this.look();
    }

    // Runs a change above what is being read, so that what is being read stays where it is.
    keeping(node, change) {
      const before = node.getBoundingClientRect().top;
      change();
      window.scrollBy({ top: node.getBoundingClientRect().top - before, behavior: "instant" });
    }
  };
})();
