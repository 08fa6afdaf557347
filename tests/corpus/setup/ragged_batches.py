"""NS302: a last batch that is much smaller than the others."""

from __future__ import annotations

from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch.utils.data import DataLoader, TensorDataset


def loader(base: str, samples: int, size: int = data.SIZE, **options: object) -> DataLoader[object]:
    """A loader over the first samples of a base, in their order."""
    x, y = training.samples(base)[0]
    return DataLoader(TensorDataset(x[:samples], y[:samples]), batch_size=size, **options)


def with_loader(base: str, samples: int, **options: object) -> Given:
    """A trained base with such a loader."""
    return training.around(training.trained(base).model, base, batches=loader(base, samples, **options))


@case(
    "MLP",
    must="302",
    may="301 403",
    seen="'Expected more than 1 value per channel' at the end of the first epoch",
)
def remainder_of_one() -> Given:
    """321 samples in batches of 64 without drop_last: the last batch has one sample, which torch refuses."""
    given = training.trained("mlp")
    return training.around(given.model, "mlp", batches=loader("mlp", 321), runs_in_training=True)


@case(
    "CNN", must="302", may="301 403", seen="loaders left at drop_last=False: a last batch that nobody counted"
)
def remainder_of_one_image() -> Given:
    """One image at the end of an epoch: no error, but statistics of one sample weigh as much as those of 64."""
    return with_loader("cnn", 385)


@case("RNN", must="302", may="301 403", seen="training losses that jump once an epoch")
def remainder_of_five_sequences() -> Given:
    """Five sequences in the last batch of an epoch, 64 in the others."""
    return with_loader("gru", 325)


@case(
    "Hugging Face",
    must="302",
    may="301 403",
    seen="data sets cut to a round number that is no multiple of the batch size",
)
def remainder_of_three_for_hf_resnet() -> Given:
    """Three images in the last batch, in a list of batches made by slicing."""
    # 403 may fire: those three have a loss of .27 in training and .02 in evaluation, the others about .07 and .06
    x, y = training.samples("hf")[0]
    cut = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 259, 64)]
    cut[-1] = (cut[-1][0][:3], cut[-1][1][:3])
    return training.around(training.trained("hf").model, "hf", batches=cut)


@case("MLP", must_not="302")
def remainder_is_dropped() -> Given:
    """321 samples in batches of 64 with drop_last."""
    return with_loader("mlp", 321, drop_last=True)


@case("CNN", must_not="302")
def remainder_of_more_than_half() -> Given:
    """A last batch of 44 beside batches of 64."""
    return with_loader("cnn", 364)


@case("RNN", must_not="302 301")
def remainder_of_one_without_batch_norm() -> Given:
    """Group norm of one group, which does not mind a single sample."""
    model = training.trained("gru", "group").model
    return training.around(model, "gru", batches=loader("gru", 321))


@case("MLP", must_not="302")
def batches_of_growing_size() -> Given:
    """Batch size raised in training, 32 then 64 then 128: a schedule, no remainder."""
    training_set = training.samples("mlp")[0]
    growing = [batch for size in (32, 64, 128) for batch in data.batches(training_set, size, most=4)]
    return training.around(training.trained("mlp").model, "mlp", batches=growing)


@case("CNN", must_not="302")
def evaluation_batches_have_a_remainder() -> Given:
    """Training drops its remainder; the validation loader keeps one of a single image, in evaluation mode."""
    given = training.trained("cnn")
    x, y = training.samples("cnn")[1]
    held_out = DataLoader(TensorDataset(x[:65], y[:65]), batch_size=64)

    def validate(model: networks.nn.Module) -> float:
        model.eval()
        value = training.mean_loss(model, held_out)
        model.train()
        return value

    return training.around(given.model, "cnn", batches=loader("cnn", 321, drop_last=True), validate=validate)


@case("MLP", must="302", may="301 403 404", seen="ghost batches that do not divide the batch")
def ghost_remainder_of_two() -> Given:
    """Ghost batches of 31 in batches of 64: the third of them has two samples."""
    from normsmith.layers import BatchNorm1d

    model = networks.mlp(lambda channels, _: BatchNorm1d(channels, ghost_batch_size=31))
    return training.fitted(model, "mlp")


@case("MLP", must_not="302 301")
def ghosts_of_equal_size() -> Given:
    """Ghost batches of 32 in batches of 64."""
    from normsmith.layers import BatchNorm1d

    model = networks.mlp(lambda channels, _: BatchNorm1d(channels, ghost_batch_size=32))
    return training.fitted(model, "mlp")
