"""How ``Smoe.fit`` goes about it: the recipe, its schedule, what it is asked for."""

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
from .initialize import fit_start, spacing_of, spread_kernels
from .packed import expected_bytes, numbers_of
from .params import NAMES
from .search import next_try
from .steps import OwnFrame, StepSettings
from .turned_adam import TurnedAdam

TARGETS = ("kernels", "psnr", "scalars", "bytes")
EXPERTS = ("auto", "affine", "constant")
ADAM_EPS = 1e-12  # of gradients of half the sum of squares; along axes, of these times rates
LONG = 6000  # iterations of a fit that keeps its rates, and has events, for a larger part
EVENTS, LEAST_BETWEEN = 40, 6  # a short fit has so many events, but no closer than that
MOST_DOUBLINGS = 64  # which any number of kernels comes to
BITS = 9  # of a number: a file of so many bytes holds the best model with about these
MOST_WANTED = 2**31 - 1  # kernels, scalars or bytes
MOST_SECONDS = 1e9
# Until which part of the way a kernel has so many pixels, where the picture has more of them; what
# that is worth, and what more of it costs, is in examples/ablation.md.
COARSE = (0.25, 200), (0.45, 400), (0.6, 1000), (0.85, 3000)
WIDEST = 0.3  # of 1/σ along any axis, for each spacing of kernels, that may always be
LINE_SHIFT = 0.7  # of children on a line, where others come between them if they lie farther apart
SHARPEST = 3.0  # 1/σ per pixel, beyond which a kernel hides between pixels
ITERATIONS = 3000  # unless told otherwise; of a budget of seconds, until it is seen how many
LEAST_ITERATIONS = 20  # that a budget of seconds is taken to allow


class Recipe(NamedTuple):
    """What ``Smoe.fit`` does, in numbers; ``examples/ablation.py`` measures what each is worth.

    Where not said otherwise, iterations are given as parts of the whole.

    Attributes
    ----------
    rate : float
        Learning rate of centres, in each kernel's own frame.
    weight_rate, shape_rate : float
        Of mixing weights, and of steering matrices.
    expert_rate, slope_rate : float
        Of experts' values at their centres, and of their slopes.
    beta2 : float
        Adam's β₂.
    turn_every : int
        Steps of a kernel, after which its axes turn; 0: no axes, but a rate for each number.
    fade_from : float
        Until when rates are constant; then they fall as half a cosine.
    fade_to_part : float
        To which part of what they were.
    start : float
        Part of the kernels with which a fit begins, in a grid.
    jitter : float
        By how many spacings at most that grid is shaken.
    growth_until : float
        By when there are all kernels.
    events_until : float
        Until when kernels leave and are split.
    event_every : int
        Iterations from one such event to the next; fewer in a short fit.
    removal : float
        Part of the kernels that leave at an event, at first; it falls to none at ``events_until``.
    remove_by : {"cost", "weight", "error"}
        Which leave: those of the least of it. The cost is that of leaving a kernel out.
    mass_power : float
        Kernels of the largest error / mass^mass_power are split.
    split_by_gain : bool
        Or of the largest √(that · what separate experts would gain); needs ``best_direction``.
    best_direction : bool
        Split kernels where separate experts gain most, instead of at random.
    shift : float
        How far from their parent's centre its children lie, in its frame; below 1. In one
        dimension no farther than ``LINE_SHIFT``.
    tau : float
        Steps use lists of kernels that may leave out gates below e^−tau. What is reported is exact.
    list_life : int
        For how many steps such a list is used, even if kernels move.
    bandwidth_reg : float
        Weight λ_U of the bandwidth in the loss, against noise.
    least_diagonal : float
        Of A, per pixel; less where kernels lie more than 30 pixels apart: ``WIDEST``.
    most_sharpness : float
        Of 1/σ along any axis, per pixel, so that no kernel hides between pixels. With 1.5 instead
        of 3 there are no slivers where a model is enlarged.
    most_beyond : float
        By how much experts' values at their centres may lie outside [0, 1].
    most_slope : float
        Of experts' slopes, for each σ; this bound and the last let few bits store experts.
    coarse : bool
        Whether a picture of many pixels for each kernel is regressed at smaller sizes at first:
        ``COARSE``.
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
    """The recipe for a number of iterations, or for an unknown one, ``None``."""
    if iterations is None or iterations < LONG:
        return Recipe()
    return Recipe(fade_from=0.75, events_until=0.8)


def frame_steps(recipe, shape, kernels, affine, fade_from=math.inf, fade_to=math.inf, l1reg=0.0,
                initial_kernels=1):
    """Steps in each kernel's own frame.

    Parameters
    ----------
    recipe : Recipe
    shape : tuple of D ints
    kernels : int
        For which the picture has room; the fewer there are, the wider they may be.
    affine : bool
        Whether slopes are trained.
    fade_from, fade_to : float
        Steps of Adam between which rates fall.
    l1reg : float
        λ_S.
    initial_kernels : int
        K₀.

    Returns
    -------
    StepSettings
    """
    rates = {"pis": recipe.weight_rate, "musX": recipe.rate, "A": recipe.shape_rate,
             "nu_e": recipe.expert_rate}
    if affine:
        rates["gamma_e"] = recipe.slope_rate
    longest = max(shape)
    least = min(recipe.least_diagonal, WIDEST / spacing_of(shape, kernels))
    frame = OwnFrame(least * longest, recipe.most_sharpness * longest, fade_from,
                     fade_to, recipe.fade_to_part, recipe.most_beyond, recipe.most_slope)
    return StepSettings(rates, ADAM_EPS, l1reg, recipe.bandwidth_reg, initial_kernels, False, None,
                        frame, explosion=math.inf)  # the loss may rise: an event, a larger λ_S


def adam_of(recipe, params, affine):
    """Adam for a model's steps, as a recipe has it."""
    if recipe.turn_every == 0:
        return Adam(params, recipe.beta2)
    trained = [name for name in NAMES if affine or name != "gamma_e"]
    return TurnedAdam(params, recipe.beta2, recipe.turn_every, trained)


def scalars_of(D, C, affine):
    """Numbers of a kernel: π, μ, the lower triangle of A, ν, and γ if experts are affine."""
    return sum(numbers_of(D, C, affine).values())


def fit_settings(kernels=None, psnr=None, scalars=None, bytes=None, iterations=None, seconds=None,
                 experts="auto", seed=0, val_iter=100, recipe=None, bits=None, sharpness=None,
                 channels=1):
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
    if value > MOST_WANTED:
        raise ValueError(f"{name} must be at most {MOST_WANTED}, got {value:.4g}"
                         if value < 1e300 else f"{name} must be at most {MOST_WANTED}")
    if iterations is not None and seconds is not None:
        raise ValueError("fit takes iterations or seconds, not both")
    if name == "psnr" and seconds is not None:
        raise ValueError("seconds goes with kernels, scalars or bytes; to a psnr it takes several "
                         "fits, each of so many iterations")
    if seconds is None:
        iterations = check_whole("iterations", ITERATIONS if iterations is None else iterations, 1)
    else:
        seconds = check_number("seconds", seconds, above=True)
        if seconds > MOST_SECONDS:
            raise ValueError(f"seconds must be at most {MOST_SECONDS:g}, got {seconds:g}")
    if experts not in EXPERTS:
        raise ValueError(f"experts must be one of {EXPERTS}, got {experts!r}")
    if experts == "auto":  # in colour there can be more of those without slopes, which is better
        experts = "constant" if channels > 1 and name in ("scalars", "bytes") else "affine"
    if bits is not None:
        if name != "bytes":
            raise ValueError("bits goes with bytes: so many numbers a file of these bytes holds")
        bits = check_bits(bits)
    if isinstance(recipe, dict):  # of a checkpoint
        recipe = Recipe(**recipe)
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a smoe_np.fit.Recipe, got {recipe!r}")
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
    """The settings of ``fit`` again, from those that ``fit_settings`` gave: of strangers."""
    facts = dict(facts)
    if isinstance(facts["recipe"], dict):  # of a version that knew full size alone
        facts["recipe"] = {"coarse": False, **facts["recipe"]}
    return fit_settings(**{facts.pop("target"): facts.pop("value")}, **facts)


def kernels_for(settings, D, C):
    """The number of kernels that a target other than a PSNR stands for.

    Raises
    ------
    ValueError
        If it does not allow a single one.
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
    # of fewer kernels fewer bits are spared, so that bytes grow with kernels
    return bisect.bisect_right(range(2, 8 * value), value,
                               key=lambda K: expected_bytes(K, D, C, affine, bits)) + 1


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
        if len(shape) == 1:
            self.recipe = self.recipe._replace(shift=min(self.recipe.shift, LINE_SHIFT))
        self.affine = settings["experts"] == "affine"
        self.counts = self._first_counts()
        self.begin, self.last_event = math.prod(self.counts), 0
        self.wanted = settings["value"] if settings["target"] == "psnr" else None
        self.full = settings["iterations"]  # of a fit that counts, where a PSNR is wanted
        self.sizes = Sizes(shape, kernels, COARSE if self.recipe.coarse else ())

    def next_try(self, tried):
        """What to fit next so as to reach a PSNR: see ``search.next_try``."""
        return next_try(tried, self.wanted, math.prod(self.shape), self.full)

    def _first_counts(self):
        """Kernels along each axis of the first grid: so many that all can be there in the end."""
        every = self.event_every(self.iterations)
        events = min(int(self.recipe.events_until * self.iterations / every), MOST_DOUBLINGS)
        begin = max(1, int(self.kernels * self.recipe.start))
        while True:
            counts = spread_kernels(self.shape, begin)
            # at an event they double at most
            if begin == self.kernels or math.prod(counts) * 2**events >= self.kernels:
                return counts
            begin = min(self.kernels, begin + 1 + begin // 10)

    def start(self, target):
        """The model to start from: a grid of some kernels."""
        random = np.random.default_rng(self.settings["seed"])
        return fit_start(target, self.counts, self.recipe.jitter, random,
                         self.recipe.most_sharpness)

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

    def prepared(self, engine, params, adam, iteration, until):
        """The model with which to go on: after an event, if one is due."""
        if self.last_event == iteration or self.until_event(iteration, until):
            return params
        params = self.event(engine, params, adam, iteration, until)
        self.last_event = iteration  # not if it was broken off
        return params

    def advance(self, engine, params, adam, steps, lowest_loss, at_most, iteration, until):
        """Take some steps, until the next event at most: what came of them."""
        to_event = self.until_event(iteration, until)
        at_most = min(at_most, to_event or self.event_every(until))
        frame = steps.own_frame
        if engine.shape != self.shape:
            most = min(frame.most_sharpness, SHARPEST * max(engine.shape))
            steps = steps._replace(own_frame=frame._replace(most_sharpness=most))
        return engine.advance(params, adam, steps, lowest_loss, at_most)

    def new_adam(self, params):
        """What takes the steps of a model, from its first on."""
        return adam_of(self.recipe, params, self.affine)

    def steps(self, until, initial_kernels):
        """How steps are taken."""
        return frame_steps(self.recipe, self.shape, self.kernels, self.affine,
                           self.recipe.fade_from * until, until, 0.0, initial_kernels)

    # ---- checkpoints

    kind = "fit"
    advice = "fit with lower rates in its recipe"
    rounds = ()  # of sparsifications

    def facts(self):
        """What a checkpoint keeps of it."""
        return {"kernels": self.kernels, "planned": self.iterations, "last_event": self.last_event}


MOST = {"fade_from": 1, "fade_to_part": 1, "start": 1, "growth_until": 1, "events_until": 1,
        "removal": 1, "jitter": 10, "turn_every": 2**31 - 1, "list_life": 2**31 - 1,
        "event_every": 2**31 - 1}  # of numbers of a recipe


def _checked(recipe):
    """A recipe as a dict of plain numbers, or an error that names what is wrong with it."""
    for name, value in recipe._asdict().items():
        usual = getattr(Recipe(), name)
        if isinstance(usual, bool | str):
            fine = type(value) is type(usual)
        else:
            kind = numbers.Integral if isinstance(usual, int) else numbers.Real
            fine = isinstance(value, kind) and math.isfinite(value) and value >= 0
        if not fine:
            raise ValueError(f"recipe.{name} must be like {usual!r}, got {value!r}")
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
