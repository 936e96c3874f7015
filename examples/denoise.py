"""Denoise a picture, and compare with BM3D if it is installed (the extra ``bm3d``).

    python examples/denoise.py [PICTURE] [SIGMA]

Adds noise of standard deviation SIGMA (on the scale 0 to 255) to a part of the picture first.
"""

import sys
import time

import numpy as np
from fit_picture import SMALL, chosen_picture

import smoe_np
from smoe_np.plots import denoise_figure


def noisy_of(clean, sigma):
    """The picture with Gaussian noise added, as uint8."""
    noise = np.random.default_rng(0).normal(0, sigma, clean.shape)
    return np.clip(np.round(255 * clean + noise), 0, 255).astype(np.uint8)


def of_bm3d(noisy, sigma):
    """The picture denoised by BM3D (Dabov et al. 2007), or None if it is not installed."""
    try:
        import bm3d
    except ImportError:
        return None
    method = bm3d.bm3d_rgb if noisy.ndim == 3 else bm3d.bm3d
    return np.clip(method(noisy / 255, sigma / 255), 0, 1)


def tell(name, picture, clean, seconds):
    """Print PSNR, SSIM and time of a method."""
    axis = -1 if picture.ndim == 3 else None
    print(f"{name:12} {smoe_np.psnr(clean, picture):6.2f} dB  SSIM "
          f"{smoe_np.ssim(clean, picture, axis):.3f}  {seconds:5.1f} s")


if __name__ == "__main__":
    picture = smoe_np.pixels.as_float(chosen_picture(), "float64")
    sigma = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    clean = picture if SMALL else picture[64:320, 96:352]
    noisy = noisy_of(clean, sigma)

    curve = [], []

    def progress(denoised, done, fits):
        curve[0].append(done)
        curve[1].append(smoe_np.psnr(clean, denoised))

    begun = time.perf_counter()
    denoised = smoe_np.denoise(noisy, sigma, progress=progress)
    tell("noisy", noisy / 255, clean, 0)
    tell("smoe_np", denoised, clean, time.perf_counter() - begun)
    begun = time.perf_counter()
    reference = of_bm3d(noisy, sigma)
    if reference is not None:
        tell("BM3D", reference, clean, time.perf_counter() - begun)
    denoise_figure(noisy, denoised, clean, reference, "BM3D", None, "denoise.png",
                   f"Noise of σ = {sigma:g}")
    print(f"after 1 model {curve[1][0]:.2f} dB, after {curve[0][-1]} {curve[1][-1]:.2f} dB: "
          f"denoise.png")
