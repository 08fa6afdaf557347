#!/usr/bin/env python3
"""Train the small runs of the explorer page, keep them in docs/_static/explorer.json, and write docs/explorer.html.

    make explorer                             minutes: every run trains anew
    python scripts/explorer.py --write        only write the page, from the runs as they are kept

The page shows runs, one of each setting: pictures of what the literature says, and no evidence. The evidence beside
them is that of the studies in docs/gallery.json and docs/demo.json, and of the tests of identities.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from explore import page, runs  # noqa: E402
from figures import where  # noqa: E402
from shared.answers import kept_runs  # noqa: E402  beside this file

RUNS, PAGE = ROOT / "docs/_static/explorer.json", ROOT / "docs/explorer.html"
NORMS = ("none", "batch", "renorm", "layer", "group")
PLACES = ("before", "after")
BATCHES = (2, 4, 8, 16, 64, 256)
RATES = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)
GAINS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
SCALED: dict[str, Any] = {"where": "before", "batch": 64, "momentum": 0.1}
"""What the runs whose initial weights are scaled have in common."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the page only")
    parser.add_argument("--workers", type=int, default=2, help="processes that train, 2 by default")
    arguments = parser.parse_args()
    if not arguments.write:
        RUNS.write_text(as_text(trained(grid(), arguments.workers)), encoding="utf-8")
    PAGE.write_text(written(), encoding="utf-8")


def grid() -> list[runs.Setting]:
    """Every setting that is trained."""
    placed = [(norm, where) for norm in NORMS for where in (PLACES if norm != "none" else ("",))]
    plain = [runs.Setting(*each, batch, rate) for each in placed for batch in BATCHES for rate in RATES]
    scaled = [
        runs.Setting(norm, SCALED["where"] if norm != "none" else "", SCALED["batch"], rate, gain)
        for norm in NORMS
        for rate in RATES
        for gain in GAINS
        if gain != 1
    ]
    return plain + scaled


def trained(settings: Iterable[runs.Setting], workers: int) -> dict[str, Any]:
    """The runs of these settings, and where they were trained."""
    settings = list(settings)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, torch.set_num_threads, (1,)) as pool:
        measured, seconds = zip(*pool.map(timed, settings, chunksize=4), strict=True)
    return {
        **axes(),
        "seconds": round(sum(seconds)),
        "torch": torch.__version__,
        **where(),
        "runs": {setting.key: run for setting, run in zip(settings, measured, strict=True)},
    }


def timed(setting: runs.Setting) -> tuple[dict[str, Any], float]:
    """A run, and the processor's seconds that it took: what else the machine does is not in them."""
    started = time.process_time()
    return runs.measured(setting), time.process_time() - started


def axes() -> dict[str, Any]:
    """What the numbers of a run stand for, and between what the page's controls choose."""
    return {
        "steps": runs.STEPS,
        "evaluated": runs.EVALUATED,
        "traced": runs.TRACED,
        "probed": runs.PROBED,
        "multiples": runs.MULTIPLES,
        "choices": {
            "norm": NORMS,
            "where": PLACES,
            "batch": BATCHES,
            "rate": RATES,
            "momentum": runs.MOMENTA,
            "gain": GAINS,
        },
        "scaled": SCALED,
    }


def as_text(kept: dict[str, Any]) -> str:
    """JSON with a line for each run."""
    head = [f"{json.dumps(name)}: {_compact(value)}" for name, value in kept.items() if name != "runs"]
    lines = [f"{json.dumps(key)}: {_compact(run)}" for key, run in kept["runs"].items()]
    return "{\n" + ",\n".join(head) + ',\n"runs": {\n' + ",\n".join(lines) + "\n}}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def written() -> str:
    """The page, from what is kept."""
    kept = json.loads(RUNS.read_text(encoding="utf-8"))
    return page.rendered(kept, kept_runs(), (ROOT / "docs/claims.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
