"""NS203, NS204, NS205, NS208: eps, tracking, axes and dtypes of norms."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

# eps beside a small variance.


def scaled(base: str, factor: float, model: nn.Module, **changes: object) -> Given:
    """A base whose inputs are scaled by a factor, with a model trained on them."""
    x, y = training.samples(base)[0]
    samples = (factor * x, y)
    rate = training.BASES[base].learning_rate
    training.train(model.train(), training.epochs(samples), 120, rate=rate)
    batches = data.batches(samples, most=10)
    return training.around(model, base, batches=batches, validate=None, **changes)


@case(
    "MLP",
    must="203",
    may="202 401 402 403 404 405",
    seen="inputs in volts or metres: values of 1e-4, and batch norm straight on them",
)
def inputs_in_volts() -> Given:
    """Inputs of 1e-3 with variances of 1e-6 go into a norm with eps 1e-5, which rules the quotient."""
    model = nn.Sequential(nn.BatchNorm1d(64), *networks.mlp())
    return scaled("mlp", 1e-3, model)


@case("CNN", must="203", may="401", seen="eps=0.1 set against NaN, and left")
def large_eps() -> Given:
    """eps was raised to 0.5 to get rid of NaN; variances are of the same size."""
    return training.trained("cnn", eps=0.5)


class SmallStates(networks.Gru):
    """A GRU whose states are small, because its weights are."""

    def __init__(self) -> None:
        super().__init__(lambda channels, _: nn.BatchNorm1d(channels, eps=1e-3))
        with torch.no_grad():
            for parameter in self.rnn.parameters():
                parameter.mul_(0.05)


@case("RNN", must="203", may="401 405", seen="eps=1e-3 from Keras, on activations of a few hundredths")
def eps_of_keras_on_small_activations() -> Given:
    """States of a recurrent layer with variances of 1e-4, and Keras' eps of 1e-3."""
    model = SmallStates()
    model.rnn.requires_grad_(False)
    given = training.fitted(model, "gru")
    return given


@case("MLP", must_not="203")
def eps_of_keras_on_activations_of_one() -> Given:
    """eps 1e-3 beside variances about 1."""
    model = nn.Sequential(nn.BatchNorm1d(64, affine=False), *networks.mlp())
    for norm in networks.norms(model).values():
        norm.eps = 1e-3
    x, y = training.samples("mlp")[0]
    alive = x + 0.5 * torch.randn(x.shape)
    training.train(model, training.epochs((alive, y)), 120)
    return training.around(model, "mlp", batches=data.batches((alive, y), most=10), validate=None)


@case("CNN", may="401", must_not="203 411")
def small_variances_and_smaller_eps() -> Given:
    """Inputs of 1e-3, but an eps of 1e-12, and statistics recomputed, so that nothing is left of the initial 1."""
    given = scaled("cnn", 1e-3, networks.Cnn(networks.options("batch", eps=1e-12)))
    update_bn(given.batches, given.model)
    return given


@case("transformer-like", must_not="203")
def eps_of_layer_norm() -> Given:
    """Layer norm with an eps of 1e-12 and of 1e-5: no running variance to compare with."""
    layers = [nn.Linear(8, 32), nn.LayerNorm(32, eps=1e-12), nn.GELU(), nn.Flatten(), nn.Linear(256, 10)]
    return training.fitted(nn.Sequential(*layers), "transformer")


# Statistics of the batch in evaluation.


@case(
    "CNN",
    must="204",
    may="409",
    seen="track_running_stats=False to 'fix' bad evaluation: it now depends on the batch",
)
def untracked_batch_norm() -> Given:
    """Evaluation normalises by the batch it gets, one image by itself."""
    return training.trained("cnn", track_running_stats=False)


@case("MONAI", must="204", may="409", seen="norm options in configuration files of segmentation networks")
def untracked_by_configuration() -> Given:
    """MONAI's norm option takes track_running_stats=False as well."""
    model = networks.monai_unet(("batch", {"track_running_stats": False}))
    return training.fitted(model, "monai")


@case(
    "Hugging Face", must="204", may="409", seen="`m.running_mean = None; m.running_var = None` after loading"
)
def statistics_taken_away() -> Given:
    """Running statistics of a pretrained network were set to None, so that evaluation uses the batch."""
    given = training.trained("hf")
    networks.set_norms(given.model, track_running_stats=False, running_mean=None, running_var=None)
    return given


@case(
    "RNN",
    must="204",
    may="409",
    seen="the same in recurrent networks, evaluated with batches of another make-up",
)
def untracked_after_a_recurrent_layer() -> Given:
    """Batch norm without running statistics on the outputs of a GRU."""
    return training.trained("gru", track_running_stats=False)


@case("CNN", must_not="204")
def untracked_instance_norm() -> Given:
    """Instance norm keeps no statistics by default, and needs none."""
    return training.fitted(networks.Cnn(lambda channels, _: nn.InstanceNorm2d(channels, affine=True)), "cnn")


@case("MLP", must_not="204")
def tracked_with_cumulative_average() -> Given:
    """momentum=None is tracking too."""
    return training.more(training.trained("mlp", momentum=None), "mlp", steps=300, rate=1e-4)


@case("RNN", must_not="204")
def layer_norm_needs_no_tracking() -> Given:
    """Norms of single samples have nothing to track."""
    return training.trained("gru", "group")


# The wrong axis.


class OverSteps(networks.Gru):
    """Batch norm of as many features as there are steps, on (samples, steps, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.rnn(x)[0])).mean(1))


@case("RNN", must="205", seen="BatchNorm1d(seq_len) because BatchNorm1d(hidden) raised an error")
def norm_over_steps_of_a_gru() -> Given:
    """The norm takes the eight steps for channels, as the error message seemed to ask for."""
    return training.fitted(OverSteps(), "gru")


class TokenNorm(nn.Module):
    """BatchNorm1d called with (samples, tokens, channels), with as many features as tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@case(
    "transformer-like",
    must="205",
    seen="LayerNorm replaced by BatchNorm1d in a transformer, with num_features=tokens",
)
def norm_over_tokens() -> Given:
    """All norms of a transformer normalise tokens over channels and samples."""
    model = networks.Transformer()
    for block in model.blocks:
        block.norm1, block.norm2 = TokenNorm(8), TokenNorm(8)
    model.norm = TokenNorm(8)
    return training.fitted(model, "transformer")


@case("MLP", must="205", seen="a linear layer on (N, T, C) and BatchNorm1d(T)")
def norm_over_steps_of_an_mlp() -> Given:
    """A linear layer makes 32 features for each of eight rows; the norm has eight channels."""
    layers = [nn.Linear(8, 32), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)]
    return training.fitted(nn.Sequential(*layers), "transformer")


@case("RNN", must_not="205")
def transposed_for_the_norm() -> Given:
    """Steps and channels are exchanged before the norm and after it."""
    return training.trained("gru")


@case("transformer-like", must_not="205")
def as_many_steps_as_channels() -> Given:
    """Eight steps and eight features: nobody can tell, so nothing is said."""
    layers = [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)]
    return training.fitted(nn.Sequential(*layers), "transformer")


@case("CNN", must_not="205")
def convolution_over_time() -> Given:
    """Conv1d gives (samples, channels, steps), as BatchNorm1d wants it."""
    layers = [
        nn.Conv1d(8, 24, 3, padding=1, bias=False),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 10),
    ]
    return training.fitted(nn.Sequential(*layers), "transformer")


# Buffers of low precision.


def in_bfloat16(base: str, *, norms_too: bool) -> Given:
    """A trained base in bfloat16, with its batches."""
    given = training.trained(base)
    model = given.model.bfloat16()
    if not norms_too:
        for norm in networks.norms(model).values():
            norm.float()
    batches = [(x.bfloat16(), y) for x, y in given.batches or ()]
    return training.around(model, base, batches=batches, validate=None, loss=in_float)


def in_float(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of outputs in float32."""
    return F.cross_entropy(output.float(), target)


LOW = "202 403 404 505"


@case("CNN", must="208", may=LOW, seen="`model.to(torch.bfloat16)` for the whole model before training")
def convolutions_in_bfloat16() -> Given:
    """The whole network was converted, running statistics included: small updates are rounded away."""
    return in_bfloat16("cnn", norms_too=True)


@case("MLP", must="208", may=LOW, seen="torch.set_default_dtype or `.bfloat16()` in training scripts")
def mlp_in_bfloat16() -> Given:
    """An MLP whose running statistics are bfloat16."""
    return in_bfloat16("mlp", norms_too=True)


@case(
    "Hugging Face",
    must="208",
    may=LOW,
    seen="from_pretrained(torch_dtype=torch.bfloat16) of networks with batch norm",
)
def hf_in_bfloat16() -> Given:
    """A Hugging Face network loaded in bfloat16."""
    return in_bfloat16("hf", norms_too=True)


@case("CNN", must_not="208")
def norms_left_in_float32() -> Given:
    """Convolutions in bfloat16, norms with their statistics in float32."""
    return in_bfloat16("resnet", norms_too=False)


@case("MLP", must_not="208")
def mlp_in_float64() -> Given:
    """Everything in float64."""
    given = training.trained("mlp")
    batches = [(x.double(), y) for x, y in given.batches or ()]
    return training.around(given.model.double(), "mlp", batches=batches, validate=None)


class Autocast(nn.Module):
    """A network that runs under autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x).float()


@case("Hugging Face", must_not="208")
def hf_under_autocast() -> Given:
    """Mixed precision by autocast; parameters and statistics are float32."""
    return training.around(Autocast(training.trained("hf").model), "hf")


@case("transformer-like", must_not="208")
def layer_norm_in_bfloat16() -> Given:
    """A network of layer norms in bfloat16: there are no running statistics."""
    layers = [nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Flatten(), nn.Linear(256, 10)]
    given = training.fitted(nn.Sequential(*layers), "transformer")
    batches = [(x.bfloat16(), y) for x, y in given.batches or ()]
    return training.around(
        given.model.bfloat16(), "transformer", batches=batches, validate=None, loss=in_float
    )
