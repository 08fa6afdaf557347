"""Does batch norm fail at small batches, and does batch renorm help there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from normsmith.errors import StudyError
from normsmith.studies.arms import Arm, Value
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    response,
)
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.renorm import require_active_renorm
from normsmith.studies.results import Chart
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Tuned

SIZES = {"quick": (32, 2), "full": (32, 16, 8, 4, 2)}
"""The quick profile has those that a hypothesis is about."""

OTHERS = {"quick": (), "full": ("layer", "group")}
"""Norms that do not depend on the batch, shown beside."""


def ask(lab: Lab) -> Requests[Findings]:
    """Normalise by ever fewer samples at an unchanged SGD batch, and compare the final metric in eval mode."""
    largest = min(max(SIZES[lab.profile]), lab.task.batch_size)
    if largest <= min(SIZES[lab.profile]):
        raise StudyError(
            f"expected a task whose batch is larger than {min(SIZES[lab.profile])}, the smallest that is "
            f"normalised together, got batch_size={lab.task.batch_size}"
        )
    sizes = (largest, *(size for size in SIZES[lab.profile] if size < largest))
    renormed = sizes if lab.profile == "full" else sizes[-1:]
    norms = {("batch", size): _sized(lab, "batch", size) for size in sizes}
    norms |= {("renorm", size): _sized(lab, "renorm", size) for size in renormed}
    others = [lab.normalized(None, norm) for norm in OTHERS[lab.profile]]
    tuned = yield from lab.tune([*norms.values(), *others], lab.shortfall, detail="end")
    for (norm, _), arm in norms.items():
        if norm == "renorm":
            require_active_renorm(lab, tuned[arm])
    pairs = _hypotheses(lab, norms, tuned, sizes)
    effects = lab.judge(pairs)
    best = list(tuned.values())
    return Findings(
        headline=headline("Batch norm fails at small batches and renorm cures it", effects),
        effects=effects,
        charts=(_by_size(lab, sizes, {key: tuned[arm] for key, arm in norms.items()}), chosen_settings(best)),
        tables=(arms_table(lab, best),),
        notes=(
            f"The SGD batch stays at {lab.task.batch_size}: only the number of samples that are normalised together "
            "changes. Renorm begins as batch norm and is allowed larger corrections as training goes on.",
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _hypotheses(
    lab: Lab, norms: Mapping[tuple[str, int], Arm], tuned: Mapping[Arm, Tuned], sizes: Sequence[int]
) -> list[Pairs]:
    """What batch norm loses from the largest to the smallest size, and what renorm wins there."""
    largest, smallest = sizes[0], sizes[-1]
    good, bad, cured = norms["batch", largest], norms["batch", smallest], norms["renorm", smallest]
    points = {arm: lab.series(tuned[arm], lab.points) for arm in (good, bad, cured)}
    halfway = {
        seed: ((value + points[bad][seed][0]) / 2, 0)
        for seed, (value, _) in points[good].items()
        if seed in points[bad]
    }
    better = f"final metric, {smallest} samples: renorm vs batch norm"
    claim = partial(Hypothesis, unit="points", scale="difference", better=lab.better)
    return [
        lab.compare(
            claim(
                name=f"final metric, batch norm: {largest} vs {smallest} samples",
                text=f"from {largest} to {smallest} samples batch norm loses more than 2 points",
                treatment=good.name,
                control=bad.name,
                margin=2.0,
            ),
            tuned[good],
            tuned[bad],
            lab.points,
        ),
        lab.compare(
            claim(
                name=better,
                text=f"at {smallest} samples renorm is more than 2 points better than batch norm",
                treatment=cured.name,
                control=bad.name,
                margin=2.0,
            ),
            tuned[cured],
            tuned[bad],
            lab.points,
        ),
        lab.pairs(
            claim(
                name=f"renorm recovers half, at {smallest} samples",
                text=f"at {smallest} samples renorm recovers more than half of what batch norm loses",
                treatment=cured.name,
                control=f"halfway between {bad.name} and {good.name}",
                margin=0.1,
                after=better,
            ),
            points[cured],
            halfway,
            lab.diverged(tuned[cured], tuned[bad]),
        ),
    ]


def _sized(lab: Lab, norm: str, size: int) -> Arm:
    """The norm before every activation, over `size` samples at a time."""
    options: dict[str, Value] = {"ghost_batch_size": size}
    if norm == "renorm":
        options["total_steps"] = lab.steps
    arm = lab.normalized(None, norm, lab.side, **options)
    return arm.called(f"{arm.name}, {size} samples")


def _by_size(lab: Lab, sizes: tuple[int, ...], tuned: dict[tuple[str, int], Tuned]) -> Chart:
    """The final test metric in evaluation against the number of samples."""
    arms = {
        f"batch {norm}": {float(size): tuned[kind, size] for size in sizes if (kind, size) in tuned}
        for kind, norm in (("batch", "norm"), ("renorm", "renorm"))
    }
    title = "Final test metric by the number of samples that are normalised together"
    return response(lab, arms, name="sizes", title=title, to="samples normalised together")


QUESTION = Question(
    name="small-batches",
    title="Does batch norm fail at small batches, and does renorm help there?",
    claim="With few samples a batch, batch norm's statistics are noise and differ from those of inference; batch "
    "renormalization corrects towards the moving averages and keeps most of the accuracy.",
    source="Ioffe 2017: Inception at micro-batches of 4, 74.2 % with batch norm, 76.5 % with renorm",
    method="Ghost batches: the SGD batch is unchanged, statistics are taken over fewer samples. Each arm and seed at "
    "its own best initial weights and learning rate; final test metric in eval mode, paired by seed. Norms that do not "
    "depend on the batch stand beside.",
    ask=ask,
)
