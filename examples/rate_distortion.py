"""Plot PSNR against bytes for ``fit``, ``train``, JPEG and JPEG 2000.

    python examples/rate_distortion.py [PICTURE] [KERNELS ...]

Sizes are those of the files, PSNRs those of the decoded pictures. If PICTURE is
named like a picture of the ICIP 2018 paper (cameraman, baboon, lena), the values of the paper's
figures 1 and 2 are marked, at 16 bits a number.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from few_bytes import coded, written
from fit_picture import SMALL, chosen_picture

import smoe_np

PAPER = {  # dB by number of kernels; read off the figures, except for Lena
    "cameraman": {260: 28.8, 720: 32.3, 1370: 34.7, 1980: 36.3, 4020: 40.2, 5730: 42.1},
    "baboon": {710: 23.2, 1420: 24.7, 2840: 27.0, 5190: 30.0, 8140: 33.2, 11510: 35.2},
    "lena": {300: 28.68, 900: 32.48, 2500: 35.75, 5000: 37.29, 13000: 39.94},
}
MODELS = ("fit, 9 bits", "fit, 16 bits", "train, 16 bits")


if __name__ == "__main__":
    picture = chosen_picture()
    numbers = [int(k) for k in sys.argv[2:]] or ([20, 60] if SMALL else [100, 300, 900, 2000])
    steps, across = 60 if SMALL else 3000, max(picture.shape) / np.prod(picture.shape[:2]) ** 0.5
    curves = {
        "JPEG": [coded(picture, "JPEG", quality=q, optimize=True) for q in range(1, 96)],
        "JPEG 2000": [coded(picture, "JPEG2000", quality_layers=[r], irreversible=True, no_jp2=True,
                            mct=int(picture.ndim == 3))
                      for r in np.geomspace(250, 4, 80)],
        **{label: [] for label in MODELS}}
    for kernels in numbers:
        fit = smoe_np.Smoe(picture).fit(kernels, iterations=steps)
        grid = smoe_np.Smoe(picture, max(1, round(kernels**0.5 * across))).train(steps)
        path = "rate_distortion.smoe"
        found = [written(picture, fit.params, path), written(picture, grid.params, path)]
        found.insert(0, written(picture, fit.quantize(9).params, path, fit.bits))
        for label, one in zip(MODELS, found, strict=True):
            curves[label].append(one)
            print(f"{kernels:5} kernels, {label}: {one[0]:6} bytes {one[1]:.2f} dB", flush=True)
    wanted = curves[MODELS[0]][len(numbers) // 2][1]
    equal = {label: min(curves[label], key=lambda found: abs(found[1] - wanted))
             for label in (MODELS[0], "JPEG 2000", "JPEG")}
    figure, panels = plt.subplot_mosaic([["all"] * 3, [*equal]], figsize=(12, 9.5), layout="tight")
    axes, most = panels["all"], curves[MODELS[1]][-1]
    for label, found in curves.items():
        axes.plot(*list(zip(*found))[:2], "o-" if label in MODELS else "-", label=label)
    paper = PAPER.get(Path(sys.argv[1]).stem.lower() if len(sys.argv) > 1 else "", {})
    axes.plot([18 * k for k in paper], paper.values(), "kx", label="ICIP 2018" if paper else None)
    axes.set(xscale="log", xlabel="bytes", ylabel="PSNR in dB", ylim=(20, most[1] + 3),
             xlim=(curves[MODELS[0]][0][0] / 1.5, 1.5 * most[0]))
    each = most[0] / numbers[-1]
    top = axes.secondary_xaxis("top", functions=(lambda x: x / each, lambda k: k * each))
    top.set_xlabel("kernels, at 16 bits a number")
    axes.legend()
    for label, (size, decibels, seen) in equal.items():
        panels[label].imshow(seen, cmap="gray", vmin=0, vmax=1)
        panels[label].set(title=f"{label}: {size} bytes, {decibels:.2f} dB", xticks=[], yticks=[])
    figure.savefig("rate_distortion.png", dpi=110)
    print("the curves, and pictures of about the same PSNR: rate_distortion.png")
