"""Does batch norm make saturating activations trainable?"""

from __future__ import annotations

from functools import partial

from normsmith.studies.arms import network, normalized
from normsmith.studies.figures import arms_table, edge_notes, headline, probe, rate_response, training_curves
from normsmith.studies.lab import Lab, Requests
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis


def ask(lab: Lab) -> Requests[Findings]:
    """Make every activation a sigmoid and compare final metric and the share of flat units."""
    plain, norm = network("sigmoid"), normalized("sigmoid")
    tuned = yield from lab.tune([plain, norm], lab.shortfall)
    flat = probe("flat", missing=1.0)
    claim = partial(Hypothesis, treatment=norm.name, control=plain.name, scale="difference")
    effects = lab.judge(
        [
            lab.compare(
                claim(
                    name="final metric",
                    text="with sigmoids, batch norm improves the final test metric by at least 20 points",
                    unit="points",
                    margin=19.9,  # between what 20 points are on small test sets: the next lower value falls short
                    better=lab.better,
                ),
                tuned[norm],
                tuned[plain],
                lab.points,
            ),
            lab.pairs(
                claim(
                    name="saturation",
                    text="batch norm lowers the share of sigmoids whose slope is below 0.05 by at least 0.01",
                    unit="share of units",
                    margin=0.01,
                    better="lower",
                ),
                lab.series(tuned[norm], flat),
                lab.series(tuned[plain], flat),
            ),
        ]
    )
    best = list(tuned.values())
    return Findings(
        headline=headline("Batch norm makes sigmoid networks trainable", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, best)),
        tables=(arms_table(lab, best, {"share of flat units": flat}),),
        notes=edge_notes(best),
    )


QUESTION = Question(
    name="saturation",
    title="Does batch norm make saturating activations trainable?",
    claim="Batch norm keeps activations out of the flat parts of a sigmoid, so that deep sigmoid networks train.",
    source="Ioffe & Szegedy 2015, sections 3.2 and 4.2.2: Inception with sigmoids reaches 69.8 % with batch norm and "
    "stays at chance without",
    method="Every activation becomes a sigmoid; each arm at its own best learning rate. A sigmoid counts as flat "
    "where its slope is below 0.05, a fifth of the greatest; the share is taken at the end of training, and is "
    "all of them for a trial that diverged before it was first measured.",
    ask=ask,
)
