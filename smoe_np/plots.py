"""Figures of a model and of its training.

``LossPlotter``, ``ImagePlotter`` and ``DenoisePlotter`` are callbacks for ``Smoe.train``,
``Smoe.fit`` and ``Smoe.sparsify``. ``loss_figure``, ``image_figure`` and ``denoise_figure`` draw
the same figures from a history, a model, and images. ``sparsity_figure`` draws several models side
by side. Matplotlib is imported when it is needed.
"""

import contextlib
import gc
import os
import time

from .arguments import check_image
from .backend import to_numpy
from .drawing import (
    QUALITIES,
    Page,
    compose_denoising,
    compose_loss,
    compose_sheet,
    compose_sparsity,
)
from .files import atomic_write, path_text
from .metrics import psnr
from .params import SmoeParams
from .scene import Scene, scene_of_model
from .screens import as_png, matplotlib_or_why_not, new_figure, screen

PANELS = ("original", "reconstruction", "error", "kernels", "gating", "weights")
SHARE = 0.03  # fraction of the time that a plotter may spend on drawing
FIRST_DRAWING = 1.0  # seconds that the first drawing is assumed to take, imports included
STYLE = {  # settings that the drawing code relies on, and that the user may have changed
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "text.usetex": False,
    "axes.facecolor": "white", "axes.linewidth": 0.8, "axes.labelpad": 4.0,
    "axes.labelweight": "normal", "axes.spines.top": True, "axes.spines.right": True,
    "grid.linestyle": "-", "image.interpolation": "auto", "image.resample": True,
    "legend.columnspacing": 2.0, "legend.handletextpad": 0.8, "legend.labelspacing": 0.5,
    **{f"{axis}tick.{what}": value for axis in "xy" for what, value in (
        ("direction", "out"), ("major.pad", 3.5), ("major.size", 3.5), ("major.width", 0.8))},
    "figure.autolayout": False, "figure.constrained_layout.use": False,
}

# ---- figures


def loss_figure(history, path=None, quality="psnr", title=None):
    """Draw loss, quality and number of kernels over the iterations.

    Parameters
    ----------
    history : sequence of smoe_np.Record
        Records of the validations, such as ``Smoe.history``.
    path : str or os.PathLike, optional
        PNG file to write the figure to.
    quality : {"psnr", "mse"}
        Quality measure to draw.
    title : str, optional
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the history is empty, or an argument has the wrong value.
    OSError
        If the file cannot be written.
    """
    _check_png(path)
    _check_quality(quality)
    if not history:
        raise ValueError("history is empty; give that of a model after its first validation")
    return _drawn(path, compose_loss, history, quality, title)


def image_figure(params, image=None, path=None, panels=None, total=None, title=None,
                 channel_axis="auto", backend="auto"):
    """Draw a model: its reconstruction, its errors, its kernels.

    Parameters
    ----------
    params : SmoeParams
        Model to draw.
    image : array, optional
        The image that the model was fitted to, as for ``Smoe``.
    path : str or os.PathLike, optional
        PNG file to write the figure to.
    panels : sequence of str, optional
        Names from ``PANELS``, in the order in which they are drawn. By default all of them; without
        ``image``, all that do not need it.
    total : int, optional
        Number of kernels at the start, to which the current number is compared.
    title : str, optional
        Title of the figure.
    channel_axis, backend
        As for ``Smoe``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If an argument has the wrong type or value, or ``image`` does not fit ``params``.
    OSError
        If the file cannot be written.
    """
    _check_png(path)
    scene = scene_of_model(params, image, channel_axis, backend)
    missing = () if image is not None else ("original", "error")
    if panels is None:
        panels = [panel for panel in PANELS if panel not in missing]
    for panel in _checked_panels(panels):
        if panel in missing:
            raise ValueError(f"panel {panel!r} needs the picture; give image")
    return _drawn(path, compose_sheet, scene, panels, total, title, scene.facts())


def sparsity_figure(models, image=None, path=None, title=None, channel_axis="auto",
                    backend="auto"):
    """Draw models of one image side by side, the gating map of each above its reconstruction.

    The layout is that of figure 2 of the 2018 paper on sparse models (see ``smoe_np.sparsify``).

    Parameters
    ----------
    models : sequence of SmoeParams
        Models to draw, from left to right.
    image : array, optional
        The image that the models were fitted to, as for ``Smoe``; PSNRs refer to it.
    path : str or os.PathLike, optional
        PNG file to write the figure to.
    title : str, optional
        Title of the figure.
    channel_axis, backend
        As for ``Smoe``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If there is no model, or the models or ``image`` have different shapes.
    OSError
        If the file cannot be written.
    """
    _check_png(path)
    if isinstance(models, SmoeParams):
        raise TypeError("models must be a sequence of SmoeParams, got one; give [params]")
    scenes = [scene_of_model(params, image, channel_axis, backend) for params in models]
    if not scenes:
        raise ValueError("models is empty; give at least one")
    for scene in scenes:
        if scene.shape != scenes[0].shape:
            raise ValueError(f"models must be of pictures of one shape, got {scenes[0].shape} and "
                             f"{scene.shape}")
    return _drawn(path, compose_sparsity, scenes, title)


def denoise_figure(noisy, denoised, clean=None, reference=None, reference_name="Reference",
                   curve=None, path=None, title=None, channel_axis="auto"):
    """Draw the result of denoising.

    Parameters
    ----------
    noisy, denoised : array
        The image before and after denoising.
    clean : array, optional
        The image without noise, to which PSNR and SSIM refer.
    reference : array, optional
        Result of another method, to compare with.
    reference_name : str
        Name of that method.
    curve : (iterations, decibels), optional
        PSNR at some iterations, with reference to ``clean``, or to ``noisy`` without it.
    path : str or os.PathLike, optional
        PNG file to write the figure to.
    title : str, optional
        Title of the figure.
    channel_axis : "auto", None or int
        As for ``Smoe``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If an argument has the wrong type or value, or the shapes differ.
    OSError
        If the file cannot be written.
    """
    _check_png(path)
    noisy = _pixels(noisy, channel_axis)
    denoised, clean, reference = (_pixels(image, channel_axis, noisy.shape)
                                  for image in (denoised, clean, reference))
    return _drawn(path, compose_denoising, noisy, denoised, clean, reference, reference_name,
                  curve, title)


# ---- callbacks


class Plotter:
    """A figure that follows a training: base class of the three kinds of figures.

    A plotter is a callback for ``Smoe.train``, ``Smoe.fit`` and ``Smoe.sparsify``. It shows the
    figure below the cell of a notebook, or in a window if there is a display. The figure is redrawn
    as often as possible within 3 % of the time (``SHARE``), and at the end of training. After a
    search for a PSNR, which consists of several tries, call ``finish`` to draw the result.

    Parameters
    ----------
    path : str or os.PathLike, optional
        PNG file to write the figure to: at the end, and at each redraw if no figure is shown.
    quiet : bool
        Do not show the figure. With no ``path`` either, nothing is drawn.
    title : str, optional
        Title of the figure.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If ``path`` does not end in ``.png``.
    """

    def __init__(self, path=None, quiet=False, title=None):
        _check_png(path)
        matplotlib_or_why_not()
        self.path, self.title = path, title
        self._screen = None if quiet else screen()
        self._page = None
        self._state = None  # state of the training at the last drawing
        self._ended, self._took = None, FIRST_DRAWING  # when the last drawing ended; its seconds

    def __call__(self, smoe):
        """Take note of a validation; draw if enough time has passed, or if it is the last one."""
        self._note(smoe)
        at_end = smoe.iteration >= smoe.until and not smoe.searches_psnr
        if at_end or self._has_time():
            self._draw(smoe, write=at_end or self._screen is None)
        elif self._screen is not None:
            self._screen.breathe()

    def finish(self, smoe):
        """Draw the final model, unless it was drawn last.

        Call this after an interruption, and after a ``fit`` or ``sparsify`` to a PSNR.
        """
        if smoe.history and self._state != _state_of(smoe):
            self._note(smoe)
            self.draw(smoe)

    def draw(self, smoe):
        """Draw now, and write the file."""
        self._draw(smoe, write=True)

    def _draw(self, smoe, write):
        if self.path is None and self._screen is None:
            return
        begun = time.perf_counter()
        if self._page is None:
            self._page = Page(new_figure() if self._screen is None else self._screen.figure)
        _compose(self._page, self._content, smoe)
        if self._screen is not None and not self._screen.show():
            self._screen = None  # its window was closed
        self._page.is_sized = self._screen is not None  # the viewer may resize the window
        if write and self.path is not None:
            _write(self._page.figure, self.path)
        self._state, self._ended = _state_of(smoe), time.perf_counter()
        self._took = self._ended - begun

    def _has_time(self):
        now = time.perf_counter()
        if self._ended is None:  # a window opens at once; a file can wait
            self._ended = now
            return self._screen is not None
        return self._took <= SHARE * (now - self._ended)

    def _note(self, smoe):
        """Store what later drawings need of a validation."""

    def _content(self, page, smoe):
        """Draw on an empty page."""
        raise NotImplementedError


class LossPlotter(Plotter):
    """Loss, quality and number of kernels over the iterations, while a model is trained.

    Parameters
    ----------
    path, quiet, title
        As for ``Plotter``.
    quality : {"psnr", "mse"}
        Quality measure to draw.
    """

    def __init__(self, path=None, quiet=False, title=None, quality="psnr"):
        _check_quality(quality)
        super().__init__(path, quiet, title)
        self.quality = quality

    def _content(self, page, smoe):
        compose_loss(page, smoe.history, self.quality, self.title)


class ImagePlotter(Plotter):
    """Reconstruction, errors and kernels of a model while it is trained.

    Parameters
    ----------
    path, quiet, title
        As for ``Plotter``.
    panels : sequence of str
        Names from ``PANELS``, in the order in which they are drawn.
    """

    def __init__(self, path=None, quiet=False, title=None, panels=PANELS):
        self.panels = _checked_panels(panels)
        super().__init__(path, quiet, title)

    def _content(self, page, smoe):
        scene = Scene.of(smoe)
        facts = f"iteration {smoe.iteration:,} · {scene.facts()}"
        compose_sheet(page, scene, self.panels, _total(smoe), self.title, facts)


class DenoisePlotter(Plotter):
    """A noisy image and its reconstruction while a model of it is trained.

    PSNR and SSIM refer to the clean image if it is given. Otherwise the PSNR refers to the noisy
    image, and the standard deviation of the removed part is shown as well.

    Parameters
    ----------
    clean : array, optional
        The image without noise.
    reference : array, optional
        Result of another method, to compare with.
    reference_name : str
        Name of that method.
    path, quiet, title
        As for ``Plotter``.
    channel_axis : "auto", None or int
        As for ``Smoe``.

    Attributes
    ----------
    curve : (list of int, list of float)
        Iterations of the validations, and the PSNR in dB at each.
    """

    def __init__(self, clean=None, reference=None, reference_name="Reference", path=None,
                 quiet=False, title=None, channel_axis="auto"):
        super().__init__(path, quiet, title)
        self.clean, self.reference = (_pixels(image, channel_axis) for image in (clean, reference))
        self.reference_name = reference_name
        self.curve = [], []

    def _note(self, smoe):
        shape = smoe.engine.picture().shape
        for image in (self.clean, self.reference):
            _check_shape(image, shape)
        iterations, levels = self.curve
        while iterations and iterations[-1] >= smoe.iteration:  # those of an earlier fit
            iterations.pop(), levels.pop()
        iterations.append(smoe.iteration)
        compared = smoe.engine.picture() if self.clean is None else self.clean
        levels.append(psnr(compared, _picture(smoe)))

    def _content(self, page, smoe):
        compose_denoising(page, smoe.engine.picture(), _picture(smoe), self.clean, self.reference,
                           self.reference_name, self.curve, self.title)


def _picture(smoe):
    """The current reconstruction, (*shape, C)."""
    return to_numpy(smoe.reconstruction).reshape(*smoe.shape, smoe.channels)


def _state_of(smoe):
    return smoe.iteration, smoe.params.num_kernels, smoe.history[-1]


def _total(smoe):
    """The number of kernels to compare the current one with, or None if there is none."""
    if smoe.made_by != "fit":
        return smoe.initial_kernels
    return smoe.settings["value"] if smoe.settings["target"] == "kernels" else None


# ---- checks of arguments


def _check_png(path):
    if path is not None and os.path.splitext(path_text(path))[1].lower() != ".png":
        raise ValueError(f"path {path_text(path)!r} must end in .png, the format of figures")


def _check_quality(quality):
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {tuple(QUALITIES)}, got {quality!r}")


def _checked_panels(panels):
    panels = [panels] if isinstance(panels, str) else list(panels)
    unknown = [panel for panel in panels if panel not in PANELS]
    if unknown or not panels:
        raise ValueError(f"panels must be some of {PANELS}, got {unknown or panels}")
    return panels


def _pixels(image, channel_axis, shape=None):
    """An image as (*shape, C) in [0, 1]; None for None."""
    if image is None:
        return None
    pixels, _ = check_image(image, "float32", channel_axis)
    return _check_shape(pixels, shape or pixels.shape)


def _check_shape(pixels, shape):
    if pixels is not None and pixels.shape != shape:
        raise ValueError(f"pictures must have one shape, got {pixels.shape} beside {shape}, "
                         f"channels last")
    return pixels


# ---- output


def _drawn(path, compose, *content):
    """A new figure, written to ``path`` if it is not None."""
    figure = new_figure()
    _compose(Page(figure), compose, *content)
    if path is not None:
        _write(figure, path)
    return figure


@contextlib.contextmanager
def _without_collection():
    """Switch garbage collection off, which takes a fifth of the time of drawing, and finds nothing.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_without_collection()
def _compose(page, compose, *content):
    """Draw on a page, independently of the user's Matplotlib settings."""
    with matplotlib_or_why_not().rc_context(STYLE):
        page.figure.clear()
        page.figure.set_facecolor("white")
        compose(page, *content)


@_without_collection()
def _write(figure, path):
    data = as_png(figure)
    with atomic_write(path) as stream:
        stream.write(data)
