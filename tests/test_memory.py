"""How much memory training takes, and that it can be told beforehand."""

import tracemalloc

import numpy as np
import pytest
from helpers import picture

from smoe_np import Smoe

pytestmark = pytest.mark.usefixtures("each_engine")


def peak_of_training(image, kernels_per_dim, **options):
    """What ``memory_needed`` says before, and the bytes that training then takes at its peak."""
    Smoe(np.eye(4), 1).train(1)  # modules that are loaded at first use are not counted
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        smoe = Smoe(image, kernels_per_dim, **options)
        needed = smoe.memory_needed()
        tracemalloc.reset_peak()
        smoe.train(6, val_iter=3)
        return needed, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("shape", "channels", "kernels_per_dim", "options"), [
    ((128, 128), 1, 12, {}),
    ((512, 512), 1, 32, {}),
    ((512, 512), 1, 32, {"batches": 4}),
    ((256, 256), 1, 64, {}),
    ((384, 256), 3, 40, {}),
    ((200, 300), 1, 20, {"dtype": "float64"}),
    ((40, 50, 30), 1, 8, {}),
])
def test_the_memory_that_training_takes_is_told_beforehand(
        shape, channels, kernels_per_dim, options):
    image = picture(shape, channels).astype(np.float32)
    needed, peak = peak_of_training(image, kernels_per_dim, channel_axis=-1, **options)
    assert needed == pytest.approx(peak, rel=0.2)


def test_memory_grows_with_pixels_and_kernels_not_with_their_product():
    # 16 times the pixels and 16 times the kernels: 256 times the product. A small picture is mostly
    # border, where fewer kernels meet in a tile: a little more than 16 times the memory is right.
    small = peak_of_training(picture((64, 64), 1)[..., 0], 8)[1]
    large = peak_of_training(picture((256, 256), 1)[..., 0], 32)[1]
    assert large < 20 * small
