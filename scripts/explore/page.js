"use strict";
// Draws the run at which the controls stand. All numbers are in the page; nothing is asked for over a network.

const data = JSON.parse(document.getElementById("runs").textContent);
const SLIDERS = ["batch", "rate", "momentum", "gain"];
const WORDS = ["norm", "where"];
const AS_CHOSEN = { norm: "batch", where: "before", batch: 64, rate: 0.25, momentum: 0.1, gain: 1 };
const state = { ...AS_CHOSEN };
const $ = (id) => document.getElementById(id);

// Runs.

const TRACKED = new Set(["batch", "renorm"]);

function runAt(at) {
  const where = at.norm === "none" ? "" : at.where;
  return data.runs[[at.norm, where, at.batch, at.rate, at.gain].join("/")];
}

function evaluated(at) { // losses and accuracies in evaluation: of the other norms they are those of training mode
  const run = runAt(at);
  return TRACKED.has(at.norm) ? run.evaluation[at.momentum] : run.train;
}

function settle(changed) { // not every combination was run: what was changed last stays, the rest follows
  if (state.norm === "renorm") state.momentum = data.scaled.momentum;
  if (state.gain === 1) return;
  if (["batch", "where", "momentum"].includes(changed)) state.gain = 1;
  else Object.assign(state, data.scaled);
}

// Words.

function number(value) {
  if (value === null || value === undefined) return "–";
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

function fraction(value) {
  return value >= 1 || value === 0.1 || value === 0.5 || value === 0.01 ? String(value) : `1/${1 / value}`;
}

function called(name, value) {
  if (name === "gain") return `× ${fraction(value)}`;
  return fraction(value);
}

function subject(at) {
  const name = data.norms[at.norm];
  return at.norm === "none" ? "the network without a norm" : `${name} ${at.where} the activation`;
}

function place(at) {
  const scaled = at.gain === 1 ? "" : ` and with initial weights ${called("gain", at.gain)}`;
  return `At batch size ${at.batch} and learning rate ${fraction(at.rate)}${scaled}`;
}

function summary(at) {
  const run = runAt(at);
  if (run.diverged !== null) {
    return `${place(at)}, ${subject(at)} diverged: at step ${run.diverged} the loss was no longer a number.`;
  }
  const train = run.train.accuracy.at(-1);
  const evaluation = evaluated(at).accuracy.at(-1);
  if (!TRACKED.has(at.norm)) {
    const why = at.norm === "none" ? "it has no statistics" : "its statistics are those of each sample";
    return `${place(at)}, ${subject(at)} reaches ${evaluation} %; ${why}, so that training mode and evaluation are the same.`;
  }
  const reached = `${place(at)}, ${subject(at)} reaches ${evaluation} % in evaluation and ${train} % in training mode`;
  const anew = run["measured anew"];
  return anew === null ? `${reached}.` : `${reached}. With statistics measured anew it is ${anew} % in evaluation.`;
}

// Scales and drawings.

const HEIGHT = 230, LEFT = 46, RIGHT = 14, TOP = 8, BOTTOM = 24;

function scale(values, log, share) {
  const finite = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0)).map((v) => (log ? Math.log10(v) : v));
  let low = share ? 0 : Math.min(...finite), high = share ? 100 : Math.max(...finite);
  if (!finite.length) [low, high] = [0, 1];
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const pad = share ? 0 : 0.04 * (high - low);
  [low, high] = [low - pad, high + pad];
  const at = (v) => (v === null || (log && v <= 0) ? null : ((log ? Math.log10(v) : v) - low) / (high - low));
  return { at, ticks: ticks(low, high, log) };
}

function ticks(low, high, log) {
  if (log && high - low >= 0.7) {
    const every = Math.ceil((high - low) / 5), within = high - low < 1.6 ? [1, 2, 5] : [1], found = [];
    for (let power = Math.floor(low); power <= high; power += every) found.push(...within.map((m) => m * 10 ** power));
    return found.filter((v) => v >= 10 ** low && v <= 10 ** high);
  }
  const [from, to] = log ? [10 ** low, 10 ** high] : [low, high];
  const rough = (to - from) / 4, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * unit >= rough) * unit, found = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) found.push(i * step);
  return found;
}

function tick(value) {
  if (value !== 0 && (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3)) {
    return value.toExponential(0).replace("e+", "e").replace("-", "−");
  }
  return number(value);
}

function stretches(points) { // strokes end where a value is missing
  let path = "", pen = "M";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function swatch(line) {
  const stroke = line.dash === "marks" ? "" : `<path d="M1 7h32" class="stroke ${line.dash}"/>`;
  const mark = line.mark ? `<use href="#mark-${line.mark}" x="17" y="7"/>` : "";
  return `<svg width="34" height="14" aria-hidden="true" focusable="false" class="${line.colour}">${stroke}${mark}</svg>`;
}

function chart({ title, lines, x, y, width }) {
  const kept = lines.filter((line) => line && line.y.some((v) => v !== null));
  const across = scale(x.values, x.log), up = scale(kept.flatMap((line) => line.y), y.log, y.share);
  const toX = (v) => LEFT + across.at(v) * (width - LEFT - RIGHT);
  const toY = (v) => TOP + (1 - up.at(v)) * (HEIGHT - TOP - BOTTOM);
  const bottom = HEIGHT - BOTTOM;
  const grid = up.ticks.map((v) => `<line x1="${LEFT}" x2="${width - RIGHT}" y1="${toY(v)}" y2="${toY(v)}" class="grid"/><text x="${LEFT - 7}" y="${toY(v) + 4}" class="tick end">${tick(v)}</text>`);
  const marks = (x.ticks || across.ticks).map((v) => `<text x="${toX(v)}" y="${HEIGHT - 5}" class="tick">${x.words ? x.words(v) : tick(v)}</text>`);
  const chosen = x.chosen === undefined ? "" : `<line x1="${toX(x.chosen)}" x2="${toX(x.chosen)}" y1="${TOP}" y2="${bottom}" class="margin"/>`;
  const drawn = kept.map((line) => {
    const points = line.y.map((v, i) => (v === null || up.at(v) === null ? null : [toX(line.x[i]), toY(v)]));
    const stroke = line.dash === "marks" ? "" : `<path d="${stretches(points)}" class="stroke ${line.dash} ${line.thick ? "thick" : ""}"/>`;
    const uses = points.map((p, i) => (p && line.mark ? `<use href="#mark-${line.crosses?.[i] ? "x" : line.mark}" x="${p[0].toFixed(1)}" y="${p[1].toFixed(1)}"/>` : ""));
    return `<g class="${line.colour}">${stroke}${uses.join("")}</g>`;
  });
  const entries = kept.map((line) => `<li class="${line.thick ? "chosen" : ""}">${swatch(line)}<span>${line.label}</span></li>`);
  return `<div class="chart"><p>${title}</p><ul class="key" aria-label="Key">${entries.join("")}</ul>
    <svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="${title}. ${ends(kept)}">${grid.join("")}<line x1="${LEFT}" x2="${width - RIGHT}" y1="${bottom}" y2="${bottom}" class="base"/>${marks.join("")}${chosen}${drawn.join("")}</svg>
    <p class="axis below">${x.title}</p>${table(title, kept, x)}</div>`;
}

function ends(lines) {
  return lines.map((line) => `${line.label}: from ${number(line.y.find((v) => v !== null))} to ${number(line.y.findLast((v) => v !== null))}`).join("; ");
}

const opened = new Set(); // tables that stay open while pictures are drawn anew
document.addEventListener("toggle", ({ target }) => {
  if (target.isConnected) opened[target.open ? "add" : "delete"](target.dataset.of);
}, true);

function table(title, lines, x) {
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const cells = lines.map((line) => new Map(line.x.map((v, i) => [v, line.crosses?.[i] ? "diverged" : number(line.y[i])])));
  const rows = xs.map((v) => `<tr><th scope="row">${x.words ? x.words(v) : number(v)}</th>${cells.map((cell) => `<td>${cell.get(v) ?? ""}</td>`).join("")}</tr>`);
  const head = lines.map((line) => `<th scope="col">${line.label}</th>`).join("");
  return `<details data-of="${title}"${opened.has(title) ? " open" : ""}><summary>Data<span class="unseen"> of: ${title}</span></summary><div class="scroll" role="region" tabindex="0" aria-label="Data of: ${title}"><table><thead><tr><th scope="col">${x.title}</th>${head}</tr></thead><tbody>${rows.join("")}</tbody></table></div></details>`;
}

// The pictures.

const MOST = 100; // a loss that explodes would leave nothing to see of the others

function cut(lines) {
  return lines.filter(Boolean).map((line) => ({ ...line, y: line.y.map((v) => (v === null ? null : Math.min(v, MOST))) }));
}

const without = () => (state.norm === "none" ? null : runAt({ ...state, norm: "none" }));
const widthOf = (id) => Math.max(260, Math.min(760, $(id).clientWidth || 700));

function halves(id) { // two charts stand beside each other where both have room
  const width = $(id).clientWidth || 700;
  return width > 640 ? (width - 32) / 2 : Math.max(260, width);
}

function drawAccuracy() {
  const run = runAt(state), plain = without(), tracked = TRACKED.has(state.norm), width = halves("accuracy");
  const of = (what) => [
    { label: tracked ? "evaluation" : "both modes", colour: "series-0", dash: "solid", mark: "circle", x: data.evaluated, y: evaluated(state)[what] },
    tracked && { label: "training mode", colour: "series-1", dash: "dash", mark: "square", x: data.evaluated, y: run.train[what] },
    plain && { label: "no norm", colour: "series-6", dash: "dot", x: data.evaluated, y: plain.train[what] },
  ];
  const x = { title: "steps", values: [0, data.steps] };
  $("accuracy").querySelector(".drawn").innerHTML = `<div class="beside-each-other">${
    chart({ title: "Accuracy on test images, %", lines: of("accuracy"), x, y: { share: true }, width })}${
    chart({ title: `Loss on test images, up to ${MOST}`, lines: cut(of("loss")), x, y: { log: true }, width })}</div>`;
}

function drawStatistics() {
  const run = runAt(state), running = TRACKED.has(state.norm) ? run.running[state.momentum] : null, width = halves("statistics");
  const of = (what) => [
    { label: "each batch", colour: "series-6", dash: "marks", mark: "circle-open", x: data.traced, y: run.batch[what] },
    running && { label: "running", colour: "series-0", dash: "solid", x: data.traced, y: running[what] },
    { label: "all training data", colour: "series-1", dash: "dash", x: data.evaluated, y: run.population[what] },
    run.output && { label: "what comes out", colour: "series-2", dash: "dot", x: data.evaluated, y: run.output[what] },
  ];
  const x = { title: "steps", values: [0, data.steps] };
  $("statistics").querySelector(".drawn").innerHTML = `<div class="beside-each-other">${
    chart({ title: "Mean", lines: of("mean"), x, y: {}, width })}${
    chart({ title: "Standard deviation (root of the variance)", lines: of("deviation"), x, y: {}, width })}</div>`;
}

function drawLandscape() {
  const index = Number($("probed").value), run = runAt(state), plain = without();
  describe("probed", String(data.probed[index]));
  const line = (label, colour, dash, of) => of && of.landscape[index] && { label, colour, dash, x: data.multiples, y: of.landscape[index] };
  const lines = cut([line(data.norms[state.norm], "series-0", "solid", run), line("no norm", "series-6", "dot", plain)]);
  const drawing = lines.length
    ? chart({ title: `Loss of the batch, up to ${MOST}`, lines, x: { title: "steps of the learning rate along the negative gradient", values: data.multiples, chosen: 1 }, y: { log: true }, width: widthOf("landscape") })
    : `<p class="notice">No run got so far: both diverged before this step.</p>`;
  $("landscape").querySelector(".drawn").innerHTML = drawing;
}

function ending(at) {
  const run = runAt(at);
  if (!run) return [null, false];
  return run.diverged === null ? [evaluated(at).accuracy.at(-1), false] : [0, true];
}

function drawCompare() {
  const marks = ["x", "circle", "diamond", "square", "triangle-up"], dashes = ["dot", "solid", "longdash", "dash", "dashdot"];
  const colours = ["series-6", "series-0", "series-1", "series-2", "series-3"];
  const over = (name, base, title) => {
    const values = data.choices[name];
    const lines = data.choices.norm.map((norm, i) => {
      const found = values.map((value) => ending({ ...base, norm, [name]: value, momentum: norm === "renorm" ? data.scaled.momentum : base.momentum }));
      return { label: data.norms[norm], colour: colours[i], dash: dashes[i], mark: norm === "none" ? "circle-open" : marks[i], thick: norm === state.norm, x: values, y: found.map((f) => f[0]), crosses: found.map((f) => f[1]) };
    });
    const x = { title, values, log: true, ticks: values, words: (v) => called(name, v), chosen: base[name] };
    return chart({ title: `Accuracy over the ${title}, %`, lines, x, y: { share: true }, width: halves("compare") });
  };
  const plain = { ...state, gain: 1 };
  $("compare").querySelector(".drawn").innerHTML = `<div class="beside-each-other">${
    over("rate", state, "learning rate")}${over("batch", plain, "batch size")}${
    over("gain", { ...state, ...data.scaled }, "factor on the initial weights")}</div>`;
}

function drawNumbers() {
  const run = runAt(state), test = evaluated(state).accuracy.at(-1);
  const known = run["on training data"] ?? {}, train = known[state.momentum] ?? known.any;
  const facts = run.diverged === null
    ? [["On test images, in evaluation", `${test} %`], ["On training images, in evaluation", `${train} % (${number(train - test)} more)`]]
    : [["Diverged", `at step ${run.diverged}`]];
  if (typeof run["measured anew"] === "number") facts.push(["On test images, statistics measured anew", `${run["measured anew"]} %`]);
  if (run.noise !== undefined) facts.push(["Normalisation noise of the second norm, in standard deviations", number(run.noise)]);
  const at = `at the steps ${data.probed.slice(0, run.beta.length).join(", ")}`, all = (values) => values.map(number).join(", ");
  facts.push([`Effective β of the loss along the gradient (the smaller, the smoother) ${at}`, all(run.beta)]);
  facts.push([`Third layer's gradient, before and after the layers below take their step: cosine ${at}`, all(run.agreement)]);
  $("numbers").querySelector(".drawn").innerHTML = facts.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
}

function draw() {
  for (const name of WORDS) {
    for (const input of document.getElementsByName(name)) input.checked = input.value === state[name];
  }
  for (const name of SLIDERS) {
    $(name).value = data.choices[name].indexOf(state[name]);
    describe(name, called(name, state[name]));
  }
  for (const input of document.getElementsByName("where")) input.disabled = state.norm === "none";
  $("momentum").disabled = state.norm !== "batch";
  for (const picture of [drawAccuracy, drawStatistics, drawLandscape, drawCompare, drawNumbers]) picture();
  const said = summary(state);
  if ($("summary").textContent !== said) $("summary").textContent = said;
}

function describe(name, text) {
  $(`${name}-value`).textContent = text;
  $(name).setAttribute("aria-valuetext", text);
}

// What is pressed and moved.

for (const name of SLIDERS) {
  $(name).addEventListener("input", () => change(name, data.choices[name][Number($(name).value)]));
}
for (const name of WORDS) {
  for (const input of document.getElementsByName(name)) input.addEventListener("change", () => change(name, input.value));
}
function change(name, value) {
  state[name] = value;
  settle(name);
  for (const button of document.querySelectorAll("[aria-pressed]")) button.setAttribute("aria-pressed", "false");
  draw();
}
$("probed").addEventListener("input", drawLandscape);
document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.settings) show(button.dataset);
  if (button?.dataset.next) show($(button.dataset.next).querySelector("button").dataset);
});

// A sentence of the literature beside the picture it is about.

function show({ settings, panel, sentence }) {
  Object.assign(state, JSON.parse(settings));
  const beside = $("beside"), already = beside.dataset.sentence === sentence;
  if (!already) {
    beside.dataset.sentence = sentence;
    beside.hidden = false;
    beside.replaceChildren(copied(sentence));
    $("summary").after($(panel));
  }
  for (const button of beside.querySelectorAll("[data-settings]")) {
    button.setAttribute("aria-pressed", String(button.dataset.settings === settings));
  }
  draw();
  if (already && beside.contains(document.activeElement)) return;
  beside.scrollIntoView({ behavior: "instant" });
  beside.focus({ preventScroll: true });
}

function copied(sentence) { // without ids, which are in the page once
  const articles = [...document.querySelectorAll("#sentences article")], index = articles.findIndex((each) => each.id === sentence);
  const copy = articles[index].cloneNode(true);
  for (const element of [copy, ...copy.querySelectorAll("[id]")]) element.removeAttribute("id");
  copy.removeAttribute("aria-labelledby");
  const next = articles[(index + 1) % articles.length].id;
  copy.insertAdjacentHTML("afterbegin", `<p class="eyebrow"><span>Sentence ${index + 1} of ${articles.length}</span><button type="button" data-next="${next}">Next sentence</button></p>`);
  return copy;
}

let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnAt) { drawnAt = innerWidth; draw(); }
});
draw();
