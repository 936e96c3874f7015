"""The training step: its settings, its result, and the reference implementation in NumPy."""

import math
from typing import NamedTuple

import numpy as np

from .backend import array_module
from .frame import LEAST_DIVISOR, retract, whitened
from .params import LARGEST, NAMES
from .regularize import add_penalty_gradients, clip_gradients, penalty, tie_radial

EXPLOSION = 10.0  # ratio to the lowest loss of this call of train, above which training ends ...
LEAST_EXPLOSION = 1e-3  # ... where that loss is at least this, so that a perfect fit may get worse
NOT_FINITE = f"a parameter is beyond {LARGEST:g}, or no longer finite"
NO_KERNEL = "the last kernel's weight fell to 0"


class OwnFrame(NamedTuple):
    """Settings of steps in each kernel's own frame (``frame``), to which rates then refer."""

    least_diagonal: float  # lower limit on the diagonal of A
    most_sharpness: float  # upper limit on √(A Aᵀ)_dd, 1/σ of a section along an axis
    fade_from: float  # number of Adam's steps after which rates fall, as half a cosine, ...
    fade_to: float  # ... until this number, ...
    fade_to_part: float  # ... to this fraction
    most_beyond: float = math.inf  # limit on an expert's value at its centre outside [0, 1]
    most_slope: float = math.inf  # limit on the slopes of an expert along z

    def fading(self, steps):
        """The factor for the rates after a number of steps."""
        if steps <= self.fade_from:
            return 1.0
        way = min(1, (steps - self.fade_from) / max(self.fade_to - self.fade_from, 1))
        return self.fade_to_part + (1 - self.fade_to_part) * (0.5 + 0.5 * math.cos(math.pi * way))


class StepSettings(NamedTuple):
    """Settings of training steps."""

    rates: dict  # learning rate by name of parameter; parameters without one are not trained
    adam_eps: float
    l1reg: float
    bandwidth_reg: float
    initial_kernels: int
    radial: bool
    grad_clip: float | None
    own_frame: OwnFrame | None = None  # with l1reg, π itself is stepped, not its logarithm
    explosion: float = EXPLOSION

    def penalty(self, params):
        """The regularisation terms in the loss of a model."""
        return penalty(params, self.l1reg, self.bandwidth_reg, self.initial_kernels)


class Progressed(NamedTuple):
    """The result of some steps."""

    params: object  # SmoeParams
    steps: int  # number of steps taken
    lowest_loss: float  # lowest loss so far, including earlier steps
    failure: str | None  # why no further step can be taken


def explodes(loss, lowest_loss, settings):
    """Whether a loss is far above the lowest one seen, or NaN."""
    return not loss <= settings.explosion * max(lowest_loss, LEAST_EXPLOSION)


def explosion(loss, lowest_loss):
    """The message for a loss that explodes."""
    return f"the loss is {loss:g}, its lowest was {lowest_loss:g}"


@np.errstate(all="ignore")  # the loss and the new parameters are checked
def take_step(engine, params, adam, settings, lowest_loss):
    """Take a step with the gradients of an engine.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
        Engine that computes the gradients; it is notified of kernels that are removed.
    params : SmoeParams
        Current model.
    adam : Adam
        Optimiser; its moments are updated.
    settings : StepSettings
        Settings of the step.
    lowest_loss : float
        Lowest loss so far.

    Returns
    -------
    Progressed
        The result; its ``params`` are those given if the step failed.
    """
    mse, gradients = engine.loss_and_gradients(params)
    loss = mse + settings.penalty(params)
    lowest_loss = min(lowest_loss, loss)
    if explodes(loss, lowest_loss, settings):
        return Progressed(params, 0, lowest_loss, explosion(loss, lowest_loss))
    add_penalty_gradients(gradients, params, settings.l1reg, settings.bandwidth_reg,
                          settings.initial_kernels)
    if settings.radial:
        tie_radial(gradients)
    if settings.grad_clip is not None:
        clip_gradients(gradients, settings.grad_clip)
    if settings.own_frame is None:
        stepped = adam.step(params, gradients, settings.rates, settings.adam_eps)
    else:
        stepped = _step_in_own_frame(engine, params, gradients, adam, settings)
    if not all(bool((abs(getattr(stepped, name)) <= LARGEST).all()) for name in NAMES):
        return Progressed(params, 0, lowest_loss, NOT_FINITE)
    staying = stepped.pis > 0
    if not staying.any():
        return Progressed(params, 0, lowest_loss, NO_KERNEL)
    if not staying.all():
        stepped = stepped.select(staying)
        adam.keep(staying)
        engine.keep(staying)
    return Progressed(stepped, 1, lowest_loss, None)


def _step_in_own_frame(engine, params, gradients, adam, settings):
    # from gradients of the mean of the squared errors to those of half their sum
    half_sum = math.prod(engine.shape) * params.num_channels / 2
    frame = settings.own_frame
    gradients = whitened(gradients, params, half_sum)
    if settings.l1reg:  # step π itself, not its logarithm, so that weights can reach 0
        xp = array_module(params.pis)
        gradients.pis = gradients.pis / xp.maximum(params.pis, LEAST_DIVISOR)
    changes = adam.changes(gradients, settings.rates, settings.adam_eps,
                           frame.fading(adam.steps + 1))
    pis = changes.pop("pis", 0.0) if settings.l1reg else None
    stepped = retract(params, changes, frame.least_diagonal, frame.most_sharpness,
                      frame.most_beyond, frame.most_slope)
    if pis is not None:
        stepped.pis = (params.pis.astype(float) - pis).astype(params.dtype)
    return stepped
