"""The page on which a run's result stands."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from importlib.metadata import version

from benchmarks.cases import Suite
from benchmarks.goals import NOT, Goal, goals, losing
from benchmarks.limits import over_limit
from benchmarks.measure import Measured, Times
from benchmarks.protocol import Ratio, machine, ratio, spread

HOW = """\
Every ratio is the median over rounds, its quartiles in brackets; candidates take turns in alternating order. A sample
during which the process was switched out, and waited for more than 1 % of the time, is taken again, though no more
often than there are rounds. A row has at least 15 rounds and lasts half a second or more; a candidate slower than 0.4
s a sample sits out two rounds of three. A case is verified before it is timed: output and all gradients against
float64, at means 0, 1e2 and 1e4. Regimes: *fresh* calls the public op, outputs are newly allocated, and a step is the
forward and its backward; *reused* runs the kernels into buffers that are there already, beside copies of the same
bytes; *cold* is fresh over batches in turn, so many that none is in a cache. `t / limit` is our time over the least
possible: bytes read (twice where a channel's slice, or the batch, exceeds the cache) and written, at the speed of the
faster of `copy_` and a copy with non-temporal stores. † torch's backward cannot be given buffers (what it calls `out`
allocates, then copies): it allocates its outputs at each call, from pages that stay with the process."""

_GOALS = "figure | goal | judged | verdict | worst row | rows, geometric mean"
_KERNELS = (
    "case | regime | threads | part | ours, µs | torch / ours | other peers / ours | t / limit | rounds"
)


def page(measured: Measured, suite: Suite, heading: list[str]) -> str:
    """The whole result, in Markdown."""
    parts = [
        "# Batch norm on a CPU",
        "\n\n".join([f"{machine()}, numba {version('numba')}, transformers {version('transformers')}", *heading]),
        HOW,
        "## Figures to reach",
        _table(_GOALS, map(_goal, goals(measured, suite))),
        "\n".join(_remarks(measured)),
        "## Rows that the best peer wins",
        _table("row | best peer / ours", ([row.row, _shown(row.value)] for row in losing(measured, suite))),
        "Why a figure is missed is said in `docs/explanation/kernels.md`, for the machine that it names.",
        "## Kernels",
        _table(_KERNELS, _kernels(measured)),
        "## Error against float64, relative to the largest value",
        _table("case | candidate | y at mean 0 | 1e2 | 1e4 | gradients, worst", _errors(measured)),
        "## Layers and networks",
        _table("what | part | ours, ms | torch / ours | other peers / ours | rounds", _networks(measured)),
        "## Peak memory of a process that trains a network for three steps",
        _table("network | norms | MB | against torch", _peaks(measured)),
        "## Memory of a training step of conv–BN–ReLU–conv",
        _table("norm | at most alive, MB | alive when backward begins, MB | peak / torch's", _memory(measured)),
        "## New processes",
        _table("what | ours, s | torch, s | ours / torch | rounds", _processes(measured)),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: str, rows: Iterable[list[str]]) -> str:
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines + (body or [f"| {NOT} |" + " |" * head.count("|")]))


def _shown(value: Ratio | None) -> str:
    return NOT if value is None else f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"


def _goal(goal: Goal) -> list[str]:
    count = f"{len(goal.measured)} of {len(goal.figures)}"
    mean = goal.geometric
    if goal.bound == 1 and goal.measured:
        count += f", {sum(value.median < 1 for _, value in goal.measured)} below 1"
    several = mean is not None and len(goal.measured) > 1 and mean.median > 0
    rows = f"{count}, {_shown(mean)}" if several else count
    return [
        goal.name,
        goal.sign,
        _shown(goal.judged),
        goal.verdict,
        goal.measured[0][0] if goal.measured else "",
        rows,
    ]


def _remarks(measured: Measured) -> Iterator[str]:
    yield from (f"- wrong, not timed: {finding}" for finding in measured.wrong)
    yield from (f"- failed: {what}: {why}" for what, why in measured.failed.items())
    yield from (f"- no time left: {what}" for what in measured.late)
    if not measured.pages_kept:
        yield "- torch's backward in the reused regime met fresh pages: they cannot be kept here, or it was not reached"


def _peers(times: Times, below: str = "ours") -> str:
    others = (name for name in times if name not in ("ours", "torch"))
    return ", ".join(f"{name} {_shown(ratio(times[name], times[below]))}" for name in others)


def _rounds(times: Times) -> str:
    """Those of ours, and of whoever sat some of them out."""
    counts = {name: spread(seconds).rounds for name, seconds in times.items()}
    fewer = [f"{name} {count}" for name, count in counts.items() if count < counts["ours"]]
    return ", ".join([str(counts["ours"]), *fewer])


def _against_torch(times: Times) -> str:
    return _shown(ratio(times["torch"], times["ours"])) if "torch" in times else ""


def _kernels(measured: Measured) -> Iterator[list[str]]:
    for (case, regime, threads, part), times in measured.times.items():
        limit = _shown(over_limit(case, part, times)) if "copy" in times else ""
        yield [
            str(case), regime, str(threads), part, f"{1e6 * spread(times['ours']).median:.1f}",
            _against_torch(times) + ("†" if regime == "reused" and part == "backward" and "torch" in times else ""),
            _peers(times), limit, _rounds(times),
        ]  # fmt: skip


def _errors(measured: Measured) -> Iterator[list[str]]:
    for case, means in measured.errors.items():
        for name in next(iter(means.values())):
            outputs = [f"{found[name]['y']:.1e}" for found in means.values()]
            gradients = max(
                error for found in means.values() for part, error in found[name].items() if part != "y"
            )
            yield [str(case), name, *outputs, f"{gradients:.1e}"]


def _networks(measured: Measured) -> Iterator[list[str]]:
    rows = [
        (f"layer on 60×100, {number} threads", part, times)
        for (number, part), times in measured.calls.items()
    ]
    rows += [(name, "training step", times) for name, times in measured.networks.items()]
    for name, part, times in rows:
        ours = 1e3 * spread(times["ours"]).median
        yield [name, part, f"{ours:.4g}", _against_torch(times), _peers(times), _rounds(times)]


def _memory(measured: Measured) -> Iterator[list[str]]:
    for name, (most, kept) in measured.memory.items():
        share = most / measured.memory["torch"][0]
        yield [name, f"{most / 1e6:.2f}", f"{kept / 1e6:.2f}", f"{share:.3f}"]


def _peaks(measured: Measured) -> Iterator[list[str]]:
    for network, peaks in measured.peaks.items():
        for name, found in peaks.items():
            yield [network, name, f"{found:.0f}", f"{found / peaks['torch']:.3f}"]


def _processes(measured: Measured) -> Iterator[list[str]]:
    for name, times in measured.processes.items():
        ours, torchs = (f"{statistics.median(times[candidate]):.2f}" for candidate in ("ours", "torch"))
        yield [name, ours, torchs, _shown(ratio(times["ours"], times["torch"])), str(len(times["ours"]))]
