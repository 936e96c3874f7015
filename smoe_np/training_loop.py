"""The training loop: validations, phases of a sparsification, tries on the way to a PSNR."""

import copy
import math
import time
import warnings
from functools import cached_property

import numpy as np

from .fit import FIT_ITERATIONS, LEAST_ITERATIONS, Plan
from .initialize import constant_model
from .interrupts import Interrupts
from .metrics import PEAK, psnr_of
from .recipe import contrast_of, looser_lists
from .records import Record
from .regularize import penalty
from .resumable import Resumable
from .search import Try, best_fit
from .sparsify import Sparsification
from .steps import explodes, explosion
from .training import train_steps

TIMED_STEPS = 3  # steps by which the speed is measured
MANY_DECADES = 6  # range of weights that a training from a grid reaches only after long
# of a π or A_dd: gradients have it in the denominator, and Adam squares them
LEAST_TRAINABLE = 1e-15


def check_callbacks(callbacks, progress=None):
    """Return the callbacks as a tuple, or raise a TypeError that names what is not a function."""
    if callable(callbacks):
        raise TypeError(f"callbacks must be a list of functions, got {callbacks!r}; put it into a "
                        f"list")
    try:
        callbacks = tuple(callbacks)
    except TypeError:
        raise TypeError(f"callbacks must be a list of functions, got {callbacks!r}") from None
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks must be functions of a Smoe, got {callback!r} among them")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of a Smoe, got {progress!r}")
    return callbacks


class TrainingLoop(Resumable):
    """The loop of ``train``, ``fit`` and ``sparsify``; ``Smoe`` builds on it.

    They differ in the plan, the schedule of a fit or a sparsification; ``train`` has none.
    """

    def __getstate__(self):
        return copy.deepcopy(self).__dict__  # of one moment, whatever happens while it is pickled

    def __copy__(self):
        return copy.deepcopy(self)  # two with the same moments and lists would spoil each other's

    def __deepcopy__(self, memo):
        new = memo[id(self)] = object.__new__(type(self))
        with self._looking.undisturbed("copy it"):
            vars(new).update(copy.deepcopy(vars(self), memo))
        return new

    def _train(self, callbacks, checkpoint, progress):
        """Train as was prepared; the caller has announced it to ``_looking``."""
        try:
            return self._loop(callbacks, checkpoint, progress)
        finally:
            ended = self.iteration >= self.until or self.stopped == "diverged"
            if ended and self._plan is not None:
                self._plan.sizes.release()

    def _loop(self, callbacks, checkpoint, progress):
        settings, started = self.settings, time.perf_counter()
        self.stopped = None
        with Interrupts() as interrupts:
            while self.stopped is None:
                if self._plan is not None:
                    self._reckon(self._seconds + time.perf_counter() - started)
                    self._lowest_loss = math.inf  # events may raise the loss
                begun = self._begin_phase()
                steps = self._step_settings()
                at_end = self.iteration >= self.until
                to_validation = -self.iteration % settings["val_iter"]
                if at_end or begun or to_validation == 0:
                    began = time.perf_counter()
                    mse = self._mse()
                    self._look = time.perf_counter() - began
                    loss = mse + steps.penalty(self._params)
                    self._lowest_loss = min(self._lowest_loss, loss)
                    if explodes(loss, self._lowest_loss, steps):
                        self._give_up(explosion(loss, self._lowest_loss))
                        break
                    if at_end and self._plan is not None and self._best_loss < loss:
                        self._warn_of_fewer()
                        self._params, loss = self._best_params, self._best_loss
                        self.adam = self.adam.anew(self._params)
                        self._forget()
                        mse = loss - steps.penalty(self._params)
                    self._seconds += time.perf_counter() - started
                    self._validate(mse, loss, callbacks, checkpoint)
                    started = time.perf_counter()
                if at_end:
                    if self._next_try():
                        continue
                    break
                if interrupts.received is not None:
                    self.stopped = "interrupted"
                    break
                if self._best_loss == math.inf:  # the model was assigned, or train starts with it
                    mse = self._mse() if self.record is None else self.record.mse / PEAK**2
                    self._best_params = self._params
                    self._best_loss = mse + steps.penalty(self._params)
                at_most = min(to_validation or settings["val_iter"], self.until - self.iteration)
                done = self._advance(steps, at_most)
                self._params, self._lowest_loss = done.params, done.lowest_loss
                self.iteration += done.steps
                if done.failure is not None:
                    self._give_up(done.failure)
                if progress is not None:
                    progress(self)
            self._seconds += time.perf_counter() - started
            if self.stopped is not None and checkpoint is not None:
                self.save_checkpoint(checkpoint)
        if interrupts.received is not None:
            interrupts.act()
        return self

    def _warn_of_fewer(self):
        """Warn if the best model of a fit dates from before all kernels had been added."""
        wanted, best = self._plan.kernels, self._best_params.num_kernels
        if self._plan.kind == "fit" and self._plan.wanted is None and best < wanted:
            warnings.warn(f"with all {wanted} kernels the error was larger than with fewer; the "
                          f"result is the best model found, with {best}; take fewer, or more "
                          f"iterations", RuntimeWarning, stacklevel=5)

    def _begin_fit(self, wanted, settings):
        """Prepare a fit with the kernels and iterations of a ``Try``; nothing changes if it fails.
        """
        until = wanted.iterations or FIT_ITERATIONS
        plan, target = Plan(settings, self.shape, wanted.kernels, until), self.engine.picture()
        params = plan.start(target)
        # the result must not be worse than a constant image
        best, mse = constant_model(target)
        best_loss = mse + penalty(best, 0.0, plan.recipe.bandwidth_reg, 1)
        adam = plan.new_adam(params)
        self._forget()
        self.until, self._plan, self.adam = until, plan, adam
        self.iteration, self.history, self._seconds = 0, [], 0.0
        self._params, self._best_params, self._best_loss = params, best, best_loss
        self.initial_kernels = params.num_kernels

    def _begin_again(self, wanted):
        """Return to the dense model of a sparsification, with another target number of kernels."""
        self._plan.aim(wanted.kernels, wanted.iterations)
        self.iteration, self.until = self._plan.trained, self._plan.until
        self.history = [one for one in self.history if one.iteration <= self.iteration]
        self._params = self._best_params = self._dense

    def _begin_phase(self):
        """Begin the next phase of a sparsification if it is due; return whether it was."""
        plan = self._plan
        if not isinstance(plan, Sparsification) or not plan.is_due(self.iteration):
            return False
        while plan.is_due(self.iteration):
            if plan.wanted is not None and self._dense is None:
                self._dense = self._params
            self._params = plan.begin_phase(self.engine, self._params, self.adam,
                                            self.initial_kernels)
            self.adam = plan.new_adam(self._params)
        self.until, self._best_loss = plan.until, math.inf
        return True

    def _next_try(self):
        """At the end of a try for a target PSNR, begin the next one; return whether there is one.
        """
        plan = self._plan
        if plan is None or plan.wanted is None or self.stopped is not None:
            return False
        if plan.next_try(self.tried) is None:  # resumed after the search has ended
            return False
        self.tried.append(Try(plan.kernels, plan.iterations, self.history[-1].psnr))
        if plan.iterations == plan.full:
            fits = [self._found, (self._recorded, self.history, list(plan.rounds))]
            self._found = best_fit([fit for fit in fits if fit], plan.wanted)
        following = plan.next_try(self.tried)
        if following is not None:
            if self._dense is None:
                self._begin_fit(following, self.settings)
            else:
                self._begin_again(following)
            return True
        self._params, self.history, plan.rounds = self._found
        self._recorded = self._params
        self._best_params, self._best_loss = self._params, self.history[-1].loss
        self.adam = self.adam.anew(self._params)
        self._forget()
        if self.history[-1].psnr < plan.wanted:
            warnings.warn(f"psnr {plan.wanted:g} is out of reach: {self._params.num_kernels} "
                          f"kernels reach {self.history[-1].psnr:.2f} dB in {self.until} "
                          f"iterations", RuntimeWarning, stacklevel=5)
        return False

    def _advance(self, steps, at_most):
        """Take at most ``at_most`` steps, according to the plan if there is one."""
        if self._plan is None:
            return self.engine.advance(self._params, self.adam, steps, self._lowest_loss, at_most)
        engine, sizes = self._engine_of_steps(), self._plan.sizes
        at_most = min(at_most, sizes.left(self.iteration, self.until))
        if self.settings.get("seconds") is not None and not sizes.knows:
            at_most = min(at_most, TIMED_STEPS)
        began = time.perf_counter()
        try:
            with looser_lists(engine, self._plan.recipe):
                self._params = self._plan.prepared(engine, self._params, self.adam,
                                                   self.iteration, self.until)
                done = self._plan.advance(engine, self._params, self.adam, steps,
                                          self._lowest_loss, at_most, self.iteration, self.until)
            sizes.note(max(engine.shape), done.steps, time.perf_counter() - began)
            return done
        finally:
            if engine is not self.engine:  # which has not seen these steps
                self.engine.forget()

    def _engine_of_steps(self):
        """The engine of the next steps: another one while a fit uses a downscaled image."""
        if self._plan is None:
            return self.engine
        return self._plan.sizes.engine(self.engine, self.iteration, self.until)

    def _forget(self):
        """Make the engines drop their kernel lists: the next model is unrelated to the last."""
        self.engine.forget()
        if self._plan is not None:
            self._plan.sizes.forget()

    def _reckon(self, now):
        """With a budget of seconds, update ``until`` to the iterations that it allows."""
        seconds = self.settings.get("seconds")
        if seconds is None or not self._plan.sizes.knows:
            return
        aside = self._look / self.settings["val_iter"]
        left = seconds - now - self._look  # less the validation at the end
        self.until = max(LEAST_ITERATIONS, self._plan.sizes.end(self.iteration, left, aside))

    @cached_property
    def _contrast(self):
        return contrast_of(self.engine.picture())

    def _step_settings(self):
        if self._plan is not None:
            return self._plan.steps(self.until, self.initial_kernels, self._contrast)
        return train_steps(self.settings, self.options, self.initial_kernels)

    @np.errstate(all="ignore")  # the loss is checked by the caller
    def _mse(self):
        return self.engine.loss(self._params)

    def _validate(self, mse, loss, callbacks, checkpoint):
        """Add a record and call the callbacks, unless the model has a record already."""
        if loss < self._best_loss:
            self._best_loss, self._best_params = loss, self._params
        if self.record is not None:
            return
        self._add_record(mse, loss)
        if checkpoint is not None:
            self.save_checkpoint(checkpoint)
        self._looking.at_rest = True
        try:
            for callback in callbacks:
                callback(self)
        finally:
            self._looking.at_rest = False

    @property
    def made_by(self):
        """Method that trained the model last: "train", "fit" or "sparsify"; initially ``None``."""
        if self._plan is not None:
            return self._plan.kind
        return None if self.settings is None else "train"

    @property
    def searches_psnr(self):
        """Whether the last ``fit`` or ``sparsify`` makes several tries, to reach a PSNR."""
        return self._plan is not None and self._plan.wanted is not None

    @property
    def record(self):
        """The last record of ``history`` if it describes the current model, else ``None``."""
        there = self._recorded is self._params and self.history
        return self.history[-1] if there and self.history[-1].iteration == self.iteration else None

    def _add_record(self, mse, loss):
        """Add a record of the current model; it replaces another one at the same iteration."""
        if self.history and self.history[-1].iteration == self.iteration:
            self.history.pop()
        self.history.append(Record(self.iteration, loss, mse * PEAK**2, psnr_of(mse),
                                   self._params.num_kernels, self._seconds))
        self._recorded = self._params

    def _give_up(self, why):
        self.stopped = "diverged"
        at = self.iteration
        self._params = self._best_params
        self.adam = self.adam.anew(self._params)
        self._forget()
        advice = self._advice() if self._plan is None else self._plan.advice
        warnings.warn(
            f"training ended at iteration {at}: {why}; the model is reset to its best parameters; "
            f"{advice}", RuntimeWarning, stacklevel=5)

    def _advice(self):
        """Advice after a training that diverged."""
        decades = math.log10(float(self._params.pis.max()) / float(self._params.pis.min()))
        if self.options["train_pis"] and decades > MANY_DECADES:
            return (f"its weights span {decades:.0f} decades, as fit and sparsify make them, but "
                    f"train takes steps of the same size for all; make the Smoe with "
                    f"train_pis=False and train with a base_lr of 1e-6, or fit for longer")
        least = min(float(self._params.pis.min()),
                    float(abs(self._params.A.diagonal(axis1=1, axis2=2)).min()))
        if self._params.dtype == np.float32 and least < LEAST_TRAINABLE:
            return (f"gradients of a pi or A_dd of {least:.0e} are too large for float32: make the "
                    f"Smoe with dtype float64 or, if all weights are so small, multiply them by "
                    f"one number, which does not change the model")
        return "train on with a lower base_lr, lr_mult or regularisation"
