"""The method of ``Smoe.fit``: its recipe, its settings, its schedule."""

import bisect
import math
import numbers
from typing import NamedTuple

import numpy as np

from .adam import Adam
from .allocation import check_bits
from .coarse import Sizes
from .engine import check_number, check_whole
from .events import relocate
from .initialize import constant_model, fit_start, spacing_of, spread_kernels
from .packed import expected_bytes, numbers_of
from .params import NAMES
from .search import next_try
from .steps import OwnFrame, StepSettings
from .turned_adam import TurnedAdam

TARGETS = ("kernels", "psnr", "scalars", "bytes")
EXPERTS = ("auto", "affine", "constant")
# Relative to gradients of half the sum of squared errors; with decorrelated axes, to these times
# the learning rates.
ADAM_EPS = 1e-12
LONG = 6000  # iterations from which rates stay constant, and events go on, for longer
EVENTS, LEAST_BETWEEN = 40, 6  # events of a short fit; iterations between them, at least
MOST_DOUBLINGS = 64  # enough for any number of kernels
BITS = 9  # bits per number with which a file of a given size holds the best model, about
MOST_WANTED = 2**31 - 1  # limit on kernels, scalars or bytes
MOST_SECONDS = 1e9
# Pairs (part of the fit, pixels per kernel): until this part of the fit, an image with more pixels
# per kernel is downscaled to that number. examples/ablation.md measures gain and cost.
COARSE = (0.25, 200), (0.45, 400), (0.6, 1000), (0.85, 3000)
WIDEST = 0.3  # the lower limit on the diagonal of A is at most this, over the spacing of kernels
# Standard deviation of an image below which experts are trained at lower rates, in proportion: the
# rates of a recipe are for ordinary pictures, and far too high where all differences are small.
FAINT, LEAST_CONTRAST = 0.15, 1e-6
MANY_PIXELS = 2**20  # enough to estimate a standard deviation
LINE_SHIFT = 0.7  # limit on ``shift`` in one dimension, where wider children enclose other kernels
SHARPEST = 3.0  # sharpness 1/σ per pixel beyond which a kernel fits between the pixel centres
ITERATIONS = 3000  # default; with a budget of seconds, assumed until the speed is known
LEAST_ITERATIONS = 20  # minimum with a budget of seconds


class Recipe(NamedTuple):
    """Parameters of the method of ``Smoe.fit``.

    Points in time are given as fractions of all iterations, unless stated otherwise. An event
    removes some kernels and splits others. ``examples/ablation.py`` measures the effect of each
    parameter.

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
        at most ``LINE_SHIFT`` in one dimension.
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
        Fit an image with many pixels per kernel at smaller sizes first; see ``COARSE``.
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
    if iterations is None or iterations < LONG:
        return Recipe()
    return Recipe(fade_from=0.75, events_until=0.8)


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


def scalars_of(D, C, affine):
    """Scalars per kernel: π, μ, the lower triangle of A, ν, and γ if experts are affine."""
    return sum(numbers_of(D, C, affine).values())


def fit_settings(kernels=None, psnr=None, scalars=None, bytes=None, iterations=None, seconds=None,
                 experts="auto", seed=0, val_iter=100, recipe=None, bits=None, sharpness=None,
                 channels=1):
    """Check the arguments of ``Smoe.fit``, and return them as a dict for checkpoints.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.
    """
    targets = {"kernels": kernels, "psnr": psnr, "scalars": scalars, "bytes": bytes}
    given = [name for name in TARGETS if targets[name] is not None]
    if len(given) != 1:
        raise ValueError(f"fit needs exactly one of {', '.join(TARGETS)} as its target, got "
                         f"{' and '.join(given) or 'none'}")
    name = given[0]
    value = (check_number(name, targets[name], above=True) if name == "psnr" else
             check_whole(name, targets[name], 1))
    if value > MOST_WANTED:
        raise ValueError(f"{name} must be at most {MOST_WANTED}, got {value:.4g}"
                         if value < 1e300 else f"{name} must be at most {MOST_WANTED}")
    if iterations is not None and seconds is not None:
        raise ValueError("fit takes iterations or seconds, not both")
    if name == "psnr" and seconds is not None:
        raise ValueError("seconds goes with kernels, scalars or bytes; a psnr takes several fits, "
                         "so give iterations, the length of each")
    if seconds is None:
        iterations = check_whole("iterations", ITERATIONS if iterations is None else iterations, 1)
    else:
        seconds = check_number("seconds", seconds, above=True)
        if seconds > MOST_SECONDS:
            raise ValueError(f"seconds must be at most {MOST_SECONDS:g}, got {seconds:g}")
    if experts not in EXPERTS:
        raise ValueError(f"experts must be one of {EXPERTS}, got {experts!r}")
    if experts == "auto":  # in colour, more kernels without slopes are better in the same size
        experts = "constant" if channels > 1 and name in ("scalars", "bytes") else "affine"
    if bits is not None:
        if name != "bytes":
            raise ValueError("bits goes with bytes; leave out bits, or give bytes as the target")
        bits = check_bits(bits)
    if isinstance(recipe, dict):  # from a checkpoint
        recipe = Recipe(**recipe)
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a smoe_np.fit.Recipe, got {recipe!r}")
    if recipe is not None and sharpness is not None:
        raise ValueError("give recipe or sharpness, not both: the recipe's most_sharpness is the "
                         "same")
    recipe = recipe or usual_recipe(iterations)
    if sharpness is not None:
        sharpness = check_number("sharpness", sharpness, above=True)
        if sharpness < recipe.least_diagonal:
            raise ValueError(f"sharpness must be at least {recipe.least_diagonal:g}, got "
                             f"{sharpness:g}")
        recipe = recipe._replace(most_sharpness=sharpness)
    return {
        "target": name, "value": value, "iterations": iterations, "seconds": seconds,
        "experts": experts, "seed": check_whole("seed", seed, 0),
        "val_iter": check_whole("val_iter", val_iter, 1),
        "bits": bits,
        "recipe": _checked(recipe),
    }


def settings_of(facts):
    """The settings of a fit, checked again, from those that a checkpoint of any origin holds."""
    facts = dict(facts)
    return fit_settings(**{facts.pop("target"): facts.pop("value")}, **facts)


def kernels_for(settings, D, C):
    """The number of kernels that a target other than a PSNR allows.

    Raises
    ------
    ValueError
        If the target does not allow a single kernel.
    """
    name, value = settings["target"], settings["value"]
    affine = settings["experts"] == "affine"
    each = 1 if name == "kernels" else scalars_of(D, C, affine)
    least = each
    if name == "bytes":
        bits = settings["bits"] or BITS
        least = expected_bytes(1, D, C, affine, bits)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, which a single kernel of {D} "
                         f"dimensions and {C} channels takes, got {value}")
    if name != "bytes":
        return value // each
    # coding saves less with fewer kernels; in all, bytes grow with kernels, so they can be bisected
    return bisect.bisect_right(range(2, 8 * value), value,
                               key=lambda K: expected_bytes(K, D, C, affine, bits)) + 1


class Plan:
    """The schedule of a fit with a given number of kernels.

    Parameters
    ----------
    settings : dict
        Settings from ``fit_settings``.
    shape : tuple of D ints
        Spatial shape of the image.
    kernels : int
        Full number of kernels.
    iterations : int
        Expected number of iterations.
    """

    def __init__(self, settings, shape, kernels, iterations):
        self.settings, self.shape = settings, shape
        self.kernels, self.iterations = kernels, iterations
        self.recipe = Recipe(**settings["recipe"])
        if len(shape) == 1:
            self.recipe = self.recipe._replace(shift=min(self.recipe.shift, LINE_SHIFT))
        self.affine = settings["experts"] == "affine"
        self.counts = self._first_counts()
        self.begin, self.last_event = math.prod(self.counts), 0
        self.wanted = settings["value"] if settings["target"] == "psnr" else None
        self.full = settings["iterations"]  # of a full-length try, for a target PSNR
        self.sizes = Sizes(shape, kernels, COARSE if self.recipe.coarse else ())

    def next_try(self, tried):
        """The next try on the way to a PSNR: see ``search.next_try``."""
        return next_try(tried, self.wanted, math.prod(self.shape), self.full)

    def _first_counts(self):
        """Kernels along each axis of the first grid, enough for events to reach the full number."""
        every = self.event_every(self.iterations)
        events = min(int(self.recipe.events_until * self.iterations / every), MOST_DOUBLINGS)
        begin = max(1, int(self.kernels * self.recipe.start))
        while True:
            counts = spread_kernels(self.shape, begin)
            # an event can at most double the kernels
            if begin == self.kernels or math.prod(counts) * 2**events >= self.kernels:
                return counts
            begin = min(self.kernels, begin + 1 + begin // 10)

    def start(self, target):
        """The model to start from: a grid of few kernels."""
        random = np.random.default_rng(self.settings["seed"])
        return fit_start(target, self.counts, self.recipe.jitter, random,
                         self.recipe.most_sharpness)

    def event_every(self, until):
        """Iterations between events."""
        return min(self.recipe.event_every, max(LEAST_BETWEEN, until // EVENTS))

    def until_event(self, iteration, until):
        """Iterations until the next event; 0 if one is due, infinity if none is left."""
        every = self.event_every(until)
        due = -iteration % every if iteration else every
        return due if iteration + due <= self.recipe.events_until * until else math.inf

    def event(self, engine, params, adam, iteration, until):
        """Remove some kernels and split others; return the new model."""
        recipe, way = self.recipe, iteration / until
        grown = min(1, (way + self.event_every(until) / until) / max(recipe.growth_until, 1e-9))
        target = math.ceil(self.begin * (self.kernels / self.begin) ** grown)
        left = max(0, 1 - way / recipe.events_until)
        removed = round(recipe.removal * left * params.num_kernels)
        random = np.random.default_rng([self.settings["seed"], iteration])
        return relocate(engine, params, adam, min(target, self.kernels), removed, recipe,
                        self.affine, random)

    def prepared(self, engine, params, adam, iteration, until):
        """The model to continue with: the result of an event if one is due, else unchanged."""
        if self.last_event == iteration or self.until_event(iteration, until):
            return params
        params = self.event(engine, params, adam, iteration, until)
        self.last_event = iteration  # only now, so that an interrupted event is repeated
        return params

    def advance(self, engine, params, adam, steps, lowest_loss, at_most, iteration, until):
        """Take some steps, at most until the next event; return a ``Progressed``."""
        to_event = self.until_event(iteration, until)
        at_most = min(at_most, to_event or self.event_every(until))
        frame = steps.own_frame
        if engine.shape != self.shape:
            most = min(frame.most_sharpness, SHARPEST * max(engine.shape))
            steps = steps._replace(own_frame=frame._replace(most_sharpness=most))
        return engine.advance(params, adam, steps, lowest_loss, at_most)

    def new_adam(self, params):
        """A new optimiser for a model."""
        return adam_of(self.recipe, params, self.affine)

    def steps(self, until, initial_kernels, contrast):
        """The settings of steps."""
        return frame_steps(self.recipe, self.shape, self.kernels, self.affine,
                           self.recipe.fade_from * until, until, 0.0, initial_kernels, contrast)

    # ---- checkpoints

    kind = "fit"
    advice = "fit with lower rates in its recipe"
    rounds = ()  # only a sparsification has any

    def facts(self):
        """The state, as a checkpoint stores it."""
        return {"kernels": self.kernels, "planned": self.iterations, "last_event": self.last_event}


MOST = {"fade_from": 1, "fade_to_part": 1, "start": 1, "growth_until": 1, "events_until": 1,
        "removal": 1, "jitter": 10, "turn_every": 2**31 - 1, "list_life": 2**31 - 1,
        "event_every": 2**31 - 1}  # upper limits on the parameters of a recipe


# by the type of a parameter's default: what it may be, and how that is said
_KINDS = {bool: (bool, "True or False"), str: (str, "text"),
          int: (numbers.Integral, "a whole number of 0 or more"),
          float: (numbers.Real, "a finite number of 0 or more")}


def _checked(recipe):
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
        if name in MOST and value > MOST[name]:
            raise ValueError(f"recipe.{name} must be at most {MOST[name]}, got {value!r}")
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
