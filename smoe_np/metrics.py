"""Quality measures of images: PSNR and SSIM."""

import math

import numpy as np

from .pixels import as_float, split_channels

PEAK = 255.0  # the scale on which errors and noise are reported, as in tf-smoe

# Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
# similarity", IEEE Transactions on Image Processing 13(4), 2004: the constants of section III.
_SIGMA = 1.5  # standard deviation of the Gaussian window, in pixels
_TRUNCATE = 3.5  # where the window ends, in standard deviations
_REACH = int(_TRUNCATE * _SIGMA + 0.5)  # pixels on either side of the middle one: 11 in all
_C1 = 0.01**2
_C2 = 0.03**2


def psnr(a, b):
    """Compute the peak signal-to-noise ratio of two images, in dB.

    Parameters
    ----------
    a, b : array_like
        Images of the same shape: floats in [0, 1], or uint8, uint16 or bool, which are scaled to
        [0, 1].

    Returns
    -------
    decibels : float
        The PSNR, ``-10 log10(mean((a - b)²))``; infinite if the images are identical.

    Raises
    ------
    ValueError
        If the shapes differ, or an image is empty or has values outside [0, 1].
    TypeError
        If an image holds neither bool, uint8, uint16 nor floats.
    """
    a, b = _comparable(a, b)
    a -= b
    return psnr_of(np.vdot(a, a) / a.size)


def psnr_of(mse):
    """The PSNR in dB of a mean squared error of images in [0, 1]: infinite for 0."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


def ssim(a, b, channel_axis="auto"):
    """Compute the structural similarity of two images (Wang et al. 2004).

    Parameters
    ----------
    a, b : array_like
        Images of the same shape: floats in [0, 1], or uint8, uint16 or bool, which are scaled to
        [0, 1].
    channel_axis : "auto", None or int
        Axis that holds the channels. "auto": the last one, if the images have 3 or more axes and
        the last has 1 to 4 entries, else none. None: all axes are spatial.

    Returns
    -------
    similarity : float
        The SSIM, from -1 to 1; 1 if the images are identical.

    Raises
    ------
    ValueError
        If the shapes differ, an image is empty or has values outside [0, 1], or there is no such
        `channel_axis`.
    TypeError
        If an image holds neither bool, uint8, uint16 nor floats.

    Notes
    -----
    The window is a Gaussian with a standard deviation of 1.5 pixels, truncated at 3.5 standard
    deviations, over all spatial axes. The result is the mean over the channels and over the pixels
    whose window lies inside the image. Along an axis of less than 11 pixels, the length of the
    window, all pixels count, and the image is mirrored at its edges.
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
