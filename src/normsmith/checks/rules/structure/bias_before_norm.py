"""A linear layer or convolution has a bias without effect: the batch norm after it subtracts it again.

What: a bias whose only consumer is a batch norm that normalises by the batch in training. Between the two stand at most
    identities, flattening, and poolings that leave a constant as it is. With an activation between, or where the
    layer's output is used elsewhere too, the bias has an effect, and nothing is reported.

Formula: with the layer's output x + b, its bias b and the mean over the batch: (x + b) − mean(x + b) = x − mean(x). The
    result does not depend on b, and the gradient of b is 0.

Why it hurts: hardly. The bias takes parameters, memory and time for nothing, and under weight decay it shrinks to 0. It
    is information only. Keep in mind that a norm with `affine=False` has no β, so that such a network has no offset
    here at all, and that scripts which read or export the bias see a number without meaning.

Threshold: none: the bias is there or not.

Reproduction:
    import normsmith
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    findings = normsmith.check(model)
    assert [(finding.code, finding.path) for finding in findings] == [("NS101", "0")]
    assert findings.passed()  # it is information

Fix: build the layer without it, as `nn.Conv2d(3, 8, 3, bias=False)`: β of the norm does its work.

Threads: milesial/Pytorch-UNet#325, 4uiiurz1/pytorch-nested-unet#39, matterport/Mask_RCNN#1455, cszn/KAIR#4 (no
    difference in results), yjh0410/yolov2-yolov3_PyTorch#35.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from normsmith._torch import parameters_of
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.graph import Event, Graph, channel_dimension
from normsmith.anatomy.kinds import channels
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.rule import Rule
from normsmith.layers.batch_renorm import RenormBase

_KEEP_CONSTANTS = (
    nn.Identity, nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
"""Layers after which a constant in a channel is the same constant. An average with zeros at the border is not."""
_FUNCTIONS = {"flatten", "contiguous", "clone", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d"}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each layer with such a bias."""
    graph = context.graph
    norms = {norm.module: norm for norm in context.norms}
    for event in graph.having("producer"):
        layer = event.module
        if layer is None or parameters_of(layer).get("bias") is None or not graph.is_called_once(layer):
            continue
        way = _way_to_norm(graph, event)
        norm = norms.get(way[-1].module) if way else None  # type: ignore[arg-type]
        if norm is None or norm.is_frozen or isinstance(norm.module, RenormBase):
            continue
        if _is_per_channel(event, way):
            yield Finding(
                event.path,
                f"its bias has no effect: {norm.path} subtracts it again",
                "the layer's default, bias=True",
                Fix(f"{describe_layer(layer).removesuffix(')')}, ..., bias=False)"),
            )


def _way_to_norm(graph: Graph, event: Event) -> list[Event]:
    """The calls from a result to the norm that alone takes it, past those that keep constants; none without a norm."""
    way: list[Event] = []
    while not graph.is_used_elsewhere(event):
        consumers = graph.consumers(event)
        if len(consumers) != 1:
            return []
        (event,) = consumers
        way.append(event)
        if event.role == "norm":
            return way
        if not (_keeps_constants(event) or _only_moves(event)):
            return []
    return []


def _keeps_constants(event: Event) -> bool:
    is_function = event.kind == "function" and event.name in _FUNCTIONS
    return is_function or isinstance(event.module, _KEEP_CONSTANTS)


def _only_moves(event: Event) -> bool:
    """Whether a call puts values elsewhere; dropout stays in evaluation, and drops in training."""
    return event.move is not None and "dropout" not in event.name


def _is_per_channel(layer: Event, way: list[Event]) -> bool:
    """Whether each channel of the norm holds values of one channel of the layer."""
    assert layer.module is not None
    *between, norm = way
    dimension = channel_dimension(layer)
    if layer.shape is not None and dimension is not None:
        return _arrive_apart(layer.shape, dimension, between)
    features = getattr(norm.module, "num_features", None)
    if features == channels(layer.module):
        return channel_dimension(norm.sources[0]) == 1
    flattened = norm.sources[0].name.lower() == "flatten"
    return flattened and not isinstance(layer.module, nn.Linear)


def _arrive_apart(shape: tuple[int, ...], dimension: int, between: list[Event]) -> bool:
    """Follow the numbers of the channels: whether those that arrive in one channel of the norm are all the same."""
    labels = torch.arange(shape[dimension]).view(-1, *(1,) * (len(shape) - dimension - 1)).expand(shape)
    for event in between:
        if event.move is not None:
            labels = event.move(labels)
        elif event.shape is not None and event.shape != tuple(labels.shape):  # a pooling
            first = labels[(slice(None), slice(None), *(slice(1),) * (labels.dim() - 2))]
            if event.shape[:2] != first.shape[:2] or not torch.equal(labels, first.expand_as(labels)):
                return False
            labels = first.expand(event.shape)
    rows = labels.movedim(1, 0).flatten(1) if labels.dim() > 1 else labels.new_tensor([[0, 1]])
    return bool((rows == rows[:, :1]).all())


RULE = Rule("NS101", "bias-before-norm", "info", check, __doc__, needs=("graph",))
