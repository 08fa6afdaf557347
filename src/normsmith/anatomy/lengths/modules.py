"""Modules that are followed as a whole: our norms, which take a mask, our recurrent layers, and those with a rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.following import Following
from normsmith.anatomy.lengths.given import LengthsRule, by_rule
from normsmith.anatomy.lengths.layouts import Layout, LayoutError, Samples
from normsmith.anatomy.lengths.tracker import Lost
from normsmith.errors import InputError
from normsmith.layers import InputNorm
from normsmith.layers.recurrent import RecurrentBase
from normsmith.layers.statistics import StatisticsBase


def masked(following: Following, norm: StatisticsBase, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a norm of ours with the mask of its own input.

    Raises:
        LengthsError: it has another mask, or channels that are no channels.
    """
    tracker = following.tracker
    x = args[0] if args else kwargs.get("input")
    tracker.check_checkpoint()
    if tracker.is_strange(x):
        tracker.refuse("its input was made where no call of torch's is seen")
    layout = tracker.layout(x)
    if layout is None:
        return args, kwargs
    channels = norm.dim % x.ndim if isinstance(norm, InputNorm) else 1
    if not layout.is_plain(channels):
        tracker.refuse(f"dimension {channels} of its input, its channels, are samples or lengths")
    residual = kwargs.get("residual", args[3] if len(args) > 3 else None)
    if isinstance(residual, Tensor) and tracker.of(residual).steps != layout.steps:
        tracker.refuse("its residual has other lengths than its input")
    mask = layout.valid(x.device)
    if mask is not None:
        mask = mask.squeeze(channels)
    given = kwargs.get("mask", args[1] if len(args) > 1 else None)
    given = norm.context_mask if given is None else given
    if given is not None:
        _check_mask(following, layout, given, mask, x, channels)
    if len(args) > 1:
        return (args[0], mask, *args[2:]), kwargs
    return args, {**kwargs, "mask": mask}


def _check_mask(
    following: Following, layout: Layout, given: Tensor, mask: Tensor | None, x: Tensor, channels: int
) -> None:
    """Refuse a mask that is not the one that lengths give, such as a flat one in the wrong order."""
    shape = [size for i, size in enumerate(x.shape) if i != channels]
    own = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape).cpu()
    try:
        theirs = given.detach().bool().cpu().expand(shape)
    except RuntimeError:
        following.tracker.refuse(
            f"a mask of shape {tuple(given.shape)} is given to it, and {tuple(shape)} is expected"
        )
    if torch.equal(own, theirs):
        return
    merged = next(
        (dim for dim in layout.dims if len(dim) == 2 and any(isinstance(a, Samples) for a in dim)), None
    )
    if merged is not None and len(shape) == 1:
        first, second = merged[0].size, merged[1].size
        if torch.equal(own, theirs.reshape(second, first).T.reshape(-1)):
            names = ["N" if isinstance(atom, Samples) else "T" for atom in merged]
            following.tracker.refuse(
                f"its mask is flat in the order {names[1]}·{names[0]}, and its input in the order "
                f"{names[0]}·{names[1]}; give no mask where lengths are used, or transpose it before it is flattened"
            )
    following.tracker.refuse(
        "a mask is given to it that is not the one of its lengths; give none where lengths are used"
    )


def masked_recurrent(following: Following, layer: RecurrentBase, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a recurrent layer of ours with the mask of its input, which it turns around within lengths."""
    tracker = following.tracker
    x = args[0] if args else kwargs.get("input")
    if isinstance(x, PackedSequence) or (layout := tracker.layout(x)) is None:
        return args, kwargs
    time = 1 if layer.batch_first else 0
    if layout.steps_of(time) is None or layout.dim_of_samples() != 1 - time or x.ndim != 3:
        tracker.refuse("its input has its samples or lengths in other dimensions than it takes them")
    mask = layout.valid(x.device)
    return args, {**kwargs, "mask": None if mask is None else mask[..., 0]}


def note_output(following: Following, module: nn.Module, rule: LengthsRule, given: Any, output: Any) -> None:
    """Note the layouts of what a module with a rule returns, or one of our own layers."""
    tracker = following.tracker
    layout = next((known for tensor in flat(given) if (known := tracker.layout(tensor)) is not None), None)
    if layout is None:
        tracker.set_all(output, None)
    elif isinstance(module, StatisticsBase):
        tracker.set_all(output, layout)
    elif isinstance(module, RecurrentBase):
        first, states = output
        for state in flat(states):
            tracker.set(state, Layout.of_shape(state.shape, {state.ndim - 2: Samples(tracker.samples)}))
        for tensor in flat(first):
            tracker.set(
                tensor, layout.with_plain_sizes(tensor.shape) if tensor.ndim == len(layout.dims) else None
            )
    else:
        for place, tensor in enumerate(flat(output)):
            try:
                tracker.set(tensor, by_rule(rule, layout, tuple(tensor.shape)))
            except (LayoutError, InputError) as error:
                if place == 0:
                    tracker.refuse(f"its rule does not fit: {error}")
                tracker.set(
                    tensor, Lost(f"what a module with a rule returns beside its first tensor: {error}")
                )
