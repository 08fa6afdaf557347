// What is pressed and moved, and the address, which keeps it.

for (const name of SLIDERS) {
  $(name).addEventListener("input", () => change(name, CHOICES[name][Number($(name).value)]));
}
for (const name of WORDS) {
  for (const input of document.getElementsByName(name)) input.addEventListener("change", () => change(name, input.value));
}

let last = ""; // the control of the last change: what it does next is no new page of the history

function change(name, value) {
  state[name] = value;
  settle(name);
  draw();
  press();
  keep(name === last);
  last = name;
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.settings) {
    Object.assign(state, JSON.parse(button.dataset.settings));
    look(button.dataset.sentence);
    keep();
  }
  if (button?.dataset.go) $(button.dataset.go).querySelector("[data-settings]").click();
  if (button?.dataset.list) {
    $(button.dataset.list).scrollIntoView({ behavior: "instant" });
    $(button.dataset.list).focus({ preventScroll: true });
  }
});

// A sentence of the literature beside the picture it is about. The pictures stay in their order.

function look(sentence, again = true) {
  settle();
  const beside = $("beside"), already = beside.dataset.sentence === sentence;
  beside.dataset.sentence = sentence;
  beside.hidden = sentence === "";
  if (!already && sentence) {
    beside.replaceChildren(copied(sentence));
    $($(sentence).dataset.panel).before(beside);
  }
  draw();
  press();
  if (!sentence || (already && (!again || beside.contains(document.activeElement)))) return;
  beside.scrollIntoView({ behavior: "instant" });
  beside.focus({ preventScroll: true });
}

function press() { // the button whose settings are those of the controls
  for (const button of document.querySelectorAll("#beside [data-settings]")) {
    const settings = Object.entries(JSON.parse(button.dataset.settings));
    button.setAttribute("aria-pressed", String(settings.every(([name, value]) => state[name] === value)));
  }
}

function copied(sentence) { // without ids, which are in the page once
  const seen = [...document.querySelectorAll("#sentences article[data-panel]")], index = seen.findIndex((each) => each.id === sentence);
  const copy = seen[index].cloneNode(true), at = (step) => seen[(index + step + seen.length) % seen.length].id;
  for (const element of [copy, ...copy.querySelectorAll("[id]")]) element.removeAttribute("id");
  copy.removeAttribute("aria-labelledby");
  copy.removeAttribute("tabindex");
  fold(copy.querySelector(".measured"), sentence);
  copy.insertAdjacentHTML("afterbegin", `<p class="eyebrow"><span>Sentence ${index + 1} of the ${seen.length} that are seen here</span> <span class="ways"><button type="button" data-go="${at(-1)}">Previous</button> <button type="button" data-go="${at(1)}">Next sentence</button> <button type="button" data-list="${sentence}">Back to the list</button></span></p>`);
  return copy;
}

function fold(measured, sentence) { // or the picture would not be seen beside it
  const details = document.createElement("details"), summary = document.createElement("summary");
  measured.querySelector("h3").remove();
  summary.append("Measured ", document.querySelector(`.index a[href="#${sentence}"] + .sides`).cloneNode(true));
  measured.before(details);
  details.append(summary, measured);
}

// The address: #norm=batch&where=before&…, with the sentence that is looked at.

function keep(again = false) {
  const words = new URLSearchParams(state), sentence = $("beside").dataset.sentence;
  if (sentence) words.set("sentence", sentence);
  if (location.hash !== `#${words}`) history[again ? "replaceState" : "pushState"](null, "", `#${words}`);
  last = "";
}

function restore() { // what an address does not say, or says wrongly, is as at first
  const hash = location.hash.slice(1), words = new URLSearchParams(hash);
  if (hash && !words.has("norm")) return; // a place of the page
  for (const name of Object.keys(FIRST)) {
    state[name] = CHOICES[name].find((value) => String(value) === words.get(name)) ?? FIRST[name];
  }
  const sentence = words.get("sentence") ?? "";
  look(document.querySelector(`#sentences article[data-panel][id="${CSS.escape(sentence)}"]`) ? sentence : "", false);
  last = "";
}

addEventListener("popstate", restore);
let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnAt) { drawnAt = innerWidth; draw(); }
});
draw();
if (location.hash) restore();
