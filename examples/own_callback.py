"""Write a callback that keeps frames, and ends training when it gains little any more.

    python examples/own_callback.py [PICTURE] [KERNELS_PER_DIM]

Training then continues with other settings. An exception that a callback raises ends ``train`` at
once; the model, its history and Adam's moments stay valid, so that the next call of ``train``
continues from there.
"""

import sys

from fit_picture import SMALL, chosen_picture, labelled

import smoe_np


class Enough(Exception):
    """Raised by a callback to end training."""


class Patience:
    """Ends training when the last ``validations`` validations gained less than ``gain`` dB."""

    def __init__(self, gain, validations=3):
        self.gain, self.validations = gain, validations
        self.frames = {}  # by label
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
        """Keep the current reconstruction as a frame."""
        now = smoe.history[-1]
        self.frames[f"iteration {now.iteration}, {now.psnr:.1f} dB"] = smoe.reconstruction

    def train(self, smoe, iterations, **settings):
        """Train until little is gained, but for at most ``iterations`` iterations."""
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
