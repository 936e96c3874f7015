"""What several tests share: models, pictures, the complex step, and how errors are measured."""

import os

import numpy as np
import pytest

from smoe_np import SmoeParams, dense, engine
from smoe_np.launch_native import why_no_native
from smoe_np.params import NAMES, unchecked

STEP = 1e-30  # of a complex step: no difference is formed, so it can be as small as one likes
needs_native = pytest.mark.skipif(why_no_native() is not None,
                                  reason=f"kernels do not run here: {why_no_native()}")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def random_model(seed, K, D=2, C=1, sigma=0.15, anisotropy=1.0, spread=1.0, corner=0.0,
                 negative=0.0, slope=0.3, level=(0.0, 1.0), dtype=np.float64):
    """A model of K kernels drawn at random.

    Parameters
    ----------
    sigma : float
        Standard deviation of the kernels, in the unit of the picture, give or take 30 %.
    anisotropy : float
        Of a kernel the longest axis over the shortest.
    spread, corner : float
        The centres lie in [corner, corner + spread]^D.
    negative : float
        Share of the columns of A that are negated.
    """
    rng = np.random.default_rng(seed)
    lengths = np.geomspace(anisotropy**0.5, anisotropy**-0.5, D) if D > 1 else np.ones(1)
    turn = np.linalg.qr(rng.normal(size=(K, D, D)))[0]
    lengths = sigma * lengths * np.exp(0.3 * rng.normal(size=(K, D)))
    precision = np.einsum("kij,kj,klj->kil", turn, lengths**-2.0, turn)
    A = np.linalg.cholesky((precision + precision.transpose(0, 2, 1)) / 2)
    A *= np.where(rng.random((K, 1, D)) < negative, -1, 1)
    return SmoeParams(
        pis=rng.uniform(0.1, 1, K) / K,
        musX=corner + spread * rng.random((K, D)),
        A=A,
        gamma_e=slope * rng.normal(size=(K, C, D)),
        nu_e=rng.uniform(*level, (K, C)),
    ).astype(dtype)


def picture(shape, C=1, seed=0, noise=0.05):
    """A picture (*shape, C) in [0, 1]: waves, an edge, and some noise."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(n) / max(shape) for n in shape), indexing="ij")
    channels = []
    for _ in range(C):
        wave = sum(np.sin(rng.uniform(3, 12) * a + rng.uniform(0, 6)) for a in axes) / len(shape)
        edge = sum(rng.normal() * (a - 0.4) for a in axes) > 0
        channels.append(0.5 + 0.2 * wave + 0.2 * edge + noise * rng.normal(size=shape))
    return np.clip(np.stack(channels, axis=-1), 0, 1)


def complex_step_gradients(function, params):
    """∂ function(params) by name, for every entry but those above the diagonal of A."""
    gradients = {}
    for name in NAMES:
        gradients[name] = np.zeros(getattr(params, name).shape)
        for index in np.ndindex(gradients[name].shape):
            if name == "A" and index[2] > index[1]:
                continue
            arrays = {n: a.astype(complex) for n, a in params.arrays().items()}
            arrays[name][index] += 1j * STEP
            gradients[name][index] = function(unchecked(arrays)).imag / STEP
    return gradients


def relative_error(found, wanted, floor=0.0):
    """Relative L2 error ‖found − wanted‖ / max(‖wanted‖, floor); 0 where nothing is to be found."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, f"{found.shape} is compared with {wanted.shape}"
    error = np.linalg.norm((found - wanted).ravel())
    scale = max(np.linalg.norm(wanted.ravel()), floor)
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else np.inf


def gradient_errors(found, wanted, floors=None):
    """``relative_error`` of each parameter: a dict. Of two models or dicts of arrays."""
    found, wanted = (g if isinstance(g, dict) else g.arrays() for g in (found, wanted))
    assert found.keys() == wanted.keys() == set(NAMES)
    return {n: relative_error(found[n], wanted[n], floors[n] if floors else 0.0) for n in NAMES}


def assert_gradients_agree(found, wanted, tolerance, floors=None):
    """Every parameter's gradient, or an error that shows the figures of all."""
    errors = gradient_errors(found, wanted, floors)
    below = all(error < tolerance for error in errors.values())  # a NaN is not
    assert below, f"relative L2 errors {errors}, wanted below {tolerance}"


def gate_terms(params, shape):
    """The model's formula: z (N, K, D), ℓ (N, K), sign (K,), experts (N, K, C), x (N, D)."""
    axes = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    x = np.stack([a.ravel() for a in axes], axis=1) / max(shape)
    p = params.astype(np.float64)
    z = ((x - p.musX[:, None]) @ p.A).swapaxes(0, 1)
    diagonal = np.diagonal(p.A, axis1=1, axis2=2)
    log_gate = np.log(p.pis) + np.log(np.abs(diagonal)).sum(1)
    log_gate = log_gate - 0.5 * np.einsum("nkd,nkd->nk", z, z)
    expert = p.nu_e + np.tensordot(x, p.gamma_e, (1, 2))
    return z, log_gate, np.sign(diagonal.prod(1)), expert, x


def gradient_floors(params, target, l1reg=0.0, share=0.01):
    """For each gradient a share of the norm of the sums of the MAGNITUDES of all that it adds up.

    A gradient may be zero in theory, where its terms cancel (one kernel: the gate is 1 wherever it
    moves). What can be asked of a sum is an error in proportion to its terms, not to the result.
    """
    shape = target.shape[:-1]
    z, log_gate, _, e, x = gate_terms(params, shape)
    w = np.exp(log_gate - np.logaddexp.reduce(log_gate, axis=1, keepdims=True))
    y = dense.render(params, shape).reshape(len(x), -1)
    r = 2 / y.size * np.abs(np.clip(y, 0, 1) - target.reshape(y.shape))
    r = np.where((y >= 0) & (y <= 1), r, 0)
    # an expert is computed as its difference from the level of the picture around it
    level = np.abs(target.reshape(y.shape))
    g = w * np.einsum("nc,nkc->nk", r, np.abs(e) + (np.abs(y) + level)[:, None])
    A, d = np.abs(params.A), np.abs(x[:, None] - params.musX)
    diagonal = np.diagonal(A, axis1=1, axis2=2)
    gz = g[:, :, None] * np.abs(z)
    terms = {
        "pis": g.sum(0) / params.pis + l1reg / params.num_kernels,
        "musX": np.einsum("kde,ke->kd", A, gz.sum(0)),
        "A": d.transpose(1, 2, 0) @ gz.swapaxes(0, 1)
        + np.eye(z.shape[2]) * (g.sum(0)[:, None] / diagonal)[:, None],
        "gamma_e": np.tensordot(w, r[:, :, None] * x[:, None], (0, 0)),
        "nu_e": w.T @ r,
    }
    return {name: share * np.linalg.norm(terms[name].ravel()) for name in NAMES}


def assert_same_model(found, wanted):
    """Bit for bit, dtype and all."""
    for name in NAMES:
        a, b = getattr(found, name), getattr(wanted, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def make_engine(shape, target=None, dtype="float32", batches=None, channels=1):
    """The engine that "auto" stands for, of a picture."""
    channels = channels if target is None else target.shape[-1]
    return engine.engine_class("auto", len(shape), channels)(shape, target, dtype, batches)
