"""Denoising of images by the mean of several smooth models."""

import math
import warnings

import numpy as np

from .arguments import check_image, check_number, check_whole, warn_if_thin
from .backend import array_module
from .metrics import PEAK
from .recipe import Recipe
from .smoe import Smoe

# These values were tuned on crops of four pictures; see examples/denoise.md.
FITS, ITERATIONS = 9, 40
STRENGTHS = 0.4, 1.0, 2.5  # factors of λ_U, which the models take in turn
STRENGTH = 13.6  # λ_U is this · σ² / (number of pixels · longest axis)
# Kernels per pixel at a noise of USUAL_SIGMA; they decrease with the square root of the noise.
DENSITY, USUAL_SIGMA = 0.15, 10.0
LEAST_SIGMA = 0.05  # smaller than the noise of rounding to 8 bits: taken for none
MOST_SIGMA = 128.0  # half the range: a larger one is in other units
NEAR = 3.0  # σ in pixels of the window in which the residual is compared with the noise
RECIPE = Recipe(start=1.0, events_until=0.0, jitter=0.5, rate=0.2, weight_rate=0.2, shape_rate=0.12,
                expert_rate=0.03, slope_rate=0.018, coarse=False,
                turn_every=0)  # decorrelated axes would be those of the noise


def denoise(image, sigma=None, fits=FITS, seed=0, backend="auto", channel_axis="auto",
            progress=None):
    """Remove additive white Gaussian noise from an image.

    Parameters
    ----------
    image : array
        The noisy image, (*shape,) or (*shape, C): floats in [0, 1], or uint8 or uint16.
    sigma : float, optional
        Standard deviation of the noise on the scale of 0 to 255, also for images in [0, 1]. By
        default it is estimated with scikit-image (the extra ``denoise``).
    fits : int
        Number of models to average. With fewer than 3 not all smoothing strengths are used; more
        models give better results, and take longer.
    seed : int
        Random seed of the starting grids. On the CPU the same call returns the same image, bit for
        bit.
    backend, channel_axis
        As for ``Smoe``.
    progress : callable, optional
        Function that is called after each model as ``progress(image, done, fits)``, with the result
        so far and the numbers of models done and in all.

    Returns
    -------
    float32 array
        The denoised image, in [0, 1], with the shape of ``image``; a copy of ``image`` if ``sigma``
        is below 0.05.

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong type or range.
    ImportError
        If ``sigma`` is not given and scikit-image is not installed.

    Warns
    -----
    RuntimeWarning
        If ``sigma`` seems to be on the scale of 0 to 1.

    Notes
    -----
    Models of many kernels are fitted to the noisy image in a few steps each. Their loss has a
    bandwidth term, λ_U Σ A_dd, which keeps kernels wide where the image does not require narrow
    ones (Bochinski et al., ICIP 2018). The models start from differently jittered grids and take
    one of three weights λ_U ∝ σ² in turn. They follow the noise in different ways but all describe
    the image, so that their mean has less noise. Where the residual has a larger variance than
    noise of this ``sigma``, a part of it is added back to restore fine texture.

    Examples
    --------
    >>> clean = smoe_np.denoise(noisy, sigma=10)
    """
    fits, seed = check_whole("fits", fits, 1), check_whole("seed", seed, 0)
    noisy, has_channels = check_image(image, "float32", channel_axis)
    warn_if_thin(image, channel_axis)
    axis = -1 if channel_axis == "auto" else channel_axis
    is_given = sigma is not None
    sigma = check_sigma(sigma if is_given else estimate_sigma(noisy, -1))
    if is_given and 0 < sigma < 1 and array_module(image).asarray(image).dtype.kind == "f":
        warnings.warn(f"sigma is on the scale of 0 to 255, also for an image in [0, 1]; {sigma:g} "
                      f"is hardly any noise, give 255 times as much if it is on the scale of 0 to "
                      f"1", RuntimeWarning, stacklevel=2)

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
        with warnings.catch_warnings():  # where nothing is to be seen, one kernel is the best model
            warnings.filterwarnings("ignore", "with all .* kernels the error", RuntimeWarning)
            smoe.fit(kernels=kernels, iterations=ITERATIONS, val_iter=ITERATIONS,
                     seed=seed + done - 1, recipe=recipe)
        total = total + smoe.reconstruction.reshape(noisy.shape).astype(np.float64)
        if progress is not None or done == fits:
            clean = given_back(_with_texture(total / done, noisy, sigma / PEAK))
        if progress is not None:
            progress(clean, done, fits)
    return clean


def check_sigma(sigma):
    """Return a valid standard deviation of noise as a float, or raise an error that names it."""
    sigma = check_number("sigma", sigma)
    if sigma > MOST_SIGMA:
        raise ValueError(f"sigma must be at most {MOST_SIGMA:g}, on the scale of 0 to 255, got "
                         f"{sigma:g}")
    return sigma


def _with_texture(picture, noisy, sigma):
    """Add back a part of the residual: y + max(0, 1 − σ²/v) (t − y), clipped to [0, 1].

    v is the local mean of (t − y)² in a channel. Where it is above σ², the residual is not all
    noise.
    """
    from scipy.ndimage import gaussian_filter

    missed = noisy - picture
    near = [NEAR] * (missed.ndim - 1) + [0]
    variance = gaussian_filter(missed * missed, near)
    share = np.maximum(0, 1 - sigma**2 / np.maximum(variance, 1e-30))
    return np.clip(picture + share * missed, 0, 1)


def estimate_sigma(image, channel_axis="auto"):
    """Estimate the standard deviation of the noise in an image, on the scale of 0 to 255.

    scikit-image estimates it for each channel, from the median of the finest wavelet coefficients
    (Donoho & Johnstone, Biometrika 1994); the result is the mean over the channels.

    Raises
    ------
    ValueError, TypeError
        If ``image`` is not a valid image.
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
        return 0.0  # too few pixels for an estimate
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # scikit-image warns of constant channels, and of 3 columns, which it takes for channels
        warnings.simplefilter("ignore")
        found = [of_wavelets(pixels[..., c]) for c in range(pixels.shape[-1])]
    return PEAK * float(np.mean(np.nan_to_num(found)))  # NaN for a constant channel
