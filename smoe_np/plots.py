"""Figures of a model and of its training; Matplotlib is imported when one is drawn.

``LossPlotter``, ``ImagePlotter`` and ``DenoisePlotter`` are callbacks of ``Smoe.train`` and
``Smoe.fit``; ``loss_figure``, ``image_figure`` and ``denoise_figure`` draw the same of a history,
a model and pictures, such as files hold; ``sparsity_figure`` draws several models side by side.
"""

import contextlib
import gc
import os
import time

from .backend import to_numpy
from .drawing import (
    QUALITIES,
    Page,
    compose_denoising,
    compose_loss,
    compose_sheet,
    compose_sparsity,
)
from .engine import check_image
from .files import atomic_write, path_text
from .metrics import psnr
from .params import SmoeParams
from .progress import tries
from .scene import Scene, scene_of_model
from .screens import as_png, matplotlib_or_why_not, new_figure, screen

PANELS = ("original", "reconstruction", "error", "kernels", "gating", "weights")
SHARE = 0.03  # of the time from drawing to drawing, that a plotter may take for it
FIRST_DRAWING = 1.0  # seconds that it is taken to need, with what is imported for it
STYLE = {  # what is not said where it is drawn, and the user may have set otherwise
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
        As ``Smoe.history`` has them.
    path : str or os.PathLike, optional
        Write a PNG there, whole or not at all.
    quality : {"psnr", "mse"}
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the history is empty, or an argument is of the wrong kind.
    OSError
        If the file cannot be written.
    """
    _check_png(path)
    _check_quality(quality)
    if not history:
        raise ValueError("history is empty; there is nothing to draw before a validation")
    return _drawn(path, compose_loss, history, quality, title)


def image_figure(params, image=None, path=None, panels=None, total=None, title=None,
                 channel_axis="auto", backend="auto"):
    """Draw a model: its picture, its errors, its kernels.

    Parameters
    ----------
    params : SmoeParams
    image : array, optional
        The picture that it is of, as ``Smoe`` takes it.
    path : str or os.PathLike, optional
        Write a PNG there, whole or not at all.
    panels : sequence of str, optional
        Any of ``PANELS``, in the order in which they are wanted; by default all that there are.
    total : int, optional
        How many kernels there were at the start.
    title : str, optional
    channel_axis, backend
        As ``Smoe`` takes them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If an argument is of the wrong kind, or they do not fit together.
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
    """Draw models of one picture side by side, the gating map of each over its reconstruction.

    That is figure 2 of the paper of 2018 on sparse models (see ``smoe_np.sparsify``).

    Parameters
    ----------
    models : sequence of SmoeParams
        In the order in which they are wanted.
    image : array, optional
        The picture that they are of, as ``Smoe`` takes it: PSNRs are to that.
    path : str or os.PathLike, optional
        Write a PNG there, whole or not at all.
    title : str, optional
    channel_axis, backend
        As ``Smoe`` takes them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If there is no model, or they do not fit together.
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
    """Draw what denoising made of a picture.

    Parameters
    ----------
    noisy, denoised : array
    clean : array, optional
        The picture without noise; PSNR and SSIM are of that.
    reference : array, optional
        What another method makes of the noisy one.
    reference_name : str
        Its name.
    curve : (iterations, decibels), optional
        PSNR over the iterations: to the clean picture if there is one, else to the noisy one.
    path : str or os.PathLike, optional
        Write a PNG there, whole or not at all.
    title : str, optional
    channel_axis : "auto", None or int
        As ``Smoe`` takes it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError, TypeError
        If an argument is of the wrong kind, or the shapes differ.
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
    """A figure that follows training: what its three kinds share.

    An object is a callback of ``Smoe.train`` and ``Smoe.fit``. In a notebook the figure is shown
    below the cell, elsewhere in a window where there is a display. It is drawn anew as often as
    ``SHARE`` of the time allows, and at the end of training in any case; of a fit to a PSNR, which
    consists of several, by ``finish``.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A PNG that is written whole or not at all: at the end, and at each drawing where nothing is
        shown.
    quiet : bool
        Show nothing. With neither a path nor anything to show, nothing is drawn.
    title : str, optional
        What stands above the figure.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the path does not end in ``.png``.
    """

    def __init__(self, path=None, quiet=False, title=None):
        _check_png(path)
        matplotlib_or_why_not()
        self.path, self.title = path, title
        self._screen = None if quiet else screen()
        self._page = None
        self._state = None  # of training, when it was drawn last
        self._ended, self._took = None, FIRST_DRAWING  # the last drawing; seconds

    def __call__(self, smoe):
        """Note what a validation found, and draw if it is time, or if it was the last one."""
        self._note(smoe)
        at_end = smoe.iteration >= smoe.until and not tries(smoe)
        if at_end or self._has_time():
            self._draw(smoe, write=at_end or self._screen is None)
        elif self._screen is not None:
            self._screen.breathe()

    def finish(self, smoe):
        """Draw the model that training left, unless that is what was drawn last.

        It may be another one after an interruption, and after a fit to a PSNR.
        """
        if smoe.history and self._state != _state_of(smoe):
            self._note(smoe)
            self.draw(smoe)

    def draw(self, smoe):
        """Draw now."""
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
        self._page.is_sized = self._screen is not None  # by whoever looks at it
        if write and self.path is not None:
            _write(self._page.figure, self.path)
        self._state, self._ended = _state_of(smoe), time.perf_counter()
        self._took = self._ended - begun

    def _has_time(self):
        now = time.perf_counter()
        if self._ended is None:  # a window opens at once; a file is in no hurry
            self._ended = now
            return self._screen is not None
        return self._took <= SHARE * (now - self._ended)

    def _note(self, smoe):
        """Keep of a validation what a later drawing needs."""

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
    """

    def __init__(self, path=None, quiet=False, title=None, quality="psnr"):
        _check_quality(quality)
        super().__init__(path, quiet, title)
        self.quality = quality

    def _content(self, page, smoe):
        compose_loss(page, smoe.history, self.quality, self.title)


class ImagePlotter(Plotter):
    """A model's picture, its errors and its kernels, while it is trained.

    Parameters
    ----------
    path, quiet, title
        As for ``Plotter``.
    panels : sequence of str
        Any of ``PANELS``, in the order in which they are wanted.
    """

    def __init__(self, path=None, quiet=False, title=None, panels=PANELS):
        self.panels = _checked_panels(panels)
        super().__init__(path, quiet, title)

    def _content(self, page, smoe):
        scene = Scene.of(smoe)
        facts = f"iteration {smoe.iteration:,} · {scene.facts()}"
        compose_sheet(page, scene, self.panels, _total(smoe), self.title, facts)


class DenoisePlotter(Plotter):
    """A noisy picture and what becomes of it, while a model of it is trained.

    PSNR and SSIM are to the clean picture if there is one. Else PSNR is to the noisy one, beside
    the standard deviation of what is taken away.

    Parameters
    ----------
    clean, reference : array, optional
        The picture without noise, and what another method makes of the noisy one.
    reference_name : str
        Its name.
    path, quiet, title
        As for ``Plotter``.
    channel_axis : "auto", None or int
        As ``Smoe`` takes it.

    Attributes
    ----------
    curve : (list of int, list of float)
        Iterations, and the PSNR at each.
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
        while iterations and iterations[-1] >= smoe.iteration:  # of a fit before this one
            iterations.pop(), levels.pop()
        iterations.append(smoe.iteration)
        compared = smoe.engine.picture() if self.clean is None else self.clean
        levels.append(psnr(compared, _picture(smoe)))

    def _content(self, page, smoe):
        compose_denoising(page, smoe.engine.picture(), _picture(smoe), self.clean, self.reference,
                           self.reference_name, self.curve, self.title)


def _picture(smoe):
    """What the model shows now: (*shape, C)."""
    return to_numpy(smoe.reconstruction).reshape(*smoe.shape, smoe.channels)


def _state_of(smoe):
    return smoe.iteration, smoe.params.num_kernels, smoe.history[-1]


def _total(smoe):
    """How many kernels there are to be used, or None where that is not known."""
    if smoe.made_by != "fit":
        return smoe.initial_kernels
    return smoe.settings["value"] if smoe.settings["target"] == "kernels" else None


# ---- what is asked for


def _check_png(path):
    if path is not None and os.path.splitext(path_text(path))[1].lower() != ".png":
        raise ValueError(f"path {path_text(path)!r} must end in .png: figures are written as that")


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
    """A picture as (*shape, C) in [0, 1], or None where there is none."""
    if image is None:
        return None
    pixels, _ = check_image(image, "float32", channel_axis)
    return _check_shape(pixels, shape or pixels.shape)


def _check_shape(pixels, shape):
    if pixels is not None and pixels.shape != shape:
        raise ValueError(f"pictures must have one shape, got {pixels.shape} beside {shape}, "
                         f"channels last")
    return pixels


# ---- where it goes


def _drawn(path, compose, *content):
    """A new figure, written if there is a path."""
    figure = new_figure()
    _compose(Page(figure), compose, *content)
    if path is not None:
        _write(figure, path)
    return figure


@contextlib.contextmanager
def _without_collection():
    """What drawing makes is in use until its end: to look for garbage in it takes a fifth of it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_without_collection()
def _compose(page, compose, *content):
    """Draw on a page, the same whatever the user's settings of Matplotlib are."""
    with matplotlib_or_why_not().rc_context(STYLE):
        page.figure.clear()
        page.figure.set_facecolor("white")
        compose(page, *content)


@_without_collection()
def _write(figure, path):
    data = as_png(figure)
    with atomic_write(path) as stream:
        stream.write(data)
