
// Marks in the contents where the reader is.
(() => {
  const links = [...document.querySelectorAll(".contents a")];
  const parts = links.map((link) => document.querySelector(link.hash)).filter(Boolean);
  const mark = () => {
    const here = parts.filter((part) => part.getBoundingClientRect().top < innerHeight / 3).at(-1);
    for (const link of links) {
      if (here && link.hash === `#${here.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  }, { passive: true });
  mark();
})();
