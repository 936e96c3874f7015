"""Handling of Ctrl-C and SIGTERM in a loop that must end between two steps."""

import signal
import threading


class Interrupts:
    """Note the first SIGINT or SIGTERM instead of acting on it; leave the second to act as before.

    A context manager. Python allows signal handlers to be set in the main thread only: in other
    threads this does nothing, and signals act as usual.

    Attributes
    ----------
    received : int or None
        Number of the signal that was received.
    """

    def __init__(self):
        self.received = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.received = number
        self._restore()

    def _restore(self):
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def __exit__(self, *error):
        self._restore()

    def act(self):
        """Raise the received signal again, so that it acts as it would have without this class."""
        signal.raise_signal(self.received)
