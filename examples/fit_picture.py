"""Fit a picture; show it, the fit, and the kernel with the largest gate at each pixel.

    python examples/fit_picture.py [PICTURE] [KERNELS] [ITERATIONS]
"""

import os
import sys
from pathlib import Path

import numpy as np

import smoe_np


def in_colours(gating):
    """A gating map as an RGB picture, a random colour for each kernel: (H, W, 3) in [0, 1]."""
    palette = np.random.default_rng(0).uniform(0.15, 1, (gating.max() + 1, 3))
    return palette[gating]


def strip(*pictures):
    """Pictures side by side with white between them; grey pictures become RGB."""
    as_rgb = [np.broadcast_to(p if p.ndim == 3 else p[..., None], (*p.shape[:2], 3))
              for p in pictures]
    between = np.ones((as_rgb[0].shape[0], 8, 3))
    return np.hstack([part for picture in as_rgb for part in (picture, between)][:-1])


def labelled(pictures):
    """Pictures of a dict side by side, as in ``strip``, with the name above each."""
    from PIL import Image, ImageDraw, ImageFont  # needs the extra "plots"

    sheet = strip(*pictures.values())
    band = Image.new("L", (sheet.shape[1], 28), 255)
    left, text = 0, ImageDraw.Draw(band)
    for name, picture in pictures.items():
        text.text((left + 4, 4), name, fill=0, font=ImageFont.load_default(16))
        left += picture.shape[1] + 8
    return np.vstack([strip(np.asarray(band) / 255), sheet])


SMALL = os.environ.get("SMOE_EXAMPLE_SIZE") == "small"  # a quick test that the examples run


def help_if_asked():
    """Print the example's docstring and exit if -h or --help is given."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules["__main__"].__doc__.strip())
        sys.exit()


def chosen_picture():
    """The picture named on the command line, or the cameraman."""
    help_if_asked()
    default = Path(__file__).parent / "pictures" / "camera.png"
    picture = smoe_np.read_image(sys.argv[1] if len(sys.argv) > 1 else default)
    return picture[192:256, 192:288] if SMALL else picture


if __name__ == "__main__":
    picture = chosen_picture()
    kernels = int(sys.argv[2]) if len(sys.argv) > 2 else 60 if SMALL else 900
    iterations = int(sys.argv[3]) if len(sys.argv) > 3 else 60 if SMALL else 3000

    smoe = smoe_np.Smoe(picture)
    smoe.fit(kernels=kernels, iterations=iterations,
             callbacks=[lambda smoe: print(smoe.history[-1])])

    original = smoe_np.pixels.as_float(picture)
    sheet = strip(original, smoe.reconstruction, in_colours(smoe.gating))
    smoe_np.write_image("fit_picture.png", sheet)
    print(f"{smoe.params} {smoe.history[-1].psnr:.2f} dB: fit_picture.png")
