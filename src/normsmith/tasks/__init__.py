"""Tasks: a network, its data, loss and metric in one object."""

from normsmith.tasks.build import build, seeded
from normsmith.tasks.check import check
from normsmith.tasks.data import batches, evaluate, evaluating, evaluation_batches, metric
from normsmith.tasks.digits import digits_cnn, digits_mlp, digits_rnn
from normsmith.tasks.example import example, forward_of
from normsmith.tasks.fingerprint import fingerprint
from normsmith.tasks.images import ImageFolder, cifar10, fashion_mnist
from normsmith.tasks.load import EMBEDDED, load, load_function
from normsmith.tasks.metrics import accuracy, r_squared
from normsmith.tasks.shapes import shapes
from normsmith.tasks.tabular import Standardise, breast_cancer, diabetes, wine
from normsmith.tasks.task import Task

__all__ = [
    "EMBEDDED",
    "ImageFolder",
    "Standardise",
    "Task",
    "accuracy",
    "batches",
    "breast_cancer",
    "build",
    "check",
    "cifar10",
    "diabetes",
    "digits_cnn",
    "digits_mlp",
    "digits_rnn",
    "evaluate",
    "evaluating",
    "evaluation_batches",
    "example",
    "fashion_mnist",
    "fingerprint",
    "forward_of",
    "load",
    "load_function",
    "metric",
    "r_squared",
    "seeded",
    "shapes",
    "wine",
]
