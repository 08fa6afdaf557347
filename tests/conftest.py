"""Every test runs on one thread, with unwritten memory poisoned and shapes checked."""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

if os.environ.get("NORMSMITH_CHECK_SHAPES", "1") == "1":
    import shape_checks

    sources = Path(__file__).parents[1] / "src"
    shape_checks.install(
        # kernels are not Python to those who compile them
        [
            ".".join(path.relative_to(sources).with_suffix("").parts)
            for path in sources.rglob("*.py")
            if path.name != "__init__.py" and not {"cpu", "gpu"} & set(path.relative_to(sources).parts)
        ]
    )

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _poison_uninitialised_memory():
    """torch fills `empty` with NaN while deterministic: an output that nobody writes is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    """Two threads of torch for one test."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """Let arguments of the wrong type through to the error that users see; under test they meet beartype first."""
    jaxtyping = sys.modules.get("jaxtyping")
    if jaxtyping is None:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def warm_workers(monkeypatch):
    """Workers of studies that are there at once, for tests of anything but their start."""
    import warm_processes

    from normsmith.studies.executors import local

    monkeypatch.setattr(local, "ProcessPoolExecutor", warm_processes.pool)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def normsmith(tmp_path, monkeypatch, capfd, warm_workers):
    """Run the command in this process, in an empty folder, and see its exit code and both its streams."""
    from normsmith.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["normsmith", *arguments])
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        else:
            code = 0
        return Ran(code, *capfd.readouterr())

    return run


BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, for tests marked `browser`."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed: looked for chromium, chromium-browser and google-chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""By how many pixels a page is wider than its window, in a browser."""


@contextmanager
def opening(browser):
    """Open pages from their files; at the end, nothing may have gone to the console or over the network."""
    contexts, trouble = [], []

    def open_one(file, width=1280, **options):
        context = browser.new_context(**{"viewport": {"width": width, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith("file:") else None)
        page.goto(file.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def open_page(browser):
    """Open a page of a test's own."""
    with opening(browser) as open_one:
        yield open_one
