"""Pictures without their noise: the mean of several models, each of them kept smooth."""

import math
import warnings

import numpy as np

from .backend import array_module
from .engine import check_image, check_number, check_whole, warn_if_thin
from .fit import Recipe
from .metrics import PEAK
from .smoe import Smoe

# What follows was measured on crops of four pictures; examples/denoise.md says how.
FITS, ITERATIONS = 9, 40
STRENGTHS = 0.4, 1.0, 2.5  # of the bandwidth, from model to model
STRENGTH = 13.6  # λ_U is this, by σ² and per pixel
DENSITY, USUAL_SIGMA = 0.15, 10.0  # kernels of a pixel at this noise; fewer with more, as the root
LEAST_SIGMA = 0.05  # less noise than that of rounding to 8 bits is none
MOST_SIGMA = 1000.0  # more is no picture
NEAR = 3.0  # pixels, σ of the window in which a residual is compared with noise
RECIPE = Recipe(start=1.0, events_until=0.0, jitter=0.5, rate=0.2, weight_rate=0.2, shape_rate=0.12,
                expert_rate=0.03, slope_rate=0.018, list_life=8, coarse=False,
                turn_every=0)  # axes would be those of noise


def denoise(image, sigma=None, fits=FITS, seed=0, backend="auto", channel_axis="auto",
            progress=None):
    """Take additive white Gaussian noise off a picture.

    Models of many kernels are fitted to the noisy picture, for a few steps only. In their loss is
    the bandwidth, λ_U Σ A_dd, which keeps kernels wide where the picture does not insist on narrow
    ones (Bochinski et al., ICIP 2018). Each model starts from a grid that is shaken in its own way,
    and has one of three weights λ_U ∝ σ². Their mean is the result: what one of them makes of the
    noise another does not, while all show the picture. Fine texture that they miss is given back
    where more is left in the residual than noise of this σ would leave.

    Parameters
    ----------
    image : array
        (*shape,) or (*shape, C): float in [0, 1], or uint8/uint16.
    sigma : float, optional
        Standard deviation of the noise on the scale of 0 to 255. Without it, it is estimated by
        scikit-image (the extra ``denoise``).
    fits : int
        Models, 3 or more to have every weight; more are better, and take longer.
    seed : int
        Of the grids. The same call gives the same picture, bit for bit on the CPU.
    backend, channel_axis
        As ``Smoe`` takes them.
    progress : callable, optional
        Called after each model with the mean so far, how many there are, and how many there will
        be.

    Returns
    -------
    array
        In [0, 1], float32, in the shape of the image; a copy of it where there is no noise.

    Raises
    ------
    ValueError, TypeError
        If an argument is of the wrong kind or range.
    ImportError
        If ``sigma`` is not given, and scikit-image is not installed.

    Warns
    -----
    RuntimeWarning
        If ``sigma`` seems to be on the scale of 0 to 1.
    """
    fits, seed = check_whole("fits", fits, 1), check_whole("seed", seed, 0)
    noisy, has_channels = check_image(image, "float32", channel_axis)
    warn_if_thin(image, channel_axis)
    axis = -1 if channel_axis == "auto" else channel_axis
    is_given = sigma is not None
    sigma = check_sigma(sigma if is_given else estimate_sigma(noisy, -1))
    if is_given and 0 < sigma < 1 and array_module(image).asarray(image).dtype.kind == "f":
        warnings.warn(f"sigma is on the scale of 0 to 255, also for an image in [0, 1]; {sigma:g} "
                      f"is hardly any noise", RuntimeWarning, stacklevel=2)

    def given_back(pixels):
        shown = np.moveaxis(pixels, -1, axis) if has_channels else pixels[..., 0]
        return array_module(image).asarray(np.ascontiguousarray(shown, np.float32))

    if sigma < LEAST_SIGMA:
        return given_back(noisy)
    smoe = Smoe(noisy, 1, backend=backend, channel_axis=-1)
    pixels = math.prod(smoe.shape)
    density = DENSITY * math.sqrt(USUAL_SIGMA / sigma)
    kernels = min(pixels, max(1, round(density * pixels)))
    weight = STRENGTH * (sigma / PEAK) ** 2 / (pixels * max(smoe.shape))
    total = 0.0
    for done in range(1, fits + 1):
        recipe = RECIPE._replace(bandwidth_reg=weight * STRENGTHS[(done - 1) % len(STRENGTHS)])
        smoe.fit(kernels=kernels, iterations=ITERATIONS, val_iter=ITERATIONS, seed=seed + done - 1,
                 recipe=recipe)
        total = total + smoe.reconstruction.reshape(noisy.shape).astype(np.float64)
        if progress is not None or done == fits:
            clean = given_back(_with_texture(total / done, noisy, sigma / PEAK))
        if progress is not None:
            progress(clean, done, fits)
    return clean


def check_sigma(sigma, name="sigma"):
    """A standard deviation of noise that may be, as a float; else an error that names it."""
    sigma = check_number(name, sigma)
    if sigma > MOST_SIGMA:
        raise ValueError(f"{name} must be at most {MOST_SIGMA:g}, on the scale of 0 to 255, got "
                         f"{sigma:g}")
    return sigma


def _with_texture(picture, noisy, sigma):
    """Give back what the models have missed: y + max(0, 1 − σ²/v) (t − y), clipped to [0, 1].

    v is the mean of (t − y)² near by, in a channel. Where it is above σ², that is not all noise.
    """
    from scipy.ndimage import gaussian_filter

    missed = noisy - picture
    near = [NEAR] * (missed.ndim - 1) + [0]
    variance = gaussian_filter(missed * missed, near)
    share = np.maximum(0, 1 - sigma**2 / np.maximum(variance, 1e-30))
    return np.clip(picture + share * missed, 0, 1)


def estimate_sigma(image, channel_axis="auto"):
    """The standard deviation of the noise in a picture, on the scale of 0 to 255.

    It is that of scikit-image: the median of the finest wavelet coefficients of each channel
    (Donoho & Johnstone, Biometrika 1994), and their mean.

    Raises
    ------
    ValueError, TypeError
        If it is no picture.
    ImportError
        If scikit-image is not installed.
    """
    pixels, _ = check_image(image, "float64", channel_axis)
    try:
        from skimage.restoration import estimate_sigma as of_wavelets
    except ImportError:
        raise ImportError('sigma is not given, and scikit-image, which would estimate it, is not '
                          'installed: pip install "smoe_np[denoise]", or give sigma') from None
    if min(pixels.shape[:-1]) < 2:
        return 0.0  # nothing to tell noise from
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # of a channel that is the same everywhere, and of 3 columns, which might be channels
        warnings.simplefilter("ignore")
        found = [of_wavelets(pixels[..., c]) for c in range(pixels.shape[-1])]
    return PEAK * float(np.mean(np.nan_to_num(found)))  # NaN where all is the same
