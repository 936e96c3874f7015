"""Adam with a rate for each parameter, and moments that leave with their kernels."""

import math

from .backend import array_module
from .params import NAMES, unchecked

BETA1, BETA2 = 0.9, 0.999
SMALLEST_DIAGONAL = 1e-12  # of A, in the unit of the picture: log A_dd and 1/A_dd stay finite


class Adam:
    """Adam (Kingma & Ba 2015) in the form of TensorFlow 1: ε is added to √v before bias correction.

        m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,
        p ← p − rate · √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)

    Parameters
    ----------
    params : SmoeParams
        Gives shapes and dtype of the moments.
    """

    def __init__(self, params):
        xp = array_module(params.pis)
        self.steps = 0
        self.m = params.map(xp.zeros_like)
        self.v = params.map(xp.zeros_like)

    def step(self, params, gradients, rates, eps):
        """The parameters after one step.

        A diagonal entry of A that crosses zero comes back positive with its column and their
        moments negated, which leaves the precision A Aᵀ, and so the model, as it is.

        Parameters
        ----------
        params, gradients : SmoeParams
        rates : dict
            Learning rate by name of parameter; parameters without one stay as they are.
        eps : float
            ε; gradients of A are around 1e-8, so 1e-8 slows A down.

        Returns
        -------
        SmoeParams
        """
        xp = array_module(params.pis)
        self.steps += 1
        correction = math.sqrt(1 - BETA2**self.steps) / (1 - BETA1**self.steps)
        arrays = params.arrays()
        for name, rate in rates.items():
            m, v = getattr(self.m, name), getattr(self.v, name)
            g = getattr(gradients, name).astype(m.dtype)
            m += (1 - BETA1) * (g - m)
            g *= g
            v += (1 - BETA2) * (g - v)
            change = xp.sqrt(v)
            change += eps
            xp.divide(m, change, out=change)
            change *= rate * correction
            arrays[name] = arrays[name] - change
        stepped = unchecked(arrays, params.image_shape)
        if "A" in rates:
            self._keep_positive(stepped.A)
        return stepped

    def _keep_positive(self, A):
        xp = array_module(A)
        for d in range(A.shape[1]):
            crossed = A[:, d, d] < 0
            if bool(crossed.any()):
                A[crossed, :, d] *= -1
                self.m.A[crossed, :, d] *= -1
            xp.maximum(A[:, d, d], SMALLEST_DIAGONAL, out=A[:, d, d])

    def keep(self, kernels):
        """Go on with the kernels of a mask (K,); the moments of the others leave with them."""
        self.m, self.v = self.m.select(kernels), self.v.select(kernels)

    def arrays(self):
        """The state as arrays by name, for a checkpoint."""
        return {f"adam_{moment}_{name}": array
                for moment in ("m", "v") for name, array in getattr(self, moment).arrays().items()}

    @classmethod
    def restore(cls, params, arrays, steps):
        """The state that ``arrays`` gave, after ``steps`` steps."""
        adam = cls(params)
        adam.steps = steps
        for moment in ("m", "v"):
            kept = {name: arrays[f"adam_{moment}_{name}"] for name in NAMES}
            setattr(adam, moment, unchecked(kept))
        return adam


def positive_diagonals(params):
    """The model with every A_dd > 0, and the number of kernels of negative determinant among it.

    Negating a column of A leaves the precision, but a kernel with det A < 0, which only files of
    tf-smoe have, changes the sign of its gate.
    """
    xp = array_module(params.A)
    diagonal = xp.diagonal(params.A, axis1=1, axis2=2)
    flipped = int((xp.sign(diagonal).prod(1) < 0).sum())
    params = params.copy()
    params.A = params.A * xp.where(diagonal < 0, -1, 1)[:, None, :].astype(params.dtype)
    return params, flipped
