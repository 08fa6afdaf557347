"""What is given as a model to functions for all of its norms."""

from __future__ import annotations

import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers.scripted import give_places_back


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
