"""How a training run shows on the terminal: a bar, or a line at each validation."""

import contextlib
import sys

# What can go wrong with stderr while a run goes on: the terminal is gone, the disk behind it is
# full, or it was closed. Training does not end for that.
_STDERR_TROUBLE = (OSError, ValueError)


def say(line):
    """Print a line on stderr, above a progress bar where there is one."""
    if sys.stderr is None:
        return
    tqdm = sys.modules.get("tqdm")
    with contextlib.suppress(*_STDERR_TROUBLE):
        if tqdm is None:
            print(line, file=sys.stderr, flush=True)
        else:
            tqdm.tqdm.write(line, file=sys.stderr)


class Progress:
    """Progress of a training run, to be given to ``Smoe.train``; a context manager.

    Its object is the ``progress`` of ``Smoe.train``, and its method ``validation`` one of the
    ``callbacks``. A bar is drawn where tqdm is installed and stderr is a terminal, else there is a
    line at each validation.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    iteration : int
        At which the run goes on.
    """

    def __init__(self, quiet=False, iteration=0):
        self.quiet, self.iteration, self._started, self._bar = quiet, iteration, False, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._bar.close()

    def __call__(self, smoe):
        """Note that steps were taken."""
        self._start(smoe)
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._bar.update(smoe.iteration - self._bar.n)

    def validation(self, smoe):
        """Show what a validation found."""
        self._start(smoe)
        record = smoe.history[-1]
        found = f"PSNR {record.psnr:.2f} dB, {record.kernels} kernels"
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._bar.set_postfix_str(found)
        elif not self.quiet:
            say(f"iteration {record.iteration}: loss {record.loss:.3e}, {found}, "
                f"{record.seconds:.1f} s")

    def _start(self, smoe):
        if self._started:
            return
        self._started = True
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            return
        with contextlib.suppress(ImportError, *_STDERR_TROUBLE):
            from tqdm import tqdm

            self._bar = tqdm(initial=self.iteration, total=smoe.until, unit="it", file=sys.stderr,
                             dynamic_ncols=True)
