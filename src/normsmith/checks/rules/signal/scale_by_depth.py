"""The scale of activations grows or shrinks from layer to layer, which makes training slow or impossible.

What: take the longest chain of layers with weights that data pass one after the other with no norm between. In it the
    variances of the layers' outputs differ by more than a factor of 10, and a standard deviation is outside of [0.5,
    2]. Left out are the last layer, layers that end a residual branch, layers that put out a constant, and recurrent
    layers with gates. NS107 looks at one batch in evaluation mode; NS503 trains and asks whether it costs anything. It
    is a warning if one of two is so, and information otherwise or without a loss:
    - The same network has a lower loss after 16 training steps if its layers start with unit variance.
    - The network has learned nothing yet, and the factor is above 100.
    With torch's default initial weights both often happen in good networks too, so there a warning also needs a factor
    above 10,000.

Formula: max var(h_l) / min var(h_l) > 10 in a chain of at least five layers, or > 100 in one of three or four, where
    h_l is the output of layer l; and sqrt(var(h_l)) < 0.5 or > 2 for some l.

Why it hurts: the differences between samples fade from layer to layer, or overflow, and gradients change by the same
    factors: no learning rate fits all layers.

Threshold: 10 is that of Amazon SageMaker Debugger, the range that of TheDeepChecker. Our own choice are the lengths of
    the chain, the 100 (the initial weights of torch lose a factor of 6 in each layer with ReLU, and networks of few
    layers train well with them) and the 10,000: new networks as LeNet and AlexNet, with the initial weights of torch,
    come to factors of 30 to 500, start slowly, and are no fault. Also our own choice: a loss counts as lower if it is
    lower by at least 5 % of the loss with shuffled targets (each sample gets the target of another); a network has
    learned if its loss is a tenth below the loss with shuffled targets.

Reproduction:
    import normsmith, torch
    from torch import nn

    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())]  # torch's own initial weights
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    batches = [(torch.randn(64, 16), torch.randint(2, (64,))) for _ in range(8)]
    given = {"loss": nn.functional.cross_entropy, "level": "deep", "select": ["NS503"]}
    assert normsmith.check(model, batches, **given).codes == ("NS503",)
    normsmith.surgery.insert(model, "batch").apply()
    assert normsmith.check(model, batches, **given).passed()

Fix: `model = normsmith.surgery.insert(model, "batch").apply()` before training, or initial weights that keep the scale:
    `normsmith.layers.init.he_(model)` for ReLU, or with a batch, `x = batches[0][0]`, by
    `normsmith.layers.init.unit_variance_(model, lambda model: model(x))` for any activation.

Threads: SilasMarvin/dnns-from-scratch-in-zig#7 (five layers), AlexeyAB/darknet#4135 (NaN without norms),
    EmbarkStudios/emote#20.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from normsmith._text import number
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.rule import Rule
from normsmith.checks.scales import RATIO, Scales

DEEP, SHALLOW = 5, 3
RATIO_OF_FEW = 100.0
FAR = 1e4
_SIZES = (0.7, 1.4)
"""Mean squares of weights, in those of torch's own initial weights, that are taken for the same."""


def check(context: Context) -> Iterator[Finding]:
    """A finding for the longest way without norms, if scales differ on it."""
    scales = context.scales
    threshold = RATIO if scales.length >= DEEP else RATIO_OF_FEW
    if scales.length < SHALLOW or not scales.are_apart or scales.ratio <= threshold:
        return
    first, last = scales.layers[0], scales.layers[-1]
    cost = _cost(context)
    hurts = cost is not None or (context.has_learned is False and scales.ratio > RATIO_OF_FEW)
    usual = scales.ratio <= FAR and _are_torchs(context.network, scales)
    yield Finding(
        last.path,
        f"standard deviations go from {number(first.deviation, 2)} after {first.path} to {number(last.deviation, 2)} "
        f"after {last.path}, and no norm stands between"
        + ("" if cost is None else f"; {cost} with layers of unit variance"),
        "initial weights that do not keep the scale, or inputs that are not scaled",
        Fix(
            'model = normsmith.surgery.insert(model, "batch").apply()  # before training; '
            "or normsmith.layers.init.he_(model)"
        ),
        quantity="ratio of variances",
        measured=scales.ratio,
        threshold=threshold,
        batches=1,
        severity="warning" if hurts and not usual else "info",
    )


def _are_torchs(model: nn.Module, scales: Scales) -> bool:
    """Whether all weights have the size of torch's own initial weights, uniform up to 1/sqrt(fan-in)."""
    weights = [getattr(model.get_submodule(scale.path), "weight", None) for scale in scales.layers]
    tensors = [weight for weight in weights if isinstance(weight, Tensor)]
    sizes = [float(weight.detach().double().square().mean()) * 3 * weight[0].numel() for weight in tensors]
    return len(tensors) == len(weights) and all(_SIZES[0] < size < _SIZES[1] for size in sizes)


def _cost(context: Context) -> str | None:
    try:
        return context.cost_of_scales
    except UnavailableError:
        return None


RULE = Rule(
    "NS503",
    "scale-by-depth",
    "warning",
    check,
    __doc__,
    needs=("graph", "batches", "training"),
    varies=("info",),
)
