"""A batch norm gets sequences with the channels last, and normalises each time step instead of each channel.

What: a batch norm gets inputs of shape (N, L, C) or (N, H, W, C) (samples, steps or height and width, features), whose
    last dimension C is the number of features of the linear or recurrent layer, embedding or attention that they come
    from. Where L = C, or where that layer is not known, nothing is reported. It is information only: a norm for each
    step may be meant.

Formula: batch norm takes dimension 1 for the channels: it computes one mean and one variance for each of the L steps,
    over N samples and C features.

Why it hurts: features of different scales are mixed in one mean and variance, so that their differences stay; and the
    layer only takes sequences of exactly L steps.

Threshold: none: dimension 1 does not have the length C, and the last dimension has.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(16, 2))
    batches = [torch.randn(8, 10, 4)]  # 10 steps of 4 features
    findings = normsmith.check(model, batches, select=["NS205"])
    assert findings.codes == ("NS205",)
    assert findings[0].measured == 10

Fix: move the features to dimension 1 for the norm, and back after it; then train again:

        norm = nn.BatchNorm1d(16)  # as many as there are features
        x = model[0](batches[0])  # of shape (8, 10, 16)
        y = norm(x.transpose(1, 2)).transpose(1, 2)

    For (N, H, W, C) the two are `.permute(0, 3, 1, 2)` and `.permute(0, 2, 3, 1)`, with `nn.BatchNorm2d`.

Threads: xieyulai/LSTM-for-Human-Activity-Recognition-using-2D-Pose_Pytorch#2, pytorch/pytorch#76613 (channels last in
    transformers), ruotianluo/self-critical.pytorch#65.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from normsmith.anatomy.graph import Event, channel_dimension, is_linear
from normsmith.anatomy.kinds import channels
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule

_KEEPS = ("passing", "activation", "norm", "add")


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm that takes another dimension for the channels."""
    for norm in context.norms:
        features = getattr(norm.module, "num_features", None)
        wrong = next((w for event in context.calls(norm) if (w := _wrong(event, features)) is not None), None)
        if wrong is None:
            continue
        taken, last = wrong
        yield Finding(
            norm.path,
            f"normalises dimension 1 of its input, {taken} steps, not the {last} features in its last dimension",
            "sequences with the channels last, as linear and recurrent layers return them",
            Fix(f"{norm.path}(x.transpose(1, -1)).transpose(1, -1), with {last} features"),
            quantity="length of dimension 1",
            measured=taken,
            threshold=last,
            also=norm.also,
        )


def _wrong(event: Event, features: int | None) -> tuple[int, int] | None:
    """How long dimension 1 and the last one are, where the last holds the features; None where that is not known."""
    if not event.sources:
        return None
    source = event.sources[0]
    layer = source.channel_source
    if source.shape is None:
        known = layer is not None and is_linear(layer) and layer.module is not None
        last = channels(layer.module) if known else None  # type: ignore[union-attr, arg-type]
        return None if features is None or last is None or last == features else (features, last)
    if len(source.shape) < 3 or source.shape[1] == source.shape[-1]:
        return None
    is_last = layer is not None and channel_dimension(source) == len(source.shape) - 1
    if is_last or _features_of(source) == source.shape[-1]:
        return source.shape[1], source.shape[-1]
    return None


def _features_of(event: Event) -> int | None:
    """How many features an embedding or attention puts into the last dimension of a result; None without one."""
    if isinstance(event.module, nn.Embedding):
        return event.module.embedding_dim
    if isinstance(event.module, nn.MultiheadAttention):
        return int(event.module.embed_dim)
    sources = event.sources if event.role in _KEEPS else ()
    return next((features for source in sources if (features := _features_of(source)) is not None), None)


RULE = Rule("NS205", "wrong-axis", "info", check, __doc__, needs=("graph",))
