"""Where figures go: a window, a notebook, the bytes of a PNG."""

import os
import sys
import threading
import warnings

import numpy as np

from .png import encoded

COMPRESSION = 1  # of PNG: more takes twice the time and gains a tenth
DPI, CELL_DPI = 120, 75  # of files; of a figure in a notebook as it is shown


def matplotlib_or_why_not():
    """Matplotlib, or an ImportError that says what to install."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError('figures need Matplotlib: pip install "smoe_np[plots]"') from None
    return matplotlib


def new_figure():
    """An empty figure, which a notebook can show."""
    matplotlib_or_why_not()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows where it is the value of a cell."""

        def _repr_png_(self):
            return as_png(self), {"width": round(self.get_figwidth() * CELL_DPI)}

    return ShownFigure()


def as_png(figure):
    """A figure as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, dpi = figure.canvas, figure.dpi  # those of a window
    try:
        own = FigureCanvasAgg(figure)
        figure.dpi = DPI
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box stands for it
            own.draw()
        drawn = np.asarray(own.buffer_rgba())[..., :3]  # alpha is 255
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return encoded(drawn, level=COMPRESSION)


def screen():
    """What shows figures here: a notebook, a window, or None."""
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
        """Show the figure as it is now, in place of what was shown."""
        from IPython.display import display

        if self._shown is None:
            self._shown = display(self.figure, display_id=True)
        else:
            self._shown.update(self.figure)
        return True

    def breathe(self):
        """A notebook needs no attention."""


class _Window:
    """A window of whatever toolkit Matplotlib finds."""

    def __init__(self, figure):
        self.figure, self._is_new = figure, True

    @classmethod
    def opened(cls):
        """One, or None where there is no toolkit that works."""
        import matplotlib.pyplot as plt

        try:
            figure = plt.figure()
        except Exception:  # toolkits fail in their own ways
            return None
        if figure.canvas.required_interactive_framework is None:  # draws to files alone
            plt.close(figure)
            return None
        return cls(figure)

    def show(self):
        """Show the figure as it is now; False if the window was closed."""
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
        """Let the window answer to what was done to it."""
        import matplotlib.pyplot as plt

        if plt.fignum_exists(self.figure.number):
            self.figure.canvas.flush_events()
