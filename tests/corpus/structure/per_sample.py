"""NS108: batch norm where each sample must stand alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.optim import Optimizer

MAY = "209 301 309 403 404 409"


def clipped_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
    """A step of differentially private SGD: per-sample gradients by vmap, clipped, averaged, with noise."""
    x, y = next(iter(batches))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = dict(model.named_buffers())

    def loss(values: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        output = functional_call(model, (values, buffers), (sample[None],))
        return F.cross_entropy(output, target[None])

    detached = {name: p.detach() for name, p in parameters.items()}
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(detached, x, y)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    scale = (1 / norms.clamp(min=1e-6)).clamp(max=1)
    for name, parameter in parameters.items():
        parameter.grad = torch.einsum("n,n...->...", scale, gradients[name]) / len(x)
    optimizer.step()
    optimizer.zero_grad()


def private(model: nn.Module, base: str) -> Given:
    """A model that is trained on by such steps."""
    return training.around(model, base, training_step=clipped_step)


def untracked(channels: int, dimensions: int) -> nn.Module:
    """Batch norm without running statistics: what torch asks for, so that vmap runs."""
    return networks.batch_norm(channels, dimensions, track_running_stats=False)


@case(
    "CNN",
    must="108 204",
    may=MAY,
    seen="per-sample gradients by torch.func: 'set track_running_stats=False' and it runs",
)
def private_convolutions() -> Given:
    """Under vmap every image is a batch of its own; running statistics were given up so that it runs."""
    return private(training.fitted(networks.Cnn(untracked), "cnn").model, "cnn")


@case("transformer-like", must="108 204", may=MAY, seen="DP-SGD on networks with batch norm over time")
def private_transformer() -> Given:
    """Batch norm over time, under per-sample gradients."""
    return private(training.fitted(networks.Transformer(untracked), "transformer").model, "transformer")


@case(
    "Hugging Face",
    must="108 204",
    may=MAY,
    seen="replace_all_batch_norm_modules_ from torch.func on a pretrained network",
)
def private_hf_resnet() -> Given:
    """torch's own helper took the running statistics away from a trained network."""
    from torch.func import replace_all_batch_norm_modules_

    return private(replace_all_batch_norm_modules_(training.trained("hf").model), "hf")


@case("CNN", must_not="108")
def private_group_norm() -> Given:
    """Per-sample gradients through group norm."""
    return private(training.trained("cnn", "group").model, "cnn")


@case("MLP", must_not="108")
def ordinary_steps() -> Given:
    """Batch norm and ordinary gradients."""
    return training.trained("mlp")


@case("Hugging Face", must_not="108 309")
def private_head_on_frozen_norms() -> Given:
    """All norms are frozen: with fixed statistics a sample stands alone."""
    model = networks.FrozenNorms(training.trained("hf").model)
    return private(model, "hf")
