"""What is borrowed beside a model is as it was afterwards, in threads and within each other too."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from normsmith._torch import is_compiler_loaded
from normsmith.anatomy.isolation import (
    eager_forwards,
    forget_compiled,
    garbage_collector_paused,
    random_states,
    same_random_numbers,
    seed_random_numbers,
)


@pytest.fixture(params=[True, False], ids=["enabled", "disabled"])
def collects(request):
    """Whether the collector is enabled before; after the test it is as it was before the test."""
    before = gc.isenabled()
    if request.param:
        gc.enable()
    else:
        gc.disable()
    yield request.param
    if before:
        gc.enable()
    else:
        gc.disable()


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_rests_within_the_block_and_is_as_it_was_after_it(collects, fails):
    with pytest.raises(RuntimeError) if fails else nullcontext(), garbage_collector_paused():
        assert not gc.isenabled()
        if fails:
            raise RuntimeError
    assert gc.isenabled() == collects


def test_the_collector_rests_until_the_outermost_block_ends(collects):
    with garbage_collector_paused():
        with garbage_collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() == collects


def test_the_collector_is_enabled_again_when_the_last_of_two_threads_ends():
    inside, outside = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
    seen = []

    def first():
        with garbage_collector_paused():
            inside.wait()
        seen.append(gc.isenabled())  # the other thread is inside
        outside.wait()

    def last():
        with garbage_collector_paused():
            inside.wait()
            outside.wait()

    threads = [threading.Thread(target=target) for target in (first, last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [False]
    assert gc.isenabled()


def interrupted(_: torch.Tensor) -> None:
    raise KeyboardInterrupt


def test_every_block_draws_the_same_random_numbers():
    model, draws = nn.Linear(2, 2), []
    before = torch.get_rng_state()
    for _ in range(2):
        with same_random_numbers(model):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyboardInterrupt), same_random_numbers(model):
        interrupted(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_where_nothing_is_compiled_the_compiler_is_not_imported():
    code = (
        "import sys; from normsmith.anatomy.isolation import eager_forwards, forget_compiled\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "with eager_forwards(): pass\n"
        "forget_compiled()\n"
        "print(before, 'torch._dynamo' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_modules_run_as_written_within_the_block_and_are_compiled_again_once_forgotten():
    compilations = []

    def backend(graph, _):
        compilations.append(1)
        return graph.forward

    model = torch.compile(nn.Linear(2, 2), backend=backend)
    with eager_forwards():
        model(torch.ones(1, 2))
        assert compilations == []
    model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert compilations == [1]
    forget_compiled()
    model(torch.ones(1, 2))
    assert compilations == [1, 1]
    assert is_compiler_loaded()


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_whatever_draws_random_numbers_goes_on_as_if_nothing_was_drawn(draw):
    with same_random_numbers(nn.ReLU()):
        first = draw()
    with pytest.raises(ZeroDivisionError), same_random_numbers(nn.ReLU()):
        _ = draw() / 0
    assert draw() == first


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_seeds_are_those_of_every_generator(draw):
    drawn = []
    with same_random_numbers(nn.ReLU()):
        for seed in (1, 1, 2):
            seed_random_numbers(seed)
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_a_block_begins_where_the_generators_once_were(draw):
    begin = random_states(nn.ReLU())
    with same_random_numbers(nn.ReLU(), begin):
        first = draw()
    draw()
    with same_random_numbers(nn.ReLU(), begin):
        assert draw() == first
