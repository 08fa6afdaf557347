"""NS304 and NS310: more than one training forward in a step, of the same batch or of different ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

MAY = "403 404 412"


def two_batches(step: Callable[[nn.Module, Any, Any], Tensor]) -> Callable[..., None]:
    """A training step whose loss takes two batches."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        source = iter(batches)
        first, second = next(source), next(source)
        optimizer.zero_grad()
        step(model, first, second).backward()
        optimizer.step()

    return training_step


def plain(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
    """One forward, one backward, one update."""
    model.train()
    training.step(model, next(iter(batches)), optimizer)


class Recomputed(nn.Module):
    """Parts of a network that are computed again in the backward to save memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        body, head = self.network[:-1], self.network[-1]
        return head(checkpoint(body, x, use_reentrant=False) if self.training else body(x))


@case(
    "MLP", must="304", may="403 404", seen="checkpoint() around blocks with batch norm: momentum counts twice"
)
def checkpointed_mlp() -> Given:
    """Activation checkpointing runs the block twice, and its norms update twice in each step."""
    return training.fitted(Recomputed(networks.mlp()), "mlp", training_step=plain)


class RecomputedResNet(networks.ResNet):
    """Each block is computed again in the backward."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        return self.head(x.mean((2, 3)))


@case(
    "CNN", must="304", may="403 404", seen="gradient checkpointing of residual blocks in large image models"
)
def checkpointed_resnet() -> Given:
    """Every residual block is recomputed; only the stem's norm updates once."""
    return training.fitted(RecomputedResNet(), "resnet", training_step=plain)


@case("RNN", must="304", may="403 404 310", seen="an extra forward for a training metric after the loss")
def forward_for_logging() -> Given:
    """The accuracy of each step is measured by a second forward of the same batch, in training mode."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> float:
        model.train()
        x, y = next(iter(batches))
        training.step(model, (x, y), optimizer)
        with torch.no_grad():
            return float((model(x).argmax(1) == y).float().mean())

    return training.around(training.trained("gru").model, "gru", training_step=training_step)


def climb(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Move the weights a small step up their gradient, as sharpness-aware minimisation does; returns how to undo it."""
    moved = [(p, 0.01 * p.grad / (p.grad.norm() + 1e-12)) for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        for parameter, move in moved:
            parameter.add_(move)
    return moved


def sharpness_aware(*, updates_twice: bool) -> Callable[..., None]:
    """A step of sharpness-aware minimisation, with running statistics left alone in its second forward or not."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        x, y = next(iter(batches))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        moved = climb(model)
        optimizer.zero_grad()
        before = {norm: norm.momentum for norm in networks.norms(model).values()}
        if not updates_twice:
            networks.set_norms(model, momentum=0.0)
        F.cross_entropy(model(x), y).backward()
        for norm, momentum in before.items():
            norm.momentum = momentum
        with torch.no_grad():
            for parameter, move in moved:
                parameter.sub_(move)
        optimizer.step()

    return training_step


@case(
    "Hugging Face",
    must="304",
    may="403 404 310",
    seen="sharpness-aware minimisation: its second forward moves the statistics",
)
def second_forward_of_sharpness_aware_minimisation() -> Given:
    """The second forward, at perturbed weights, updates the running statistics once more."""
    return training.around(
        training.trained("hf").model, "hf", training_step=sharpness_aware(updates_twice=True)
    )


@case("Hugging Face", must_not="304 209")
def second_forward_leaves_statistics() -> Given:
    """The usual remedy: momentum is 0 during the second forward, and put back."""
    return training.around(
        training.trained("hf").model, "hf", training_step=sharpness_aware(updates_twice=False)
    )


@case("transformer-like", must_not="304 310")
def checkpointed_without_batch_norm() -> Given:
    """Checkpointing around blocks with group norms."""

    class RecomputedTransformer(networks.Transformer):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x) + self.position
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return self.head(self.norm(x).mean(1))

    model = RecomputedTransformer(networks.group_norm)
    return training.fitted(model, "transformer", training_step=plain)


@case("MLP", must_not="304")
def logging_forward_in_evaluation() -> Given:
    """A second forward for a metric, but in evaluation mode."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> float:
        model.train()
        x, y = next(iter(batches))
        training.step(model, (x, y), optimizer)
        model.eval()
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).float().mean())
        model.train()
        return accuracy

    return training.around(training.trained("mlp").model, "mlp", training_step=training_step)


@case("CNN", must_not="304")
def checkpointed_with_norms_of_normsmith() -> Given:
    """Norms that notice a recomputed forward and update once."""
    from normsmith.layers import BatchNorm1d

    body = networks.mlp(lambda channels, _: BatchNorm1d(channels))
    return training.fitted(Recomputed(body), "mlp", training_step=plain)


class Discriminator(nn.Sequential):
    """Real or generated: a small network with batch norm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)
        )
        self.extend([nn.LeakyReLU(0.2), nn.Linear(32, 1)])


def real_and_fake(*, scale: float) -> Callable[..., None]:
    """A discriminator's step: real and generated samples in forwards of their own; generated ones by their scale."""
    generator = torch.Generator().manual_seed(8)

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        x, _ = next(iter(batches))
        noise = torch.randn(x.shape, generator=generator)
        fake = scale * (x[torch.randperm(len(x), generator=generator)] + 0.3 * noise)
        optimizer.zero_grad()
        real_loss = F.softplus(-model(x)).mean()
        (real_loss + F.softplus(model(fake)).mean()).backward()
        optimizer.step()

    return training_step


def discriminator(scale: float) -> Given:
    """A discriminator that has been trained for a while."""
    torch.manual_seed(1)
    base = training.samples("mlp")[0]
    given = training.around(Discriminator(), "mlp", training_step=real_and_fake(scale=scale), validate=None)
    model, optimizer = given.model, training.adam(given.model, 5e-3)
    for _, batch in zip(training.steps_of(80), training.epochs(base), strict=False):
        given.training_step(model, [batch], optimizer)
    return training.around(
        model,
        "mlp",
        training_step=given.training_step,
        validate=None,
        loss=real_loss,
        optimizer=training.adam,
    )


def real_loss(output: Tensor, _: Tensor) -> Tensor:
    """The discriminator's loss for real samples."""
    return F.softplus(-output).mean()


@case(
    "MLP",
    must="310 412",
    may="304 403 404 202",
    seen="GANs with real and generated batches apart: D's evaluation is off",
)
def discriminator_of_distant_samples() -> Given:
    """Generated samples have a tenth of the scale; one running average serves both and fits neither."""
    return discriminator(0.1)


@case(
    "MLP",
    must="310",
    may="304",
    as_information="310",
    seen="DCGAN's tutorial: one forward for real, one for generated samples",
)
def discriminator_of_near_samples() -> Given:
    """Real and generated samples in two forwards, but with nearly the same statistics."""
    return discriminator(1.0)


@case(
    "CNN",
    must="310",
    may="304",
    as_information="310",
    seen="contrastive learning: each view in a forward of its own",
)
def two_views_in_two_forwards() -> Given:
    """Two augmented views go through the network one after the other, before one backward."""

    def loss(model: nn.Module, first: Any, _: Any) -> Tensor:
        noise = 0.1 * torch.randn(first[0].shape, generator=torch.Generator().manual_seed(1))
        one, two = model(first[0]), model(first[0] + noise)
        return F.mse_loss(one, two) + F.cross_entropy(one, first[1])

    return training.around(training.trained("cnn").model, "cnn", training_step=two_batches(loss))


@case(
    "RNN",
    must="310",
    may="304",
    as_information="310",
    seen="siamese networks: anchor and positive in two calls",
)
def siamese_forwards() -> Given:
    """Two sequences of a pair are embedded in two calls of one network."""

    def loss(model: nn.Module, first: Any, second: Any) -> Tensor:
        distances = (model(first[0]) - model(second[0])).square().mean(1)
        same = (first[1] == second[1]).float()
        return (same * distances + (1 - same) * F.relu(1 - distances)).mean()

    return training.around(training.trained("gru").model, "gru", training_step=two_batches(loss))


@case("CNN", must_not="310 304")
def two_views_in_one_forward() -> Given:
    """Both views are joined to one batch and go through together."""

    def loss(model: nn.Module, first: Any, _: Any) -> Tensor:
        noise = 0.1 * torch.randn(first[0].shape, generator=torch.Generator().manual_seed(1))
        one, two = model(torch.cat((first[0], first[0] + noise))).chunk(2)
        return F.mse_loss(one, two) + F.cross_entropy(one, first[1])

    return training.around(training.trained("cnn").model, "cnn", training_step=two_batches(loss))


@case("MLP", must_not="310 304 412")
def student_and_frozen_copy() -> Given:
    """One forward of the model and one of its averaged copy in evaluation: two modules, one update each at most."""
    copied = copy.deepcopy(training.trained("mlp").model).eval().requires_grad_(False)

    def loss(model: nn.Module, first: Any, _: Any) -> Tensor:
        with torch.no_grad():
            wanted = copied(first[0])
        output = model(first[0])
        return F.cross_entropy(output, first[1]) + 0.1 * F.mse_loss(output, wanted)

    return training.around(training.trained("mlp").model, "mlp", training_step=two_batches(loss))


@case("transformer-like", must_not="310 304")
def two_forwards_without_batch_norm() -> Given:
    """Two views in two forwards of a network with group norms."""

    def loss(model: nn.Module, first: Any, second: Any) -> Tensor:
        return F.cross_entropy(model(first[0]), first[1]) + F.cross_entropy(model(second[0]), second[1])

    model = training.trained("transformer", "group").model
    return training.around(model, "transformer", training_step=two_batches(loss))


@case("RNN", may="304", must_not="310")
def two_backwards() -> Given:
    """Two updates in a step, each with its own batch, forward and backward: no batch waits for another's backward."""

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        source = iter(batches)
        training.step(model, next(source), optimizer)
        training.step(model, next(source), optimizer)

    return training.around(training.trained("gru").model, "gru", training_step=training_step)
