"""Pair lists of a model in training: kept while they hold, and rebuilt when they no longer do."""

import numpy as np

from .gate import pixel_kernels
from .kernel_files import constants
from .params import SmoeParams
from .tiling import build_lists, drift, lower_inverse, rebuild_lists

# Building lists takes as long as BUILD + BUILD_AT_ALL / pairs iterations.
BUILD, BUILD_AT_ALL = 0.5, 3000
REACH = 5.0  # ‖z‖ beyond which a kernel usually no longer matters
LONGEST = 20.0  # most steps that lists are planned to last
# Allowances, in the units of ``drift``: what every kernel gets besides its own motion, and the
# largest median over all kernels, beyond which the bounds say little.
LEAST, MOST = np.array([0.03, 0.15, 0.15]), np.array([0.5, 10.0, 10.0])
# the largest that compiled engines allow a kernel, unless they list it everywhere
FURTHEST = np.array([0.9, 10.0, 10.0])
# Extra allowance in log weight of a weak kernel, as a fraction of its distance below the median:
# such kernels come and go quickly, and reach too little to cost much.
WEAK = 0.5
FADING = 0.7  # fraction of an earlier, faster motion that is kept at each build


def too_loose(allowance):
    """Whether the median kernel may move so far that bounds say little."""
    return bool((np.median(allowance, axis=1) > MOST).any())


def is_forged(state):
    """Whether ``state`` holds allowances that no engine gives, which could exhaust memory.

    Weak kernels may exceed FURTHEST by WEAK times their distance below other log weights. A few
    kernels that compiled engines list everywhere may be most of a small model.
    """
    known, allowance = constants(), state["allowance"]
    everywhere = (allowance >= known["BOUNDLESS"]).all(axis=0)
    if everywhere.sum() > known["MOST_FAST"]:
        return True
    diagonal = np.diagonal(state["A"], axis1=1, axis2=2)
    with np.errstate(all="ignore"):  # a forged model may overflow
        log_weight = np.log(state["pis"]) + np.log(np.abs(diagonal)).sum(1)
    log_weight = log_weight[np.isfinite(log_weight)]
    most = FURTHEST + [0, 0, WEAK * np.ptp(log_weight) if log_weight.size else 0]
    return bool((np.median(allowance[:, ~everywhere], axis=1) > most).any())


class LiveLists:
    """Pair lists that follow kernels which move and leave, and are rebuilt when they no longer
    hold.

    Kernels are numbered in "slots", their places when the lists were built, so that the lists
    survive kernels that leave, unless a bound rests on one of these.

    Parameters
    ----------
    grid : Grid
    tau : float
        See ``build_lists``. For a model with negative gates it is infinite, as no bound holds
        there. ``tau`` may be changed, and so may ``life``, the number of steps for which lists are
        used whether they hold or not.
    pool : callable
        Maps a function over a list, in order.
    """

    def __init__(self, grid, tau, pool=map):
        self.grid, self.tau, self.pool, self.life = grid, tau, pool, 0
        self.lists = None
        self.rate = None  # (3, K+1) motion of each kernel per step; None: not yet known
        self.builds = 0

    def update(self, params):
        """Take in the current kernels; return whether the lists had to be rebuilt."""
        self.now = pixel_kernels(params, self.grid.longest)
        if self.lists is not None and len(self.slots) != params.num_kernels:
            self.lists = self.rate = None  # another model, not the same kernels moved
        if self.lists is not None:
            moved = drift(self.anchor, self.inverse, self.now)
            if (moved != self.moved).any():
                self.age, self.moved = self.age + 1, moved
            self.overdue = not (moved <= self.allowance).all()
            holds = self.age < self.life or not self.overdue
            if holds and not self.stale and self.tau <= self.listed_tau:
                return False
            self._note_rate()
        self._build(params.copy(), self._allowance(params.num_kernels))
        return True

    def _allowance(self, K):
        """How far each kernel may move until the next build, in the units of ``drift``: (3, K+1).

        If kernels usually move by m a step (in ‖z‖, at the edge of their reach), lists that last h
        steps are longer by a factor of about (1 + 2 h m/REACH)², and building costs b/h iterations
        a step, b = BUILD + BUILD_AT_ALL/pairs. The sum is least near h = √(b · REACH/4m); below 2,
        lists are built for every step, without allowances.
        """
        if self.rate is None:
            return np.zeros((3, K + 1))
        usual = np.median(self.rate[:, :-1], axis=1)
        build = BUILD + BUILD_AT_ALL / self.num_pairs
        steps = np.sqrt(build * REACH / 4 / max(usual[1] + REACH * usual[0], 1e-9))
        allowance = min(steps, LONGEST) * self.rate + LEAST[:, None]
        weak = np.median(self.now.log_weight) - self.now.log_weight
        allowance[2, :-1] += WEAK * np.maximum(weak, 0)[:-1]
        needless = steps < 2 and self.life < 2
        return np.zeros((3, K + 1)) if needless or too_loose(allowance) else allowance

    def _note_rate(self):
        """Update the motion per step: that since the last build, or a faster one that decays."""
        rate = self.moved / max(self.age, 1)
        self.rate = rate if self.rate is None else np.maximum(rate, FADING * self.rate)

    def _build(self, params, allowance):
        kernels = pixel_kernels(params, self.grid.longest)
        self.signed = bool((kernels.sign < 0).any())
        tau = np.inf if self.signed else self.tau
        lists = None
        if self.lists is not None and not self.signed:
            number, lists = self._numbers(), self.lists
            old = lists._replace(winners=number[lists.winners], kernels=number[lists.kernels])
            lists = rebuild_lists(kernels, self.grid, tau, allowance, old, self.pool)
        if lists is None:
            lists = build_lists(kernels, self.grid, tau, allowance, self.pool)
        self.lists = lists
        self.built_from, self.listed_tau = (params, allowance), self.tau
        self.num_slots = params.num_kernels
        self.slots = np.arange(self.num_slots)
        self.anchor, self.inverse = kernels, lower_inverse(kernels.A)
        self.moved = drift(self.anchor, self.inverse, kernels)  # 0 except for rounding
        self.allowance = np.maximum(allowance, self.moved)
        self.age, self.stale, self.overdue = 0, False, False
        self.num_pairs = len(lists.kernels)
        self.builds += 1

    def _numbers(self):
        """For each slot the current number of its kernel; K if the kernel has left."""
        number = np.full(self.num_slots + 1, len(self.slots))
        number[self.slots] = np.arange(len(self.slots))
        return number

    def in_slots(self):
        """The kernels of the last update, indexed by slot."""
        if len(self.slots) == self.num_slots:
            return self.now
        return self.now.take(self._numbers())

    def keep(self, kernels):
        """Keep only the kernels of a mask (K,)."""
        mask = np.append(kernels, True)
        if self.rate is not None:
            self.rate = self.rate[:, mask]
        if self.lists is None:
            return
        self.anchor, self.inverse = self.anchor.take(mask), self.inverse[mask]
        self.allowance, self.moved = self.allowance[:, mask], self.moved[:, mask]
        lost, self.slots = self.slots[~kernels], self.slots[kernels]
        wins = np.zeros(self.num_slots, bool)
        wins[self.lists.winners] = True
        self.stale = self.stale or bool(wins[lost].any())

    def forget(self):
        """Forget the current model: the next one is unrelated."""
        self.lists = self.rate = None

    def succeed(self, parents):
        """Expect another model, whose kernels descend from ``parents``, numbers (K',)."""
        if self.rate is not None:
            self.rate = self.rate[:, np.append(parents, -1)]
        self.lists = None

    def state(self):
        """Arrays by name from which ``restore`` rebuilds the same lists."""
        state = {} if self.rate is None else {"rate": self.rate}
        if self.lists is not None:
            params, allowance = self.built_from
            state.update(pis=params.pis, musX=params.musX, A=params.A, allowance=allowance,
                         tau=np.array(self.listed_tau), slots=self.slots, moved=self.moved,
                         age=np.array(self.age), stale=np.array(self.stale))
        return state

    def restore(self, state):
        """Rebuild the lists that gave ``state``, so that results continue bit for bit."""
        if "pis" not in state or is_forged(state):
            return
        self.rate = state.get("rate")
        K, D = state["musX"].shape
        full = self.tau
        self.tau = float(state["tau"])
        self._build(SmoeParams(state["pis"], state["musX"], state["A"], np.zeros((K, 1, D)),
                               np.zeros((K, 1))), state["allowance"])
        self.tau = full
        self.slots, self.moved = state["slots"], state["moved"]
        gone = np.ones(self.num_slots, bool)
        gone[self.slots] = False
        # the engine that gave the state may have had other winners, all of which are still there
        self.age = int(state["age"])
        self.stale = bool(state["stale"]) or bool(gone[self.lists.winners].any())
        mask = np.append(self.slots, self.num_slots)
        self.anchor, self.inverse = self.anchor.take(mask), self.inverse[mask]
        self.allowance = self.allowance[:, mask]
