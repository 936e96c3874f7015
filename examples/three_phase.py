"""Train, drive kernels out with an L1 weight on the mixing weights π, then train on.

    python examples/three_phase.py [PICTURE] [KERNELS_PER_DIM]
"""

import sys

import numpy as np
from fit_picture import SMALL, chosen_picture, in_colours, strip

import smoe_np

if __name__ == "__main__":
    kernels_per_dim = int(sys.argv[2]) if len(sys.argv) > 2 else 8 if SMALL else 32
    smoe = smoe_np.Smoe(chosen_picture(), kernels_per_dim)

    sheets = []
    for iterations, l1reg in ((600, 0.0), (500, 10.0), (100, 0.0)):
        # Adam's moments are kept from phase to phase
        smoe.train(iterations // 20 if SMALL else iterations, l1reg=l1reg)
        record = smoe.history[-1]
        print(f"l1reg {l1reg:4}: {record.kernels:5} kernels {record.psnr:6.2f} dB "
              f"after {record.iteration:5} iterations, {record.seconds:6.1f} s")
        sheets.append(strip(smoe.reconstruction, in_colours(smoe.gating)))
    between = np.ones((8, sheets[0].shape[1], 3))
    smoe_np.write_image("three_phase.png", np.vstack([sheets[0], between, sheets[1], between,
                                                      sheets[2]]))
    print("the three fits and their gates: three_phase.png")
