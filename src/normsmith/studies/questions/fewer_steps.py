"""Does batch norm reach the target in fewer optimizer steps?"""

from __future__ import annotations

from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Pairs
from normsmith.studies.tuning import Requests, Tuned

SHARE = 0.67
"""Worth having: at most so much of the steps."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune both arms by steps to the target on validation, compare them on test."""
    arms = {name: (lab.network(name), lab.normalized(name)) for name in lab.activations("relu", "tanh")}
    plains = [plain for plain, _ in arms.values()]
    target = yield from lab.target(plains)
    criteria = lab.steps_to(target, "validation"), lab.shortfall
    tuned = yield from lab.tune([arm for pair in arms.values() for arm in pair], *criteria)
    as_initialised = yield from lab.tune(plains, *criteria, own_weights=True)
    steps = lab.steps_to(target)
    pairs = [
        _fewer(lab, name, target, tuned[norm], controls[plain], beside=controls is as_initialised)
        for controls in (tuned, as_initialised)
        for name, (plain, norm) in arms.items()
    ]
    effects = lab.judge(pairs)
    best = [*tuned.values(), *as_initialised.values()]
    return Findings(
        headline=headline("Batch norm reaches the target in fewer steps", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, tuned.values()), chosen_settings(best)),
        tables=(arms_table(lab, best, {"steps to target": steps}),),
        notes=(target_note(lab, target), *unreached(lab, target, best), WELL_INITIALISED, *edge_notes(best)),
    )


def _fewer(
    lab: Lab, activation: str | None, target: float, norm: Tuned, plain: Tuned, *, beside: bool
) -> Pairs:
    """The pairs of one hypothesis: the norm needs fewer steps than a control."""
    control = "none as initialised" if beside else "none"
    name = f"{activation or 'own activation'}: batch norm vs {control}"
    return lab.fewer_steps(name, norm, plain, target, SHARE, beside=beside)


QUESTION = Question(
    name="fewer-steps",
    title="Does batch norm need fewer steps?",
    claim="A network with batch norm reaches the same accuracy in a fraction of the optimizer steps.",
    source="Ioffe & Szegedy 2015, section 4.2.2: Inception to 72.2 % in 13.3 instead of 31.0 million steps, "
    "2.1 at five times the learning rate (with dropout removed and other changes too)",
    method="Each arm and seed at its own best initial weights and learning rate, chosen on validation by the steps to "
    "the target; steps after which the target holds on test, paired by seed. Of a network that never gets "
    "there it is known only that it needs more steps than the budget.",
    ask=ask,
)
