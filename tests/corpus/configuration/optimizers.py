"""NS206 and NS207: what the optimizer does with γ and β, or does not know of."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import nn
from torch.optim import Optimizer


def decaying(model: nn.Module) -> Optimizer:
    """SGD with weight decay on everything, as most people write it."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def adamw(model: nn.Module) -> Optimizer:
    """AdamW at its defaults, which decay by 0.01."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def grouped(model: nn.Module) -> Optimizer:
    """Weight decay for matrices and kernels only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 1e-2},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def with_optimizer(base: str, optimizer: object, norm: str | None = None) -> Given:
    """A trained base with an optimizer."""
    return training.around(training.trained(base, norm).model, base, optimizer=optimizer)


@case("CNN", must="206", seen="SGD over model.parameters() with weight decay")
def decay_of_everything() -> Given:
    """Weight decay pulls γ and β to 0 as well."""
    return with_optimizer("cnn", decaying)


@case("transformer-like", must="206", seen="AdamW(model.parameters()), whose weight decay is 0.01 by default")
def adamw_at_its_defaults() -> Given:
    """AdamW decays norms unless one makes groups."""
    return with_optimizer("transformer", adamw)


@case(
    "Hugging Face",
    must="206",
    seen="optimizers made by hand in place of the Trainer's, which leaves norms out",
)
def adamw_for_a_hf_network() -> Given:
    """A Hugging Face network with AdamW over all parameters."""
    return with_optimizer("hf", adamw)


@case("CNN", must_not="206 207")
def decay_in_groups() -> Given:
    """γ and β are in a group without decay."""
    return with_optimizer("resnet", grouped)


@case("MLP", must_not="206 207")
def no_decay() -> Given:
    """Adam without weight decay."""
    return with_optimizer("mlp", training.adam)


@case("RNN", must_not="206")
def decay_without_affine_norms() -> Given:
    """Weight decay on everything, but norms without γ and β."""
    given = training.trained("gru", affine=False)
    return training.around(given.model, "gru", optimizer=decaying)


# Parameters that no optimizer knows.


def weights_alone(model: nn.Module) -> Optimizer:
    """Groups of which the second, for norms and biases, was forgotten."""
    return torch.optim.AdamW([p for p in model.parameters() if p.dim() > 1], lr=1e-3)


@case("CNN", must="207", seen="decay and no-decay groups of which only the first is handed over")
def group_of_norms_forgotten() -> Given:
    """Parameters were split by their dimension, and the group of vectors was never added."""
    return with_optimizer("cnn", weights_alone)


def without_norms(model: nn.Module) -> Optimizer:
    """Groups by name: whatever is called norm is left out."""
    return torch.optim.Adam([p for name, p in model.named_parameters() if "norm" not in name], lr=1e-3)


@case("transformer-like", must="207", seen="filters like `if 'norm' not in name` without a second group")
def norms_filtered_by_name() -> Given:
    """The filter that should spare norms the decay spares them the training."""
    return with_optimizer("transformer", without_norms)


def before_surgery(model: nn.Module) -> Optimizer:
    """An optimizer made before the norms were put in: it knows the layers that were there."""
    old = [p for module in model.modules() if isinstance(module, nn.Linear) for p in module.parameters()]
    return torch.optim.Adam(old, lr=1e-3)


@case("MLP", must="207", seen="norms inserted or replaced after the optimizer was made")
def norms_put_in_after_the_optimizer() -> Given:
    """The norms came later than the optimizer and are in none of its groups."""
    return with_optimizer("mlp", before_surgery)


def without_classifier_norms(model: nn.Module) -> Optimizer:
    """Two learning rates, for convolutions and for the classifier; norms are in neither group."""
    convolutions = [p for m in model.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()]
    classifier = [p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
    return torch.optim.Adam([{"params": convolutions, "lr": 1e-4}, {"params": classifier}], lr=1e-3)


@case("Hugging Face", must="207", seen="learning rates by kind of layer, norms in none of the kinds")
def norms_in_no_learning_rate_group() -> Given:
    """Groups by kind of layer cover convolutions and linear layers."""
    return with_optimizer("hf", without_classifier_norms)


@case("MLP", must_not="207")
def norms_in_a_group_of_their_own() -> Given:
    """Two groups that together hold everything."""
    return with_optimizer("mlp", grouped)


@case("Hugging Face", must_not="207 305 210")
def frozen_norms_not_in_the_optimizer() -> Given:
    """Frozen norms have no business in an optimizer."""

    def trainable(model: nn.Module) -> Optimizer:
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    model = networks.FrozenNorms(training.trained("hf").model)
    return training.around(model, "hf", optimizer=trainable)


@case("RNN", must_not="207")
def nothing_to_register() -> Given:
    """Norms without γ and β have nothing that an optimizer could miss."""
    given = training.trained("gru", affine=False)
    return training.around(given.model, "gru", optimizer=without_norms)
