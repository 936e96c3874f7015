"""Adam with a learning rate for each parameter, and moments that follow kernels in and out."""

import copy
import math
from functools import cache

import numpy as np

from .backend import array_module
from .params import NAMES, unchecked

BETA1, BETA2 = 0.9, 0.999
# least A_dd, in units of 1 / the picture's longest side: keeps log A_dd and 1/A_dd finite
SMALLEST_DIAGONAL = 1e-12


@cache
def bias_corrections(beta2):
    """√(1 − β₂ᵗ)/(1 − β₁ᵗ) for t = 0, 1, … until it is 1 in float64; 0 for t = 0 (undefined).

    The array is read-only, as it is the same at each call.
    """
    ages = math.ceil(max(math.log(2.0**-54) / math.log(beta) for beta in (BETA1, beta2)))
    t = np.arange(1, ages + 1)
    table = np.append(0, np.sqrt(1 - beta2**t) / (1 - BETA1**t))
    table.setflags(write=False)
    return table


class Adam:
    """Adam (Kingma & Ba 2015) in the form of TensorFlow 1: ε is added to √v before bias correction.

        m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,
        p ← p − rate · √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)

    with t, the number of steps, counted for each kernel from its birth.

    Parameters
    ----------
    params : SmoeParams
        Determines the shapes and the dtype of the moments.
    beta2 : float
        Decay rate β₂ of the mean squares.

    Attributes
    ----------
    steps : int
        Number of steps taken so far.
    born : (K,) int32 array
        The value of ``steps`` when each kernel was born.
    m, v : SmoeParams
        Moments of the gradients. An engine may hold them until they are accessed (``lend``).
    """

    moments = "m", "v"

    def __init__(self, params, beta2=BETA2):
        xp = array_module(params.pis)
        self.steps, self.beta2 = 0, beta2
        self.born = np.zeros(params.num_kernels, np.int32)
        self.m = params.map(xp.zeros_like)
        self.v = params.map(xp.zeros_like)

    def lend(self, fetch):
        """Leave the moments with an engine that changes them; they are fetched when accessed.

        Parameters
        ----------
        fetch : callable
            Returns the moments by name, a dict; called at most once.
        """
        for name in self.moments:
            vars(self).pop(name, None)
        self._fetch = fetch

    @property
    def lent(self):
        """Whether all moments are lent out."""
        return not any(name in vars(self) for name in self.moments)

    def settle(self):
        """Fetch lent moments; those that were assigned meanwhile stay as they are."""
        fetch = vars(self).pop("_fetch", None)
        for name, moment in ({} if fetch is None else fetch()).items():
            vars(self).setdefault(name, moment)

    def __getattr__(self, name):  # called only for missing attributes: lent moments
        if name not in type(self).moments or "_fetch" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.settle()
        return vars(self)[name]

    def __getstate__(self):
        self.settle()
        return vars(self)

    def changes(self, gradients, rates, eps, fading=1.0):
        """Take in the gradients of a step; return what it subtracts from the parameters.

        Parameters
        ----------
        gradients : SmoeParams
        rates : dict
            Learning rate by name of parameter; parameters without one stay as they are.
        eps : float
            ε.
        fading : float
            Factor of all learning rates.

        Returns
        -------
        dict of arrays
            −Δp by name of parameter.
        """
        xp = array_module(gradients.pis)
        correction = self._next_correction() * fading
        changes = {}
        for name, rate in rates.items():
            m, v = getattr(self.m, name), getattr(self.v, name)
            g = getattr(gradients, name).astype(m.dtype)
            m += (1 - BETA1) * (g - m)
            g *= g
            v += (1 - self.beta2) * (g - v)
            change = xp.sqrt(v)
            change += eps
            xp.divide(m, change, out=change)
            factor = xp.asarray(rate * correction, m.dtype)
            change *= factor.reshape((-1,) + (1,) * (m.ndim - 1))
            changes[name] = change
        return changes

    def _next_correction(self):
        """Count a step, and return its bias corrections: (K,)."""
        self.steps += 1
        table = bias_corrections(self.beta2)
        return table[np.minimum(self.steps - self.born, len(table) - 1)]

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
        arrays = params.arrays()
        for name, change in self.changes(gradients, rates, eps).items():
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
        """Keep only the kernels of a mask (K,), with their moments."""
        self.m, self.v = self.m.select(kernels), self.v.select(kernels)
        self.born = self.born[kernels]

    def add_born(self, kernels):
        """Reorder to the kernel numbers in ``kernels``; −1 is a new one, with moments 0."""
        there = kernels >= 0
        index = np.where(there, kernels, 0)
        self.born = np.where(there, self.born[index], self.steps).astype(np.int32)
        for moment in (self.m, self.v):
            for name, array in moment.arrays().items():
                chosen = array[index]
                chosen[~there] = 0
                setattr(moment, name, chosen)

    def anew(self, params):
        """A new optimizer with the same settings, at step 0, for other parameters."""
        return type(self)(params, self.beta2)

    def copy(self):
        """A copy that shares no memory."""
        self.settle()
        copied = copy.copy(self)
        copied.born, copied.m, copied.v = self.born.copy(), self.m.copy(), self.v.copy()
        return copied

    def become(self, other):
        """Take over the whole state of another optimizer."""
        other.settle()
        vars(self).pop("_fetch", None)
        vars(self).update(vars(other))

    def arrays(self):
        """The state as arrays by name, for a checkpoint."""
        arrays = {f"adam_{moment}_{name}": array
                  for moment in ("m", "v")
                  for name, array in getattr(self, moment).arrays().items()}
        return {**arrays, "adam_born": self.born}

    def restore(self, arrays, steps):
        """Restore the state that gave ``arrays``, after ``steps`` steps."""
        self.steps, self.born = steps, arrays["adam_born"].astype(np.int32)
        for moment in ("m", "v"):
            kept = {name: arrays[f"adam_{moment}_{name}"] for name in NAMES}
            setattr(self, moment, unchecked(kept))
