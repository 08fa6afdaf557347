"use strict";
// Scales and charts, of numbers alone: what they are about is page.js's.

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
  const level = y.level ? `<line x1="${LEFT}" x2="${width - RIGHT}" y1="${toY(y.level.at)}" y2="${toY(y.level.at)}" class="level"/>` : "";
  const drawn = kept.map((line) => {
    const points = line.y.map((v, i) => (v === null || up.at(v) === null ? null : [toX(line.x[i]), toY(v)]));
    const stroke = line.dash === "marks" ? "" : `<path d="${stretches(points)}" class="stroke ${line.dash} ${line.thick ? "thick" : ""}"/>`;
    const uses = points.map((p, i) => (p && line.mark ? `<use href="#mark-${line.crosses?.[i] ? "x" : line.mark}" x="${p[0].toFixed(1)}" y="${p[1].toFixed(1)}"/>` : ""));
    return `<g class="${line.colour}">${stroke}${uses.join("")}</g>`;
  });
  const entries = kept.map((line) => `<li class="${line.thick ? "chosen" : ""}">${swatch(line)}<span>${line.label}</span></li>`);
  if (level) entries.push(`<li><svg width="34" height="14" aria-hidden="true" focusable="false"><path d="M1 7h32" class="level"/></svg><span>${y.level.name}</span></li>`);
  return `<div class="chart"><p>${title}</p><ul class="key" aria-label="Key">${entries.join("")}</ul>
    <svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="${title}. ${ends(kept)}${level ? `; ${y.level.name}` : ""}">${grid.join("")}<line x1="${LEFT}" x2="${width - RIGHT}" y1="${bottom}" y2="${bottom}" class="base"/>${marks.join("")}${level}${chosen}${drawn.join("")}</svg>
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
