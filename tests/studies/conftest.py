"""Where the tiny tasks are, stores in memory and on a server, and a Ray cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
import ray_cluster

from normsmith.studies import Store
from normsmith.studies._database import schema

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture
def tiny():
    """The words that load a tiny task by its attribute."""
    return lambda attribute="task": f"{TINY}:{attribute}"


@pytest.fixture(autouse=True)
def _workers(warm_workers):
    """Here no test is about the start of workers; `executors` has its own."""


@pytest.fixture
def store():
    with Store("sqlite://") as opened:
        yield opened


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server, started by the first test that asks for it; where CI is set, it has to be installed."""
    programs = postgres.programs()
    if programs is None:
        why = "no PostgreSQL server is installed: looked for initdb on the path and in /usr/lib/postgresql"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    running = postgres.Server(programs)
    yield running
    running.close()


@pytest.fixture
def postgresql(server: postgres.Server) -> str:
    """The URL of an empty database."""
    engine = server.engine()
    schema.drop_all(engine)
    engine.dispose()
    return server.url


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """A Ray cluster of this machine with two CPUs, started by the first test that asks for it; this process joins it.

    It is Ray's own cluster for tests, to which nodes can be added, and from which they can be killed.
    """
    started = ray_cluster.start()
    yield started
    ray_cluster.stop(started)
