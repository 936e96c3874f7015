"""Check the hand-written gradients against finite differences, number by number.

    python examples/gradient_check.py [KERNELS]

``loss_and_gradients`` uses lists of the kernels that matter in each tile; ``smoe_np.dense``
defines the model in float64. Each number of each parameter is changed a little in both directions,
and the two losses that ``smoe_np.dense`` gives make a central difference.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from fit_picture import SMALL, help_if_asked

import smoe_np
from smoe_np import dense

STEP = 1e-5  # relative; a difference errs by about STEP² (truncation) and 1e-16 / STEP (rounding)


def model(kernels, C=3):
    """A random model: random centres and steering matrices, and C channels."""
    random = np.random.default_rng(0)
    A = np.tril(random.normal(0, 4, (kernels, 2, 2)))
    A[:, [0, 1], [0, 1]] = random.uniform(6, 14, (kernels, 2))
    return smoe_np.SmoeParams(random.uniform(0.2, 1, kernels), random.random((kernels, 2)), A,
                              random.normal(0, 0.2, (kernels, C, 2)),
                              random.uniform(0.3, 0.7, (kernels, C)))


def difference(params, name, index, image, **regularisers):
    """Central difference of the loss by one number of a parameter."""
    losses = []
    middle = params.arrays()[name][index]
    step = STEP * max(1, abs(middle))
    for side in (-step, step):
        moved = params.copy()
        moved.arrays()[name][index] = middle + side
        losses.append(dense.loss(moved, image, **regularisers))
    return (losses[1] - losses[0]) / (2 * step)


if __name__ == "__main__":
    help_if_asked()
    params = model(int(sys.argv[1]) if len(sys.argv) > 1 else 6 if SMALL else 16)
    image = np.random.default_rng(1).random((23, 31, 3))
    regularisers = {"l1reg": 0.1, "bandwidth_reg": 1e-4}
    dtypes = {"float64": "steelblue", "float32": "darkorange"}
    found = {dtype: smoe_np.loss_and_gradients(params, image, dtype=dtype, **regularisers)[1]
             for dtype in dtypes}

    figure, axes = plt.subplots(1, 5, figsize=(14, 3.6), layout="constrained",
                                sharex=True, sharey=True)
    for panel, (name, array) in zip(axes, params.arrays().items(), strict=True):
        numbers = [i for i in np.ndindex(array.shape) if name != "A" or i[1] >= i[2]]
        wanted = np.array([difference(params, name, i, image, **regularisers) for i in numbers])
        for dtype, colour in dtypes.items():
            gradient = np.array([found[dtype].arrays()[name][i] for i in numbers])
            error = abs(gradient - wanted) / abs(wanted).max()
            panel.loglog(abs(wanted), np.maximum(error, 1e-16), ".", color=colour, label=dtype)
            print(f"{name:8} {dtype}: {len(numbers):4} numbers, error at most {error.max():.1e} "
                  f"of the largest gradient")
        panel.set(title=name, xlabel="|gradient|")
    axes[0].set_ylabel("error, relative to the largest")
    axes[0].legend(loc="lower left")
    figure.savefig("gradient_check.png", dpi=110)
    print("an error for each parameter of the model: gradient_check.png")
