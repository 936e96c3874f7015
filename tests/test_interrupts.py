"""Ctrl-C and SIGTERM are noted between two steps, and then do what they would have done."""

import signal
import subprocess
import sys
import threading

import pytest

from smoe_np.interrupts import Interrupts

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers():
    """The handlers as they were before, whatever a test does to them."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_received_unless_something_comes():
    with Interrupts() as interrupts:
        assert interrupts.received is None


@SIGNALS
def test_the_first_signal_is_only_noted(number):
    with Interrupts() as interrupts:
        signal.raise_signal(number)
        assert interrupts.received == number


def test_the_second_ctrl_c_acts_at_once():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert interrupts.received == signal.SIGINT


def test_act_does_what_ctrl_c_would_have_done():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.act()


@SIGNALS
def test_act_calls_the_handler_that_was_there_before(number):
    calls = []
    signal.signal(number, lambda n, frame: calls.append(n))
    with Interrupts() as interrupts:
        signal.raise_signal(number)
        assert calls == []
        interrupts.act()
    assert calls == [number]


def test_sigterm_ends_the_process_as_it_would_have_done():
    code = (
        "import signal\n"
        "from smoe_np.interrupts import Interrupts\n"
        "with Interrupts() as interrupts:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    interrupts.act()\n"
        "print('not reached', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == "still here\n"


@SIGNALS
@pytest.mark.parametrize("came", [False, True])
def test_the_handlers_are_put_back(number, came, handlers):
    with Interrupts():
        assert signal.getsignal(number) != handlers[number]
        if came:
            signal.raise_signal(number)
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_the_handlers_are_put_back_after_an_error(handlers):
    with pytest.raises(ZeroDivisionError), Interrupts():
        raise ZeroDivisionError
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.received is None


def test_one_inside_another_hands_the_signal_on():
    with Interrupts() as outer:
        with Interrupts() as inner:
            signal.raise_signal(signal.SIGINT)
            assert outer.received is None
            inner.act()
        assert outer.received == inner.received == signal.SIGINT


def test_in_another_thread_it_does_nothing(handlers):
    found = []

    def enter():
        with Interrupts() as interrupts:
            found.append(interrupts.received)
            found.append({n: signal.getsignal(n) for n in handlers})

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None, handlers]
