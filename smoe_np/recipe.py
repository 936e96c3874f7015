"""The recipe of a fit: its parameters, and the optimiser and the steps that it stands for."""

import contextlib
import math
import numbers
from typing import NamedTuple

from .adam import Adam
from .initialize import constant_model, spacing_of
from .params import NAMES
from .steps import OwnFrame, StepSettings
from .turned_adam import TurnedAdam

# Relative to gradients of half the sum of squared errors; with decorrelated axes, to these times
# the learning rates.
ADAM_EPS = 1e-12
LONG_FIT = 6000  # iterations from which rates stay constant, and events go on, for longer
WIDEST = 0.3  # the lower limit on the diagonal of A is at most this, over the spacing of kernels
# Standard deviation of an image below which experts are trained at lower rates, in proportion: the
# rates of a recipe are for ordinary pictures, and far too high where all differences are small.
FAINT, LEAST_CONTRAST = 0.15, 1e-6
MANY_PIXELS = 2**20  # enough to estimate a standard deviation
SHARPEST = 3.0  # sharpness 1/σ per pixel beyond which a kernel fits between the pixel centres


class Recipe(NamedTuple):
    """Parameters of the method of ``Smoe.fit``.

    Points in time are given as fractions of all iterations, unless stated otherwise. An event
    removes some kernels and splits others. ``examples/ablation.md`` tells what most of them are
    worth.

    Attributes
    ----------
    rate : float
        Learning rate of centres, in each kernel's own frame (``smoe_np.frame``).
    weight_rate, shape_rate : float
        Learning rates of mixing weights and of steering matrices.
    expert_rate, slope_rate : float
        Learning rates of the values of experts at their centres and of their slopes; lower for an
        image of little contrast, see ``FAINT``.
    beta2 : float
        Adam's β₂.
    turn_every : int
        Steps of a kernel between updates of its decorrelated axes (``smoe_np.turned_adam``). With 0
        there are no such axes: Adam scales each number separately.
    fade_from : float
        Time until which learning rates are constant; then they fall as half a cosine.
    fade_to_part : float
        Factor to which learning rates fall.
    start : float
        Fraction of the kernels with which a fit begins, on a grid.
    jitter : float
        Largest random displacement of that grid's centres, in spacings.
    growth_until : float
        Time at which the full number of kernels is reached.
    events_until : float
        Time of the last event.
    event_every : int
        Iterations between events; fewer in a short fit.
    removal : float
        Fraction of the kernels that an event removes at the beginning; it falls linearly to 0 at
        ``events_until``.
    remove_by : {"cost", "weight", "error"}
        Quantity by which kernels are removed, the smallest first. "cost" is the increase of the
        error if the kernel is removed.
    mass_power : float
        Exponent p of the score by which kernels are split, the largest first: error / massᵖ.
    split_by_gain : bool
        Take √(score · gain of separate experts for the two halves) as the score instead; needs
        ``best_direction``.
    best_direction : bool
        Split a kernel in the direction in which separate experts gain most, not in a random one.
    shift : float
        Distance of the children of a split kernel from its centre, in its own frame; below 1, and
        at most ``fit.LINE_SHIFT`` in one dimension.
    tau : float
        Accuracy of the steps: their kernel lists may omit gates below e^−tau. Reported values are
        computed with the exact lists.
    list_life : int
        Number of steps for which a kernel list is used even if kernels have moved too far for it.
    bandwidth_reg : float
        Weight λ_U of the bandwidth term in the loss, for noisy images.
    least_diagonal : float
        Lower limit on the diagonal of A, per pixel. It is lower if kernels lie more than 30 pixels
        apart; see ``WIDEST``.
    most_sharpness : float
        Upper limit on 1/σ along any axis, per pixel, so that no kernel fits between the pixel
        centres. With 1.5 instead of 3 there are no slivers in an enlarged model.
    most_beyond : float
        Limit on how far the value of an expert at its centre may lie outside [0, 1].
    most_slope : float
        Limit on the slopes of experts, per σ. This limit and the one before let experts be stored
        in few bits.
    coarse : bool
        Fit an image with many pixels per kernel at smaller sizes first; see ``fit.COARSE``.
    """

    rate: float = 0.085
    weight_rate: float = 0.04
    shape_rate: float = 0.05
    expert_rate: float = 0.025
    slope_rate: float = 0.015
    beta2: float = 0.98
    turn_every: int = 10
    fade_from: float = 0.6
    fade_to_part: float = 0.02
    start: float = 0.25
    jitter: float = 0.1
    growth_until: float = 0.1
    events_until: float = 0.75
    event_every: int = 50
    removal: float = 0.16
    remove_by: str = "cost"
    mass_power: float = 0.35
    split_by_gain: bool = True
    best_direction: bool = True
    shift: float = 0.95
    tau: float = 6.0
    list_life: int = 16
    bandwidth_reg: float = 0.0
    least_diagonal: float = 0.01
    most_sharpness: float = SHARPEST
    most_beyond: float = 1.0
    most_slope: float = 2.0
    coarse: bool = True


def usual_recipe(iterations):
    """The default recipe for a number of iterations; ``None`` if the number is unknown."""
    if iterations is None or iterations < LONG_FIT:
        return Recipe()
    return Recipe(fade_from=0.75, events_until=0.8)


UPPER_LIMITS = {"fade_from": 1, "fade_to_part": 1, "start": 1, "growth_until": 1, "events_until": 1,
        "removal": 1, "jitter": 10, "turn_every": 2**31 - 1, "list_life": 2**31 - 1,
        "event_every": 2**31 - 1}  # upper limits on the parameters of a recipe
# by the type of a parameter's default: what it may be, and how that is said
_KINDS = {bool: (bool, "True or False"), str: (str, "text"),
          int: (numbers.Integral, "a whole number of 0 or more"),
          float: (numbers.Real, "a finite number of 0 or more")}


def checked(recipe):
    """Return a recipe as a dict of plain values, or raise an error that names what is wrong."""
    for name, value in recipe._asdict().items():
        usual = getattr(Recipe(), name)
        kind, wanted = _KINDS[type(usual)]
        fine = isinstance(value, kind)
        if isinstance(usual, int | float) and not isinstance(usual, bool):
            fine = (fine and not isinstance(value, bool)
                    and math.isfinite(value) and value >= 0)
        if not fine:
            raise ValueError(f"recipe.{name} must be {wanted}, got {value!r}")
        if name in UPPER_LIMITS and value > UPPER_LIMITS[name]:
            raise ValueError(f"recipe.{name} must be at most {UPPER_LIMITS[name]}, got {value!r}")
    if recipe.remove_by not in ("cost", "weight", "error"):
        raise ValueError(f"recipe.remove_by must be cost, weight or error, got "
                         f"{recipe.remove_by!r}")
    if recipe.event_every == 0 or recipe.tau == 0:
        raise ValueError("recipe.event_every and recipe.tau must be above 0")
    if not 0 < recipe.least_diagonal <= recipe.most_sharpness:
        raise ValueError("recipe.least_diagonal must be above 0, and recipe.most_sharpness no less")
    if not (0 < recipe.shift < 1 and 0 < recipe.beta2 < 1):
        raise ValueError("recipe.shift and recipe.beta2 must lie between 0 and 1")
    return {name: type(getattr(Recipe(), name))(value)
            for name, value in recipe._asdict().items()}


def contrast_of(target):
    """The factor to the rates of experts for an image (*shape, C): 1 unless it is faint."""
    pixels = target.reshape(-1, target.shape[-1])
    _, variance = constant_model(pixels[:: -(-len(pixels) // MANY_PIXELS)])
    return min(1.0, max(math.sqrt(variance) / FAINT, LEAST_CONTRAST))


def frame_steps(recipe, shape, kernels, affine, fade_from=math.inf, fade_to=math.inf, l1reg=0.0,
                initial_kernels=1, contrast=1.0):
    """The settings of steps in each kernel's own frame.

    Parameters
    ----------
    recipe : Recipe
    shape : tuple of D ints
        Spatial shape of the image.
    kernels : int
        Full number of kernels; the fewer there are, the wider they may be.
    affine : bool
        Whether slopes are trained.
    fade_from, fade_to : float
        Numbers of Adam's steps between which learning rates fall.
    l1reg : float
        Weight λ_S of the sparsity term.
    initial_kernels : int
        K₀ of the loss.
    contrast : float
        That of the image, from ``contrast_of``.

    Returns
    -------
    StepSettings
    """
    rates = {"pis": recipe.weight_rate, "musX": recipe.rate, "A": recipe.shape_rate,
             "nu_e": contrast * recipe.expert_rate}
    if affine:
        rates["gamma_e"] = contrast * recipe.slope_rate
    longest = max(shape)
    least = min(recipe.least_diagonal, WIDEST / spacing_of(shape, kernels))
    frame = OwnFrame(least * longest, recipe.most_sharpness * longest, fade_from,
                     fade_to, recipe.fade_to_part, recipe.most_beyond, recipe.most_slope)
    return StepSettings(rates, ADAM_EPS, l1reg, recipe.bandwidth_reg, initial_kernels, False, None,
                        frame, explosion=math.inf)  # events and a larger λ_S may raise the loss


def adam_of(recipe, params, affine):
    """A new optimiser for a model, as a recipe specifies it."""
    if recipe.turn_every == 0:
        return Adam(params, recipe.beta2)
    trained = [name for name in NAMES if affine or name != "gamma_e"]
    return TurnedAdam(params, recipe.beta2, recipe.turn_every, trained)


@contextlib.contextmanager
def looser_lists(engine, recipe):
    """Have an engine use the lists that a recipe is content with, and exact ones again after."""
    exact = engine.tau, engine.list_life
    engine.tau, engine.list_life = min(recipe.tau, engine.tau), recipe.list_life
    try:
        yield
    finally:
        engine.tau, engine.list_life = exact
