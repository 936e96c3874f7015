"""Adam along each kernel's own axes, for parameters whose gradients are correlated."""

import numpy as np

from .adam import BETA1, Adam
from .param_rows import names_of_row, params_of_rows, rows_of

# Floor of an axis's √v, as a fraction of the root mean square over the kernel's axes
LEAST_PART = 1e-3
# Multiple of the identity added to S when axes turn, as a fraction of its mean diagonal entry: axes
# without any gradient stay independent
DAMPING = 1e-6


class TurnedAdam(Adam):
    """Adam along the principal axes of each kernel's gradients (SOAP, Vyas et al. 2024).

    The parameters of a kernel are not independent. Adam scales each by itself, and zigzags where
    two of them have nearly the same effect. With g the gradients of a kernel's n trained numbers,
    each times its learning rate, and the rows of the orthogonal Q as axes:

        m ← β₁ m + (1 − β₁) g,  S ← β₂ S + (1 − β₂) g gᵀ,  v ← β₂ v + (1 − β₂) (Q g)²,
        p ← p − rates · fading · √(1 − β₂ᵗ)/(1 − β₁ᵗ) · Qᵀ [ Q m / (√v + ε + 0.001 √mean(v)) ]

    Every ``turn_every`` steps of a kernel's life, its axes turn towards the eigenvectors of S by
    one step of orthogonal iteration, and v becomes the diagonal of Q S Qᵀ: its value had the axes
    always been these.

    Parameters
    ----------
    params : SmoeParams
        Determines the shapes and the dtype of the moments.
    beta2 : float
        Decay rate β₂ of the mean squares.
    turn_every : int
        Number of steps of a kernel's life between two turns of its axes.
    trained : sequence of str
        Names of the parameters that are trained.

    Attributes
    ----------
    steps, born
        See ``Adam``.
    m : SmoeParams
        Running mean of the gradients times the learning rates.
    v : SmoeParams
        Mean squares along the axes: that along axis i is at the place of the i-th trained number.
    outer, axes : (K, n, n) arrays
        S and Q, with the trained numbers in the order of ``rows_of``.
    """

    moments = "m", "v", "outer", "axes"

    def __init__(self, params, beta2, turn_every, trained):
        super().__init__(params, beta2)
        self.turn_every, self.trained = turn_every, tuple(trained)
        names = names_of_row(params.num_dims, params.num_channels)
        self.columns = np.flatnonzero([name in trained for name in names])
        n = len(self.columns)
        self.outer = np.zeros((params.num_kernels, n, n), params.dtype)
        self.axes = self.outer + np.eye(n, dtype=params.dtype)

    def changes(self, gradients, rates, eps, fading=1.0):
        """What a step subtracts from the parameters, by name: see ``Adam.changes``."""
        self.check(rates)
        D, columns = gradients.num_dims, self.columns
        names = names_of_row(D, gradients.num_channels)
        rate = np.array([rates[names[column]] for column in columns])
        correction = self._next_correction() * fading
        g = rows_of(gradients)[:, columns] * rate
        m, v = rows_of(self.m), rows_of(self.v)
        mean = m[:, columns] + (1 - BETA1) * (g - m[:, columns])
        outer = g[:, :, None] * g[:, None, :]
        self.outer += ((1 - self.beta2) * (outer - self.outer)).astype(self.outer.dtype)
        turned = np.stack([g, mean], axis=2)
        turned = self.axes.astype(float) @ turned
        squares = v[:, columns] + (1 - self.beta2) * (turned[:, :, 0] ** 2 - v[:, columns])
        m[:, columns], v[:, columns] = mean, squares
        root_mean = np.sqrt(squares.mean(axis=1, keepdims=True))
        along = turned[:, :, 1] / (np.sqrt(squares) + eps + LEAST_PART * root_mean)
        change = np.zeros(m.shape)
        change[:, columns] = (along[:, None, :] @ self.axes)[:, 0] * rate * correction[:, None]
        due = (self.steps - self.born) % self.turn_every == 0
        if due.any():
            self.axes[due] = turn(self.axes[due], self.outer[due])
            axes = self.axes[due].astype(float)
            along_axes = np.maximum(((axes @ self.outer[due]) * axes).sum(axis=2), 0)
            v[np.ix_(due, columns)] = along_axes
        self.m, self.v = params_of_rows(m, D), params_of_rows(v, D)
        change = params_of_rows(change, D).arrays()
        return {name: change[name] for name in rates}

    def check(self, rates):
        """Raise ValueError unless exactly the parameters with axes have learning rates."""
        if set(rates) != set(self.trained):
            raise ValueError(f"axes are of {', '.join(self.trained)}, rates of {', '.join(rates)}")

    def keep(self, kernels):
        """See ``Adam.keep``."""
        super().keep(kernels)
        self.outer, self.axes = self.outer[kernels], self.axes[kernels]

    def add_born(self, kernels):
        """See ``Adam.add_born``."""
        super().add_born(kernels)
        index = np.maximum(kernels, 0)
        self.outer, self.axes = self.outer[index], self.axes[index]
        self.outer[kernels < 0], self.axes[kernels < 0] = 0, np.eye(len(self.columns))

    def anew(self, params):
        """A new optimizer with the same settings, at step 0, for other parameters."""
        return type(self)(params, self.beta2, self.turn_every, self.trained)

    def copy(self):
        """A copy that shares no memory."""
        copied = super().copy()
        copied.outer, copied.axes = self.outer.copy(), self.axes.copy()
        return copied

    def arrays(self):
        """See ``Adam.arrays``."""
        return {**super().arrays(), "adam_outer": self.outer, "adam_axes": self.axes}

    def restore(self, arrays, steps):
        """See ``Adam.restore``."""
        super().restore(arrays, steps)
        for name in ("outer", "axes"):
            own, array = getattr(self, name), arrays[f"adam_{name}"]
            if array.shape != own.shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"its adam_{name} must be finite numbers of shape {own.shape}")
            setattr(self, name, array.astype(own.dtype))


def turn(axes, outer):
    """One step of orthogonal iteration towards the eigenvectors of S, by QR decomposition.

    Parameters
    ----------
    axes, outer : (K, n, n) arrays
        Q, with an axis in each row, and the symmetric S.

    Returns
    -------
    (K, n, n) float64 array
        The new axes; the given ones where S is 0.
    """
    axes, outer = axes.astype(float), outer.astype(float)
    n = axes.shape[1]
    mean = np.trace(outer, axis1=1, axis2=2)[:, None, None] / n
    images = axes @ outer + DAMPING * mean * axes
    orthogonal, triangle = np.linalg.qr(np.swapaxes(images, 1, 2))
    signs = np.where(np.diagonal(triangle, axis1=1, axis2=2) < 0, -1, 1)
    return np.where(mean > 0, np.swapaxes(orthogonal * signs[:, None, :], 1, 2), axes)
