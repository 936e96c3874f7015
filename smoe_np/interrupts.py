"""Ctrl-C and SIGTERM during a loop that must end between two steps."""

import signal
import threading


class Interrupts:
    """Note the first SIGINT or SIGTERM instead of acting on it; leave the second to act as before.

    A context manager. Handlers are Python's own business of the main thread: elsewhere this does
    nothing and signals act as they do.

    Attributes
    ----------
    received : int or None
        The signal that came.
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
        """Do now what the signal would have done when it came."""
        signal.raise_signal(self.received)
