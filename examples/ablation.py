"""Measure what each part of the recipe of ``Smoe.fit`` is worth by changing it.

    python examples/ablation.py [PICTURE] [KERNELS] [ITERATIONS] [SEEDS]

Each line of the table printed is a fit with one change to the recipe. The results are in
ablation.md.
"""

import sys
import warnings

import numpy as np
from fit_picture import SMALL, chosen_picture

import smoe_np
from smoe_np.recipe import Recipe

CHANGES = {
    "default recipe": {},
    "full grid, no splits or removals": {"start": 1.0, "events_until": 0.0},
    "growth, no removal": {"removal": 0.0},
    "remove by lowest weight": {"remove_by": "weight"},
    "remove by lowest error": {"remove_by": "error"},
    "split in random directions": {"best_direction": False},
    "rank splits by error, not gain": {"split_by_gain": False},
    "rank splits without mass": {"mass_power": 0.0},
    "children closer, 0.8 σ": {"shift": 0.8},
    "plain Adam, no axes": {"turn_every": 0},
    "all rates halved": {"rate": 0.043, "weight_rate": 0.02, "shape_rate": 0.025,
                       "expert_rate": 0.0125, "slope_rate": 0.0075},
    "shape, slope rates not reduced": {"shape_rate": 0.085, "slope_rate": 0.025},
    "weights as fast as centres": {"weight_rate": 0.085},
    "β₂ = 0.999": {"beta2": 0.999},
    "rates decay from the start": {"fade_from": 0.0},
    "no limit on sharpness": {"most_sharpness": 1000.0},
    "exact pair lists": {"tau": 12.0, "list_life": 0},
}


def fitted(picture, kernels, iterations, seed, changes):
    """PSNR in dB and time in seconds of a fit with some changes to its recipe."""
    smoe = smoe_np.Smoe(picture).fit(kernels=kernels, iterations=iterations, seed=seed,
                                     val_iter=iterations, recipe=Recipe(**changes))
    return smoe.history[-1].psnr, smoe.history[-1].seconds


def trained(picture, kernels, iterations):
    """PSNR in dB and time in seconds of ``Smoe.train`` with about as many kernels."""
    across = max(picture.shape[:2]) * np.sqrt(kernels / np.prod(picture.shape[:2]))
    smoe = smoe_np.Smoe(picture, max(1, round(across))).train(iterations, val_iter=iterations)
    return smoe.history[-1].psnr, smoe.history[-1].seconds


def draw(found, path):
    """Draw bars of decibels gained or lost against the default recipe, best at the top."""
    import matplotlib.pyplot as plt

    best, names = found["default recipe"], sorted(found, key=found.get)
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(names) + 1), layout="constrained")
    bars = axes.barh(names, [found[name] - best for name in names], color="steelblue")
    axes.bar_label(bars, [f"{found[name]:.2f} dB" for name in names], padding=3)
    axes.margins(x=0.2)
    axes.set_xlabel("dB more or less than the recipe as it is")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[2:]]
    kernels, iterations, seeds = given + ([60, 60, 1] if SMALL else [900, 3000, 1])[len(given) :]
    picture, found = chosen_picture(), {}
    warnings.simplefilter("ignore", RuntimeWarning)  # a changed recipe may well diverge
    found["Smoe.train"], seconds = trained(picture, kernels, iterations)
    print(f"{'Smoe.train':32} {found['Smoe.train']:6.2f} dB {seconds:6.1f} s", flush=True)
    for name, changes in CHANGES.items():
        runs = [fitted(picture, kernels, iterations, seed, changes) for seed in range(seeds)]
        found[name], seconds = np.mean(runs, axis=0)
        print(f"{name:32} {found[name]:6.2f} dB {seconds:6.1f} s", flush=True)
    draw(found, "ablation.png")
    print("what each is worth: ablation.png")
