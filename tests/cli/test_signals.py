"""SIGTERM is an interrupt in a block, and what it was before after it."""

import signal
import threading

import pytest

from normsmith.cli.signals import Terminated, terminable


def test_a_request_to_end_is_an_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert issubclass(Terminated, KeyboardInterrupt)


def test_other_threads_leave_signals_alone():
    seen = []

    def block():
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [before]
