"""Batch renormalization as sb3-contrib, SBX, torchrl and Keras save it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from normsmith.errors import InputError
from normsmith.layers.interop._entries import Entries
from normsmith.layers.interop.imported import ImportedRenorm
from normsmith.layers.schedules import Linear, constant


def from_sb3(
    state: Mapping[str, Any],
    *,
    prefix: str = "",
    eps: float = 1e-3,
    momentum: float = 0.01,
    warmup_steps: int = 100_000,
    r_max: float = 3.0,
    d_max: float = 5.0,
    affine: bool = True,
) -> ImportedRenorm:
    """Import a `BatchRenorm1d` of sb3-contrib's CrossQ from its state dict.

    The state holds `ra_mean`, `ra_var`, `steps`, `scale`, `bias`; the rest is not in it, and has sb3-contrib's
    defaults here. Evaluation: scale·(x − ra_mean)/sqrt(ra_var + eps) + bias.

    Args:
        state: a state dict; of a whole policy with `prefix`, e.g. "critic.qf0.0.".
        eps, momentum, warmup_steps: of the layer (`batch_norm_eps`, `batch_norm_momentum`, `renorm_warmup_steps`
            of the policy); `r_max`, `d_max`: its `rmax`, `dmax`.
        affine: False: scale and bias are in the state, but the layer does not use them.

    Raises:
        InputError: missing or unknown names, other shapes, or values that no statistics have.

    >>> import torch
    >>> state = {"ra_mean": [1.0], "ra_var": [4.0], "steps": 7, "scale": [2.0], "bias": [0.5]}
    >>> layer = from_sb3(state, eps=0.0).build().eval()
    >>> layer(torch.tensor([[5.0]])), layer.num_batches_tracked
    (tensor([[4.5000]], grad_fn=<...>), tensor(7))

    Source: sb3_contrib/common/torch_layers.py.
    """
    entries = Entries("sb3-contrib", state, prefix)
    entries.only({"ra_mean", "ra_var", "steps", "scale", "bias"}, set())
    # its warm-up lasts while steps ≤ warmup_steps: one step longer than its name says
    return ImportedRenorm(
        "sb3-contrib",
        entries.state("ra_mean", "ra_var", "steps", *(("scale", "bias") if affine else (None, None))),
        eps,
        momentum,
        _switch(r_max, d_max, warmup_steps + 1),
        (
            "sb3-contrib normalises training batches by their unbiased variance; normsmith, like torch, by the biased",
        ),
    )


def from_sbx(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    *,
    member: int | None = None,
    epsilon: float = 1e-3,
    momentum: float = 0.99,
    warm_up_steps: int = 100_000,
) -> ImportedRenorm:
    """Import a `BatchRenorm` of SBX's CrossQ (flax) from its two collections.

    `params` holds `scale` and `bias` (or neither, or one), `batch_stats` holds `mean`, `var`, `r_max`, `d_max`,
    `steps`. Evaluation: scale·(x − mean)/sqrt(var + epsilon) + bias.

    Args:
        params, batch_stats: of one layer, e.g. `qf_state.params["VmapCritic_0"]["BatchRenorm_0"]`.
        member: which critic, where they are stacked along the first axis (SBX's `VectorCritic`).
        epsilon, momentum, warm_up_steps: of the layer; momentum by flax's convention, 1 − torch's.

    Raises:
        InputError: missing or unknown names, other shapes, or values that no statistics have.

    >>> import torch
    >>> stats = {"mean": [[1.0], [2.0]], "var": [[4.0], [9.0]], "steps": [7, 7], "r_max": [3, 3], "d_max": [5, 5]}
    >>> layer = from_sbx({"scale": [[1.0], [1.0]], "bias": [[0.0], [0.5]]}, stats, member=1, epsilon=0.0).build()
    >>> layer.eval()(torch.tensor([[5.0]])), round(layer.momentum, 6)
    (tensor([[1.5000]], grad_fn=<...>), 0.01)

    Source: sbx/common/jax_layers.py.
    """
    shared = params.keys() & batch_stats.keys()
    if shared:
        raise InputError(
            f"import from SBX: expected params and batch_stats of one layer, got {sorted(shared)} in both"
        )
    entries = Entries("SBX", {**params, **batch_stats}, "", member)
    entries.only({"mean", "var", "steps", "r_max", "d_max"}, {"scale", "bias"})
    return ImportedRenorm(
        "SBX",
        entries.state("mean", "var", "steps", entries.if_there("scale"), entries.if_there("bias")),
        epsilon,
        1 - momentum,
        _switch(entries.number("r_max"), entries.number("d_max"), warm_up_steps),
        ("SBX averages biased batch variances; normsmith, like torch, unbiased ones",),
    )


def from_torchrl(
    state: Mapping[str, Any],
    *,
    prefix: str = "",
    eps: float = 1e-5,
    momentum: float = 0.01,
    max_r: float = 3.0,
    max_d: float = 5.0,
    warmup_steps: int = 10_000,
    smooth: bool = False,
) -> ImportedRenorm:
    """Import a `BatchRenorm1d` of torchrl from its state dict.

    The names are torch's (`running_mean`, `running_var`, `num_batches_tracked`, `weight`, `bias`), and the
    settings, which are not in the state, have torchrl's defaults here. Evaluation:
    weight·(x − running_mean)/sqrt(running_var + eps) + bias.

    Args:
        state: a state dict; of a whole model with `prefix`, e.g. "critic.1.".
        eps, momentum, max_r, max_d, warmup_steps, smooth: of the layer.

    Raises:
        InputError: missing or unknown names, other shapes, or values that no statistics have.

    >>> state = {"running_mean": [1.0], "running_var": [4.0], "num_batches_tracked": 20_000,
    ...          "weight": [1.0], "bias": [0.0]}
    >>> from_torchrl(state).build().bounds()
    Renorm(r_max=3.0, d_max=5.0)

    Source: torchrl/modules/models/batchrenorm.py.
    """
    entries = Entries("torchrl", state, prefix)
    entries.only({"running_mean", "running_var", "num_batches_tracked", "weight", "bias"}, set())
    notes: tuple[str, ...] = (
        "torchrl's warm-up factor goes on growing after warmup_steps (its r even changes sign); ours stays at 1",
    )
    if smooth:
        schedule = _schedule_of("torchrl", Linear, max_r, max_d, 0.0, warmup_steps, warmup_steps)
        notes += ("during a smooth warm-up torchrl blends r and d, normsmith opens their bounds",)
    else:
        schedule = _switch(max_r, max_d, warmup_steps)
    state_ = entries.state("running_mean", "running_var", "num_batches_tracked", "weight", "bias")
    return ImportedRenorm("torchrl", state_, eps, momentum, schedule, notes)


def from_keras(
    weights: Mapping[str, Any],
    *,
    prefix: str = "",
    epsilon: float = 1e-3,
    momentum: float = 0.99,
    renorm_clipping: Mapping[str, float] | None = None,
) -> ImportedRenorm:
    """Import a `BatchNormalization(renorm=True)` of Keras 2 or 3 from its weights by name.

    That is `{w.name: w.numpy() for w in layer.weights}`: `gamma`, `beta` (either may lack), `moving_mean`,
    `moving_variance`, `moving_stddev`, `renorm_mean`, `renorm_stddev`; Keras 2 writes `…/gamma:0`, which is
    understood. Evaluation: gamma·(x − moving_mean)/sqrt(moving_variance + epsilon) + beta. Keras averages standard
    deviations, so `build()` makes a layer with `track="std"`.

    Args:
        weights: of the layer; of a whole model with `prefix`, e.g. "batch_normalization_1/".
        epsilon, momentum, renorm_clipping: of the layer; momentum by Keras's convention, 1 − torch's.

    Raises:
        InputError: missing or unknown names, other shapes, or values that no statistics have.

    >>> import torch
    >>> weights = dict.fromkeys(["moving_mean", "renorm_mean", "beta"], [1.0])
    >>> weights |= dict.fromkeys(["moving_variance", "moving_stddev", "renorm_stddev", "gamma"], [1.0])
    >>> from_keras(weights, epsilon=0.0).build().eval()(torch.tensor([[3.0]]))
    tensor([[3.]], grad_fn=<...>)

    Source: keras/src/layers/normalization/batch_normalization.py.
    """
    names = {name: name.removesuffix(":0") for name in weights if name.startswith(prefix)}
    if not prefix:
        names = {name: short.rpartition("/")[2] for name, short in names.items()}
    if len(set(names.values())) != len(names):
        raise InputError(
            f"import from Keras: expected the weights of one layer, got several of a name in {sorted(names)}; "
            'choose a layer, e.g. prefix="batch_normalization_1/"'
        )
    entries = Entries("Keras", {short: weights[name] for name, short in names.items()}, prefix)
    kept = {"moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"}
    entries.only(kept, {"gamma", "beta"})
    state = entries.state(
        "moving_mean", "moving_variance", None, entries.if_there("gamma"), entries.if_there("beta")
    )
    for name in ("moving_stddev", "renorm_mean", "renorm_stddev"):
        entries.vector(name, len(state["running_mean"]))
    # what Keras evaluates with; its moving_stddev says the same from the first training step on
    state["running_std"] = (state["running_var"] + epsilon).sqrt()
    schedule, note = _clipping(renorm_clipping or {})
    notes = (
        "training goes on from the moving statistics; Keras corrects by renorm_mean and renorm_stddev",
        *note,
    )
    return ImportedRenorm("Keras", state, epsilon, 1 - momentum, schedule, notes)


def _clipping(clipping: Mapping[str, float]) -> tuple[Linear, tuple[str, ...]]:
    """The schedule that clips as Keras does, and a note where it cannot."""
    unknown = clipping.keys() - {"rmax", "rmin", "dmax"}
    if unknown:
        raise InputError(
            f"import from Keras: expected rmax, rmin, dmax in renorm_clipping, got {sorted(unknown)}"
        )
    r_max, d_max = clipping.get("rmax", math.inf), clipping.get("dmax", math.inf)
    schedule = _schedule_of("Keras", constant, r_max, d_max)
    r_min = clipping.get("rmin", 0.0)
    if math.isclose(r_min, 1 / r_max, rel_tol=1e-6):
        return schedule, ()
    return schedule, (f"Keras clips r to at least {r_min:g}, normsmith to 1/r_max = {1 / r_max:g}",)


def _switch(r_max: float, d_max: float, step: int) -> Linear:
    """A schedule of batch norm before `step`, and of these bounds from it on."""
    return _schedule_of("another library", Linear, r_max, d_max, step, step, step)


def _schedule_of(source: str, make: Any, *arguments: float) -> Linear:
    """Make a schedule; a refusal of its settings names the library that they come from."""
    try:
        schedule: Linear = make(*arguments)
    except InputError as error:
        raise InputError(f"import from {source}: {error}") from None
    return schedule
