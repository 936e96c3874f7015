"""What tests of figures share: a trained model, a history, and what is written on a figure."""

import math
import sys

import numpy as np
import pytest
from helpers import picture

import smoe_np
from smoe_np import Record, Smoe

HISTORY = [Record(i, 0.01 / (1 + i), 650.0 / (1 + i), 20 + math.log10(1 + i), 90 - i // 10, i / 50)
           for i in range(0, 310, 10)]


@pytest.fixture
def headless(monkeypatch):
    """No display, whatever there is."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture(scope="module")
def trained():
    """A small picture and a model of it, with kernels that have left."""
    smoe = Smoe(picture((24, 32))[..., 0], 5)
    smoe.train(40, val_iter=10, l1reg=100, lr_div=0.5)
    return smoe


def texts_of(figure):
    """All that is written on a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_xlabel(), axes.get_ylabel()]
    return [text for text in found if text]


def axes_with(figure, kind):
    """The one axes that holds a collection or patch of a kind."""
    found = [axes for axes in figure.axes
             if any(type(artist).__name__ == kind for artist in axes.get_children())]
    assert len(found) == 1
    return found[0]


def pixels(path):
    image = smoe_np.pixels.as_float(smoe_np.read_image(path))
    assert image.ndim == 3
    return image


def as_oklab(rgb):
    """sRGB in [0, 1] as OKLab, by Ottosson's forward matrices."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = linear @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                             [0.2119034982, 0.6806995451, 0.1073969566],
                             [0.0883024619, 0.2817188376, 0.6299787005]]).T
    return np.cbrt(lms) @ np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                                    [1.9779984951, -2.4285922050, 0.4505937099],
                                    [0.0259040371, 0.7827717662, -0.8086757660]]).T
