"""Steered Mixture-of-Experts models of images: light, fast, with gradients written by hand.

``Smoe`` fits, trains and sparsifies a model of an image. ``SmoeParams`` holds the numbers of a
model, ``render`` draws it, and ``gating`` tells which kernel owns each pixel. ``denoise`` takes
noise off an image.

Some modules are imported by name, as in ``from smoe_np import plots``:

plots
    Figures, and callbacks that draw a fit or a training while it runs (extra ``plots``).
report
    ``write_report``, a page of a model and of how it came about.
sparsify
    ``dense_start``, a grid that is dense enough for ``Smoe.sparsify`` to begin with.
fit
    ``Recipe``, the numbers of the method of ``Smoe.fit``.
"""

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
