"""An iterate, where a network stands in training, and the loss and its gradient there and around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith.anatomy.float64 import has_float64
from normsmith.anatomy.forward import copied, unwrapped
from normsmith.anatomy.isolation import eager_forwards, seed_random_numbers
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError
from normsmith.tasks.build import build
from normsmith.tasks.example import example
from normsmith.tasks.task import Task


@dataclass(frozen=True)
class Iterate:
    """A network with the weights that it has now, a batch, and the loss of the two.

    - `model`: any module. Its modules run in the modes that they are in: as you train.
    - `batch`: what `loss` takes.
    - `loss`: `loss(model, batch)` → a scalar tensor, as in training.
    """

    model: nn.Module
    batch: Any
    loss: Callable[[nn.Module, Any], Tensor]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that take gradients, each once, by their paths."""
        named = unwrapped(self.model).named_parameters()
        return {path: tensor for path, tensor in named if tensor.requires_grad and not is_lazy(tensor)}

    def gradient(
        self, moved: Mapping[str, Tensor] | None = None, of: Collection[str] | None = None, seed: int = 0
    ) -> tuple[float, dict[str, Tensor]]:
        """The loss, and its gradient by parameters, where some parameters have other values than now.

        Random numbers are those of `seed` at every call, and buffers begin as they are: what differs between two
        calls is due to the parameters alone. The model, its gradients and the random state are afterwards what they
        were.

        Args:
            moved: other values of parameters, by their paths.
            of: the paths of the parameters whose gradient is wanted; by default of all. One that the loss does not
                depend on has zeros.
            seed: of the random numbers, such as those of dropout.

        Raises InputError where the loss is no scalar tensor, or nothing that it depends on takes gradients.

        >>> iterate = Iterate(nn.Linear(1, 1, bias=False), torch.ones(1, 1), lambda model, x: model(x).square().sum())
        >>> loss, gradient = iterate.gradient({"weight": torch.tensor([[3.0]])})
        >>> loss, gradient["weight"]
        (9.0, tensor([[6.]]))
        """
        model, parameters = unwrapped(self.model), self.parameters
        wanted = list(parameters) if of is None else list(of)
        with preserved(model), eager_forwards(), torch.enable_grad():
            with torch.no_grad():
                for path, value in (moved or {}).items():
                    parameters[path].copy_(value)
            seed_random_numbers(seed)
            loss = self.loss(model, copied(self.batch))
            if not isinstance(loss, Tensor):
                raise InputError(
                    f"loss: expected a scalar tensor, got {type(loss).__name__}; "
                    "return the tensor on which you would call backward()"
                )
            if loss.dim():
                raise InputError(f"loss: expected a scalar tensor, got one of shape {tuple(loss.shape)}")
            if not (wanted and loss.requires_grad):
                raise InputError(
                    "loss: expected one that depends on parameters that take gradients, got one that does not; "
                    "let some parameters take gradients, and detach nothing"
                )
            gradients = torch.autograd.grad(loss, [parameters[path] for path in wanted], allow_unused=True)
        return float(loss.detach()), {
            path: torch.zeros_like(parameters[path]) if gradient is None else gradient
            for path, gradient in zip(wanted, gradients, strict=True)
        }


def iterate_of(task: Task, model: nn.Module | None = None) -> Iterate:
    """The iterate at which a network of a task stands: on a training batch, the same at each call, with its loss.

    `model` is the network, by default a new one in training mode.

    >>> from normsmith.tasks import digits_mlp
    >>> loss, _ = iterate_of(digits_mlp()).gradient()
    >>> round(loss, 1)
    2.3
    """

    def loss(network: nn.Module, batch: Any) -> Tensor:
        output, target = task.forward(network, batch)
        return task.loss(output, target)

    return Iterate(build(task, 0).train() if model is None else model, example(task), loss)


def as_iterate(subject: Iterate | Task) -> Iterate:
    """An iterate as it is; of a task that of a new network."""
    return iterate_of(subject) if isinstance(subject, Task) else subject


def size(gradient: Mapping[str, Tensor]) -> float:
    """The ℓ2 norm of a gradient, over all its parameters.

    >>> size({"weight": torch.tensor([3.0]), "bias": torch.tensor([4.0])})
    5.0
    """
    return math.sqrt(sum(float(wide(part).square().sum()) for part in gradient.values()))


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The ℓ2 norm of the difference of two gradients by the same parameters.

    >>> apart({"weight": torch.tensor([3.0])}, {"weight": torch.tensor([1.0])})
    2.0
    """
    return size({path: part - other[path] for path, part in one.items()})


def wide(part: Tensor) -> Tensor:
    """A tensor in float64; on the CPU where its device has none.

    >>> wide(torch.ones(1)).dtype
    torch.float64
    """
    return part.double() if has_float64(part.device) else part.cpu().double()
