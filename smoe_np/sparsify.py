"""The method of ``Smoe.sparsify``: its three phases, and how the sparsity weight λ_S is adjusted.

    train       λ_S = 0, constant rates: yields a dense model
    sparsify    λ_S > 0: weights π fall, and kernels whose weight reaches 0 are removed
    tune        λ_S = 0, rates fall as half a cosine

(Bochinski et al., "Regularized Gradient Descent Training of Steered Mixture of Experts for Sparse
Image Representation", ICIP 2018.) Steps are taken in each kernel's own frame (``frame``).

λ_S is controlled automatically. The number of kernels is to fall from the dense model's to the
target along a geometric curve. After each round of a few steps, λ_S is raised if there are more
kernels than planned, and lowered if there are fewer. A round that loses far more kernels than
planned is undone; instead, as many as planned are removed, beginning with those whose removal costs
least. So there are never fewer kernels than the target. Excess kernels at the end of the phase are
removed by cost as well.
"""

import math
from typing import NamedTuple

import numpy as np

from .arguments import check_number, check_whole
from .coarse import Sizes
from .events import relocate
from .frame import balanced
from .initialize import kernel_grid
from .metrics import psnr_of
from .params import unchecked
from .recipe import Recipe, adam_of, frame_steps
from .search import next_try
from .steps import NO_KERNEL, Progressed

PHASE_ITERATIONS = 200, 800, 1000  # of the three phases
ROUND = 10  # steps between adjustments of λ_S
# Rates are higher than those of a fit, whose events need smaller steps. Decorrelated axes
# (``turn_every``) would drive weights so far apart that the model could not be sparsified again.
# Experts are not bounded, so that those of a given model are kept.
RECIPE = Recipe(rate=0.1, weight_rate=0.1, shape_rate=0.06, expert_rate=0.03, slope_rate=0.018,
                turn_every=0, list_life=8, most_sharpness=2.0, most_beyond=math.inf,
                most_slope=math.inf)
FIRST_WEIGHT = 1.0  # initial λ_S in units of K₀ times the mean squared error ...
LEAST_ERROR = 1e-7  # ... which is taken to be at least this
MOST_RATE = 0.01  # upper limit on the learning rate of π, in units of their mean, while λ_S > 0
POWER, MOST_CHANGE = 4.0, 2.0  # λ_S is multiplied by (K/planned)^POWER, at most MOST_CHANGE a round
SLACK = 0.05  # a round is undone if it ends with this fraction fewer kernels than planned
# Factors: of λ_S and the rate of π after a round that was undone; of the rate after any other.
TAKEN_BACK, RECOVERY = 0.5, 1.1
LEAST_WEIGHT, MOST_WEIGHT = 1e-12, 1e12  # limits on λ_S
DENSITY = 3.0  # kernels of a dense start per kernel of the target
# For a target PSNR, as many kernels are tried first as would reach it if half of them reached so
# many decibels less; at most this part of the dense ones.
DECIBELS, FIRST_PART = 2.5, 1 / 4
PHASES = "train", "sparsify", "tune"


class Round(NamedTuple):
    """A round of steps with one value of λ_S.

    Attributes
    ----------
    iteration : int
        Iteration at the end of the round.
    kernels : int
        Number of kernels at the end of the round.
    l1reg : float
        λ_S during the round.
    """

    iteration: int
    kernels: int
    l1reg: float


def sparsify_settings(target_kernels=None, target_psnr=None, iterations=PHASE_ITERATIONS,
                      val_iter=100):
    """Check the arguments of ``Smoe.sparsify``, and return them as a dict for checkpoints.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.
    """
    if (target_kernels is None) == (target_psnr is None):
        raise ValueError(f"sparsify needs exactly one of target_kernels and target_psnr, got "
                         f"{'neither' if target_kernels is None else 'both'}")
    if isinstance(iterations, str) or not np.iterable(iterations) or len(iterations) != 3:
        raise ValueError(f"iterations must be three numbers, of the phases train, sparsify and "
                         f"tune, got {iterations!r}")
    return {
        "target_kernels": (None if target_kernels is None else
                           check_whole("target_kernels", target_kernels, 1)),
        "target_psnr": (None if target_psnr is None else
                        check_number("target_psnr", target_psnr, above=True)),
        "iterations": [check_whole("iterations", number, 0) for number in iterations],
        "val_iter": check_whole("val_iter", val_iter, 1),
    }


def dense_start(shape, kernels):
    """Choose ``kernels_per_dim`` of a starting grid that is dense enough for ``Smoe.sparsify``.

    Parameters
    ----------
    shape : tuple of D ints
        Spatial shape of the image, without an axis of channels: ``smoe.shape`` or, for an RGB
        image, ``image.shape[:2]``.
    kernels : int
        Target number of kernels.

    Returns
    -------
    int
        The smallest value for which the grid has three times as many kernels as the target
        (``DENSITY``), but at most one per pixel.

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong type or range.
    """
    if not isinstance(shape, tuple | list) or not shape:
        raise TypeError(f"shape must be a tuple of the numbers of pixels along the axes, got "
                        f"{shape!r}")
    shape = tuple(check_whole("shape", n, 1) for n in shape)
    kernels = check_whole("kernels", kernels, 1)
    across = 1
    while across < max(shape) and math.prod(kernel_grid(shape, across)) < DENSITY * kernels:
        across += 1
    return across


def how_to_start(shape, kernels):
    """Advice after a start with no more than so many kernels."""
    across = dense_start(shape, kernels)
    most = math.prod(kernel_grid(shape, across))
    if most > kernels:
        return f"begin with more of them, such as kernels_per_dim={across}"
    return f"a start on so small a picture has at most {most}"


class Sparsification:
    """The schedule of a sparsification.

    Parameters
    ----------
    settings : dict
        Settings from ``sparsify_settings``.
    shape : tuple of D ints
        Spatial shape of the image.
    affine : bool
        Whether slopes are trained.
    begin : int
        Iteration at which the sparsification begins.

    Attributes
    ----------
    kernels : int or None
        Target number of kernels; None for a target PSNR, until there is a dense model.
    iterations : int
        Number of iterations of the last two phases.
    phase : {"train", "sparsify", "tune"}
        Current phase.
    dense_kernels : int
        Number of kernels at the end of the first phase; 0 before.
    l1reg : float
        Current λ_S.
    weight_rate : float
        Current learning rate of π, in units of their mean.
    rounds : list of Round
        Rounds so far.
    """

    def __init__(self, settings, shape, affine, begin):
        self.settings, self.shape, self.affine, self.begin = settings, shape, affine, begin
        self.recipe, self.dense_kernels = RECIPE, 0
        self.sizes = Sizes(shape, 1, ())  # full size only
        self.wanted = settings["target_psnr"]
        self.full = sum(settings["iterations"][1:])  # iterations of a full-length try
        self.aim(settings["target_kernels"], self.full)

    def aim(self, kernels, iterations):
        """Reset the state to before the second phase, with a new target number of kernels."""
        self.kernels, self.iterations = kernels, iterations
        self.phase, self.rounds = PHASES[0], []
        self.l1reg, self.weight_rate = 0.0, MOST_RATE

    def next_try(self, tried, first=1):
        """The next try on the way to a PSNR: see ``search.next_try``."""
        return next_try(tried, self.wanted, self.dense_kernels, self.full, first)

    @property
    def trained(self):
        """The iteration at which the first phase ends."""
        return self.begin + self.settings["iterations"][0]

    @property
    def sparse(self):
        """The iteration at which the second phase ends."""
        _, sparsify, tune = self.settings["iterations"]
        return self.trained + round(self.iterations * sparsify / max(1, sparsify + tune))

    @property
    def until(self):
        """The iteration at which the third phase ends."""
        return self.trained + self.iterations

    def next_phase(self, iteration):
        """The iteration at which the next phase begins; infinity if there is none."""
        return next(end for end in (self.trained, self.sparse, math.inf) if end > iteration)

    def is_due(self, iteration):
        """Whether the next phase begins at this iteration."""
        return iteration >= {"train": self.trained, "sparsify": self.sparse,
                             "tune": math.inf}[self.phase]

    def begin_phase(self, engine, params, adam, initial_kernels):
        """Begin the next phase, and return the model that it starts from."""
        if self.phase == "train":
            engine.forget()  # so that a try that starts here does not depend on earlier steps
            self.dense_kernels, error = params.num_kernels, engine.loss(params)
            if self.kernels is None:
                halvings = (psnr_of(error) - self.wanted) / DECIBELS
                part = min(FIRST_PART, 2.0 ** -max(halvings, 0))
                first = self.next_try([], round(part * self.dense_kernels))
                self.aim(first.kernels, first.iterations)
            if params.num_kernels > self.kernels:
                self.l1reg = FIRST_WEIGHT * initial_kernels * max(error, LEAST_ERROR)
            self.phase = "sparsify"
        else:
            params = self._leave_out(engine, params, adam, self.kernels)
            self.phase, self.l1reg = "tune", 0.0
        return unchecked({**params.arrays(), "pis": balanced(params.pis)}, params.image_shape)

    def new_adam(self, params):
        """A new optimiser for a model at the beginning of a phase."""
        return adam_of(self.recipe, params, self.affine)

    def steps(self, until, initial_kernels, contrast):
        """The settings of steps, apart from what ``advance`` adds."""
        return frame_steps(self.recipe, self.shape, self.kernels or initial_kernels, self.affine,
                           l1reg=self.l1reg, initial_kernels=initial_kernels, contrast=contrast)

    def prepared(self, engine, params, adam, iteration, until):
        """The model to continue with: unchanged, as there are no events here."""
        return params

    def advance(self, engine, params, adam, steps, lowest_loss, at_most, iteration, until):
        """Take some steps; a round of them if λ_S > 0.

        Returns
        -------
        Progressed
        """
        at_most = min(at_most, self.next_phase(iteration) - iteration)
        if self.l1reg:
            rates = {**steps.rates, "pis": self.weight_rate * float(params.pis.mean(dtype=float))}
            kept = adam.copy()
            try:
                return self._round(engine, params, adam, kept, steps._replace(rates=rates),
                                   lowest_loss, min(ROUND, at_most), iteration)
            except BaseException:  # such as a second Ctrl-C, or a lack of memory
                adam.become(kept)
                engine.forget()
                raise
        if self.phase == "tune":
            before = adam.steps - iteration
            steps = steps._replace(own_frame=steps.own_frame._replace(
                fade_from=before + self.sparse, fade_to=before + self.until))
        return engine.advance(params, adam, steps, lowest_loss, at_most)

    def _round(self, engine, params, adam, kept, steps, lowest_loss, count, iteration):
        """Take some steps, then adjust λ_S; ``kept`` is a copy of Adam from before the round."""
        done, taken = Progressed(params, 0, lowest_loss, None), 0
        while taken < count and done.failure is None:
            done = engine.advance(done.params, adam, steps, done.lowest_loss, count - taken)
            taken += done.steps
        if done.failure not in (None, NO_KERNEL):
            return done._replace(steps=taken)
        way = (iteration + count - self.trained) / (self.sparse - self.trained)
        planned = self.dense_kernels * (self.kernels / self.dense_kernels) ** way
        found, l1reg = done.params, self.l1reg
        left = found.num_kernels if done.failure is None else 0
        if left < max(self.kernels, (1 - SLACK) * planned):
            adam.become(kept.copy())
            engine.forget()
            found = self._leave_out(engine, params, adam, max(self.kernels, int(planned)))
            change = TAKEN_BACK
            self.weight_rate *= TAKEN_BACK
        else:
            change = min(max((left / planned) ** POWER, 1 / MOST_CHANGE), MOST_CHANGE)
            self.weight_rate = min(self.weight_rate * RECOVERY, MOST_RATE)
        self.l1reg = min(max(l1reg * change ** (count / ROUND), LEAST_WEIGHT), MOST_WEIGHT)
        self.rounds.append(Round(iteration + count, found.num_kernels, l1reg))
        return Progressed(found, count, done.lowest_loss, None)

    def _leave_out(self, engine, params, adam, kernels):
        """The model reduced to a number of kernels, by removing those that cost least."""
        if params.num_kernels <= kernels:
            return params
        return relocate(engine, params, adam, kernels, 0, self.recipe, self.affine,
                        np.random.default_rng(0))

    # ---- checkpoints

    kind = "sparsify"
    advice = "start from another dense model, or with other kernels_per_dim"
    FACTS = "begin", "kernels", "iterations", "phase", "dense_kernels", "l1reg", "weight_rate"

    def facts(self):
        """The state, as a checkpoint stores it."""
        return {**{name: getattr(self, name) for name in self.FACTS},
                "rounds": [list(one) for one in self.rounds]}

    def restore(self, facts):
        """Return to the state that ``facts`` gave."""
        for name in self.FACTS:
            setattr(self, name, facts[name])
        self.rounds = [Round(*one) for one in facts["rounds"]]
