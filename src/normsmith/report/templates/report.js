"use strict";
// Draws the figures in the colours of the moment: again when the scheme changes, the page is printed, or a
// line is hidden. Without this script the page still says everything in words and tables.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const palettes = read("palettes");
  const figures = read("figures");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const config = { displayModeBar: false, responsive: true, doubleClick: false };
  const PAPER_WIDTH = 640; // pixels: what A4 and Letter both hold inside the page's margins
  let printing = paper.matches;

  document.documentElement.classList.add("js");

  // A copy of a figure with the named colours of `palette` in place.
  const painted = (node, palette) => {
    if (Array.isArray(node)) return node.map((item) => painted(item, palette));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => {
      const named = /color$/.test(key) && typeof value === "string";
      return [key, named ? palette[value] ?? value : painted(value, palette)];
    }));
  };

  const draw = (plot) => {
    const scheme = dark.matches && !printing ? "dark" : "light";
    const figure = painted(figures[plot.dataset.figure], palettes[scheme]);
    if (printing) Object.assign(figure.layout, { width: PAPER_WIDTH, autosize: false });
    return Plotly.react(plot, figure.data, figure.layout, config);
  };

  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => plots.forEach(draw);

  // One figure at a time at first, so that the page can be read while they appear.
  const drawInTurn = async () => {
    for (const plot of plots) {
      await draw(plot);
      await new Promise((resume) => setTimeout(resume));
    }
    document.documentElement.dataset.figures = "drawn";
  };

  const setPrinting = (now) => {
    if (now === printing) return;
    printing = now;
    drawAll();
  };

  for (const button of document.querySelectorAll(".key button")) {
    button.addEventListener("click", () => {
      const { figure, line } = button.dataset;
      const show = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(show));
      for (const trace of figures[figure].data) {
        if (trace.meta.line === Number(line)) trace.visible = show;
      }
      draw(document.querySelector(`.plot[data-figure="${figure}"]`));
    });
  }

  dark.addEventListener("change", drawAll);
  paper.addEventListener("change", (event) => setPrinting(event.matches));
  window.addEventListener("beforeprint", () => setPrinting(true));
  window.addEventListener("afterprint", () => setPrinting(paper.matches));
  drawInTurn();
})();
