"""The compiled engines: the model over a picture through the compute kernels of ``kernels/``.

The host side is the same for GPU and CPU: buffers, and the order of launches. Only the launcher
(``launch_native``, ``launch_cuda``) differs, which allocates arrays, records sequences of launches
and runs them.

Parameters of all kernels, their Adam moments and their gradients are rows (K, W) of W numbers: π,
μ, the lower triangle of A, then for each channel ν and γ; the axes along which n of them step are
(K, n, n). A step of training is the sequence

    step, gather    of each batch of patches: moments of every kernel in each, then their sums
    judge           the loss, and whether it exploded
    update          the chain rule, regularisers, Adam; who leaves; whether the lists still hold
    turn            the axes along which kernels step, if they have their own

and lists that no longer hold are rebuilt by another sequence. Both continue without the host until
as many steps are taken as it requested; through ``control`` (control.cuh) the host instructs the
compute kernels, and they report back. Kernels of the model keep their row, their "slot", when
others leave.
"""

import math
import time
import weakref

import numpy as np

from .adam import SMALLEST_DIAGONAL
from .kernel_buffers import (
    LAUNCH_BYTES,
    TILE_THREADS,
    UPDATE_THREADS,
    WORDS,
    KernelBuffers,
    demand,
    why_not_these,
)
from .live_lists import is_forged
from .param_rows import lower_entries, params_of_rows, rows_of
from .steps import NO_KERNEL, NOT_FINITE, OwnFrame, Progressed, explosion
from .tiling import TAU
from .turned_adam import TurnedAdam

# ``advance`` trains for ``STEADY`` seconds if copying models and moments took less than ASIDE
# seconds; else for longer in proportion, at most MOST_PATIENCE times as long.
ASIDE, MOST_PATIENCE = 0.005, 20.0
_RATES = {"pis": WORDS.RATE_PIS, "musX": WORDS.RATE_MU, "A": WORDS.RATE_A,
          "gamma_e": WORDS.RATE_GAMMA, "nu_e": WORDS.RATE_NU}


def _nobody():
    """Stand-in for a weak reference to an Adam, where none is borrowed from."""


class KernelEngine(KernelBuffers):
    """A model over one picture: the regression, the loss and its gradients.

    Parameters
    ----------
    shape : tuple of D ints
        Pixels along each axis; D is 1, 2 or 3.
    target : (*shape, C) array of float, optional
        The picture to regress, in [0, 1]; without it there is no loss.
    dtype : {"float32", "float64"}
        Precision of parameters and of arithmetic on pixels. Arithmetic on kernels is float64.
    batches : int, optional
        Number of batches into which the patches are divided; the moments of only one batch are held
        at a time. ``None`` chooses. The results do not depend on it.

    Attributes
    ----------
    tau : float
        Lists may leave out pairs whose gate is below e^−tau everywhere in the tile. A smaller value
        than the initial one makes computation cheaper and less exact.
    list_life : int
        Number of steps of ``advance`` for which lists are used even if kernels have moved so far
        that the lists no longer hold; initially 0.

    Raises
    ------
    ValueError
        If there are more dimensions or channels than the compute kernels support.
    """

    name = "kernels"
    launcher = None  # set by a subclass: called with D, C and a dtype

    def __init__(self, shape, target=None, dtype="float32", batches=None):
        self.shape, self.batches = tuple(shape), batches
        self.dtype = np.dtype(dtype)
        demand(why_not_these(len(self.shape), 1), self.name)
        self.build_seconds = 0.0  # spent on lists so far
        self._aside = 0.0  # seconds of the last ``advance`` outside training
        self.tau = self.listed_tau = TAU[self.dtype]
        self.list_life, self.may_be_overdue = 0, False
        self.channels = self.slots = self.target = self.list = self.spare = None
        self._borrowed_from = _nobody
        if target is not None:
            self._start(target.shape[-1])
            beyond = [(0, whole - n) for whole, n in zip(self.grid.shape, self.shape)]
            target = np.pad(np.asarray(target, self.dtype), [*beyond, (0, 0)])
            self.target = self.launch.array(self.grid.cut(target))  # (T, C, P)

    # ---- what an engine offers

    def loss_and_gradients(self, params):
        """The mean squared error and its gradients; needs a target.

        Parameters
        ----------
        params : SmoeParams

        Returns
        -------
        float
            Mean over pixels and channels of (clip(y, 0, 1) − t)².
        SmoeParams
            Its gradients, float64.
        """
        self._prepare(params)
        self._ask(1)
        self._with_room(lambda: self.launch.run(self._moments))
        gradients = self.launch.zeros((self.num_slots, self.width), np.float64)
        rows = self.launch.array(self._in_slots(self.held), np.float64)
        self._run("differentiate", self._blocks(UPDATE_THREADS), UPDATE_THREADS, self.settings,
                  self.sizes, self.sums, rows, gradients, self.num_slots)
        gradients = self.launch.host(gradients)[self.slots]
        return self._mean_error(), params_of_rows(gradients, len(self.shape))

    def loss(self, params):
        """The mean squared error, as ``loss_and_gradients`` gives it; needs a target."""
        self._prepare(params)
        self._ask(1)
        self._run("step", self.patches, TILE_THREADS, *self._tile, *self._patches_from(0), 0, 0,
                  self.rows, self.errors)
        return self._mean_error()

    def picture(self):
        """The picture to regress, (*shape, C); needs a target."""
        padded = self.grid.paste(self.launch.host(self.target))
        return np.ascontiguousarray(padded[tuple(slice(n) for n in self.shape)])

    def another(self, picture):
        """See ``NumpyEngine.another``."""
        return type(self)(picture.shape[:-1], picture, self.dtype, self.batches)

    def weigh(self, params):
        """See ``NumpyEngine.weigh``."""
        self._prepare(params)
        return self._sum_rows("weigh")[0, :, :3]

    def halve(self, params, directions=()):
        """See ``NumpyEngine.halve``."""
        self._prepare(params)
        numbers = np.zeros((1 + len(directions), len(self.shape)))
        numbers[1:] = np.reshape(directions, numbers[1:].shape)
        return self._sum_rows("halve", self.launch.array(numbers), len(numbers),
                              sets=len(numbers))

    def _sum_rows(self, kernel, *arguments, sets=1):
        """Sum, for each kernel of the model, the rows of a launch over patches: (sets, K, W)."""
        sums = self.launch.zeros((sets, self.num_slots, self.width), np.float64)

        def launches():
            room = self.room // sets
            for first, last in self._batch_bounds(sets):
                yield kernel, last - first, TILE_THREADS, (
                    *self._tile, *self._patches_from(first), *arguments, room, self.rows)
                for number, of_set in enumerate(sums):
                    yield self._gather(
                        first, last, self.rows[number * room * self.row_width :], of_set)

        self._ask(1)
        self._with_room(lambda: self.launch.run(self.launch.record(list(launches()))), sets)
        return self.launch.host(sums)[:, self.slots]

    def render(self, params):
        """The regression, clipped to [0, 1]: (*shape, C)."""
        self._prepare(params)
        image = self.launch.zeros((*self.shape, self.channels), self.dtype)
        self._run("render", self.tiles, TILE_THREADS, *self._tile, image)
        return self.launch.host(image)

    def gating(self, params):
        """The index of the kernel with the largest gate at each pixel: (*shape) int32."""
        self._prepare(params)
        owners = self.launch.zeros(self.shape, np.int32)
        self._run("gating", self.tiles, TILE_THREADS, *self._tile, owners)
        number = np.full(self.num_slots, -1, np.int32)
        number[self.slots] = np.arange(len(self.slots))
        return number[self.launch.host(owners)]

    def advance(self, params, adam, settings, lowest_loss, steps):
        """Take training steps, as many as requested or as fit into a moment; needs a target.

        Parameters
        ----------
        params : SmoeParams
        adam : Adam
            Its moments, which may stay here (``Adam.lend``), and its number of steps are updated.
            If a step fails or an exception interrupts, the moments may be ahead of the parameters.
        settings : StepSettings
        lowest_loss : float
            The lowest loss so far.
        steps : int
            Most steps to take.

        Returns
        -------
        Progressed
        """
        began, built = time.perf_counter(), self.build_seconds
        self._prepare(params)
        began += self.build_seconds - built
        self._set_training(settings, lowest_loss, adam)
        if not (adam.lent and self._borrowed_from() is adam):
            self._take_moments(adam)
        self._ask(steps)
        training = time.perf_counter()
        # if interrupted, the parameters on the device are unknown
        held, self.held = self.held, None
        halt = self._with_room(self._train_on)
        self.held = held
        trained = time.perf_counter()
        control, state = self.launch.host(self.control), self.launch.host(self.state_numbers)
        taken, lowest_loss = int(control[WORDS.STEP]), float(state[WORDS.LOWEST])
        failure = None
        if halt == WORDS.EXPLODED:
            failure = explosion(float(state[WORDS.LOSS]), lowest_loss)
        elif halt:
            taken -= 1  # the step that failed was counted
            failure = NOT_FINITE if halt == WORDS.NOT_FINITE else NO_KERNEL
        if failure is not None:
            self._settle()
            self.slots = None  # the current parameters are useless
            return Progressed(params, taken, lowest_loss, failure)
        rows = self.launch.host(self.params)
        if control[WORDS.ALIVE] < len(self.slots):
            staying = rows[self.slots, 0] > 0
            self.slots, adam.born = self.slots[staying], adam.born[staying]
        self._hold(self._of_slots(rows))
        adam.steps += taken
        if not adam.lent:
            adam.lend(self._moments_now)
            self._borrowed_from = weakref.ref(adam)
        params = params_of_rows(self.held, len(self.shape), params.image_shape)
        self._aside = training - began + time.perf_counter() - trained
        return Progressed(params, taken, lowest_loss, None)

    def keep(self, kernels):
        """Keep only the kernels of a mask (K,): the others have left the model."""
        if self.slots is None:
            return
        self._settle()
        lost, self.slots = self.slots[~kernels], self.slots[kernels]
        if self.held is not None:
            self.held = self.held[kernels]
        lost = self.launch.array(lost)
        self.params[lost, 0] = 0
        self.records[lost, 0] = WORDS.DEAD
        self.control[WORDS.ALIVE] = len(self.slots)
        if bool(self.wins[lost].any()):
            self.control[WORDS.STALE] = 1

    def forget(self):
        """Forget the current model: the next one is unrelated."""
        self._settle()
        self.slots = None

    def succeed(self, parents):
        """Expect another model, whose kernels descend from ``parents``, numbers (K',)."""
        if self.slots is None:
            return
        rates = self.rates[self.launch.array(self.slots[parents])]
        self._begin(len(parents))
        self.rates[...] = rates

    def state(self):
        """Arrays by name from which ``restore`` continues bit for bit."""
        if self.slots is None or not self.listed:
            return {}
        anchors, moved, rates, control = (self.launch.host(array) for array in (
            self.anchors, self.moved, self.rates, self.control))
        remembered = self.launch.host(self.remembered)
        there = anchors[:, 0] != WORDS.DEAD
        anchors, number = anchors[there], np.cumsum(there) - 1
        remembered = np.where((remembered >= 0) & there[remembered], number[remembered], -1)
        remembered = remembered.astype(np.int32)
        D, longest, spare = len(self.shape), max(self.shape), np.zeros((3, 1))
        A = np.zeros((len(anchors), D, D))
        for place, (i, j) in enumerate(lower_entries(D), start=1 + D):
            A[:, i, j] = anchors[:, place]
        determinants = np.abs(np.diagonal(A, axis1=1, axis2=2)).prod(axis=1)
        return {
            "pis": np.maximum(np.exp(anchors[:, 0]) / determinants, np.finfo(float).tiny),
            "musX": anchors[:, 1 : 1 + D] / longest, "A": A * longest,
            "anchor": anchors[:, : 1 + D + len(lower_entries(D))].copy(),
            "allowance": np.hstack([anchors[:, 1 + D + len(lower_entries(D)) :].T, spare]),
            "slots": number[self.slots], "moved": np.hstack([moved[self.slots].T, spare]),
            "rate": np.hstack([rates[self.slots].T, spare]),
            "age": np.array(int(control[WORDS.AGE])), "stale": np.array(bool(control[WORDS.STALE])),
            "tau": np.array(self.listed_tau), "remembered": remembered,
        }

    def restore(self, state):
        """Put the engine into the state in which ``state`` was called."""
        if "pis" not in state or is_forged(state):
            return
        K, D = state["musX"].shape
        self._begin(K)
        entries = [state["A"][:, i, j] for i, j in lower_entries(D)]
        if "anchor" in state:
            anchors = state["anchor"]
        else:  # of another engine
            rows = np.zeros((K, self.width))
            rows[:, : 1 + D + len(entries)] = np.column_stack(
                [state["pis"], state["musX"], *entries])
            self._upload(rows)
            records = self.launch.host(self.records)
            anchors = np.hstack([records[:, :1], records[:, 2 : 2 + D],
                                 records[:, -len(entries) :]])
        self.anchors[...] = self.launch.array(np.hstack([anchors, state["allowance"][:, :K].T]))
        full = self.tau
        self.tau = float(state["tau"])
        self._tell({WORDS.TAU: self.tau})
        if np.shape(state.get("remembered")) == (self.tiles,):  # else of another engine
            self.winners[...] = self.launch.array(state["remembered"], np.int32)
        self._ask(1)
        self._build_lists(self._planned)
        self.tau = full
        self.slots = np.asarray(state["slots"])
        slots = self.launch.array(self.slots)
        self.moved[slots] = self.launch.array(state["moved"][:, :-1].T)
        if "rate" in state:
            self.rates[slots] = self.launch.array(state["rate"][:, :-1].T)
        gone = np.setdiff1d(np.arange(self.num_slots), self.slots)
        # the engine that gave the state may have had other winners, all of which are still there
        stale = bool(state["stale"]) or bool(self.wins[self.launch.array(gone)].any())
        self.control[WORDS.AGE], self.control[WORDS.STALE] = int(state["age"]), int(stale)
        self.held, self.may_be_overdue = None, True

    def memory_needed(self, params):
        """Peak memory of an iteration in bytes, with all arrays of the engine; needs a target."""
        self._prepare(params)
        self._ask(1)
        self._with_room(lambda: self.launch.run(self._moments))
        arrays = [*vars(self).values(), *(start for _, start, _ in self.levels)]
        buffers = {id(array): array.nbytes for array in arrays if hasattr(array, "nbytes")
                   and getattr(array.flags, "writeable", True)}  # else shared with other engines
        on_the_way = 6 * self.num_slots * self.width * self.dtype.itemsize
        recorded = (len(self._build.launches) + len(self._step.launches)) * LAUNCH_BYTES
        return sum(buffers.values()) + on_the_way + recorded

    @property
    def threads(self):
        """Number of processors to use; None on a GPU. Results do not depend on it."""
        return self.launch.threads

    @threads.setter
    def threads(self, threads):
        self.launch.threads = threads

    @property
    def builds(self):
        """How often lists have been built."""
        return 0 if self.slots is None else int(self.launch.host(self.control)[WORDS.BUILDS])

    @property
    def pairs_per_pixel(self):
        """Mean number of pairs that are computed per pixel; 0 before the first iteration."""
        if self.slots is None or not self.listed:
            return 0.0
        return self._num_pairs() * self.grid.pixels / math.prod(self.shape)

    def __getstate__(self):
        """The state without the launcher and its recorded sequences, which hold addresses."""
        self._settle()
        addresses = ("launch", "_lists", "_planned", "_build", "_step", "_moments", "_tile",
                     "_borrowed_from", "rows")
        return {name: value for name, value in vars(self).items() if name not in addresses}

    def __setstate__(self, state):
        vars(self).update(state)
        self._borrowed_from = _nobody
        if self.channels is not None:
            self.launch = type(self).launcher(len(self.shape), self.channels, self.dtype.name)
            self._lay_out()  # another processor may have wider rows
        if self.slots is not None:
            self._record()

    # ---- training

    def _train_on(self):
        built = int(self.launch.host(self.control)[WORDS.BUILDS])
        self.may_be_overdue |= self.list_life >= 2  # with less, each step looks
        patience = min(max(1.0, self._aside / ASIDE), MOST_PATIENCE)
        self.build_seconds += self.launch.train(self._build, self._step, self.control, patience)
        if int(self.launch.host(self.control)[WORDS.BUILDS]) > built:
            self.listed_tau = self.tau

    def _take_moments(self, adam):
        self._settle()
        self.m[...], self.v[...] = (self.launch.array(self._in_slots(rows_of(moment)), self.dtype)
                                    for moment in (adam.m, adam.v))
        self.born[...] = self.launch.array(self._in_slots(adam.born))
        if self.trained:
            self.outer[...] = self.launch.array(self._in_slots(adam.outer), self.dtype)
            self.axes[...] = self.launch.array(self._in_slots(adam.axes), self.dtype)

    def _moments_now(self):
        """The moments by name, as `Adam.lend` has them fetched."""
        found = {name: params_of_rows(self._of_slots(self.launch.host(moment)), len(self.shape))
                 for name, moment in (("m", self.m), ("v", self.v))}
        if self.trained:
            found.update({name: self._of_slots(self.launch.host(array)).copy()
                          for name, array in (("outer", self.outer), ("axes", self.axes))})
        self._borrowed_from = _nobody  # whoever has asked may change them
        return found

    def _settle(self):
        """Return borrowed moments to their optimizer, before they are overwritten here."""
        adam = self._borrowed_from()
        if adam is not None:
            adam.settle()

    def _set_training(self, settings, lowest_loss, adam):
        clip = math.inf if settings.grad_clip is None else settings.grad_clip
        frame = settings.own_frame or OwnFrame(SMALLEST_DIAGONAL, math.inf, math.inf, math.inf, 1)
        least, most = frame.least_diagonal, frame.most_sharpness
        if settings.own_frame is not None and "A" not in settings.rates:
            least, most = 0.0, math.inf  # what is not trained stays as it is
        lowest_loss = min(lowest_loss, 1e300)  # not infinite
        self.state_numbers[: WORDS.ADAM_STEPS + 1] = self.launch.array(
            np.array([lowest_loss, 0, adam.steps], float))  # LOWEST, LOSS, ADAM_STEPS
        trained, turn_every = 0, 0
        if isinstance(adam, TurnedAdam):
            adam.check(settings.rates)
            trained, turn_every = len(adam.columns), adam.turn_every
        beyond = frame.most_beyond if "nu_e" in settings.rates else math.inf
        slope = frame.most_slope if "gamma_e" in settings.rates else math.inf
        self._tell({
            **{word: settings.rates.get(name, -1.0) for name, word in _RATES.items()},
            WORDS.EPSILON: settings.adam_eps, WORDS.GRAD_CLIP: clip,
            WORDS.L1: settings.l1reg / settings.initial_kernels,
            WORDS.BANDWIDTH: settings.bandwidth_reg, WORDS.RADIAL: settings.radial,
            WORDS.BETA2: adam.beta2, WORDS.LEAST_DIAGONAL: least, WORDS.MOST_SHARPNESS: most,
            WORDS.WHITENED: settings.own_frame is not None, WORDS.FADE_FROM: frame.fade_from,
            WORDS.FADE_TO: frame.fade_to, WORDS.FADE_TO_PART: frame.fade_to_part,
            WORDS.EXPLOSION: settings.explosion, WORDS.TURN_EVERY: turn_every,
            WORDS.MOST_BEYOND: beyond, WORDS.MOST_SLOPE: slope})
        if (adam.beta2, trained) != (self.beta2, self.trained):
            self._settle()
            self._correct_bias_of(adam.beta2)
            self.trained = trained
            self._make_axes()
            self._record_steps()

    def _mean_error(self):
        return float(self.launch.host(self.errors).sum() / (math.prod(self.shape) * self.channels))
