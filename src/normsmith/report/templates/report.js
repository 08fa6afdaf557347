"use strict";
// Hides and shows the lines of a chart. Without this script nothing is missing but that.
for (const button of document.querySelectorAll(".key button")) {
  button.addEventListener("click", () => {
    const { figure, line } = button.dataset;
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    document.querySelector(`#${figure} .line-${line}`).style.display = show ? "" : "none";
  });
}
