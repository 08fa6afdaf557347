"""Does batch norm fail where the samples of a batch are not independent, and does batch renorm help there?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from normsmith.studies.arms import Arm, Value, edit
from normsmith.studies.data_edits import few_classes
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    middle,
    rate_response,
    response,
)
from normsmith.studies.lab import Lab
from normsmith.studies.other_statistics import batch_mode_metric, final_by
from normsmith.studies.question import Findings, Question
from normsmith.studies.renorm import require_active_renorm
from normsmith.studies.results import Chart, Table
from normsmith.studies.statistics import Pairs
from normsmith.studies.tuning import Requests, Setting, Tuned

ALL = 0
"""Stands for batches of all classes: the data as they are."""
FEW = 2
"""The number of classes in a batch at which hypotheses are judged."""
ASKED = {
    "quick": (("batch", ALL), ("batch", FEW), ("renorm", FEW)),
    "full": (
        *(("batch", k) for k in (ALL, 4, FEW, 1)),
        *(("renorm", k) for k in (ALL, 4, FEW, 1)),
        *((norm, k) for norm in ("layer", "none") for k in (ALL, FEW, 1)),
    ),
}
"""Norms and classes in a batch; the quick profile has those that a hypothesis is about."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train on batches of few classes each, and compare the final metric on the test data as they are."""
    arms = {(norm, k): _arm(lab, norm, k) for norm, k in ASKED[lab.profile]}
    flat = yield from lab.tune(arms.values(), lab.shortfall, detail="end")
    tuned = {key: flat[arm] for key, arm in arms.items()}
    both = {key: _measured(tuned[key], arm) for key, arm in arms.items() if key[0] in ("batch", "renorm")}
    yield [trial for each in both.values() for trial in lab.trials(each).values()]
    for (norm, _), each in tuned.items():
        if norm == "renorm":
            require_active_renorm(lab, each)
    pairs = _hypotheses(lab, tuned)
    effects = lab.judge(pairs)
    best = list(tuned.values())
    charts = (rate_response(lab, best), chosen_settings(best))
    return Findings(
        headline=headline("Batch norm fails on batches of few classes and renorm cures it", effects),
        effects=effects,
        charts=(_by_classes(lab, tuned), *charts) if lab.profile == "full" else charts,
        tables=(arms_table(lab, best), _both_modes(lab, both.values())),
        notes=(
            f"Batches of {lab.task.batch_size}, whose samples come from so many classes, which differ from batch to "
            "batch; validation and test are as they are. Renorm begins as batch norm and is allowed larger corrections "
            "as training goes on.",
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _arm(lab: Lab, norm: str, classes: int) -> Arm:
    """The network with a norm (or "none"), trained on batches of so many classes."""
    options: dict[str, Value] = {"total_steps": lab.steps} if norm == "renorm" else {}
    arm = lab.network(None) if norm == "none" else lab.normalized(None, norm, lab.side, **options)
    if classes == ALL:
        return arm.called(f"{arm.name}, all classes")
    name = f"{arm.name}, {classes} {'class' if classes == 1 else 'classes'} a batch"
    return arm.on(name, edit(few_classes, classes=classes))


def _measured(tuned: Tuned, arm: Arm) -> Tuned:
    """The tuned arm with the metric by the statistics of test batches that are composed as those of training."""
    probes = (batch_mode_metric,)
    changed = tuned.changed(arm, lambda best: Setting(best.arm.but(arm.name, probes=probes), best.rate))
    return replace(changed, ends=False)


def _both_modes(lab: Lab, arms: Iterable[Tuned]) -> Table:
    """The test metric in evaluation, and by the statistics of each batch: the network may rely on these."""
    in_batches = final_by(lab, "batch mode")
    return Table(
        title="Test metric by the moving averages and by each batch's own statistics (median over seeds)",
        columns=("arm", "moving averages", "its own batch, composed as in training"),
        rows=tuple((arm.arm.name, middle(lab, arm, lab.final), middle(lab, arm, in_batches)) for arm in arms),
    )


def _hypotheses(lab: Lab, tuned: Mapping[tuple[str, int], Tuned]) -> list[Pairs]:
    """What batch norm loses by batches of two classes, what renorm wins there, and layer norm at one."""
    good, bad, cured = tuned["batch", ALL], tuned["batch", FEW], tuned["renorm", FEW]
    loses = f"from batches of all classes to batches of {FEW}, batch norm loses more than 1 point"
    better = f"with {FEW} classes in a batch, renorm is more than 1 point better than batch norm"
    pairs = [
        lab.ends_better(f"final metric, batch norm: all vs {FEW} classes a batch", loses, good, bad, 1.0),
        lab.ends_better(
            f"final metric, {FEW} classes a batch: renorm vs batch norm", better, cured, bad, 1.0
        ),
    ]
    if ("layer", 1) in tuned:
        text = "with one class in a batch, layer norm is more than 1 point better than batch norm"
        name = "final metric, 1 class a batch: layer norm vs batch norm"
        pairs.append(lab.ends_better(name, text, tuned["layer", 1], tuned["batch", 1], 1.0))
    return pairs


def _by_classes(lab: Lab, tuned: Mapping[tuple[str, int], Tuned]) -> Chart:
    """The final test metric against the number of classes in a batch; all of them are left out."""
    labels = {"batch": "batch norm", "renorm": "batch renorm", "layer": "layer norm", "none": "no norm"}
    arms: dict[str, dict[float, Tuned]] = {}
    for (norm, classes), each in tuned.items():
        if classes != ALL:
            arms.setdefault(labels[norm], {})[float(classes)] = each
    title = "Final test metric by the number of classes in a batch"
    return response(lab, arms, name="classes", title=title, to="classes in a batch")


QUESTION = Question(
    name="dependent-batches",
    title="Does batch norm fail where the samples of a batch are not independent, and does renorm help there?",
    claim="Where a batch holds few classes, batch norm learns to rely on what else is in it, which is missing at "
    "inference; batch renormalization keeps most of the accuracy.",
    source="Ioffe 2017, section 4.3: Inception with 16 labels × 2 samples in a micro-batch, 67.0 % with batch norm, "
    "78.5 % with renorm",
    method="Batches whose samples come from two classes, another two each time, and batches of all classes; validation "
    "and test are as they are. Each arm and seed at its own best initial weights and learning rate; final test metric "
    "in eval mode, paired by seed. Layer norm and no norm stand beside in the full profile.",
    ask=ask,
    profiles=("full",),
)
