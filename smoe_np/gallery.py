"""The figures and the report in a results folder, drawn during a run and at its end."""

import contextlib
import importlib
import os
import threading

from .plots import ImagePlotter, LossPlotter
from .progress import say
from .report import write_report
from .terminal import in_words, one_line

# Modules that the last drawing and the report need. Importing them takes half a second, while
# compiled kernels can run.
NEEDED = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.collections",
          "scipy.ndimage")


class Gallery:
    """``loss.png``, ``sheet.png`` and ``report.html`` of a run; the first two also in windows.

    Errors in drawing are printed in one line and do not end training.

    Parameters
    ----------
    results : ResultsFolder
    name : str
        Name of the picture.
    dimensions : int
        Number of dimensions of the picture. For a signal (1), only the loss is drawn.
    quiet : bool
        Open no windows, and do not report that Matplotlib is missing.
    """

    def __init__(self, results, name, dimensions, quiet=False):
        self.results, self.name, self.has_pictures = results, name, dimensions > 1
        self._plotters = []
        kinds = {"loss.png": LossPlotter}
        if self.has_pictures:
            kinds["sheet.png"] = ImagePlotter
        try:
            self._plotters = [kind(os.path.join(results.path, file), quiet, name)
                              for file, kind in kinds.items()]
        except ImportError as error:
            if not quiet:
                say(f"smoe: no plots during training: {error}")
        threading.Thread(target=_prepare, daemon=True).start()

    def validation(self, smoe):
        """Draw the result of a validation, as often as time allows; a callback of training."""
        self._draw("__call__", smoe)

    def finish(self, smoe):
        """Draw the model at the end of training, and write the report."""
        self._draw("finish", smoe)
        if self.has_pictures:
            self._guarded(self._write_page, smoe)

    def _draw(self, what, smoe):
        for plotter in self._plotters:
            if not self._guarded(getattr(plotter, what), smoe):
                self._plotters = []  # they would fail again
                return

    def _write_page(self, smoe):
        write_report(os.path.join(self.results.path, "report.html"), smoe.best_params,
                     smoe.engine.picture(), smoe.history, self.results.facts(smoe),
                     folder=self.results.path, title=self.name, channel_axis=-1,
                     backend=smoe.engine.name)

    def _guarded(self, draw, smoe):
        """Call ``draw``; if it fails, print why and return False."""
        try:
            draw(smoe)
        except Exception as error:  # any exception, depending on the window toolkit
            why = in_words(error) if isinstance(error, OSError) else str(error) or repr(error)
            say(f"smoe: warning: not everything could be drawn: {one_line(why)}")
            return False
        return True


def _prepare():
    """Import the modules that will be needed."""
    for name in NEEDED:
        with contextlib.suppress(Exception):  # reported where the module is used
            importlib.import_module(name)
