"""Does batch norm work inside a recurrent network, and does each step need statistics of its own?"""

from __future__ import annotations

from normsmith.studies.arms import edit
from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.recurrence import PLACES, check_recurrent, norm_in_recurrence
from normsmith.studies.tuning import Requests

SHARE = 0.67
"""Worth having: at most so much of the steps."""
GAMMA = 0.1
"""Where γ starts: with 1 the gradients of tanh would vanish over the steps (Cooijmans et al. 2017)."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune the network without norms and with one in each place of its recurrence."""
    check_recurrent(lab.task)
    plain = lab.network(None)
    names = {
        "input": "batch norm of the inputs",
        "shared": "batch norm, shared",
        "per step": "batch norm per step",
    }
    arms = {
        place: plain.but(names[place], edit(norm_in_recurrence, place=place, gamma=GAMMA)) for place in PLACES
    }
    if lab.profile == "full":
        change = edit(norm_in_recurrence, place="per step", gamma=1.0)
        arms["γ"] = plain.but("batch norm per step, γ from 1", change)
    target = yield from lab.target([plain])
    criteria = lab.steps_to(target, "validation"), lab.shortfall
    tuned = yield from lab.tune([plain, *arms.values()], *criteria)
    none, of = tuned[plain], {place: tuned[arm] for place, arm in arms.items()}
    pairs = [
        lab.fewer_steps("per step vs none", of["per step"], none, target, SHARE),
        lab.ends_better(
            "final metric: per step vs shared",
            "statistics of its own for each step end more than 1 point better than shared ones",
            of["per step"],
            of["shared"],
            1.0,
        ),
        lab.fewer_steps("inputs only vs none", of["input"], none, target, SHARE, beside=True),
        lab.fewer_steps("shared vs none", of["shared"], none, target, SHARE, beside=True),
    ]
    if "γ" in of:
        text = "γ that starts at 0.1 ends more than 1 point better than γ that starts at 1"
        name = "final metric, per step: γ from 0.1 vs from 1"
        pairs.append(lab.ends_better(name, text, of["per step"], of["γ"], 1.0, beside=True))
    effects = lab.judge(pairs)
    best = list(tuned.values())
    return Findings(
        headline=headline("Batch norm works in a recurrent network with statistics for each step", effects),
        effects=effects,
        charts=(training_curves(lab, best), chosen_settings(best)),
        tables=(arms_table(lab, best, {"steps to target": lab.steps_to(target)}),),
        notes=(
            target_note(lab, target),
            *unreached(lab, target, best),
            WELL_INITIALISED,
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


QUESTION = Question(
    name="recurrent-norms",
    title="Does batch norm work inside a recurrent network?",
    claim="Batch norm speeds up recurrent networks too, if each step has statistics of its own and γ starts at 0.1.",
    source="Cooijmans et al. 2017: batch-normalized LSTM on sequential MNIST, faster and better with statistics for "
    "each step; Laurent et al. 2016: inputs alone, faster, and hidden-to-hidden does not help",
    method="A tanh network without norms, with a batch norm on what comes from outside, with one before tanh whose "
    "statistics all steps share, and with one for each step. Each arm and seed at its own best initial weights and "
    "learning rate; steps to the target and final test metric, paired by seed. Asked of digits-rnn, and of networks of "
    "its kind.",
    ask=ask,
    profiles=("full",),
)
