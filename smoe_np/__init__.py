"""Steered Mixture-of-Experts models of images: light, fast, with gradients written by hand."""

from .allocation import allocate_bits
from .denoising import denoise
from .engine import gating, loss_and_gradients, render
from .images import read_image, write_image
from .metrics import psnr, ssim
from .params import SmoeParams, load_params
from .records import Record
from .smoe import Smoe

__version__ = "0.1.0"

__all__ = [
    "Record", "Smoe", "SmoeParams", "allocate_bits", "denoise", "gating", "load_params",
    "loss_and_gradients", "psnr", "read_image", "render", "ssim", "write_image",
]
