"""How ``Smoe.sparsify`` goes about it: its three phases, and what raises the weight of sparsity.

    train       λ_S = 0, at constant rates: a dense model
    sparsify    λ_S > 0: weights π fall, and kernels whose weight reaches 0 leave
    tune        λ_S = 0, rates fall as half a cosine

(Bochinski et al., "Regularized Gradient Descent Training of Steered Mixture of Experts for Sparse
Image Representation", ICIP 2018.) Steps are taken in each kernel's own frame (``frame``).

Nobody chooses λ_S. Kernels are to fall from as many as there are to as many as are wanted along a
geometric curve; after each round of a few steps λ_S is raised where there are more than planned,
and lowered where there are fewer. A round that loses far more than planned is taken back, and so
many kernels as planned leave in its stead, those first whose absence costs least. So there are
never fewer kernels than wanted; the few too many that are left at the end leave by their cost.
"""

import math
from typing import NamedTuple

import numpy as np

from .coarse import Sizes
from .engine import check_number, check_whole
from .events import relocate
from .fit import Recipe, adam_of, frame_steps
from .frame import balanced
from .initialize import kernel_grid
from .params import unchecked
from .search import next_try
from .steps import NO_KERNEL, Progressed

ITERATIONS = 200, 800, 1000  # of the three phases
ROUND = 10  # steps from one look at the number of kernels to the next
# There are no events, which need steps to be smaller; and no axes, along which weights go so far
# apart that a model cannot be made sparser once more; nor bounds of the experts that were given.
RECIPE = Recipe(rate=0.1, weight_rate=0.1, shape_rate=0.06, expert_rate=0.03, slope_rate=0.018,
                turn_every=0, list_life=8, most_sharpness=2.0, most_beyond=math.inf,
                most_slope=math.inf)
FIRST_WEIGHT = 1.0  # λ_S at first, times K₀ and the mean squared error
LEAST_ERROR = 1e-7  # that this error is taken to be at least
MOST_RATE = 0.01  # of π, times their mean, while λ_S acts
POWER, MOST_CHANGE = 4.0, 2.0  # λ_S changes with this power of K/planned, in a round at most so
SLACK = 0.05  # below the plan a round is taken back ...
TAKEN_BACK, RECOVERY = 0.5, 1.1  # ... and λ_S and the rate of π change so; after others the latter
LEAST_WEIGHT, MOST_WEIGHT = 1e-12, 1e12  # λ_S
DENSITY = 3.0  # times as many kernels as are wanted is dense enough to begin with
FIRST_PART = 4  # 1/4 of the kernels are tried first where a PSNR is wanted
PHASES = "train", "sparsify", "tune"


class Round(NamedTuple):
    """A round of steps with one weight of sparsity."""

    iteration: int  # after it
    kernels: int
    l1reg: float  # λ_S during it


def sparsify_settings(target_kernels=None, target_psnr=None, iterations=ITERATIONS, val_iter=100):
    """The settings of ``Smoe.sparsify`` by name, checked, as a checkpoint keeps them.

    Raises
    ------
    TypeError, ValueError
        If one is of the wrong kind or range.
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
    """``kernels_per_dim`` of a grid that is dense enough to be made sparse.

    Parameters
    ----------
    shape : tuple of D ints
        Of the picture.
    kernels : int
        That are wanted.

    Returns
    -------
    int
        The least for which the grid has three times as many (``DENSITY``), but no more than one a
        pixel.
    """
    across = 1
    while across < max(shape) and math.prod(kernel_grid(shape, across)) < DENSITY * kernels:
        across += 1
    return across


class Sparsification:
    """A sparsification: what is due, and when.

    Parameters
    ----------
    settings : dict
        Of ``sparsify_settings``.
    shape : tuple of D ints
    affine : bool
        Whether slopes are trained.
    begin : int
        The iteration at which it begins.

    Attributes
    ----------
    kernels : int or None
        That are wanted; None where a PSNR is, until there is a dense model.
    iterations : int
        Of the last two phases.
    phase : {"train", "sparsify", "tune"}
    dense_kernels : int
        That there were when the first phase ended; 0 before.
    l1reg : float
        λ_S now.
    weight_rate : float
        Rate of π now, times their mean.
    rounds : list of Round
    """

    def __init__(self, settings, shape, affine, begin):
        self.settings, self.shape, self.affine, self.begin = settings, shape, affine, begin
        self.recipe, self.dense_kernels = RECIPE, 0
        self.sizes = Sizes(shape, 1, ())  # always of the picture itself
        self.wanted = settings["target_psnr"]
        self.full = sum(settings["iterations"][1:])  # iterations of a try that counts
        self.aim(settings["target_kernels"], self.full)

    def aim(self, kernels, iterations):
        """Be before the second phase, with a number of kernels as its aim."""
        self.kernels, self.iterations = kernels, iterations
        self.phase, self.rounds = PHASES[0], []
        self.l1reg, self.weight_rate = 0.0, MOST_RATE

    def next_try(self, tried):
        """What to try next so as to reach a PSNR: see ``search.next_try``."""
        return next_try(tried, self.wanted, self.dense_kernels, self.full,
                        self.dense_kernels // FIRST_PART)

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
        """The iteration at which the next phase begins, or the end."""
        return next(end for end in (self.trained, self.sparse, math.inf) if end > iteration)

    def is_due(self, iteration):
        """Whether another phase is to begin now."""
        return iteration >= {"train": self.trained, "sparsify": self.sparse,
                             "tune": math.inf}[self.phase]

    def turn(self, engine, params, adam, initial_kernels):
        """Begin the next phase: the model with which it does."""
        if self.phase == "train":
            engine.forget()  # a sparsification from this model alone would begin just so
            self.dense_kernels = params.num_kernels
            if self.kernels is None:
                first = self.next_try([])
                self.aim(first.kernels, first.iterations)
            if params.num_kernels > self.kernels:
                error = max(engine.loss(params), LEAST_ERROR)
                self.l1reg = FIRST_WEIGHT * initial_kernels * error
            self.phase = "sparsify"
        else:
            params = self._leave_out(engine, params, adam, self.kernels)
            self.phase, self.l1reg = "tune", 0.0
        return unchecked({**params.arrays(), "pis": balanced(params.pis)}, params.image_shape)

    def new_adam(self, params):
        """What takes the steps of a model from the beginning of a phase on."""
        return adam_of(self.recipe, params, self.affine)

    def steps(self, until, initial_kernels):
        """How steps are taken, but for what ``advance`` adds."""
        return frame_steps(self.recipe, self.shape, self.kernels or initial_kernels, self.affine,
                           l1reg=self.l1reg, initial_kernels=initial_kernels)

    def prepared(self, engine, params, adam, iteration, until):
        """The model with which to go on: the same, as kernels leave at the ends of rounds."""
        return params

    def advance(self, engine, params, adam, steps, lowest_loss, at_most, iteration, until):
        """Take some steps: a round, where λ_S acts.

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
            except BaseException:  # Ctrl-C for the second time, no memory
                adam.become(kept)
                engine.forget()
                raise
        if self.phase == "tune":
            before = adam.steps - iteration
            steps = steps._replace(own_frame=steps.own_frame._replace(
                fade_from=before + self.sparse, fade_to=before + self.until))
        return engine.advance(params, adam, steps, lowest_loss, at_most)

    def _round(self, engine, params, adam, kept, steps, lowest_loss, count, iteration):
        """Some steps, and what follows from them for λ_S; ``kept`` is Adam as it was before."""
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
        """The model without those whose absence costs least, if it has more kernels than that."""
        if params.num_kernels <= kernels:
            return params
        return relocate(engine, params, adam, kernels, 0, self.recipe, self.affine,
                        np.random.default_rng(0))

    # ---- checkpoints

    kind = "sparsify"
    advice = "make the model dense by other means, or of other kernels_per_dim"
    FACTS = "begin", "kernels", "iterations", "phase", "dense_kernels", "l1reg", "weight_rate"

    def facts(self):
        """What a checkpoint keeps of it."""
        return {**{name: getattr(self, name) for name in self.FACTS},
                "rounds": [list(one) for one in self.rounds]}

    def restore(self, facts):
        """Be where ``facts`` were told."""
        for name in self.FACTS:
            setattr(self, name, facts[name])
        self.rounds = [Round(*one) for one in facts["rounds"]]
