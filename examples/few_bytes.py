"""Store a picture in BYTES bytes, as a model, by JPEG and by JPEG 2000; show it and a detail.

    python examples/few_bytes.py [PICTURE] [BYTES] [TOP LEFT HEIGHT]
"""

import io
import sys
from pathlib import Path

import numpy as np
from fit_picture import SMALL, chosen_picture, labelled
from PIL import Image

import smoe_np


def coded(picture, form, **settings):
    """A picture coded by Pillow: its size in bytes, PSNR in dB, and the decoded picture."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, form, **settings)
    seen = np.asarray(Image.open(data)) / 255
    return len(data.getvalue()), smoe_np.psnr(picture / 255, seen), seen


def written(picture, params, path, bits=None):
    """The same for a model in a file of 16 bits a number, or of another bit depth."""
    params.save(path, bits)
    seen = smoe_np.render(smoe_np.load_params(path), params.image_shape).reshape(picture.shape)
    return Path(path).stat().st_size, smoe_np.psnr(picture / 255, seen), seen


def best(picture, form, most, choices):
    """Pillow's best coding of a picture in at most ``most`` bytes, or else its smallest one."""
    found = [coded(picture, form, **settings) for settings in choices]
    fitting = [one for one in found if one[0] <= most] or [min(found, key=lambda one: one[0])]
    return max(fitting, key=lambda one: one[1])


def as_model(picture, most):
    """The same for a fit quantized to at most ``most`` bytes."""
    smoe = smoe_np.Smoe(picture)
    smoe.fit(bytes=most, iterations=60 if SMALL else 3000,
             callbacks=[lambda smoe: print(smoe.history[-1])])
    smoe.quantize(bytes=most)
    return written(picture, smoe.params, "few_bytes.smoe", smoe.bits)


if __name__ == "__main__":
    picture = chosen_picture()
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 400 if SMALL else 2500
    given = [int(text) for text in sys.argv[3:6]]
    top, left, height = given if given else (8, 40, 24) if SMALL else (90, 170, 150)
    height = min(height, picture.shape[0])
    width = -(-height * picture.shape[1] // picture.shape[0])
    top, left = min(top, picture.shape[0] - height), min(left, picture.shape[1] - width)
    colours = {"mct": 1} if picture.ndim == 3 else {}
    found = {
        "model": as_model(picture, most),
        "JPEG 2000": best(picture, "JPEG2000", most, [
            {"quality_layers": [rate], "irreversible": True, "no_jp2": True, **colours}
            for rate in np.geomspace(400, 4, 80)]),
        "JPEG": best(picture, "JPEG", most, [
            {"quality": q, "optimize": True, "subsampling": s} for q in range(1, 96)
            for s in (0, 2)]),
    }
    times = -(-picture.shape[0] // height)
    whole, details = {}, {}
    for name, (used, decibels, seen) in found.items():
        print(f"{name}: {used} bytes, {decibels:.2f} dB")
        whole[f"{name}, {used} bytes, {decibels:.1f} dB"] = seen
        detail = seen[top : top + height, left : left + width].repeat(times, 0).repeat(times, 1)
        details[f"{name}: a detail"] = detail[: picture.shape[0], : picture.shape[1]]
    smoe_np.write_image("few_bytes.png", np.concatenate([labelled(whole), labelled(details)]))
    print("the pictures, and a detail of each: few_bytes.png")
