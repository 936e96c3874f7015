"""A callback of one's own: it keeps frames, and ends a training that gains little any more.

    python examples/own_callback.py [PICTURE] [KERNELS_PER_DIM]

Training then goes on from there with other settings. An exception that a callback raises leaves
``train`` at once; the model, its history and Adam's moments are whole, so that the next call of
``train`` takes up where it left off.
"""

import sys

from fit_picture import SMALL, chosen_picture, labelled

import smoe_np


class Enough(Exception):
    """Raised to end training."""


class Patience:
    """Ends training where the last validations have gained less than so many decibels."""

    def __init__(self, gain, validations=3):
        self.gain, self.validations = gain, validations
        self.frames = {}  # by what is written above each
        self.begun = 0

    def __call__(self, smoe):
        now = smoe.history[-1]
        if now.iteration in (0, 10, 100):
            self.keep(smoe)
        of_this_call = [record.psnr for record in smoe.history if record.iteration >= self.begun]
        if len(of_this_call) > self.validations:
            gained = now.psnr - of_this_call[-1 - self.validations]
            if gained < self.gain:
                raise Enough(f"{gained:.2f} dB in the last {self.validations} validations")

    def keep(self, smoe):
        """Keep the picture as it is now."""
        now = smoe.history[-1]
        self.frames[f"iteration {now.iteration}, {now.psnr:.1f} dB"] = smoe.reconstruction

    def train(self, smoe, iterations, **settings):
        """Train until that is so, or for so many iterations."""
        self.begun = smoe.iteration
        try:
            smoe.train(iterations, val_iter=10, callbacks=[self], **settings)
            print(f"{settings}: all {iterations} iterations")
        except Enough as why:
            print(f"{settings}: enough at iteration {smoe.iteration}, {why}")
        print(smoe.history[-1])


if __name__ == "__main__":
    kernels_per_dim = int(sys.argv[2]) if len(sys.argv) > 2 else 8 if SMALL else 24
    smoe = smoe_np.Smoe(chosen_picture(), kernels_per_dim)
    most = 60 if SMALL else 1000
    patience = Patience(gain=0.1)
    for base_lr in (2e-3, 5e-4, 1e-4):
        patience.train(smoe, most, base_lr=base_lr)
    patience.keep(smoe)

    smoe_np.write_image("own_callback.png", labelled(patience.frames))
    print("some frames on the way and the last: own_callback.png")
