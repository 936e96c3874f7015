"""Figures of a model and of its training; Matplotlib is imported when one is drawn.

``LossPlotter``, ``ImagePlotter`` and ``DenoisePlotter`` are callbacks of ``Smoe.train`` and
``Smoe.fit``; ``loss_figure``, ``image_figure`` and ``denoise_figure`` draw the same of a history,
a model and pictures, such as files hold.
"""

import io
import math
import os
import sys
import threading
import time
import warnings
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .backend import to_numpy
from .colours import MAGMA, VIRIDIS, in_colours, scaled, to_bytes
from .engine import check_image, check_params, gating, render
from .files import atomic_write, path_text
from .metrics import psnr, ssim

PANELS = ("original", "reconstruction", "error", "kernels", "gating", "weights")
QUALITIES = {"psnr": "PSNR (dB)", "mse": "MSE (0–255 scale)"}
SHARE = 0.03  # of the time from drawing to drawing, that a plotter may take for it
FIRST_DRAWING = 1.0  # seconds that it is taken to need, with what is imported for it
MOST_PIXELS = 1024  # of a picture in a figure, along an axis
LEAST_WEIGHT = 1e-6  # of the largest: what is less is counted with that
FAR = 1e6  # pixels: what is farther away cannot be drawn
PEAK = 255.0  # the scale of errors

DPI, CELL_DPI = 120, 75  # of files; of a figure in a notebook as it is shown
COMPRESSION = 1  # more takes twice the time and gains a tenth
FEW = 25  # points of a line that are marked
INK, GREY, RULE = "#1b1f24", "#5f6973", "#d3d9de"
BLUE, ORANGE, GREEN, RED = "#1f6fb4", "#d9730d", "#2f8f5b", "#c2334d"
HEADING, CAPTION, MARGIN, GAP, BETWEEN, CURVE = 0.85, 0.3, 0.6, 0.7, 0.3, 3.0  # inches
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

# ---- what is drawn


class Scene:
    """A model beside its picture, as what a flat page can show of them.

    Of a volume it is the middle slice; of channels that are not three, the first. Pictures larger
    than ``MOST_PIXELS`` are shrunk.

    Parameters
    ----------
    params : SmoeParams
        Of 2 dimensions or more.
    shape : tuple of D ints
    target : (*shape, C) array in [0, 1] or None
        The picture that the model is of.
    draw, find : callables
        They give the model's picture (*shape[, C]) and its gating map (*shape).
    decibels : float, optional
        The PSNR, where it is known.

    Raises
    ------
    ValueError
        If there is but one dimension.
    """

    def __init__(self, params, shape, target, draw, find, decibels=None):
        _check_dimensions(shape)
        self.params, self.shape, self.target = params.map(to_numpy), tuple(shape), target
        self._draw, self._find, self._decibels = draw, find, decibels

    @classmethod
    def of(cls, smoe):
        """The scene of a model in training."""
        last = smoe.history[-1] if smoe.history else None
        known = last is not None and last.iteration == smoe.iteration
        return cls(smoe.params, smoe.shape, smoe.engine.picture(), lambda: smoe.reconstruction,
                   lambda: smoe.gating, last.psnr if known else None)

    @property
    def size(self):
        """Height and width, in pixels of the picture."""
        return self.shape[-2:]

    @cached_property
    def rendered(self):
        """The model's picture: (*shape, C)."""
        return to_numpy(self._draw()).reshape(*self.shape, self.params.num_channels)

    @cached_property
    def original(self):
        """The picture: (h, w) or (h, w, 3)."""
        return flat(self.target)

    @cached_property
    def reconstruction(self):
        """The model's picture: (h, w) or (h, w, 3)."""
        return flat(self.rendered)

    @cached_property
    def psnr(self):
        """In dB, over all of the volume and its channels; None if there is no picture."""
        if self._decibels is None and self.target is not None:
            self._decibels = psnr(self.target, self.rendered)
        return self._decibels

    @cached_property
    def error(self):
        """Root of the mean square over the channels, on the 0–255 scale: (h, w)."""
        step = shrinking(self.size)
        a, b = (middle(array)[::step, ::step] for array in (self.target, self.rendered))
        return PEAK * np.sqrt(np.square(a - b).mean(axis=-1))

    @cached_property
    def owners(self):
        """The kernel that has the largest gate: (h, w) int."""
        step = shrinking(self.size)
        return middle(to_numpy(self._find())[..., None])[::step, ::step, 0]

    def ellipses(self):
        """Where the kernels' Mahalanobis distance ‖Aᵀ(x − μ)‖ is 1, on the slice that is shown.

        Returns
        -------
        kernels : (n,) int64
            Their numbers, the largest first. Those that do not reach the slice are left out, and
            those of weight 0 or below.
        centres : (n, 2) float64
            Row and column, in pixels from the picture's corner.
        frames : (n, 2, 2) float64
            The ellipse is centre + frame · (cos t, sin t).
        values : (n, C) float64
            The experts there, in [0, 1].
        """
        there = np.flatnonzero(self.params.pis > 0)
        params, longest = self.params.select(there).astype(np.float64), max(self.shape)
        A, musX = params.A, params.musX
        at = [(n // 2 + 0.5) / longest for n in self.shape[:-2]]  # where the slice is
        # With A = [A₁; A₂], A₂ of the last two axes, A₂ᵀ = U R: ‖Aᵀ(x − μ)‖² is, at a shift s of x₂
        # in the slice, ‖z + U R s‖² with z = A₁ᵀ(x₁ − μ₁): least at s = −R⁻¹ Uᵀz.
        U, R = np.linalg.qr(A[:, -2:].transpose(0, 2, 1))  # (K, D, 2), (K, 2, 2)
        inverse = np.linalg.inv(R)
        z = np.einsum("kde,kd->ke", A[:, :-2], at - musX[:, :-2])  # (K, D)
        Uz = np.einsum("kdi,kd->ki", U, z)
        least = np.square(z - np.einsum("kdi,ki->kd", U, Uz)).sum(axis=1)
        centres = musX[:, -2:] - np.einsum("kij,kj->ki", inverse, Uz)
        frames = inverse * np.sqrt(np.maximum(1 - least, 0))[:, None, None]
        area = np.abs(frames[:, 0, 0] * frames[:, 1, 1] - frames[:, 0, 1] * frames[:, 1, 0])
        shown = np.argsort(-area, kind="stable")
        shown = shown[least[shown] < 1]
        x = np.concatenate([np.broadcast_to(at, (len(musX), len(at))), centres], axis=1)
        values = params.nu_e + np.einsum("kcd,kd->kc", params.gamma_e, x)
        return (there[shown], centres[shown] * longest, frames[shown] * longest,
                np.clip(values[shown], 0, 1))

    def facts(self):
        """Quality and size in words."""
        found = [] if self.psnr is None else [decibels(self.psnr)]
        return " · ".join([*found, counted(self.params.num_kernels, "kernel")])


def scene_of_model(params, image=None, channel_axis="auto", backend="auto"):
    """The scene of a model, and of the picture that it is of, if that is given.

    Raises
    ------
    ValueError, TypeError
        If they do not fit together, or the size of the picture is not known.
    """
    check_params(params)
    if image is None:
        if params.image_shape is None:
            raise ValueError("params does not hold the size of its picture; give image")
        shape, target = params.image_shape, None
    else:
        target, _ = check_image(image, "float32", channel_axis)
        shape = target.shape[:-1]
        if (len(shape), target.shape[-1]) != (params.num_dims, params.num_channels):
            raise ValueError(
                f"params is a model of {params.num_dims} dimensions and {params.num_channels} "
                f"channels, the image has {len(shape)} dimensions and {target.shape[-1]} channels")
    params = params.map(to_numpy)
    return Scene(params, shape, target, lambda: render(params, shape, backend),
                 lambda: gating(params, shape, backend))


def _check_dimensions(shape):
    if len(shape) < 2:
        raise ValueError(f"a picture is drawn of 2 dimensions or more, this has {len(shape)}")


def middle(array):
    """Of (*shape, C), the middle slice over all axes but two: (H, W, C)."""
    return array[tuple(n // 2 for n in array.shape[:-3])]


def shrinking(size):
    """By how much a picture is shrunk to be shown."""
    return -(-max(size) // MOST_PIXELS)


def flat(array):
    """Of (*shape, C) what a page shows: (h, w), or (h, w, 3) of three channels."""
    picture = middle(array)
    picture = picture if picture.shape[-1] == 3 else picture[..., 0]
    step = shrinking(picture.shape[:2])
    if step > 1:  # means of step × step pixels, fewer at the far edges
        for axis in (0, 1):
            begins = np.arange(0, picture.shape[axis], step)
            counts = np.diff(begins, append=picture.shape[axis])
            sums = np.add.reduceat(picture, begins, axis)
            picture = sums / counts.reshape([-1 if a == axis else 1 for a in range(sums.ndim)])
    return np.clip(picture, 0, 1)


def faded(picture):
    """A picture in middle greys, on which dark and light can be drawn."""
    grey = picture if picture.ndim == 2 else picture @ (0.299, 0.587, 0.114)
    return 0.22 + 0.36 * grey


def colours_of(values):
    """Colours of expert values (n, C): their own if there are three channels: (n, 3) uint8."""
    return to_bytes(values) if values.shape[1] == 3 else scaled(values[:, 0], VIRIDIS)


def decibels(value):
    """A PSNR in writing."""
    return f"{value:.2f} dB" if math.isfinite(value) else "∞ dB"


def counted(count, noun):
    """A number and its noun: ``1 kernel``, ``1,024 kernels``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def highest_error(error):
    """Where the scale of an error map ends: beyond it are few pixels; (0–255 scale)."""
    return max(1.0, float(np.percentile(error, 99.5)))


def labels(ticks):
    """The ticks of an axis in writing; evenly spaced ones with as many digits as that takes."""
    steps = np.diff(ticks)
    even = len(steps) > 0 and np.ptp(steps) < 1e-6 * steps[0]
    return [number(tick, steps[0] if even else None) for tick in ticks]


def number(value, step=None):
    """A number in writing, such as ``0.002``, ``1,500``, ``2·10⁻⁶``.

    It has the digits that tell it from the next one a step away, else three at most.
    """
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    last = size - 2 if step is None else math.floor(math.log10(step) + 1e-9)  # place of a digit
    if -3 <= size < 7:
        text = f"{value:,.{max(0, -last)}f}"
        return text if step is not None or "." not in text else text.rstrip("0").rstrip(".")
    digits = f"{value / 10.0**size:.{max(0, size - last)}f}"
    digits = digits.rstrip("0").rstrip(".") if step is None else digits
    raised = "10" + str(size).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return raised if digits == "1" else f"{digits}·{raised}"


def round_numbers(low, high, most):
    """Round numbers from low to high, evenly spaced, at most about so many."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [step * i for i in range(math.ceil(low / step - 1e-9),
                                    math.floor(high / step + 1e-9) + 1)]


def round_factors(low, high, most):
    """Round numbers from low to high for a logarithmic scale, at most about so many."""
    decades = math.log10(high / low)
    if decades < 0.5:
        return round_numbers(low, high, most)
    parts = next((parts for parts in ((1, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3))
                  if len(parts) * decades <= most), (1,))
    stride = math.ceil(decades / most)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (part * 10.0**power for power in powers if power % stride == 0 for part in parts)
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def limits_of(values, logarithmic=False):
    """Where an axis of these values begins and ends, or None if none of them can be shown."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        room = max((high / low) ** 0.06, 1.1)
        return low / room, high * room
    room = max(0.06 * (high - low), 0.01 * abs(high), 1e-6)
    return low - room, high + room


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
    return _drawn(path, _compose_loss, history, quality, title)


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
    return _drawn(path, _compose_sheet, scene, panels, total, title, scene.facts())


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
    return _drawn(path, _compose_denoising, noisy, denoised, clean, reference, reference_name,
                  curve, title)


# ---- callbacks


class Plotter:
    """A figure that follows training: what its three kinds share.

    An object is a callback of ``Smoe.train`` and ``Smoe.fit``. In a notebook the figure is shown
    below the cell, elsewhere in a window where there is a display. It is drawn anew as often as
    ``SHARE`` of the time allows, and at the end of training in any case.

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
        _matplotlib()
        self.path, self.title = path, title
        self._screen = None if quiet else _screen()
        self._page = None
        self._state = None  # of training, when it was drawn last
        self._ended, self._took = None, FIRST_DRAWING  # the last drawing; seconds

    def __call__(self, smoe):
        """Note what a validation found, and draw if it is time, or if it was the last one."""
        self._note(smoe)
        at_end = smoe.iteration >= smoe.until
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
            self._page = _Page(_new_figure() if self._screen is None else self._screen.figure)
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
        _compose_loss(page, smoe.history, self.quality, self.title)


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
        _compose_sheet(page, scene, self.panels, _total(smoe), self.title, facts)


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
        _compose_denoising(page, smoe.engine.picture(), _picture(smoe), self.clean, self.reference,
                           self.reference_name, self.curve, self.title)


def _picture(smoe):
    """What the model shows now: (*shape, C)."""
    return to_numpy(smoe.reconstruction).reshape(*smoe.shape, smoe.channels)


def _state_of(smoe):
    return smoe.iteration, smoe.params.num_kernels, smoe.history[-1]


def _total(smoe):
    """How many kernels there are to be used, or None where that is not known."""
    settings = smoe.settings or {}
    if "target" not in settings:
        return smoe.initial_kernels
    return settings["value"] if settings["target"] == "kernels" else None


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


def _matplotlib():
    try:
        import matplotlib
    except ImportError:
        raise ImportError('figures need Matplotlib: pip install "smoe_np[plots]"') from None
    return matplotlib


def _new_figure():
    _matplotlib()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows where it is the value of a cell."""

        def _repr_png_(self):
            return _as_png(self), {"width": round(self.get_figwidth() * CELL_DPI)}

    return ShownFigure()


def _drawn(path, compose, *content):
    """A new figure, written if there is a path."""
    figure = _new_figure()
    _compose(_Page(figure), compose, *content)
    if path is not None:
        _write(figure, path)
    return figure


def _compose(page, compose, *content):
    """Draw on a page, the same whatever the user's settings of Matplotlib are."""
    with _matplotlib().rc_context(STYLE):
        page.figure.clear()
        page.figure.set_facecolor("white")
        compose(page, *content)


def _as_png(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image  # which Matplotlib needs itself

    canvas, dpi = figure.canvas, figure.dpi  # those of a window
    try:
        own = FigureCanvasAgg(figure)
        figure.dpi = DPI
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box stands for it
            own.draw()
        drawn = np.ascontiguousarray(np.asarray(own.buffer_rgba())[..., :3])  # alpha is 255
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    data = io.BytesIO()
    Image.fromarray(drawn).save(data, format="png", compress_level=COMPRESSION)
    return data.getvalue()


def _write(figure, path):
    data = _as_png(figure)
    with atomic_write(path) as stream:
        stream.write(data)


def _screen():
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
        self.figure, self._shown = _new_figure(), None

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


# ---- how it is drawn: lengths in inches, text in points


def _compose_loss(page, history, quality, title):
    page.begin(9.0, 5.6, title or "Training", _facts_of(history[-1]))
    above = page.axes(0.95, 2.15, 7.2, 2.55)
    beside = above.twinx()
    below = page.axes(0.95, 0.6, 7.2, 1.3)
    iterations = [record.iteration for record in history]
    lines = []
    for axes, name, label, colour in ((above, "loss", "Loss", BLUE),
                                      (beside, quality, QUALITIES[quality], ORANGE),
                                      (below, "kernels", "Kernels", GREEN)):
        values = np.array([getattr(record, name) for record in history], float)
        values[~np.isfinite(values)] = np.nan  # a PSNR without any error
        if name != "kernels":
            _scale(axes, values, name in ("loss", "mse"))
        lines.append(_line(axes, iterations, values, colour, label))
        _style(axes, label, colour)
        _iterations(axes, iterations)
    for axes in (above, below):
        axes.yaxis.set_label_coords(-0.7 / 7.2, 0.5)
    beside.grid(False)
    above.tick_params(labelbottom=False)
    above.set_xlabel("")
    most = max(1, *(record.kernels for record in history))
    below.set_ylim(0, 1.15 * most)
    _whole_numbers(below.yaxis, 0, 1.15 * most, 4)
    page.figure.legend(handles=lines, loc="center right", ncols=3, frameon=False, fontsize=10,
                       labelcolor=INK, handlelength=1.6, borderaxespad=0, borderpad=0,
                       bbox_to_anchor=(8.15 / page.width, 1 - 0.63 / page.height))


def _facts_of(record):
    return (f"iteration {record.iteration:,} · {decibels(record.psnr)} · "
            f"{counted(record.kernels, 'kernel')}")


def _compose_sheet(page, scene, panels, total, title, facts):
    draw = {"original": _draw_original, "reconstruction": _draw_reconstruction,
            "error": _draw_error, "gating": _draw_gating, "kernels": _draw_kernels,
            "weights": lambda panel, scene: _draw_weights(panel, scene.params.pis, total)}
    is_wide = scene.size[1] > 2 * scene.size[0]
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 2 if is_wide else 3)
    places = _panels(page, len(panels), columns, scene.size, title or "Model", facts)
    for place, panel in zip(places, panels):
        draw[panel](place, scene)


def _draw_original(panel, scene):
    before = "" if len(scene.shape) == 2 else "middle slice of "
    _draw_picture(panel, scene.original, scene.size, "Original",
                  before + "×".join(map(str, scene.shape)))


def _draw_reconstruction(panel, scene):
    _draw_picture(panel, scene.reconstruction, scene.size, "Reconstruction",
                  "" if scene.psnr is None else decibels(scene.psnr))


def _draw_error(panel, scene):
    highest = highest_error(scene.error)
    _draw_picture(panel, scaled(scene.error / highest, MAGMA), scene.size, "Error",
                  "of 255 grey levels")
    _bar(panel, MAGMA, highest)


def _draw_gating(panel, scene):
    owning = counted(len(np.unique(scene.owners)), "kernel")
    _draw_picture(panel, in_colours(scene.owners), scene.size, "Gating map",
                  f"{owning} own pixels")


def _draw_kernels(panel, scene):
    from matplotlib.collections import PolyCollection

    height, width = scene.size
    backdrop = scene.reconstruction if scene.target is None else scene.original
    _draw_picture(panel, faded(backdrop), scene.size, "Kernels", "1σ, in the expert's colour")
    _, centres, frames, values = scene.ellipses()
    angles = np.linspace(0, 2 * np.pi, 41 if len(centres) < 2000 else 21)
    circle = np.stack([np.cos(angles), np.sin(angles)])  # (2, points)
    outlines = centres[:, None] + (frames @ circle).transpose(0, 2, 1)  # (n, points, 2)
    outlines = np.clip(outlines, -FAR, FAR)
    thickness = np.clip(1.3 - 0.22 * math.log2(max(len(centres), 1) / 300), 0.4, 1.3)
    colours = colours_of(values) / 255
    panel.axes.add_collection(PolyCollection(
        outlines[..., ::-1], linewidths=float(thickness), edgecolors=colours,
        facecolors=np.column_stack([colours, np.full(len(colours), 0.25)])), autolim=False)
    panel.axes.set(xlim=(0, width), ylim=(height, 0))
    if values.shape[1] != 3:
        _bar(panel, VIRIDIS, 1)


def _draw_weights(panel, pis, total):
    axes, pis = panel.axes, pis[pis > 0]
    high = float(pis.max())
    low = max(float(pis.min()), high * LEAST_WEIGHT)
    half = 1.05 * max(math.sqrt(high / low), 2)  # of the axis, as a factor
    edges = np.geomspace(math.sqrt(low * high) / half, math.sqrt(low * high) * half, 41)
    counts, _ = np.histogram(np.clip(pis, low, high), edges)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * counts.max()))
    _ticks(axes.xaxis, (edges[0], edges[-1]), True)
    _whole_numbers(axes.yaxis, 0, 1.08 * counts.max(), 5)
    _style(axes)
    _caption(panel, "Weights π", f"{len(pis):,} of {total:,} kernels used"
             if total is not None and total >= len(pis) else counted(len(pis), "kernel"))


def _compose_denoising(page, noisy, denoised, clean, reference, reference_name, curve, title):
    _check_dimensions(noisy.shape[:-1])
    pictures = [(name, image) for name, image in (
        ("Clean", clean), ("Noisy", noisy), ("Denoised", denoised), (reference_name, reference))
        if image is not None]
    levels = [None if clean is None or image is clean else psnr(clean, image)
              for _, image in pictures]
    remarks = []
    for (_, image), level in zip(pictures, levels):
        if level is not None:
            remarks.append(f"{decibels(level)}, SSIM {ssim(clean, image, -1):.3f}")
        elif clean is None and image is not noisy:
            remarks.append(f"σ {PEAK * float(np.std(image - noisy)):.1f} taken away")
        else:
            remarks.append("")
        if image is denoised:
            facts = remarks[-1]
    has_curve = curve is not None and len(curve[0]) > 0
    size = noisy.shape[-3:-1]
    panels = _panels(page, len(pictures), len(pictures), size, title or "Denoising", facts,
                     CURVE if has_curve else 0)
    for panel, (name, image), remark in zip(panels, pictures, remarks):
        _draw_picture(panel, flat(image), size, name, remark)
    if has_curve:
        axes = page.axes(0.8, 0.6, page.width - 0.8 - MARGIN, CURVE - 0.65)
        others = [(name, level) for (name, image), level in zip(pictures, levels)
                  if level is not None and math.isfinite(level) and image is not denoised]
        _draw_levels(axes, curve, others)
        _style(axes, "PSNR to the noisy (dB)" if clean is None else "PSNR (dB)")


def _draw_levels(axes, curve, others):
    """PSNR over the iterations, and as dashed lines that of other pictures (name, level)."""
    iterations, values = curve[0], np.where(np.isfinite(curve[1]), curve[1], np.nan)
    _scale(axes, [*values, *(level for _, level in others)], False)
    _line(axes, iterations, values, BLUE, "Denoised")
    for (name, level), colour in zip(others, (GREY, RED)):
        axes.axhline(level, color=colour, linewidth=1.5, linestyle=(0, (5, 3)), label=name)
    _iterations(axes, iterations)
    if others:
        legend = axes.legend(loc="lower right", frameon=False, fontsize=10, labelcolor=INK,
                             ncols=3)
        for text in legend.get_texts():
            text.set_parse_math(False)


# ---- its parts


class _Page:
    """A figure, and places on it in inches from the lower left.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Attributes
    ----------
    width, height : float
        In inches; in a window that was made larger or smaller all goes with it.
    is_sized : bool
        Whether the figure is left as large as it is.
    """

    def __init__(self, figure):
        self.figure, self.is_sized = figure, False

    def begin(self, width, height, title, facts):
        """Give the page its size and its heading."""
        self.width, self.height = width, height
        if not self.is_sized:
            self.figure.set_size_inches(width, height)
        most = int((width - 2 * MARGIN) / 0.13)  # characters that have room
        title = " ".join(str(title).split())
        if len(title) > most:
            title = title[:most // 2] + "…" + title[len(title) - most // 2 + 1:]
        self.text(MARGIN, height - 0.42, title, fontsize=14, weight="bold", color=INK)
        self.text(MARGIN, height - 0.66, facts, fontsize=10.5, color=GREY)

    def axes(self, left, bottom, width, height):
        """Axes at a place."""
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width,
                                     height / self.height))

    def text(self, left, bottom, text, **style):
        """Text at a place, as it is."""
        self.figure.text(left / self.width, bottom / self.height, text, parse_math=False, **style)


class _Panel(NamedTuple):
    """A place for a picture, and for a line above it."""

    page: _Page
    axes: Any
    left: float
    top: float
    width: float
    of_picture: float  # width


def _panels(page, count, columns, size, title, facts, foot=0.0):
    """Begin a page of panels for pictures of a size (height, width), row by row.

    Parameters
    ----------
    foot : float
        What is to be left free below them.
    """
    width = {1: 5.2, 2: 4.6, 3: 3.9}.get(columns, 3.4)
    height = width * min(max(size[0] / size[1], 0.35), 1.5)
    rows = -(-count // columns)
    page.begin(2 * MARGIN + columns * width + (columns - 1) * GAP,
               HEADING + rows * (height + CAPTION) + (rows - 1) * BETWEEN + MARGIN + foot,
               title, facts)
    panels = []
    for place in range(count):
        row, column = divmod(place, columns)
        left = MARGIN + column * (width + GAP)
        top = page.height - HEADING - CAPTION - row * (height + CAPTION + BETWEEN)
        axes = page.axes(left, top - height, width, height)
        panels.append(_Panel(page, axes, left, top, width, min(width, height * size[1] / size[0])))
    return panels


def _caption(panel, title, remark):
    page, bottom = panel.page, panel.top + 0.08
    page.text(panel.left, bottom, title, fontsize=10.5, weight="bold", color=INK)
    page.text(panel.left + panel.width, bottom, remark, fontsize=9, color=GREY, ha="right")


def _draw_picture(panel, picture, size, title, remark):
    axes, (height, width) = panel.axes, size
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0),
                origin="upper", aspect="equal")
    axes.set_anchor("NW")
    axes.set(xticks=(), yticks=())
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    _caption(panel, title, remark)


def _bar(panel, scale, highest):
    """A scale of colours from 0 to the highest value, beside a picture."""
    axes = panel.axes  # axes of its own would take longer to draw than all the rest
    limits = axes.get_xlim(), axes.get_ylim()
    left, right, text = (1 + inches / panel.of_picture for inches in (0.08, 0.2, 0.26))
    axes.imshow(scaled(np.linspace(0, 1, 256)[:, None], scale), extent=(left, right, 0, 1),
                origin="lower", aspect="equal", transform=axes.transAxes, clip_on=False)
    axes.set(xlim=limits[0], ylim=limits[1])
    for value in round_numbers(0, highest, 5):
        axes.text(text, value / highest, number(value), transform=axes.transAxes, fontsize=8.5,
                  color=GREY, va="center")


def _line(axes, iterations, values, colour, label):
    marker = {"marker": "o", "markersize": 4} if len(iterations) <= FEW else {}
    return axes.plot(iterations, values, color=colour, linewidth=1.8, label=label, **marker)[0]


def _style(axes, label="", colour=INK):
    axes.set_ylabel(label, color=colour, fontsize=10)
    axes.tick_params(labelsize=9, labelcolor=GREY, color=RULE, which="both")
    axes.grid(True, color=RULE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=RULE)


def _iterations(axes, iterations):
    """An axis of iterations that ends where they do."""
    first, last = iterations[0], iterations[-1]
    margin = 0.02 * (last - first) or 1
    axes.set_xlim(first - margin, last + margin)
    _whole_numbers(axes.xaxis, first, last, 8)
    axes.set_xlabel("Iteration", color=INK, fontsize=10)


def _whole_numbers(axis, low, high, most):
    ticks = round_numbers(low, high, min(most, high - low)) if high > low else [low]
    axis.set_ticks(ticks, labels=labels(ticks))


def _scale(axes, values, logarithmic):
    """Make the vertical axis fit its values."""
    limits = limits_of(values, logarithmic)
    if limits is None:
        axes.set_yticks(())
        return
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(limits)
    _ticks(axes.yaxis, limits, logarithmic)


def _ticks(axis, limits, logarithmic):
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = (round_factors if logarithmic else round_numbers)(*limits, 7)
    axis.set_ticks(ticks, labels=labels(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
