"""What each hypothesis is about in plain words, for the pages that say what was found.

No figure of ours stands here: those come from the results (`shared/findings.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from normsmith.studies.results import Effect, Verdict
from shared.wording import Wording, faster, larger, own_words, smaller

HOLDS, NOT_HERE = Verdict.HOLDS, Verdict.NOT_HERE
_PLACES = {
    "relu": "ReLU",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "own activation": "the network's own activation",
}
_QUANTILE = "So a batch norm as first layer does not replace a quantile transform."

WORDINGS: Mapping[str, tuple[Wording, ...]] = {
    "learning-rates": (
        larger(
            "largest rate that reaches .*",
            "With batch norm, the largest learning rate that still reaches the target is",
            size="octaves",
            asked="at least 4× (2 octaves) larger",
            asks="with batch norm the largest learning rate that reaches the target is at least 4× (2 octaves) larger",
        ),
        Wording(
            "range of rates that reach .*",
            "With batch norm, the range of rates that reach the target, slow ones included, is",
            more="wider",
            less="narrower",
            size="octaves",
            asked="at least 4× (2 octaves) wider",
            asks="with batch norm at least 2 octaves more of learning rates reach the target",
        ),
    ),
    "fewer-steps": (
        faster("steps to .*, (?P<what>[^:]*): batch norm vs none", "With {what}, batch norm is"),
        faster(
            "steps to .*, (?P<what>[^:]*): batch norm vs none as initialised",
            "With {what}, and against the network with the initial weights it came with, batch norm is",
        ),
    ),
    "initialisation": (
        Wording(
            "gains that reach .*",
            "Of 11 factors on the initial weights, those with which the target is reached are, with batch norm,",
            more="more",
            less="fewer",
            asks="with batch norm at least 3 more of 11 factors on the initial weights reach the target",
        ),
        Wording(
            "small gains that reach .*",
            "Of the 6 factors below 1, those with which the target is reached are, with batch norm,",
            more="more",
            less="fewer",
            asks="of the 6 factors below 1, at least 1 more reaches the target with batch norm",
        ),
        Wording(
            "large gains that reach .*",
            "Of the 4 factors above 1, those with which the target is reached are, with batch norm,",
            more="more",
            less="fewer",
            asks="of the 4 factors above 1, at least 1 more reaches the target with batch norm",
        ),
    ),
    "saturation": (
        Wording(
            "final metric, sigmoid: batch norm vs none",
            "Against a sigmoid network with good initial weights, batch norm is",
            asked="at least 20 points better",
            asks="a sigmoid network ends at least 20 points better with batch norm than well initialised without",
        ),
        Wording(
            "final metric, sigmoid: batch norm vs none as initialised",
            "Against the sigmoid network with the initial weights it came with, which is the comparison of the "
            "literature, batch norm is",
            asked="at least 20 points better",
            asks="a sigmoid network ends at least 20 points better with batch norm than as it came, without",
        ),
        smaller(
            "share of flat units, .*",
            "With batch norm, the share of sigmoids in their flat parts is",
            asked="at least 1 in 100 units smaller",
        ),
    ),
    "smoothness": (
        smaller(
            "effective beta, (?P<what>.*): .*",
            "With {what} and batch norm, the effective β (how fast the gradient changes along a step) is",
        ),
        smaller(
            "gradient predictiveness, (?P<what>.*): .*",
            "With {what} and batch norm, the change of the gradient along a step is",
        ),
        smaller(
            "loss range, (?P<what>.*): .*",
            "With {what} and batch norm, the range of the loss along a step is",
        ),
    ),
    "covariate-shift": (
        larger("relative shift, batch norm vs none", "With batch norm, the shift (relative) is"),
        faster("steps to .*, batch norm vs none", "With batch norm the network is"),
        larger(
            "relative shift, noisy batch norm vs none", "With noise after its norms, the shift (relative) is"
        ),
        faster(
            "steps to .*, noisy batch norm vs none",
            "With noise after its norms, against no norm at all, batch norm is still",
        ),
        larger(
            "relative shift, no activations: .*",
            "Without activations, the shift (relative) is with batch norm",
        ),
        faster("steps to .*, no activations: .*", "In networks without activations, batch norm is"),
        smaller(
            "effective beta, no activations: .*",
            "Without activations, effective β is with batch norm",
        ),
    ),
    "regularisation": (
        Wording(
            r"train–test gap: (?P<what>\d+) vs (?P<other>\d+).*",
            "With wrong labels and {what} samples normalised together, against {other}, the gap (training less test "
            "accuracy) is",
            more="lower",
            less="higher",
            asked="more than 2 points lower",
        ),
        Wording(
            "slope of the normalisation noise .*",
            "The noise falls with the batch size (on logarithmic scales) with a slope",
            more="above −0.5",
            less="below −0.5",
            size="value",
            zero=-0.5,
            asked="within 0.1 of −0.5, the square root of the batch",
        ),
        Wording(
            r"train–test gap on few samples: (?P<what>\d+) vs (?P<other>\d+).*",
            "With few samples, right labels and {what} samples normalised together, against {other}, the gap is",
            more="lower",
            less="higher",
            asked="more than 2 points lower",
        ),
    ),
    "dropout": (
        larger(
            "variance shift, dropout between vs none",
            "With dropout between the layers, the error of a norm's stored variance is",
        ),
        Wording(
            "final metric, dropout between: recalibrated .*",
            "With dropout between the layers, recalibrated statistics are",
            asked="at least half a point better",
            means={NOT_HERE: "So the shift of variances typically costs less than half a point here."},
        ),
        larger(
            "variance shift, dropout last vs none",
            "With dropout after the last norm, that error is",
        ),
        Wording(
            "what dropout gains: .*",
            "What dropout does to accuracy is, with batch norm against without a norm,",
            more="worse",
            less="better",
            asked="more than 1 point worse",
            asks="what dropout does to accuracy is more than 1 point worse with batch norm than without",
            means={NOT_HERE: "So a clash of so much in accuracy is not seen here."},
        ),
    ),
    "placement": tuple(
        faster(
            f"steps to .*, {name}: batch norm {side} vs {other}",
            f"With {said}, batch norm {side} the activation is",
        )
        for name, said in {**_PLACES, "own activation": "its own activation"}.items()
        for side, other in (("before", "after"), ("after", "before"))
    ),
    "small-batches": (
        Wording(
            r"final metric, batch norm: \d+ vs (?P<what>\d+) samples",
            "Normalised over many samples, against {what} at a time, batch norm is",
            means={HOLDS: "So small batches cost it that much."},
        ),
        Wording(
            r"final metric, (?P<what>\d+) samples: renorm vs batch norm", "At {what} samples, batch renorm is"
        ),
        Wording(
            r"renorm recovers half, at (?P<what>\d+) samples",
            "At {what} samples, against the middle between batch norm there and at many samples, batch renorm is",
            asked="above that middle",
            means={HOLDS: "So it wins back more than half of the loss, and not all of it."},
        ),
    ),
    "dependent-batches": (
        Wording(
            r"final metric, batch norm: all vs (?P<what>\d+) classes a batch",
            "Trained on batches of all classes, against batches of {what} classes, batch norm is",
            means={HOLDS: "So batches of few classes cost it that much."},
        ),
        Wording(
            r"final metric, (?P<what>\d+) classes a batch: renorm .*",
            "At {what} classes in a batch, batch renorm is",
        ),
        Wording("final metric, 1 class a batch: layer norm .*", "At one class in a batch, layer norm is"),
    ),
    "recurrent-norms": (
        faster(
            "steps to .*, per step vs none", "With a batch norm for each time step, a recurrent network is"
        ),
        faster(
            "steps to .*, inputs only vs none",
            "With a batch norm on the inputs alone, a recurrent network is",
        ),
        faster(
            "steps to .*, shared vs none", "With one batch norm for all time steps, a recurrent network is"
        ),
        Wording(
            "final metric: per step vs shared",
            "In a recurrent network, norms with statistics for each time step are, against shared ones,",
        ),
        Wording(
            "final metric, per step: γ from .*", "γ that starts at 0.1 is, against one that starts at 1,"
        ),
    ),
    "moving-averages": tuple(
        Wording(
            f"final metric, momentum {momentum}, {rate}: .*",
            f"At momentum {momentum} and {said}, statistics that are measured anew are",
            means={NOT_HERE: "So the moving averages typically cost no more than a point here."},
        )
        for momentum in ("0.1", "0.03", "0.01")
        for rate, said in (("best rate", "the best rate"), ("4 × the best rate", "4 times the best rate"))
    ),
    "shifted-inputs": tuple(
        Wording(
            f"final metric, {how}: adapted vs source",
            f"{said}, statistics of the shifted inputs are",
            means={HOLDS: "So they do not undo it."} if how == "invert" else {},
        )
        for how, said in {
            "contrast": "With a quarter of the contrast",
            "brightness": "With brighter images",
            "blur": "With blurred images",
            "noise": "With noisy images",
            "invert": "With inverted images",
        }.items()
    ),
    "data-preparation": (
        Wording(
            "final metric, raw scales: batch norm first vs as they are",
            "Where features have very different units, a batch norm as first layer is, against nothing,",
        ),
        Wording(
            "raw scales: batch norm first goes the way of a scaler",
            "Against 97 % of the way from no preparation to a scaler, a batch norm as first layer is",
            more="above",
            less="below",
            asked="above that 97 %",
            asks="a batch norm as first layer loses at most 3 % of what a scaler gains",
        ),
        Wording(
            "final metric, heavy tails: quantile .*",
            "With heavy tails, a quantile transform is, against a batch norm as first layer,",
            means={HOLDS: _QUANTILE},
        ),
        Wording(
            "final metric, outliers: quantile .*",
            "With outliers, a quantile transform is, against a batch norm as first layer,",
            means={HOLDS: _QUANTILE},
        ),
    ),
    "affine-and-epsilon": (
        Wording(
            "final metric, sigmoid: with vs without γ and β",
            "A sigmoid network with γ and β is, against one without them,",
            means={NOT_HERE: "So γ and β are typically worth no more than a point here."},
        ),
        Wording(
            "final metric: ε .*",
            "ε of 0.001 is, against one of 1e-8,",
            means={HOLDS: "So between these two, ε typically matters by no more than a point here."},
        ),
        Wording(
            "final metric: without vs with γ and β",
            "A network with its own activation is without γ and β, against with them,",
            means={HOLDS: "So γ and β typically make no more than a point of difference there."},
        ),
        faster("steps to .*, sigmoid: with vs without γ and β", "A sigmoid network with γ and β is"),
    ),
    "whitening": (
        faster("steps to .*, whitening vs batch norm", "Whitening is, against batch norm,"),
        faster(
            "steps to .*, whitening by iterations vs batch norm",
            "Whitening by iterations is, against batch norm,",
        ),
    ),
    "own-norms": (
        Wording(
            "final metric: as is vs stripped",
            "With the batch norms that it has, the network is, against without,",
        ),
        Wording(
            "final metric: as is vs stripped, as initialised",
            "Against itself without norms and with the initial weights it came with, it is",
        ),
        Wording(
            "final metric: renorm vs as is",
            "With renorm in place of its batch norms, it is",
            means=dict.fromkeys(
                Verdict, "This says nothing about small batches, where renorm is claimed to help."
            ),
        ),
        Wording(
            "final metric: moved (?P<what>before|after) .*",
            "With its norms moved {what} the activation, it is",
        ),
    ),
    "domain-norms": (
        Wording(
            "final metric, (?P<what>.*): a norm for each style vs one",
            "A batch norm for each style ({what}) is, against one for both,",
        ),
        Wording(
            "final metric, (?P<what>.*): a norm for each style vs one, each style standardised before",
            "A batch norm for each style ({what}) is, against one norm on inputs of which each style was standardised,",
        ),
    ),
    "which-norm": (),
}
"""By question; a hypothesis that none fits is described by its own arms."""


def wording(question: str, effect: Effect) -> Wording:
    """The words for a hypothesis, those of its own arms where nothing better is known."""
    for words in WORDINGS.get(question, ()):
        if match := re.fullmatch(words.about, effect.name):
            lead = words.lead
            for name, value in match.groupdict().items():
                lead = lead.replace(f"{{{name}}}", _PLACES.get(value, value))
            return replace(words, lead=lead)
    return own_words(effect)
