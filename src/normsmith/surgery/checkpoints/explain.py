"""Why no state dict of a checkpoint is the model's, or why it is not clear which one: with the option that helps.

Messages name the options of `normsmith fix`; the arguments of `load_checkpoint` are called the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from normsmith._choices import did_you_mean
from normsmith._text import count, some
from normsmith._torch import TorchBatchNorm
from normsmith.errors import InputError
from normsmith.surgery.checkpoints.entries import StateDict
from normsmith.surgery.checkpoints.names import Fit, match, prefixes_of

_MOST = 5
"""How many keys a message names."""


def several_fit(fitting: Sequence[Fit], path: Path) -> InputError:
    """The error for a file in which more than one state dict, or more than one part of it, is the model's."""
    names = [fit.state.name for fit in fitting]
    if len({fit.state.keys for fit in fitting}) > len(set(names)):
        return InputError(
            f"{path}: expected one state dict of this model, got two that are both called {names[0]}; save one of them "
            "by itself"
        )
    if len(set(names)) > 1:
        return InputError(
            f"{path}: expected one state dict of this model, got {some(list(dict.fromkeys(names)), 10)}; name one: "
            f"--key {names[0]}"
        )
    prefixes = [repr(fit.match.prefix) for fit in fitting]
    return InputError(
        f"{path}: expected the model's weights once, got them under the prefixes {' and '.join(prefixes)}; name one: "
        f"--prefix {prefixes[-1]}"
    )


def none_fits(
    model: nn.Module,
    tried: Sequence[Fit],
    every: Sequence[StateDict],
    path: Path,
    content: Any,
    prefix: str | None,
) -> InputError:
    """The error for a file in which no state dict is the model's, by the one that comes nearest."""
    kind = type(model).__name__
    if not every:
        no_name = (
            next((key for key in content if not isinstance(key, str)), None) if _is_state(content) else None
        )
        if no_name is not None:
            return InputError(
                f"{path}: expected a state dict, whose keys are text, got one with the key {no_name!r}"
            )
        return InputError(f"{path}: expected a state dict, by itself or under a key, got {shown(content)}")
    if not tried:
        return _no_such_prefix(every, path, prefix or "")
    complete = [fit for fit in tried if fit.match.is_complete]
    if complete:
        return _only_more(complete, path)
    wanted = model.state_dict(keep_vars=True)
    elsewhere = [
        Fit(state, beside)
        for state in {fit.state.keys: fit.state for fit in tried}.values()
        for start in prefixes_of(state.tensors, wanted)
        if (beside := match(state.tensors, wanted, start, part=True)).is_complete
    ]
    if elsewhere:
        keys = f" (of the state dict {elsewhere[0].state.name})" if elsewhere[0].state.name else ""
        starts = some(list(dict.fromkeys(fit.match.prefix for fit in elsewhere)), _MOST)
        return InputError(
            f"{path}: expected weights of {kind}, got them as a part of another network, under {starts}{keys}; take "
            f"that part with --prefix {elsewhere[0].match.prefix}"
        )
    nearest = max(
        tried, key=lambda fit: (len(fit.match.names) - len(fit.match.shapes), -len(fit.match.prefix))
    )
    return InputError(
        f"{path}: expected weights of {kind}{_in(nearest, every)}: {_differences(model, nearest)}"
    )


def shown(content: Any) -> str:
    """What was read, in a few words."""
    if isinstance(content, Mapping):
        kinds = sorted({_kind(value) for value in content.values()})
        keys = some([repr(key) for key in content], _MOST)
        return f"a dict of {keys} ({some(kinds, 3)})" if content else "an empty dict"
    kind = _kind(content)
    return "None" if content is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def _kind(value: Any) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} Tensor"
    return type(value).__name__


def _no_such_prefix(every: Sequence[StateDict], path: Path, prefix: str) -> InputError:
    starts = list(
        dict.fromkeys(f"{key.partition('.')[0]}." for state in every for key in state.tensors if "." in key)
    )
    return InputError(
        f"{path}: expected names under the prefix {prefix!r}, got them under {some(starts, _MOST) or 'none'}"
        f"{did_you_mean(prefix, starts)}"
    )


def _only_more(complete: Sequence[Fit], path: Path) -> InputError:
    """The model's weights are all there, among others."""
    prefixes = list(dict.fromkeys(fit.match.prefix for fit in complete))
    if len(prefixes) > 1:
        return several_fit(complete, path)
    match = complete[0].match
    part = (
        f", or --prefix {match.prefix} takes that part alone"
        if match.prefix and not any(key.startswith(match.prefix) for key in match.unexpected)
        else ""
    )
    return InputError(
        f"{path}: expected weights of the model alone, got {count(len(match.unexpected), 'other key')} beside them: "
        f"{some(match.unexpected, _MOST)}; --non-strict leaves them out{part}"
    )


def _in(fit: Fit, every: Sequence[StateDict]) -> str:
    """Which state dict was looked at, where there are several."""
    if len(every) < 2:
        return ""
    others = [state.name for state in every if state.keys != fit.state.keys and state.name]
    also = f"; --key takes another, of {some(others, _MOST)}" if others else ""
    return f" (looked at {fit.state.name or 'the file itself'}{also})"


def _differences(model: nn.Module, fit: Fit) -> str:
    match = fit.match
    norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, TorchBatchNorm)
        for name in module.state_dict()
    }
    paths = {name.rpartition(".")[0] for name in match.missing}
    of_these = {name for name in norms if name.rpartition(".")[0] in paths}
    if match.missing and set(match.missing) <= norms and not (match.shapes or of_these & match.names.keys()):
        number = len(paths)
        return (
            f"it holds nothing of {count(number, 'batch norm')} ({some(match.missing, 3)}); if they were folded into "
            "their layers, take the checkpoint from before that"
        )
    parts = []
    if match.missing:
        parts.append(f"{count(len(match.missing), 'key')} missing ({some(match.missing, _MOST)})")
    if match.unexpected:
        parts.append(
            f"{count(len(match.unexpected), 'key')} not of this model ({some(match.unexpected, _MOST)})"
        )
    if match.shapes:
        key, got, own = match.shapes[0]
        if isinstance(got, str):
            return "; ".join((*parts, f"{key}: expected a tensor of shape {own}, got a {got}"))
        parts.append(
            f"{count(len(match.shapes), 'tensor')} of another shape, as {key}: expected {own}, got {got}"
        )
    return "; ".join(parts) or "its own code for loading refuses them"
