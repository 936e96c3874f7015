"""The pictures in a folder of results: figures while a run goes on, and a page of it at the end."""

import contextlib
import importlib
import os
import threading

from .plots import ImagePlotter, LossPlotter
from .progress import say
from .report import write_report
from .terminal import in_words, one_line

# What the last drawing and the page need: half a second of imports, during which compiled kernels
# can go on.
NEEDED = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.collections",
          "scipy.ndimage")


class Gallery:
    """``loss.png``, ``sheet.png`` and ``report.html`` of a run; the first two also in windows.

    Whatever goes wrong with them is told in a line, and training goes on.

    Parameters
    ----------
    results : ResultsFolder
    name : str
        Of the picture.
    dimensions : int
        Of the picture. A signal of one has a loss, but nothing else to be drawn.
    quiet : bool
        Show no windows, and do not tell that Matplotlib is missing.
    """

    def __init__(self, results, name, dimensions, quiet=False):
        self.results, self.name, self.is_flat = results, name, dimensions > 1
        self._plotters = []
        kinds = {"loss.png": LossPlotter, **({"sheet.png": ImagePlotter} if self.is_flat else {})}
        try:
            self._plotters = [kind(os.path.join(results.path, file), quiet, name)
                              for file, kind in kinds.items()]
        except ImportError as error:
            if not quiet:
                say(f"smoe: no plots while it trains: {error}")
        threading.Thread(target=_prepare, daemon=True).start()

    def validation(self, smoe):
        """Draw what a validation found, as often as time allows; a callback of training."""
        self._draw("__call__", smoe)

    def finish(self, smoe):
        """Draw the model that training left, and write the page."""
        self._draw("finish", smoe)
        if self.is_flat:
            self._guarded(self._write_page, smoe)

    def _draw(self, what, smoe):
        for plotter in self._plotters:
            if not self._guarded(getattr(plotter, what), smoe):
                self._plotters = []  # what failed once would do so again
                return

    def _write_page(self, smoe):
        write_report(os.path.join(self.results.path, "report.html"), smoe.best_params,
                     smoe.engine.picture(), smoe.history, self.results.facts(smoe),
                     folder=self.results.path, title=self.name, channel_axis=-1,
                     backend=smoe.engine.name)

    def _guarded(self, draw, smoe):
        """Whether it could be drawn; if not, say why."""
        try:
            draw(smoe)
        except Exception as error:  # toolkits of windows fail in their own ways
            why = in_words(error) if isinstance(error, OSError) else str(error) or repr(error)
            say(f"smoe: warning: not all is drawn: {one_line(why)}")
            return False
        return True


def _prepare():
    """Import what will be needed."""
    for name in NEEDED:
        with contextlib.suppress(Exception):  # it is told where it is needed
            importlib.import_module(name)
