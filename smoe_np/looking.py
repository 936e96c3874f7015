"""Looking at a model while it is trained, from callbacks and other threads, without a trace."""

import contextlib
import threading


class Looking:
    """Who trains a Smoe, and the engine with which its models are looked at meanwhile.

    An engine keeps the lists of the model that it saw last, so its results depend in their last
    bits on what it was asked before, and it can do one thing at a time. While a training uses the
    engine, models are looked at with another one, one thread at a time.
    """

    def __init__(self):
        self._lock, self._trainer, self._engine = threading.RLock(), None, None
        self.at_rest = False  # at a validation the next step expects its engine to have been asked

    def __reduce__(self):
        return Looking, ()  # a copy, made by a callback, is not at it

    def refuse_another_training(self):
        """Raise RuntimeError if there is a training."""
        if self._trainer is not None:
            raise RuntimeError("this Smoe is training already; wait until that has ended, or make "
                               "another")

    @contextlib.contextmanager
    def undisturbed(self, what):
        """Keep others from looking meanwhile; RuntimeError if another thread trains."""
        with self._lock:
            if self._trainer not in (None, threading.get_ident()):
                raise RuntimeError(f"this Smoe is training in another thread; {what} from a "
                                   f"callback of that training, or when it has ended")
            yield

    @contextlib.contextmanager
    def training(self):
        """Train here; RuntimeError if another training is under way."""
        begun = False
        try:
            with self._lock:  # after whoever is looking
                self.refuse_another_training()
                begun = True
                self._trainer = threading.get_ident()
            yield
        finally:  # without the lock: another Ctrl-C may come while it is waited for
            if begun:
                self._trainer = self._engine = None

    @contextlib.contextmanager
    def engine(self, trained, is_current):
        """An engine to look at a model with: ``trained``, the one that trains, or one like it."""
        with self._lock:
            at_rest = self._trainer is None or (
                self.at_rest and self._trainer == threading.get_ident())
            if at_rest and is_current:
                yield trained
                return
            if self._engine is None:
                self._engine = trained.another(trained.picture())
            self._engine.threads = trained.threads
            yield self._engine
