"""Which state dict of a checkpoint is the model's, and under which prefix: one, or a refusal that names them all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normsmith._choices import did_you_mean
from normsmith._text import some
from normsmith.anatomy.forward import unwrapped as inside_ranks
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError
from normsmith.surgery.checkpoints.entries import USUAL, StateDict, state_dicts
from normsmith.surgery.checkpoints.explain import none_fits, several_fit, shown
from normsmith.surgery.checkpoints.names import Fit, match, wrapped_prefixes
from normsmith.surgery.checkpoints.read import short


def choose(
    model: nn.Module,
    content: Any,
    path: Path,
    *,
    key: str | None,
    prefix: str | None,
    strict: bool,
    lacking: bool = False,
) -> tuple[Fit, list[StateDict]]:
    """The state dict that is the model's, and all that there are; `lacking` forgives missing running statistics.

    Raises:
        InputError: none fits, or several do; with what the file holds and the options that decide.
    """
    every = state_dicts(content)
    if prefix and not prefix.endswith("."):
        prefix = f"{prefix}."
    wanted, part = model.state_dict(keep_vars=True), prefix is not None
    tried = [
        Fit(state, match(state.tensors, wanted, start, part=part))
        for state in _under(every, key, content, path)
        for start in wrapped_prefixes(state.tensors, prefix)
    ]
    inner = [
        Fit(fit.state, match(fit.state.tensors, wanted, fit.match.prefix, part=part, inner=True))
        for fit in tried
    ]
    fitting = (
        _fitting(tried, strict=True)
        or _longest(_fitting(inner, strict=True))
        or ([] if strict else _fitting(tried, strict=False) or _longest(_fitting(inner, strict=False)))
        or [
            Fit(fit.state, replace(fit.match, missing=(), unexpected=(), is_translated=True))
            for fit in tried
            if _translates(model, fit)
        ]
    )
    if lacking and not fitting:
        forgiven = [Fit(fit.state, fit.match.forgiving()) for fit in (*tried, *inner)]
        fitting = _longest(_fitting(forgiven, strict=strict))
    if len({fit.state.keys for fit in fitting}) > 1:
        fitting = [fit for fit in fitting if set(fit.state.keys) <= set(USUAL)] or fitting
    if not fitting:
        raise none_fits(model, tried, every, path, content, prefix)
    if len(fitting) > 1:
        raise several_fit(fitting, path)
    return fitting[0], every


def _fitting(tried: Sequence[Fit], *, strict: bool) -> list[Fit]:
    """Those that have all of the model's values and, if strict, nothing else."""
    return [fit for fit in tried if fit.match.is_complete and not (strict and fit.match.unexpected)]


def _longest(fitting: Sequence[Fit]) -> list[Fit]:
    """Of those that take the same keys, as a wrapper at the beginning may be one of a part too, the longest prefix."""
    by_keys = {(fit.state.keys, tuple(fit.match.names.items())): fit for fit in fitting}
    return list(by_keys.values())


def values(fit: Fit, model: nn.Module) -> dict[str, Any]:
    """The model's state dict: what stands under the prefix, with what an old file lacks or has under a tied name."""
    state, prefix = fit.state.tensors, fit.match.prefix
    if fit.match.is_translated:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    named = {name: state[key] for name, key in fit.match.names.items()}
    wanted = model.state_dict(keep_vars=True)
    tied = {id(wanted[name]): value for name, value in named.items()}
    for name, own in wanted.items():
        if name in fit.match.counters:
            named[name] = torch.zeros_like(own)
        elif name in fit.match.statistics:
            named[name] = own.detach().clone()
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
        verb = "is" if len(names) == 1 else "are"
        there = f"there {verb} {some(names, 10)}" if names else f"there is {shown(content)}"
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
            raise InputError(
                f"{path}: expected weights of {type(model).__name__}: {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """Why a model does not take a state dict; of tensors that cannot be copied the first, with what torch says."""
    first = re.search(
        r'named "([^"]+)".*?exception occurred : \(["\'](.+?)["\'],?\)\.', str(error), re.DOTALL
    )
    return short(error) if first is None else f"{first[1]} cannot be copied: {first[2]}"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within what torch.compile and data-parallel training put around it."""
    inner = inside_ranks(model)
    return unwrapped(inner.module) if isinstance(inner, nn.DataParallel) else inner
