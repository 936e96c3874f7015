"""The method of ``Smoe.fit``: its settings, its schedule."""

import bisect
import math

import numpy as np

from .allocation import check_bits
from .arguments import check_number, check_whole
from .coarse import Sizes
from .events import relocate
from .initialize import fit_start, spread_kernels
from .packed import expected_bytes, numbers_of
from .recipe import SHARPEST, Recipe, adam_of, checked, frame_steps, usual_recipe
from .search import next_try

TARGETS = ("kernels", "psnr", "scalars", "bytes")
EXPERTS = ("auto", "affine", "constant")
SHORT_FIT_EVENTS, LEAST_BETWEEN = 40, 6  # events of a short fit; iterations between them, at least
MOST_DOUBLINGS = 64  # enough for any number of kernels
BITS = 9  # bits per number with which a file of a given size holds the best model, about
MOST_WANTED = 2**31 - 1  # limit on kernels, scalars or bytes
MOST_SECONDS = 1e9
MOST_BY_PIXEL, MOST_FOR_FEW_PIXELS = 10, 1000  # limits on kernels
# Pairs (part of the fit, pixels per kernel): until this part of the fit, an image with more pixels
# per kernel is downscaled to that number. examples/ablation.md measures gain and cost.
COARSE = (0.25, 200), (0.45, 400), (0.6, 1000), (0.85, 3000)
LINE_SHIFT = 0.7  # limit on ``shift`` in one dimension, where wider children enclose other kernels
FIT_ITERATIONS = 3000  # default; with a budget of seconds, assumed until the speed is known
LEAST_ITERATIONS = 20  # minimum with a budget of seconds


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
        iterations = FIT_ITERATIONS if iterations is None else iterations
        iterations = check_whole("iterations", iterations, 1)
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
        raise TypeError(f"recipe must be a smoe_np.recipe.Recipe, got {recipe!r}")
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
        "recipe": checked(recipe),
    }


def settings_of(facts):
    """The settings of a fit, checked again, from those that a checkpoint of any origin holds."""
    facts = dict(facts)
    return fit_settings(**{facts.pop("target"): facts.pop("value")}, **facts)


def kernels_for(settings, shape, channels):
    """The number of kernels that the target of a fit allows.

    Parameters
    ----------
    settings : dict
        Settings from ``fit_settings``, whose target is not a PSNR.
    shape : tuple of D ints
        Spatial shape of the image.
    channels : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the target does not allow a single kernel, or far more kernels than there are pixels.
    """
    name, value = settings["target"], settings["value"]
    model = len(shape), channels, settings["experts"] == "affine"
    bits = settings["bits"] or BITS
    each = 1 if name == "kernels" else scalars_of(*model)
    least = expected_bytes(1, *model, bits) if name == "bytes" else each
    if value < least:
        raise ValueError(f"{name} must be at least {least}, which a single kernel of {len(shape)} "
                         f"dimensions and {channels} channels takes, got {value}")
    if name == "bytes":
        # coding saves less with fewer kernels; in all, bytes grow with kernels
        wanted = 1 + bisect.bisect_right(range(2, 8 * value), value,
                                         key=lambda K: expected_bytes(K, *model, bits))
    else:
        wanted = value // each
    pixels = math.prod(shape)
    most = max(MOST_FOR_FEW_PIXELS, MOST_BY_PIXEL * pixels)
    if wanted > most:
        meant = "" if name == "kernels" else f", which stands for {wanted}"
        raise ValueError(f"{name} must stand for at most {most} kernels for {pixels} pixels, got "
                         f"{value}{meant}")
    return wanted


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
        return min(self.recipe.event_every, max(LEAST_BETWEEN, until // SHORT_FIT_EVENTS))

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
