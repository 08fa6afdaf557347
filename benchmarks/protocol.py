"""How things are timed here: interleaved, in alternating order, as ratios of the same round.

Machines are noisy; a ratio within a round is steadier than any two medians. A sample to which being switched out
did harm is measured again.
"""

from __future__ import annotations

import math
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results")
RETRIES = 4
HARM = 0.01
"""Share of a sample's time that may be lost to other processes: on any system a long sample is switched out, for
microseconds, by one of the kernel's own threads."""
SITS_OUT = 3
"""A slow candidate takes part in every third round."""
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Ratio:
    """The quotient of two candidates over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def sample(body: Callable[[], object], retries: int = RETRIES) -> tuple[float, int]:
    """Seconds of one call, measured again while switching the process out did harm; and how often it was."""
    best, again = math.inf, -1
    harmed = True
    while harmed and again < retries:
        switches, waited = _switches(), _waited()
        started = time.perf_counter()
        body()
        seconds = time.perf_counter() - started
        best, again = min(best, seconds), again + 1
        harmed = _switches() > switches and _waited() - waited > HARM * seconds
    return best, again


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _waited() -> float:
    """Seconds for which threads of this process could have run and were not let; where unknown, any switch counts."""
    if not _TASKS.exists():
        return _switches()
    total = 0
    for task in _TASKS.iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            continue
    return total / 1e9


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    seconds: float = 0.0,
    slow: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one call of each that does not count.

    There are at least so many rounds, and they go on for so many seconds. A candidate whose first sample takes more
    than `slow` seconds sits out two rounds of three: NaN. Samples are taken again no more often than there are
    rounds, so that a busy machine makes a row at most twice as long.
    """
    for body in candidates.values():
        body()
    names = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in names}
    spare = dict.fromkeys(names, 0)
    started, round_ = time.perf_counter(), 0
    while round_ < rounds or time.perf_counter() - started < seconds:
        for name in names if round_ % 2 == 0 else reversed(names):
            if round_ % SITS_OUT and times[name][0] > slow:
                times[name].append(math.nan)
                continue
            took, again = sample(candidates[name], min(RETRIES, spare[name] + 1))
            times[name].append(took)
            spare[name] += 1 - again
        round_ += 1
    return times


def ratio(above: list[float], below: list[float]) -> Ratio:
    """The median of the per-round quotients, with its quartiles."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def spread(values: list[float]) -> Ratio:
    """The median of values, with their quartiles; a single value is all three, rounds that were sat out count not."""
    values = [value for value in values if not math.isnan(value)]
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return Ratio(middle, low, high, len(values))


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} torch threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}; {time.strftime('%Y-%m-%d')}, "
        f"commit {commit()}"
    )


def commit() -> str:
    """The commit that is measured; "unknown" where this is no repository."""
    git = ["git", "-C", str(RESULTS.parent)]
    done = subprocess.run(
        [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "../src"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() + (" with changes" if changed.stdout else "")


def processor() -> str:
    """The processor's name, as it says itself."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def write(name: str, title: str, table: str) -> None:
    """Print a result and keep it in `results/`, replacing the last one."""
    text = f"# {title}\n\n{machine()}\n\n{table}\n"
    print(text)
    (RESULTS / f"{name}.md").write_text(text)
