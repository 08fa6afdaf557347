"""NS306: validation with norms in training mode, so that held-out data move the running statistics."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import nn


def held_out(base: str) -> list[training.Pair]:
    return data.batches(training.samples(base)[1], most=4)


@case("CNN", must="306", may="408", seen="'validation accuracy changes when I evaluate twice'")
def validation_without_eval() -> Given:
    """Validation runs under no_grad but nobody calls eval()."""

    def validate(model: nn.Module) -> float:
        return training.mean_loss(model, held_out("cnn"))

    return training.around(training.trained("cnn").model, "cnn", validate=validate)


@case(
    "MLP",
    must="306",
    may="408",
    seen="helpers that 'prepare the model' for every loop, also for validation's",
)
def train_called_in_a_validation_helper() -> Given:
    """The trainer calls eval(), and the helper that runs an epoch calls train() again."""

    def run_epoch(model: nn.Module) -> float:
        model.train()
        return training.mean_loss(model, held_out("mlp"))

    def validate(model: nn.Module) -> float:
        model.eval()
        return run_epoch(model)

    return training.around(training.trained("mlp").model, "mlp", validate=validate)


class WithDropout(networks.Gru):
    """The GRU with dropout before its head."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(torch.relu(self.bn(self.rnn(x)[0])).mean(1)))


def dropout_net() -> nn.Module:
    return training.fitted(WithDropout(), "gru").model


@case("RNN", must="306", may="408", seen="Monte Carlo dropout by `model.train()` at test time")
def monte_carlo_dropout_by_train() -> Given:
    """The whole model is put into training mode to keep dropout active, and batch norm with it."""

    def validate(model: nn.Module) -> float:
        model.train()
        with torch.no_grad():
            losses = [training.mean_loss(model, held_out("gru")) for _ in range(3)]
        return sum(losses) / 3

    return training.around(dropout_net(), "gru", validate=validate)


@case(
    "Hugging Face",
    must="306",
    may="408",
    seen="models of several parts where only one is put into evaluation mode",
)
def only_the_head_evaluates() -> Given:
    """eval() is called on the classifier; the backbone with all the norms stays in training mode."""

    def validate(model: nn.Module) -> float:
        model.model.classifier.eval()
        value = training.mean_loss(model, held_out("hf"))
        model.model.classifier.train()
        return value

    return training.around(training.trained("hf").model, "hf", validate=validate)


@case(
    "MONAI",
    must="306",
    may="408",
    seen="a loss on the validation set computed at the end of each training step",
)
def validation_loss_within_the_epoch() -> Given:
    """The model is put into evaluation mode only after the first batch, for the metric, not for the loss."""
    loss = nn.functional.binary_cross_entropy_with_logits

    def validate(model: nn.Module) -> float:
        first, *others = held_out("monai")
        value = training.mean_loss(model, [first], loss)
        model.eval()
        value += training.mean_loss(model, others, loss)
        model.train()
        return value / 2

    return training.around(training.trained("monai").model, "monai", validate=validate)


@case("CNN", must_not="306 309 408")
def validation_as_it_should_be() -> Given:
    """eval(), no_grad, train() again."""
    return training.trained("cnn")


@case("RNN", must_not="306")
def monte_carlo_dropout_by_its_dropouts() -> Given:
    """Only the dropout layers are put into training mode; batch norm evaluates."""

    def validate(model: nn.Module) -> float:
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        value = training.mean_loss(model, held_out("gru"))
        model.train()
        return value

    return training.around(dropout_net(), "gru", validate=validate)


@case("transformer-like", must_not="306")
def training_mode_without_batch_norm() -> Given:
    """Validation in training mode, but with group norms, which keep nothing of what they see."""

    def validate(model: nn.Module) -> float:
        return training.mean_loss(model.train(), held_out("transformer"))

    return training.around(training.trained("transformer", "group").model, "transformer", validate=validate)


@case("MLP", must_not="306")
def declared_adaptation() -> Given:
    """Statistics of the test data are mixed in by normsmith's adapt, which puts everything back."""
    from normsmith import surgery

    def validate(model: nn.Module) -> float:
        model.eval()
        with surgery.adapt(model, [x for x, _ in held_out("mlp")], prior=0.5) as adapted:
            value = training.mean_loss(adapted, held_out("mlp"))
        model.train()
        return value

    return training.around(training.trained("mlp").model, "mlp", validate=validate)


@case("Hugging Face", must_not="306")
def validation_of_a_copy() -> Given:
    """A deep copy in evaluation mode is validated while the model itself stays in training mode."""
    import copy

    def validate(model: nn.Module) -> float:
        return training.mean_loss(copy.deepcopy(model).eval(), held_out("hf"))

    return training.around(training.trained("hf").model, "hf", validate=validate)
