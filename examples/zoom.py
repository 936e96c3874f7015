"""Show a detail eight times as large: pixels, bicubic interpolation, and the model rendered.

    python examples/zoom.py [PICTURE] [KERNELS] [TOP LEFT SIZE]
"""

import sys

import numpy as np
from fit_picture import SMALL, chosen_picture, labelled
from PIL import Image

import smoe_np
from smoe_np.recipe import Recipe

SCALE = 8


def enlarged(pixels, filter):
    """Pixels (H, W[, 3]), floats in [0, 1], enlarged SCALE times by a filter of Pillow."""
    channels = [Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)).resize(
        [SCALE * n for n in channel.shape[::-1]], filter) for channel in np.atleast_3d(pixels).T]
    return np.stack(channels, axis=-1).swapaxes(0, 1).clip(0, 1)


if __name__ == "__main__":
    picture = smoe_np.pixels.as_float(chosen_picture())
    kernels = int(sys.argv[2]) if len(sys.argv) > 2 else 60 if SMALL else 3000
    given = [int(text) for text in sys.argv[3:6]]
    top, left, size = given if given else (8, 60, 24) if SMALL else (290, 280, 64)

    smoe = smoe_np.Smoe(picture)
    smoe.fit(kernels=kernels, iterations=60 if SMALL else 3000,
             recipe=Recipe(most_sharpness=1.5),  # keeps slivers between the pixels out
             callbacks=[lambda smoe: print(smoe.history[-1])])

    detail = picture[top : top + size, left : left + size]
    drawn = smoe_np.render(smoe.params, (SCALE * size, SCALE * size),
                           region=((top, top + size), (left, left + size)))
    sheet = labelled({
        f"{size} x {size} pixels": enlarged(detail, Image.Resampling.NEAREST),
        "bicubic": enlarged(detail, Image.Resampling.BICUBIC),
        f"{kernels} kernels, {smoe.history[-1].psnr:.1f} dB": drawn,
    })
    smoe_np.write_image("zoom.png", sheet)
    print(f"a detail, {SCALE} times as large: zoom.png")
