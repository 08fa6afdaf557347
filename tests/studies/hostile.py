"""Tasks that behave badly in a worker process; loaded by file name, or run as one."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from tests.studies.tiny import make

if os.environ.get("HOSTILE_LOAD"):
    time.sleep(float(os.environ["HOSTILE_LOAD"]))


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("stays here")


class UnunpicklableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Odd(BaseException):
    pass


ERRORS = (
    UnprintableError(),
    UnpicklableError("stays"),
    UnunpicklableError("one", "two"),
    ValueError("a lone \ud800 and \0"),
    ValueError("x" * 10**6),
    SystemExit(0),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration("over"),
    Odd("!"),
    RecursionError("deep"),
)


def chosen(parameters, rate):
    """Raise the error whose number is the learning rate."""
    if rate >= 1:
        raise ERRORS[int(rate) - 1]
    return torch.optim.SGD(parameters, lr=rate)


raising = make("raising", optimizer=chosen)


def talking_forward(model, batch):
    print("said by print")  # noqa: T201 - that is the point
    sys.stdout.write("said by write\n")
    sys.__stdout__.write("said by the first stdout\n")
    sys.__stdout__.flush()
    os.write(1, b"said by C\n")
    try:
        input()
    except EOFError:
        print("nobody answers")  # noqa: T201
    return model(batch[0]), batch[1]


talking = make("talking", forward=talking_forward)


def compiling_forward(model, batch):
    """Say to numba's listeners that something compiles, for a while."""
    from numba.core import event

    if model.training and not getattr(model, "compiled", False):
        model.compiled = True
        with event.trigger_event("numba:compiler_lock"), event.trigger_event("numba:compiler_lock"):
            time.sleep(6)
    return model(batch[0]), batch[1]


compiling = make("compiling", forward=compiling_forward)


def forking_forward(model, batch):
    """Fork in the first training step: the child would report the trial a second time."""
    if model.training and not getattr(model, "forked", False):
        model.forked = True
        if os.fork() == 0 and os.environ.get("HOSTILE_FORK") == "raise":
            raise ValueError("from the child")
    return model(batch[0]), batch[1]


forking = make("forking", forward=forking_forward)


def leaving_forward(model, batch):
    if model.training and os.environ.get("HOSTILE_EXIT"):
        os._exit(0)
    return model(batch[0]), batch[1]


leaving = make("leaving", forward=leaving_forward)


def eat_memory():
    """Ask for more than this process may have; what it may have is as before afterwards."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, allowed[1]))
    try:
        torch.zeros(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, allowed)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def misbehave(parameters, rate):
    """What goes wrong is the whole part of the learning rate; at zero nothing does."""
    match int(rate):
        case 1:
            raise RuntimeError("the loader is out of order")
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            time.sleep(600)
        case 4:
            eat_memory()
        case 5:
            raise RuntimeError(f"told {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        case 6:  # Ray's process, whose child this is: once
            first = Path(os.environ["HOSTILE_ONCE"])
            if not first.exists():
                first.touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(600)
        case 7:  # Ray's process for the whole node
            os.kill(parent_of(os.getppid()), signal.SIGKILL)
            time.sleep(600)
    return torch.optim.SGD(parameters, lr=rate % 1)


misbehaving = make("misbehaving", optimizer=misbehave)
