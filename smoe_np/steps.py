"""What a step of training is, whatever engine takes it."""

import math
from typing import NamedTuple

import numpy as np

from .backend import array_module
from .frame import LEAST_DIVISOR, retract, whitened
from .params import LARGEST, NAMES
from .regularize import add_penalty_gradients, clip_gradients, penalty, tie_radial

EXPLOSION = 10.0  # times the lowest loss of this call of train ...
LEAST_EXPLOSION = 1e-3  # ... or of this, so that a perfect fit may get worse
NOT_FINITE = f"a parameter is beyond {LARGEST:g}, or no longer finite"
NO_KERNEL = "the last kernel's weight fell to 0"


class OwnFrame(NamedTuple):
    """How steps in each kernel's own frame (``frame``) go; rates are those of its numbers."""

    least_diagonal: float  # of A
    most_sharpness: float  # √(A Aᵀ)_dd, 1/σ of a section along an axis
    fade_from: float  # steps of Adam after which rates fall, as half a cosine, ...
    fade_to: float  # ... until then, ...
    fade_to_part: float  # ... to this part
    most_beyond: float = math.inf  # of an expert's value at its centre, beyond [0, 1]
    most_slope: float = math.inf  # of an expert, along z

    def fading(self, steps):
        """What rates are multiplied with after so many steps."""
        if steps <= self.fade_from:
            return 1.0
        way = min(1, (steps - self.fade_from) / max(self.fade_to - self.fade_from, 1))
        return self.fade_to_part + (1 - self.fade_to_part) * (0.5 + 0.5 * math.cos(math.pi * way))


class StepSettings(NamedTuple):
    """What training steps need to know besides the model."""

    rates: dict  # learning rate by name of parameter; those without one stay as they are
    adam_eps: float
    l1reg: float
    bandwidth_reg: float
    initial_kernels: int
    radial: bool
    grad_clip: float | None
    own_frame: OwnFrame | None = None  # with l1reg, π itself steps and not its logarithm
    explosion: float = EXPLOSION  # times the lowest loss, and more is an explosion

    def penalty(self, params):
        """What the regularisers add to the loss of a model."""
        return penalty(params, self.l1reg, self.bandwidth_reg, self.initial_kernels)


class Progressed(NamedTuple):
    """What has come of some steps."""

    params: object  # SmoeParams
    steps: int  # that were taken
    lowest_loss: float  # seen so far, with that given
    failure: str | None  # why no further step can be taken


def explodes(loss, lowest_loss, settings):
    """Whether a loss is far above the lowest one seen, or NaN."""
    return not loss <= settings.explosion * max(lowest_loss, LEAST_EXPLOSION)


def explosion(loss, lowest_loss):
    """How to say so."""
    return f"the loss is {loss:g}, its lowest was {lowest_loss:g}"


# numbers that overflow are looked for where they matter
@np.errstate(all="ignore")
def take_step(engine, params, adam, settings, lowest_loss):
    """A step with the gradients of an engine, which is told of kernels that leave.

    Where it cannot be taken, ``params`` are those given.

    Parameters
    ----------
    engine : see ``smoe_np.engine``
    params : SmoeParams
    adam : Adam
        Its moments change.
    settings : StepSettings
    lowest_loss : float

    Returns
    -------
    Progressed
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
    half_sum = math.prod(engine.shape) * params.num_channels / 2  # of squares, for their mean
    frame = settings.own_frame
    gradients = whitened(gradients, params, half_sum)
    if settings.l1reg:  # π itself steps, not its logarithm: kernels can leave
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
