"""What figures show of a model and its picture: pictures, errors, gating maps, ellipses."""

from functools import cached_property

import numpy as np

from .arguments import check_image, check_kind, check_params
from .backend import to_numpy
from .colours import VIRIDIS, scaled, to_bytes
from .engine import gating, render
from .metrics import PEAK, psnr
from .numerals import counted, decibels

MOST_PIXELS = 1024  # largest size of a picture in a figure, along an axis, in pixels


class Scene:
    """A model and its picture, reduced to what a two-dimensional figure can show.

    Of a volume that is the middle slice; of channels other than three, the first. Pictures larger
    than ``MOST_PIXELS`` are downscaled.

    Parameters
    ----------
    params : SmoeParams
        Of 2 dimensions or more.
    shape : tuple of D ints
    target : (*shape, C) array in [0, 1] or None
        The picture to which the model was fitted.
    draw, find : callables
        Return the model's picture (*shape[, C]) and its gating map (*shape).
    decibels : float, optional
        The PSNR in dB, if known.

    Raises
    ------
    ValueError
        If there is only one dimension.
    """

    def __init__(self, params, shape, target, draw, find, decibels=None):
        check_dimensions(shape)
        self.params, self.shape, self.target = params.map(to_numpy), tuple(shape), target
        self._draw, self._find, self._decibels = draw, find, decibels

    @classmethod
    def of(cls, smoe):
        """The scene of a model in training."""
        return cls(smoe.params, smoe.shape, smoe.engine.picture(), lambda: smoe.reconstruction,
                   lambda: smoe.gating, None if smoe.record is None else smoe.record.psnr)

    @property
    def size(self):
        """Height and width of the picture, in pixels."""
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
        """PSNR in dB, over the whole volume and all channels; None without a picture."""
        if self._decibels is None and self.target is not None:
            self._decibels = psnr(self.target, self.rendered)
        return self._decibels

    @cached_property
    def error(self):
        """Root mean square error over the channels, on the 0–255 scale: (h, w)."""
        step = shrinking(self.size)
        a, b = (middle(array)[::step, ::step] for array in (self.target, self.rendered))
        return PEAK * np.sqrt(np.square(a - b).mean(axis=-1))

    @cached_property
    def owners(self):
        """The number of the kernel with the largest gate at each pixel: (h, w) int."""
        step = shrinking(self.size)
        return middle(to_numpy(self._find())[..., None])[::step, ::step, 0]

    def ellipses(self):
        """Where the kernels' Mahalanobis distance ‖Aᵀ(x − μ)‖ is 1, on the slice that is shown.

        Returns
        -------
        kernels : (n,) int64
            Kernel numbers, largest ellipses first. Kernels that do not reach the slice, and those
            of weight 0 or below, are left out.
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
        """PSNR and number of kernels as text."""
        found = [] if self.psnr is None else [decibels(self.psnr)]
        return " · ".join([*found, counted(self.params.num_kernels, "kernel")])


def scene_of_model(params, image=None, channel_axis="auto", backend="auto"):
    """The scene of a model, and of its picture if that is given.

    Raises
    ------
    ValueError, TypeError
        If they do not fit together, or the size of the picture is not known.
    """
    params = check_params(params)
    if image is None:
        if params.image_shape is None:
            raise ValueError("params does not hold the size of its picture; give image")
        shape, target = params.image_shape, None
    else:
        target, _ = check_image(image, "float32", channel_axis)
        shape = target.shape[:-1]
        check_kind(params, target.ndim - 1, target.shape[-1])
    params = params.map(to_numpy)
    params.image_shape = shape  # the unit of the kernels is its longest axis
    return Scene(params, shape, target, lambda: render(params, shape, backend),
                 lambda: gating(params, shape, backend))


def check_dimensions(shape):
    """Raise ValueError unless there is a slice to be shown."""
    if len(shape) < 2:
        raise ValueError(f"a picture is drawn of 2 dimensions or more, this has {len(shape)}")


def middle(array):
    """Of (*shape, C), the middle slice over all axes but two: (H, W, C)."""
    return array[tuple(n // 2 for n in array.shape[:-3])]


def shrinking(size):
    """The integer factor by which a picture is downscaled in a figure."""
    return -(-max(size) // MOST_PIXELS)


def flat(array):
    """What a figure shows of (*shape, C): (h, w), or (h, w, 3) with three channels."""
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
    """A picture in middle greys, as a background for dark and light drawings."""
    grey = picture if picture.ndim == 2 else picture @ (0.299, 0.587, 0.114)
    return 0.22 + 0.36 * grey


def colours_of(values):
    """Colours of expert values (n, C), as RGB if C is 3, else by a scale: (n, 3) uint8."""
    return to_bytes(values) if values.shape[1] == 3 else scaled(values[:, 0], VIRIDIS)


def highest_error(error):
    """The upper end of the scale of an error map, which few pixels exceed (0–255 scale)."""
    return max(1.0, float(np.percentile(error, 99.5)))
