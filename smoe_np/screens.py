"""Where figures are shown: in a window, in a notebook, or as the bytes of a PNG."""

import os
import sys
import threading
import warnings

import numpy as np

from .png import encoded

COMPRESSION = 1  # PNG level; a higher one takes twice the time and saves a tenth of the bytes
DPI, CELL_DPI = 120, 75  # of files; of figures as a notebook shows them


def matplotlib_or_why_not():
    """Return Matplotlib, or raise an ImportError that says what to install."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError('figures need Matplotlib: pip install "smoe_np[plots]"') from None
    return matplotlib


def new_figure():
    """An empty figure that a notebook can show."""
    matplotlib_or_why_not()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows when it is the value of a cell."""

        def _repr_png_(self):
            return as_png(self), {"width": round(self.get_figwidth() * CELL_DPI)}

    return ShownFigure()


def as_png(figure):
    """A figure as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, dpi = figure.canvas, figure.dpi  # a window may use them
    try:
        own = FigureCanvasAgg(figure)
        figure.dpi = DPI
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # drawn as boxes
            own.draw()
        drawn = np.asarray(own.buffer_rgba())[..., :3]  # alpha is 255
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return encoded(drawn, level=COMPRESSION)


def screen():
    """What can show figures here: a notebook, a window, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    if hasattr(shell, "kernel"):
        return _Notebook()
    has_display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not has_display or threading.current_thread() is not threading.main_thread():
        return None
    return _Window.opened()


class _Notebook:
    """The output of a notebook's cell."""

    def __init__(self):
        self.figure, self._shown = new_figure(), None

    def show(self):
        """Show the current state of the figure in place of the earlier one."""
        from IPython.display import display

        if self._shown is None:
            self._shown = display(self.figure, display_id=True)
        else:
            self._shown.update(self.figure)
        return True

    def breathe(self):
        """Do nothing: a notebook has no event loop to run."""


class _Window:
    """A window of the toolkit that Matplotlib finds."""

    def __init__(self, figure):
        self.figure, self._is_new = figure, True

    @classmethod
    def opened(cls):
        """Open a window; None if no toolkit works."""
        import matplotlib.pyplot as plt

        try:
            figure = plt.figure()
        except Exception:  # any exception, depending on the toolkit
            return None
        if figure.canvas.required_interactive_framework is None:  # a backend that only writes files
            plt.close(figure)
            return None
        return cls(figure)

    def show(self):
        """Show the current state of the figure; return False if the window was closed."""
        import matplotlib.pyplot as plt

        if not plt.fignum_exists(self.figure.number):
            return False
        if self._is_new:
            self.figure.show()
            self._is_new = False
        self.figure.canvas.draw_idle()
        self.breathe()
        return True

    def breathe(self):
        """Let the window process its events."""
        import matplotlib.pyplot as plt

        if plt.fignum_exists(self.figure.number):
            self.figure.canvas.flush_events()
