"""Steered Mixture-of-Experts models of images, with NumPy and hand-written gradients.

``Smoe`` fits, trains, sparsifies and quantizes a model of an image. ``SmoeParams`` holds the
parameters of a model, ``render`` draws it at any resolution, and ``gating`` returns the kernel with
the largest gate at each pixel. ``denoise`` removes noise from an image.

Some modules are imported explicitly, as in ``from smoe_np import plots``:

plots
    Figures, and callbacks that draw them while a model is trained (extra ``plots``).
report
    ``write_report``, an HTML page about a model and its training.
progress
    ``Progress``, which shows how far a training has come.
sparsify
    ``dense_start``, which chooses a starting grid for ``Smoe.sparsify``.
fit
    ``Recipe``, the parameters of the method behind ``Smoe.fit``.
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
