"""How ``Smoe.fit`` goes about it: the recipe, its schedule, its targets."""

import math
from typing import NamedTuple

import numpy as np

from .engine import check_number, check_whole
from .events import relocate
from .initialize import fit_start
from .steps import OwnFrame, StepSettings

TARGETS = ("kernels", "psnr", "scalars", "bytes")
EXPERTS = ("affine", "constant")
ADAM_EPS = 1e-12  # of gradients of half the sum of squares in each kernel's frame
LONG = 6000  # iterations of a fit that keeps its rates, and has events, for a larger part
LEAST_ITERATIONS = 20  # that a budget of seconds is taken to allow


class Recipe(NamedTuple):
    """What ``Smoe.fit`` does, in numbers; ``examples/ablation.py`` measures what each is worth.

    Iterations are given as parts of the whole.
    """

    rate: float = 0.1  # of weights and centres, in each kernel's own frame
    shape_rate: float = 0.06
    expert_rate: float = 0.03  # of experts at the centre
    slope_rate: float = 0.018
    beta2: float = 0.98
    fade_from: float = 0.6  # until which rates are constant; then they fall as half a cosine ...
    fade_to_part: float = 0.02  # ... to this part
    start: float = 0.25  # part of the kernels with which it begins, in a grid ...
    jitter: float = 0.1  # ... shaken by so many spacings
    growth_until: float = 0.2  # by when there are all kernels
    events_until: float = 0.75
    event_every: int = 50  # iterations, in a short fit less
    removal: float = 0.1  # part of the kernels that leave at an event, at first; at last none do
    remove_by: str = "cost"  # of leaving a kernel out; or "weight" or "error"
    mass_power: float = 0.35  # kernels of most error / mass^this are split
    split_by_gain: bool = False  # times what separate experts would gain, and the root of it
    best_direction: bool = True  # or a random one
    shift: float = 0.95  # of the children, in their parent's frame
    tau: float = 6.0  # lists may leave out gates below e^−this, and are used for so many steps
    list_life: int = 8  # even if kernels move; what is reported is exact
    least_diagonal: float = 0.01  # of A, per pixel
    most_diagonal: float = 2.0


def usual_recipe(iterations):
    """The recipe for a number of iterations, or for an unknown one, ``None``."""
    if iterations is None or iterations < LONG:
        return Recipe()
    return Recipe(fade_from=0.75, events_until=0.8)


EVENTS, LEAST_BETWEEN = 40, 6  # a short fit has so many events, but no closer than that


def scalars_of(D, C, affine):
    """Numbers of a kernel: π, μ, the lower triangle of A, ν, and γ if experts are affine."""
    return 1 + D + D * (D + 1) // 2 + C * (1 + D * affine)


def fit_settings(kernels=None, psnr=None, scalars=None, bytes=None, iterations=None, seconds=None,
                 experts="affine", seed=0, val_iter=100, recipe=None):
    """The settings of ``Smoe.fit`` by name, checked, as a checkpoint keeps them.

    Raises
    ------
    TypeError, ValueError
        If one is of the wrong kind or range.
    """
    targets = {"kernels": kernels, "psnr": psnr, "scalars": scalars, "bytes": bytes}
    given = [name for name in TARGETS if targets[name] is not None]
    if len(given) != 1:
        raise ValueError(f"fit needs exactly one of {', '.join(TARGETS)} as its target, got "
                         f"{' and '.join(given) or 'none'}")
    name = given[0]
    value = (check_number(name, targets[name], above=True) if name == "psnr" else
             check_whole(name, targets[name], 1))
    if iterations is not None and seconds is not None:
        raise ValueError("fit takes iterations or seconds, not both")
    if name == "psnr" and seconds is not None:
        raise ValueError("seconds goes with kernels, scalars or bytes; to a psnr it takes several "
                         "fits, each of so many iterations")
    if iterations is None and seconds is None:
        iterations = 3000
    if experts not in EXPERTS:
        raise ValueError(f"experts must be one of {EXPERTS}, got {experts!r}")
    if isinstance(recipe, dict):  # of a checkpoint
        recipe = Recipe(**recipe)
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a smoe_np.fit.Recipe, got {recipe!r}")
    return {
        "target": name, "value": value,
        "iterations": None if iterations is None else check_whole("iterations", iterations, 1),
        "seconds": None if seconds is None else check_number("seconds", seconds, above=True),
        "experts": experts, "seed": check_whole("seed", seed, 0),
        "val_iter": check_whole("val_iter", val_iter, 1),
        "recipe": _checked(recipe or usual_recipe(iterations))._asdict(),
    }


def settings_of(facts):
    """The settings of ``fit`` again, from those that ``fit_settings`` gave: of strangers."""
    facts = dict(facts)
    return fit_settings(**{facts.pop("target"): facts.pop("value")}, **facts)


def kernels_for(settings, D, C):
    """The number of kernels that a target other than a PSNR stands for.

    Raises
    ------
    ValueError
        If it does not allow a single one.
    """
    name, value = settings["target"], settings["value"]
    each = 1
    if name != "kernels":
        each = scalars_of(D, C, settings["experts"] == "affine") * (2 if name == "bytes" else 1)
    if value < each:
        raise ValueError(f"{name} must be at least {each}, which a single kernel of {D} dimensions "
                         f"and {C} channels takes, got {value}")
    return value // each


class Plan:
    """A fit of a number of kernels: what is due, and when.

    Parameters
    ----------
    settings : dict
        Of ``fit_settings``.
    shape : tuple of D ints
    kernels : int
    iterations : int
        That are expected.
    """

    def __init__(self, settings, shape, kernels, iterations):
        self.settings, self.shape = settings, shape
        self.kernels, self.iterations = kernels, iterations
        self.recipe = Recipe(**settings["recipe"])
        self.affine = settings["experts"] == "affine"
        events = self.recipe.events_until * iterations // self.event_every(iterations)
        part = max(self.recipe.start, 0.5 ** min(events, 50))  # at an event they double at most
        self.begin = min(kernels, max(1, int(kernels * part)))

    def start(self, target):
        """The model to start from: a grid of some kernels."""
        random = np.random.default_rng(self.settings["seed"])
        return fit_start(target, self.begin, self.recipe.jitter, random,
                         self.recipe.most_diagonal)

    def event_every(self, until):
        """Iterations from event to event."""
        return min(self.recipe.event_every, max(LEAST_BETWEEN, until // EVENTS))

    def until_event(self, iteration, until):
        """Iterations until the next event, 0 if one is due; infinity if there is none any more."""
        every = self.event_every(until)
        due = -iteration % every if iteration else every
        return due if iteration + due <= self.recipe.events_until * until else math.inf

    def event(self, engine, params, adam, iteration, until):
        """Take kernels away and split others: the new model."""
        recipe, way = self.recipe, iteration / until
        grown = min(1, (way + self.event_every(until) / until) / max(recipe.growth_until, 1e-9))
        target = math.ceil(self.begin * (self.kernels / self.begin) ** grown)
        left = max(0, 1 - way / recipe.events_until)
        removed = round(recipe.removal * left * params.num_kernels)
        random = np.random.default_rng([self.settings["seed"], iteration])
        return relocate(engine, params, adam, min(target, self.kernels), removed, recipe,
                        self.affine, random)

    def steps(self, until, initial_kernels):
        """How steps are taken."""
        recipe, longest = self.recipe, max(self.shape)
        rates = {"pis": recipe.rate, "musX": recipe.rate, "A": recipe.shape_rate,
                 "nu_e": recipe.expert_rate}
        if self.affine:
            rates["gamma_e"] = recipe.slope_rate
        frame = OwnFrame(recipe.least_diagonal * longest, recipe.most_diagonal * longest,
                         recipe.fade_from * until, until, recipe.fade_to_part)
        return StepSettings(rates, ADAM_EPS, 0.0, 0.0, initial_kernels, False, None, frame,
                            explosion=math.inf)  # an event may raise the loss


class Try(NamedTuple):
    """A fit on the way to a PSNR."""

    kernels: int
    iterations: int
    psnr: float = -math.inf  # that it reached


def next_try(tried, wanted, most, iterations):
    """What to fit next so as to have as few kernels as reach a PSNR, or None where that is done.

    Two short fits tell where to look; then PSNR is taken to be linear in log K, through the nearest
    fits on either side.

    Parameters
    ----------
    tried : list of Try
    wanted : float
        dB.
    most : int
        Kernels, beyond which nothing is tried.
    iterations : int
        Of a fit that counts.
    """
    full = [one for one in tried if one.iterations == iterations]
    short = [one for one in tried if one.iterations != iterations]
    if not full and len(short) < 2:
        guess = max(1, most // FIRST_TRY)
        if short:
            guess = _where(short, wanted - SHORT_LACKS, DECIBELS)
        return Try(_limited(guess, most), max(1, iterations // SHORT))
    slope = DECIBELS
    if len(short) > 1 and short[0].kernels != short[1].kernels:
        a, b = short
        slope = max(0.5, (a.psnr - b.psnr) / math.log2(a.kernels / b.kernels))
    if not full:
        return Try(_limited(_where(short, wanted - SHORT_LACKS, slope), most), iterations)
    high = min((one for one in full if one.psnr >= wanted), default=None)
    low = max((one for one in full if one.psnr < wanted and (not high or one < high)), default=None)
    if high and (high.psnr <= wanted + WITHIN or high.kernels == 1):
        return None
    if high and low and high.kernels <= max(low.kernels * STEP, low.kernels + 1):
        return None
    if len(full) == TRIES or (not high and low.kernels == most):
        return None
    guess = _where([one for one in (low, high) if one], wanted + WITHIN / 2, slope)
    if low:
        guess = max(guess, math.ceil(low.kernels * STEP), low.kernels + 1)
    if high:
        guess = min(guess, max(int(high.kernels / STEP), low.kernels + 1 if low else 1),
                    high.kernels - 1)
    return Try(_limited(guess, most), iterations)


FIRST_TRY = 256  # pixels for a kernel, where nothing is known yet
DECIBELS = 4.0  # that twice as many kernels usually bring
SHORT, SHORT_LACKS = 10, 1.2  # a short fit has 1/10 of the iterations, and usually so many dB less
WITHIN = 0.1  # dB above what is wanted is near enough
STEP = 1.03  # times as many kernels is near enough, too
TRIES = 10


def _where(tried, wanted, slope):
    """The number of kernels at which a PSNR is expected."""
    if len(tried) > 1 and tried[0].psnr < tried[1].psnr and tried[0].kernels < tried[1].kernels:
        a, b = tried
        slope = (b.psnr - a.psnr) / math.log2(b.kernels / a.kernels)
    nearest = min(tried, key=lambda one: abs(one.psnr - wanted))
    octaves = (min(wanted, nearest.psnr + 100) - nearest.psnr) / slope
    return round(nearest.kernels * 2 ** min(max(octaves, -4), 4))


def _limited(kernels, most):
    return max(1, min(kernels, most))


def _checked(recipe):
    """A recipe, or an error that names what is wrong with it."""
    for name, value in recipe._asdict().items():
        usual = getattr(Recipe(), name)
        if isinstance(usual, bool | str):
            fine = type(value) is type(usual)
        else:
            kind = int if isinstance(usual, int) else int | float
            fine = isinstance(value, kind) and math.isfinite(value) and value >= 0
        if not fine:
            raise ValueError(f"recipe.{name} must be like {usual!r}, got {value!r}")
    if recipe.remove_by not in ("cost", "weight", "error"):
        raise ValueError(f"recipe.remove_by must be cost, weight or error, got "
                         f"{recipe.remove_by!r}")
    if recipe.event_every == 0 or recipe.tau == 0:
        raise ValueError("recipe.event_every and recipe.tau must be above 0")
    if not (0 < recipe.shift < 1 and 0 < recipe.beta2 < 1):
        raise ValueError("recipe.shift and recipe.beta2 must lie between 0 and 1")
    return recipe

