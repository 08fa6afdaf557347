"""What is given as a model to functions for all of its norms."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers.scripted import give_places_back

Layer = TypeVar("Layer", bound=nn.Module)


def check_model(model: object, caller: str) -> None:
    """Refuse what is no model; the layers of one that was scripted are then in their places.

    Raises:
        InputError: it is no module, or a scripted one; `caller` is named in the message.
    """
    model = checked_module(model, caller)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{caller}: expected a model in Python, got a scripted one; give the model that it was made from"
        )
    give_places_back(model)


def layers_of(model: nn.Module, kind: type[Layer], caller: str, *, what: str, advice: str) -> list[Layer]:
    """The layers of one kind in a model, at least one.

    Raises:
        InputError: there is none, or `model` is none; the message names `caller` and ends with `advice`.
    """
    check_model(model, caller)
    layers = [module for module in model.modules() if isinstance(module, kind)]
    if not layers:
        raise InputError(
            f"{caller}: expected a model with {what}, got {type(model).__name__} without any; {advice}"
        )
    return layers


def checked_module(model: object, called: str) -> nn.Module:
    """What is given as a model.

    Raises:
        InputError: it is no module; `called` is what the message calls it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{called}: expected an nn.Module, got {model if isinstance(model, type) else type(model)}"
        )
    return model
