"use strict";
// Draws the run at which the controls stand. All numbers are in the page; nothing is asked for over a network.

const data = JSON.parse(document.getElementById("runs").textContent);
const CHOICES = { ...data.choices, probed: data.probed };
const SLIDERS = ["batch", "rate", "momentum", "gain", "probed"];
const WORDS = ["norm", "where"];
const FIRST = { norm: "batch", where: "before", batch: 64, rate: 0.25, momentum: 0.1, gain: 1, probed: data.probed[1] };
const state = { ...FIRST };
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

const resets = {}; // what the last change took back, by the control, with the reason

function settle(changed) { // not every combination was run: what was changed last stays, the rest follows
  const before = { ...state };
  const alone = "scaled weights were run at batch size 64, before the activation, with momentum 0.1";
  if (state.norm === "renorm") state.momentum = data.scaled.momentum;
  if (state.gain !== 1) {
    if (["batch", "where", "momentum"].includes(changed)) state.gain = 1;
    else Object.assign(state, data.scaled);
  }
  for (const name of Object.keys(state)) {
    const moved = name !== changed && before[name] !== state[name];
    resets[name] = moved ? `Went from ${called(name, before[name])} to ${called(name, state[name])}: ${alone} alone.` : "";
  }
}

function off(name) { // why a control has no effect, or nothing
  const norm = data.norms[state.norm], none = state.norm === "none";
  if (name === "where") return none ? "Off: without a norm there is nothing to place." : "";
  if (name !== "momentum" || state.norm === "batch") return "";
  if (state.norm === "renorm") return "Off: batch renorm was run with 0.1 alone.";
  return `Off: ${none ? "without a norm there are" : `${norm} keeps`} no running statistics.`;
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
  if (name === "probed" || WORDS.includes(name)) return String(value);
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

const CHANCE = { at: 10, name: "chance, 10 %" };

function percent(value) {
  return value < 1.5 * CHANCE.at ? `${value} % (chance is ${CHANCE.at} %)` : `${value} %`;
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
    return `${place(at)}, ${subject(at)} reaches ${percent(evaluation)}; ${why}, so that training mode and evaluation are the same.`;
  }
  const reached = `${place(at)}, ${subject(at)} reaches ${percent(evaluation)} in evaluation and ${percent(train)} in training mode`;
  const anew = run["measured anew"];
  return anew === null ? `${reached}.` : `${reached}. With statistics measured anew it is ${percent(anew)} in evaluation.`;
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
    chart({ title: "Accuracy on test images, %", lines: of("accuracy"), x, y: { share: true, level: CHANCE }, width })}${
    chart({ title: `Loss on test images (logarithmic, cut at ${MOST})`, lines: cut(of("loss")), x, y: { log: true }, width })}</div>`;
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
  const index = data.probed.indexOf(state.probed), plain = without();
  const runs = [{ label: data.norms[state.norm], colour: "series-0", dash: "solid", run: runAt(state) }];
  if (plain) runs.push({ label: "no norm", colour: "series-6", dash: "dot", run: plain });
  const ran = runs.filter(({ run }) => run.landscape[index]), gone = runs.filter(({ run }) => !run.landscape[index]);
  const lines = cut(ran.map(({ run, ...line }) => ({ ...line, x: data.multiples, y: run.landscape[index] })));
  const x = { title: "steps of the learning rate along the negative gradient", values: data.multiples, chosen: 1 };
  const drawing = lines.length ? chart({ title: `Loss of the batch (logarithmic, cut at ${MOST})`, lines, x, y: { log: true }, width: widthOf("landscape") }) : "";
  const lost = gone.map(({ label }) => `<p class="notice">Nothing to draw of “${label}”: its run had diverged before step ${state.probed}.</p>`);
  $("landscape").querySelector(".drawn").innerHTML = drawing + lost.join("");
}

function ending(at) {
  const run = runAt(at);
  return run.diverged === null ? [evaluated(at).accuracy.at(-1), false] : [0, true];
}

function unlike(base) { // what a chart could not keep as it was chosen
  const differing = ["batch", "where", "momentum", "gain"].filter((name) => base[name] !== state[name]);
  const said = { batch: `batch size ${base.batch}`, where: `${base.where} the activation`, momentum: `momentum ${base.momentum}`, gain: "initial weights × 1" };
  return differing.map((name) => said[name]);
}

function drawCompare() {
  const marks = ["x", "circle", "diamond", "square", "triangle-up"], dashes = ["dot", "solid", "longdash", "dash", "dashdot"];
  const colours = ["series-6", "series-0", "series-1", "series-2", "series-3"];
  const over = (name, base, title) => {
    const values = data.choices[name], others = unlike({ ...base, [name]: state[name] });
    const lines = data.choices.norm.map((norm, i) => {
      const ends = values.map((value) => ending({ ...base, norm, [name]: value, momentum: norm === "renorm" ? data.scaled.momentum : base.momentum }));
      const label = norm === "renorm" && base.momentum !== data.scaled.momentum ? `${data.norms[norm]} (momentum ${data.scaled.momentum})` : data.norms[norm];
      return { label, colour: colours[i], dash: dashes[i], mark: norm === "none" ? "circle-open" : marks[i], thick: norm === state.norm, x: values, y: ends.map((end) => end[0]), crosses: ends.map((end) => end[1]) };
    });
    const x = { title, values, log: true, ticks: values, words: (v) => called(name, v), chosen: others.length ? undefined : state[name] };
    const all = others.length ? `. Not as chosen: ${others.join(", ")}` : "";
    return chart({ title: `Accuracy over the ${title}, %${all}`, lines, x, y: { share: true, level: CHANCE }, width: halves("compare") });
  };
  $("compare").querySelector(".drawn").innerHTML = `<div class="beside-each-other">${
    over("rate", state, "learning rate")}${over("batch", { ...state, gain: 1 }, "batch size")}${
    over("gain", { ...state, ...data.scaled }, "factor on the initial weights")}</div>`;
}

function apart(train, test) {
  const points = number(Math.abs(train - test));
  return train === test ? "the same" : `${points} ${points === "1" ? "point" : "points"} ${train > test ? "more" : "less"}`;
}

function drawNumbers() {
  const run = runAt(state), test = evaluated(state).accuracy.at(-1);
  const known = run["on training data"] ?? {}, train = known[state.momentum] ?? known.any;
  const facts = run.diverged === null
    ? [["On test images, in evaluation", `${test} %`], ["On training images, in evaluation", `${train} % (${apart(train, test)})`]]
    : [["Diverged", `at step ${run.diverged}`]];
  if (typeof run["measured anew"] === "number") facts.push(["On test images, statistics measured anew", `${run["measured anew"]} %`]);
  if (run.noise !== undefined) facts.push(["Normalisation noise of the second norm, in standard deviations", number(run.noise)]);
  const at = `at ${run.beta.length > 1 ? "the steps" : "step"} ${data.probed.slice(0, run.beta.length).join(", ")}`, all = (values) => values.map(number).join(", ");
  facts.push([`Effective β of the loss along the gradient (the smaller, the smoother) ${at}`, all(run.beta)]);
  facts.push([`Third layer's gradient, before and after the layers below take their step: cosine ${at}`, all(run.agreement)]);
  $("numbers").querySelector(".drawn").innerHTML = facts.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
}

function draw() {
  for (const name of WORDS) {
    for (const input of document.getElementsByName(name)) input.checked = input.value === state[name];
  }
  for (const name of SLIDERS) {
    $(name).value = CHOICES[name].indexOf(state[name]);
    describe(name, called(name, state[name]));
  }
  for (const input of document.getElementsByName("where")) input.disabled = off("where") !== "";
  $("momentum").disabled = off("momentum") !== "";
  for (const note of document.querySelectorAll("[data-note]")) {
    say(note, off(note.dataset.note) || resets[note.dataset.note] || "");
  }
  for (const picture of [drawAccuracy, drawStatistics, drawLandscape, drawCompare, drawNumbers]) picture();
  say($("summary"), summary(state));
}

function say(element, text) { // what is said again is read out again
  if (element.textContent !== text) element.textContent = text;
}

function describe(name, text) {
  $(`${name}-value`).textContent = text;
  $(name).setAttribute("aria-valuetext", text);
}
