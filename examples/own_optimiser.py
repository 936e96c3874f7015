"""Train a model with an optimiser of your own, here SciPy's L-BFGS.

    python examples/own_optimiser.py [PICTURE] [KERNELS_PER_DIM] [ITERATIONS]

An optimiser wants one vector of numbers that may have any value, are about equally large, and
depend little on each other. So weights and the diagonal of A, which stay above 0, are in it by
their logarithms, lengths in units of a kernel's extent, and experts by their values at the centres.
"""

import sys

import numpy as np
from fit_picture import SMALL, chosen_picture, labelled
from scipy.optimize import minimize

import smoe_np


class Vectors:
    """Models as vectors, and back; for models like a given one."""

    def __init__(self, params):
        self.like, self.extent = params, 1 / np.diagonal(params.A, axis1=1, axis2=2).mean()
        self.d, (self.i, self.j) = range(params.num_dims), np.tril_indices(params.num_dims, -1)

    def of_model(self, params):
        """The vector of a model."""
        centre = params.nu_e + (params.gamma_e * params.musX[:, None]).sum(axis=2)
        parts = (np.log(params.pis), np.log(params.A[:, self.d, self.d]),
                 params.A[:, self.i, self.j] * self.extent, params.musX / self.extent,
                 params.gamma_e * self.extent, centre)
        return np.concatenate([part.ravel() for part in parts])

    def model(self, vector):
        """The model of a vector."""
        like = self.like
        shapes = [like.pis.shape, like.musX.shape, (like.num_kernels, len(self.i)),
                  like.musX.shape, like.gamma_e.shape, like.nu_e.shape]
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]
        pis, diagonal, lower, musX, gamma_e, centre = (
            part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True))
        musX, gamma_e, A = musX * self.extent, gamma_e / self.extent, np.zeros_like(like.A)
        A[:, self.d, self.d], A[:, self.i, self.j] = np.exp(diagonal), lower / self.extent
        nu_e = centre - (gamma_e * musX[:, None]).sum(axis=2)
        return smoe_np.SmoeParams(np.exp(pis), musX, A, gamma_e, nu_e, like.image_shape)

    def loss(self, vector, smoe):
        """The loss of a vector's model and its gradient, by the chain rule, as SciPy wants them."""
        params = self.model(vector)
        loss, gradients = smoe.loss_and_gradients(params)
        centre = gradients.nu_e[:, :, None]
        parts = (gradients.pis * params.pis, (gradients.A * params.A)[:, self.d, self.d],
                 gradients.A[:, self.i, self.j] / self.extent,
                 (gradients.musX - (params.gamma_e * centre).sum(axis=1)) * self.extent,
                 (gradients.gamma_e - centre * params.musX[:, None]) / self.extent, centre)
        return loss, np.concatenate([part.ravel() for part in parts])


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[2:]]
    kernels_per_dim, iterations = given + ([6, 20] if SMALL else [24, 500])[len(given) :]
    smoe = smoe_np.Smoe(chosen_picture(), kernels_per_dim, dtype="float64")
    vectors, frames = Vectors(smoe.params), {"the start": smoe.reconstruction}
    options = {"maxfun": iterations, "maxiter": iterations, "maxcor": 40}
    done = minimize(vectors.loss, vectors.of_model(smoe.params), args=(smoe,), jac=True,
                    method="L-BFGS-B", options=options)
    smoe.train(iterations, val_iter=iterations)
    frames[f"train, {smoe.history[-1].psnr:.1f} dB"] = smoe.reconstruction
    smoe.params = vectors.model(done.x)
    frames[f"L-BFGS, {-10 * np.log10(done.fun):.1f} dB"] = smoe.reconstruction
    print(*frames, sep="\n")
    smoe_np.write_image("own_optimiser.png", labelled(frames))
    print(f"after {done.nfev} losses and gradients: own_optimiser.png")
