"""Make a dense grid sparser and sparser; show the gating map and the fit at each number.

    python examples/sparsify.py [PICTURE] [KERNELS ...]

The schedule is that of the ICIP 2018 paper: train, raise the L1 weight on the mixing weights until
the wanted number of kernels is left, fine-tune. Each model starts from the one before.
"""

import sys

from fit_picture import SMALL, chosen_picture

import smoe_np
from smoe_np import plots
from smoe_np.sparsify import dense_start

if __name__ == "__main__":
    picture = chosen_picture()
    given = [int(text) for text in sys.argv[2:]]
    wanted = sorted(given or ([60, 30, 10] if SMALL else [4000, 2000, 900, 300]), reverse=True)
    iterations = (20, 40, 40) if SMALL else (200, 800, 1000)

    smoe = smoe_np.Smoe(picture, kernels_per_dim=dense_start(picture.shape[:2], wanted[0]))
    models = []
    for kernels in wanted:
        smoe.sparsify(target_kernels=kernels, iterations=iterations)
        record = smoe.history[-1]
        print(f"{record.kernels:5} kernels {record.psnr:6.2f} dB {record.seconds:6.1f} s so far")
        models.append(smoe.params)

    plots.sparsity_figure(models, picture, "sparsify.png")
    print("gating maps and fits: sparsify.png")
