"""How close two images are: PSNR and SSIM."""

import math

import numpy as np

from .pixels import as_float, split_channels

PEAK = 255.0  # the scale on which errors and noise are told, as tf-smoe does

# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
# similarity", IEEE Transactions on Image Processing 13(4), 2004: the constants of section III.
_SIGMA = 1.5  # of the Gaussian window, in pixels
_TRUNCATE = 3.5  # where the window ends, in sigmas
_REACH = int(_TRUNCATE * _SIGMA + 0.5)  # pixels on either side of the middle: 11 in all
_C1 = 0.01**2
_C2 = 0.03**2


def psnr(a, b):
    """Peak signal-to-noise ratio of two images, in dB.

    Parameters
    ----------
    a, b : array_like, the same shape
        Floats in [0, 1], or uint8, uint16 or bool, scaled to [0, 1].

    Returns
    -------
    decibels : float
        ``-10 log10(mean((a - b)²))``; infinite where the images are the same.

    Raises
    ------
    ValueError
        If the shapes differ, or an image is not as `smoe_np.pixels.as_float` wants it.
    TypeError
        If an image holds neither bool, uint8, uint16 nor floats.
    """
    a, b = _comparable(a, b)
    a -= b
    mean_square = np.vdot(a, a) / a.size
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def ssim(a, b, channel_axis="auto"):
    """Structural similarity of two images (Wang et al. 2004).

    The window is a Gaussian of sigma 1.5 pixels cut at 3.5 sigma, over all axes of space; the
    result is the mean over the channels and over the pixels whose window lies inside the image.
    Along an axis shorter than the window (11 pixels) every pixel counts, and the image is mirrored
    at its edges.

    Parameters
    ----------
    a, b : array_like, the same shape
        Floats in [0, 1], or uint8, uint16 or bool, scaled to [0, 1].
    channel_axis : "auto", None or int
        Which axis holds channels; see `smoe_np.pixels.split_channels`.

    Returns
    -------
    similarity : float
        From -1 to 1; 1 where the images are the same.

    Raises
    ------
    ValueError
        If the shapes differ, an image is not as `smoe_np.pixels.as_float` wants it, or there is no
        such `channel_axis`.
    TypeError
        If an image holds neither bool, uint8, uint16 nor floats.
    """
    a, b = _comparable(a, b)
    a = split_channels(a, channel_axis, "a")
    b = split_channels(b, channel_axis, "b")
    channels = range(a.shape[-1])
    return math.fsum(_ssim_of_channel(a[..., c], b[..., c]) for c in channels) / len(channels)


def _comparable(a, b):
    a, b = as_float(a, "float64", "a"), as_float(b, "float64", "b")
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; give images of the same shape")
    return a, b


def _ssim_of_channel(a, b):
    from scipy.ndimage import gaussian_filter

    def smooth(image):
        return gaussian_filter(image, _SIGMA, truncate=_TRUNCATE, mode="reflect")

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a = smooth(a * a) - mean_a * mean_a
    variance_b = smooth(b * b) - mean_b * mean_b
    covariance = smooth(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    similarity /= (mean_a * mean_a + mean_b * mean_b + _C1) * (variance_a + variance_b + _C2)
    inside = tuple(
        slice(_REACH, size - _REACH) if size > 2 * _REACH else slice(None) for size in a.shape
    )
    return float(similarity[inside].mean())
