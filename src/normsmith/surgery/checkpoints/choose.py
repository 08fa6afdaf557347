"""Which state dict of a checkpoint is the model's, and under which prefix: one, or a refusal that names them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normsmith._choices import did_you_mean
from normsmith._text import some
from normsmith._torch import compiled_module
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError
from normsmith.surgery.checkpoints.entries import USUAL, StateDict, state_dicts
from normsmith.surgery.checkpoints.explain import none_fits, several_fit, shown
from normsmith.surgery.checkpoints.names import Fit, match, wrapped_prefixes
from normsmith.surgery.checkpoints.read import short


def choose(
    model: nn.Module, content: Any, path: Path, *, key: str | None, prefix: str | None, strict: bool
) -> tuple[Fit, list[StateDict]]:
    """The state dict that is the model's, and all that there are.

    Raises:
        InputError: none fits, or several do; with what the file holds and the options that decide.
    """
    every = state_dicts(content)
    if prefix and not prefix.endswith("."):
        prefix = f"{prefix}."
    wanted = model.state_dict(keep_vars=True)
    tried = [
        Fit(state, match(state.tensors, wanted, start, part=prefix is not None))
        for state in _under(every, key, content, path)
        for start in wrapped_prefixes(state.tensors, prefix)
    ]
    complete = [fit for fit in tried if fit.match.is_complete]
    fitting = [fit for fit in complete if not fit.match.unexpected]
    fitting = (
        fitting
        or ([] if strict else complete)
        or [
            Fit(fit.state, replace(fit.match, missing=(), unexpected=(), is_translated=True))
            for fit in tried
            if _translates(model, fit)
        ]
    )
    if len({fit.state.keys for fit in fitting}) > 1:
        fitting = [fit for fit in fitting if set(fit.state.keys) <= set(USUAL)] or fitting
    if not fitting:
        raise none_fits(model, tried, every, path, content, prefix)
    if len(fitting) > 1:
        raise several_fit(fitting, path)
    return fitting[0], every


def values(fit: Fit, model: nn.Module) -> dict[str, Any]:
    """The model's state dict: what stands under the prefix, with what an old file lacks or has under a tied name."""
    state, prefix = fit.state.tensors, fit.match.prefix
    unexpected = set(fit.match.unexpected)
    named = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and key not in unexpected
    }
    if fit.match.is_translated:
        return named
    wanted = model.state_dict(keep_vars=True)
    tied = {id(wanted[name]): value for name, value in named.items()}
    for name, own in wanted.items():
        if name in fit.match.counters:
            named[name] = torch.zeros_like(own)
        elif name not in named:
            named[name] = tied[id(own)]
    return named


def _under(every: Sequence[StateDict], key: str | None, content: Any, path: Path) -> list[StateDict]:
    """The state dicts under a key, or all of them."""
    if key is None:
        return list(every)
    named = [state for state in every if state.name == key]
    named = named or [state for state in every if state.name.startswith(f"{key}.")]
    if not named:
        names = [state.name for state in every if state.name]
        there = f"there are {some(names, 10)}" if names else f"there is {shown(content)}"
        raise InputError(
            f"{path}: expected a state dict under the key {key!r}; {there}{did_you_mean(key, names)}"
        )
    return named


def _translates(model: nn.Module, fit: Fit) -> bool:
    """Whether the model itself takes other names than its own, as those of an earlier version of it."""
    state, prefix = fit.state.tensors, fit.match.prefix
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not fit.match.names or any(not key.startswith(prefix) for key in fit.match.unexpected):
        return False
    try:
        check_loads(model, inside, Path())
    except InputError:
        return False
    return True


def check_loads(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Raise InputError unless a model takes a state dict; it is as before afterwards."""
    with preserved(model):
        try:
            model.load_state_dict(state)
        except Exception as error:  # a module's own code for loading may raise anything
            raise InputError(f"{path}: expected weights of {type(model).__name__}: {short(error)}") from error


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within what torch.compile and data-parallel training put around it."""
    inner = compiled_module(model)
    if inner is None and isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        inner = model.module
    return model if inner is None else unwrapped(inner)
