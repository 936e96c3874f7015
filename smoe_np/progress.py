"""The progress of training on the terminal: a bar, or a line at each validation."""

import contextlib
import sys

from .numerals import counted

# Errors of stderr during a run: the terminal is gone, the disk behind a redirection is full, or it
# was closed. They do not end training.
_STDERR_TROUBLE = (OSError, ValueError)


def say(line):
    """Print a line on stderr, above the progress bar if there is one."""
    if sys.stderr is None:
        return
    tqdm = sys.modules.get("tqdm")
    with contextlib.suppress(*_STDERR_TROUBLE):
        if tqdm is None:
            print(line, file=sys.stderr, flush=True)
        else:
            tqdm.tqdm.write(line, file=sys.stderr)


class Progress:
    """Shows the progress of ``Smoe.train``, ``fit`` or ``sparsify``; a context manager.

    Pass the object as ``progress``, and its method ``validation`` as one of the ``callbacks``. A
    bar is drawn if tqdm is installed and stderr is a terminal; otherwise a line is printed at each
    validation. In both cases a line is printed for each try on the way to a PSNR.

    Parameters
    ----------
    smoe : Smoe
        Before its training begins or continues.
    quiet : bool
        Show nothing.
    """

    def __init__(self, smoe, quiet=False):
        self.quiet, self._started, self._bar = quiet, False, None
        self._iteration, self._tried = smoe.iteration, len(smoe.tried)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._bar.close()

    def __call__(self, smoe):
        """Update after steps were taken."""
        self._follow(smoe)

    def validation(self, smoe):
        """Show what a validation found."""
        self._follow(smoe)
        record = smoe.history[-1]
        found = f"PSNR {record.psnr:.2f} dB, {counted(record.kernels, 'kernel')}"
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._bar.set_postfix_str(found)
        elif not self.quiet:
            say(f"iteration {record.iteration}: loss {record.loss:.3e}, {found}, "
                f"{record.seconds:.1f} s")
        if smoe.searches_psnr and record.iteration == smoe.until and not self.quiet:
            say(f"try {len(smoe.tried) + 1}: {found} after {record.iteration} iterations")

    def _start(self, smoe):
        if self._started:
            return
        self._started = True
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            return
        with contextlib.suppress(ImportError, *_STDERR_TROUBLE):
            from tqdm import tqdm

            self._bar = tqdm(desc=self._name_of_try(smoe), initial=self._iteration,
                             total=smoe.until, unit="it", file=sys.stderr, dynamic_ncols=True)

    def _follow(self, smoe):
        self._start(smoe)
        if self._bar is not None:
            with contextlib.suppress(*_STDERR_TROUBLE):
                self._move_bar(smoe)

    def _move_bar(self, smoe):
        if len(smoe.tried) != self._tried:  # another try has begun
            self._tried = len(smoe.tried)
            self._bar.initial = smoe.iteration
            self._bar.set_description(self._name_of_try(smoe), refresh=False)
            self._bar.reset(smoe.until)
        self._bar.total = smoe.until  # changes during a fit with a budget of seconds
        self._bar.update(smoe.iteration - self._bar.n)

    def _name_of_try(self, smoe):
        return f"try {self._tried + 1}" if smoe.searches_psnr else None
