"""NS401 and NS402: inputs of odd scales and shapes."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "203 402 501 502 503 504 505 506"


def learned(model: nn.Module, samples: training.Pair, *, size: int = 32, steps: int = 100) -> Given:
    """A model trained on samples of its own."""
    training_set, held_out = data.split(samples)
    loss = F.mse_loss if samples[1].is_floating_point() else F.cross_entropy
    training.train(model, training.epochs(training_set, size), steps, loss=loss)
    validate = training.validation(held_out, loss) if len(held_out[0]) >= data.SIZE else None
    batches = data.batches(training_set, size, most=10)
    return Given(model, batches, loss=loss, optimizer=training.adam, validate=validate)


@case("MLP", must="401", may=MAY, seen="tables without a scaler: one column in thousands, one in thousandths")
def table_as_it_is() -> Given:
    """scikit-learn's breast cancer table with columns from 0.001 to 4000, into a linear layer."""
    return learned(
        networks.mlp(networks.no_norm, inputs=30, outputs=2), data.table("breast_cancer", scaled=False)
    )


@case(
    "MLP",
    must="401",
    may=MAY,
    seen="the same, before batch norm: it saves the scale, not the columns that are drowned",
)
def wine_as_it_is() -> Given:
    """The wine table: proline is in the hundreds, hue about 1."""
    return learned(networks.mlp(inputs=13, outputs=3), data.table("wine", scaled=False))


@case("CNN", must="401", may=MAY, seen="images as bytes, without ToTensor's division by 255")
def bytes_as_floats() -> Given:
    """Images with values from 0 to 255."""
    images, labels = data.raw_digits()
    return learned(networks.Cnn(networks.no_norm), (images.reshape(-1, 1, 8, 8) * 255 / 16, labels), size=64)


@case("RNN", must="401", may=MAY, seen="sensor series in kelvin and pascal")
def kelvin() -> Given:
    """Temperatures of about 290 with changes of a few degrees."""
    rows, labels = data.digits("rows")
    return learned(networks.Gru(networks.no_norm), (290 + 3 * rows, labels), size=64)


@case("MLP", must_not="401")
def table_scaled() -> Given:
    """The breast cancer table, each column of mean 0 and deviation 1."""
    return learned(networks.mlp(inputs=30, outputs=2), data.table("breast_cancer"))


@case("transformer-like", must_not="401 402")
def words_by_number() -> Given:
    """Numbers of words from 1 to 20 go into an embedding: their scale means nothing."""
    return training.trained("words")


@case("MLP", may="203", must_not="401")
def raw_table_into_an_input_norm() -> Given:
    """The raw table goes through normsmith's InputNorm first."""
    from normsmith.layers import InputNorm

    raw = data.table("breast_cancer", scaled=False)
    model = nn.Sequential(InputNorm(30), *networks.mlp(inputs=30, outputs=2))
    return learned(model, raw)


@case("MLP", may="203", must_not="401")
def raw_table_into_a_batch_norm() -> Given:
    """The raw table goes into a batch norm of its columns first."""
    model = nn.Sequential(nn.BatchNorm1d(30), *networks.mlp(inputs=30, outputs=2))
    return learned(model, data.table("breast_cancer", scaled=False))


@case("CNN", must_not="401")
def images_from_zero_to_one() -> Given:
    """Images in [0, 1], as ToTensor gives them: mean 0.3, deviation 0.4."""
    images, labels = data.raw_digits()
    return learned(networks.Cnn(), (images.reshape(-1, 1, 8, 8) / 16, labels), size=64)


def shaped(change: training.Loss | object, kind: str) -> Given:
    """Normal features put through a function, then scaled to mean 0 and deviation 1."""
    x, y = data.gaussian()
    x = change(x)
    return fitted_to_kind(kind, ((x - x.mean(0)) / x.std(0), y))


def fitted_to_kind(kind: str, samples: training.Pair) -> Given:
    """The features as a vector, a sequence of four steps, or an image of 4 × 4."""
    x, y = samples
    match kind:
        case "vector":
            return learned(networks.mlp(inputs=16, outputs=4), (x, y), size=64)
        case "sequence":
            return learned(networks.Gru(inputs=4, outputs=4), (x.reshape(-1, 4, 4), y), size=64)
    return learned(networks.Cnn(outputs=4), (x.reshape(-1, 1, 4, 4), y), size=64)


@case(
    "MLP",
    must="402",
    may="506",
    seen="incomes, prices, counts: log-normal columns that were only standardised",
)
def log_normal_features() -> Given:
    """Log-normal features: skewness in the tens, a few huge values."""
    return shaped(lambda x: (1.5 * x).exp(), "vector")


@case("RNN", must="402", may="506", seen="returns of markets and other series with heavy tails")
def heavy_tails() -> Given:
    """Cubes of normal values: outliers far beyond what the bulk would say."""
    return shaped(lambda x: x**3, "sequence")


@case("CNN", must="402", may="506 404", seen="detector images with hot pixels")
def hot_pixels() -> Given:
    """One value in two hundred is forty times as large as the others."""

    def hot(x: Tensor) -> Tensor:
        return x + 40 * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.005)

    return shaped(hot, "image")


@case("MLP", must_not="402 401")
def normal_features() -> Given:
    """Normal features."""
    return shaped(lambda x: x, "vector")


@case("RNN", must_not="402 401")
def uniform_features() -> Given:
    """Uniform features: no tails at all."""
    return shaped(torch.special.ndtr, "sequence")


@case("CNN", must_not="402 401")
def normal_images() -> Given:
    """Images of normal values."""
    return shaped(lambda x: x, "image")
