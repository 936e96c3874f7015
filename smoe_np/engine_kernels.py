"""The model over a picture through the kernels of ``kernels/``, on a GPU or on a CPU.

One host side for both: the buffers, and the order of launches. What differs is the launcher
(``launch_native``, ``launch_cuda``), which has arrays, records sequences of launches and runs them.

Parameters of all kernels, their Adam moments and their gradients are rows (K, W) of W numbers: π,
μ, the lower triangle of A, then for each channel ν and γ. A step of training is the sequence

    step, gather    of each batch of tiles: moments of every pair, then their sums by kernel
    judge           the loss, and whether it exploded
    update          the chain rule, regularisers, Adam; who leaves; whether the lists still hold

and lists are built by another one where they do not hold. Both go on without the host until there
are as many steps as it asked for: by ``control`` (control.cuh) the host tells kernels what to do,
and kernels tell the host what has happened. Kernels of the model keep their row, their "slot", when
others leave.
"""

import math

import numpy as np

from .adam import BETA2, SMALLEST_DIAGONAL, bias_corrections
from .kernel_files import constants
from .param_rows import lower_entries, params_of_rows, rows_of
from .steps import (
    LEAST_EXPLOSION,
    NO_KERNEL,
    NOT_FINITE,
    OwnFrame,
    Progressed,
    explosion,
)
from .tiling import TAU, Grid

SIDE = {1: 64, 2: 8, 3: 4}  # pixels along an axis of a tile, by dimensions
MOST_CHANNELS = 8
KERNEL_THREADS, FEW_THREADS = 32, 64  # of a block; those below are in the sources
TILE_THREADS, UPDATE_THREADS, LIST_THREADS = (
    constants()[name] for name in ("PIXELS", "UPDATE_THREADS", "LIST_THREADS"))
MANY_BOXES = 1024  # of which a block needs few threads each
ROWS_BYTES = 1 << 28  # of the moments of all pairs of a batch
ROOM = 1.25  # times what is needed, for lists that were too short
FIRST_PAIRS = 32  # of a tile, for which there is room at first


def why_not_these(D, C):
    """Say why there are no kernels for so many dimensions and channels, or return ``None``."""
    if D not in SIDE:
        return f"kernels are made for 1 to 3 dimensions, here are {D}"
    if C > MOST_CHANNELS:
        return f"kernels are made for 1 to {MOST_CHANNELS} channels, here are {C}"
    return None


def _demand(why_not, name):
    if why_not is not None:
        raise ValueError(f'backend {name!r} cannot be used: {why_not}; backend="numpy" takes any')


class KernelEngine:
    """A model over one picture: the regression, the loss and its gradients.

    Parameters
    ----------
    shape : tuple of D ints
        Pixels along each axis; D is 1, 2 or 3.
    target : (*shape, C) array of float, optional
        The picture to regress, in [0, 1]; without it there is no loss.
    dtype : {"float32", "float64"}
        Precision of parameters and of everything that meets pixels. Arithmetic on kernels is
        float64.
    batches : int, optional
        Number of parts into which the tiles are divided, the moments of only one of which are held
        at a time. ``None`` chooses. The results do not depend on it.

    Attributes
    ----------
    tau : float
        Lists may leave out pairs whose gate is below e^−tau wherever in the tile. Smaller than at
        first, it makes what is computed cheaper and less exact.
    list_life : int
        Steps of ``advance`` for which lists are used even if kernels have moved so far that they
        no longer hold; 0 at first.

    Raises
    ------
    ValueError
        If there are more dimensions or channels than kernels are made for.
    """

    name = "kernels"
    launcher = None  # of a subclass: makes a launcher of D, C and a dtype

    def __init__(self, shape, target=None, dtype="float32", batches=None):
        self.shape, self.batches = tuple(shape), batches
        self.dtype = np.dtype(dtype)
        _demand(why_not_these(len(self.shape), 1), self.name)
        side = SIDE[len(self.shape)]
        # all tiles whole, some beyond the picture
        self.grid = Grid([-(-n // side) * side for n in self.shape], side)
        self.tiles = self.grid.num_tiles
        self.build_seconds = 0.0  # spent on lists so far
        self.tau = self.listed_tau = TAU[self.dtype]
        self.list_life, self.may_be_overdue = 0, False
        self.channels = self.slots = self.target = self.list = None
        if target is not None:
            beyond = [(0, whole - n) for whole, n in zip(self.grid.shape, self.shape)]
            target = np.pad(np.asarray(target, self.dtype), [*beyond, (0, 0)])
            self._start(target.shape[-1])
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
        self._run("step", self.tiles, TILE_THREADS, *self._tile, self.target, 0, 0, 0, self.rows,
                  self.errors)
        return self._mean_error()

    def picture(self):
        """The picture to regress, (*shape, C); needs a target."""
        padded = self.grid.paste(self.launch.host(self.target))
        return np.ascontiguousarray(padded[tuple(slice(n) for n in self.shape)])

    def weigh(self, params):
        """See ``NumpyEngine.weigh``."""
        self._prepare(params)
        return self._sum_rows("weigh")[:, :3]

    def halve(self, params, direction=None):
        """See ``NumpyEngine.halve``."""
        self._prepare(params)
        direction = np.zeros(len(self.shape)) if direction is None else direction
        return self._sum_rows("halve", self.launch.array(np.asarray(direction, np.float64)))

    def _sum_rows(self, kernel, *arguments):
        """Sums by kernel of the rows that a kernel over tiles makes of pairs: (K, W)."""
        def launches():
            for first, last in self._batch_bounds():
                yield kernel, last - first, TILE_THREADS, (
                    *self._tile, self.target, first, *arguments, self.room, self.rows)
                yield self._gather(first, last)

        self._ask(1)
        self._with_room(lambda: self.launch.run(self.launch.record(list(launches()))))
        return self.launch.host(self.sums)[self.slots]

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
        """Take training steps, as many as are asked for or as take a moment; needs a target.

        Parameters
        ----------
        params : SmoeParams
        adam : Adam
            Its moments and its number of steps change.
        settings : StepSettings
        lowest_loss : float
            Of those seen so far.
        steps : int
            At most.

        Returns
        -------
        Progressed
        """
        self._prepare(params)
        if adam.m is not self._moments_given:
            self.m[...], self.v[...] = (
                self.launch.array(self._in_slots(rows_of(moment)), self.dtype)
                for moment in (adam.m, adam.v))
            self.born[...] = self.launch.array(self._in_slots(adam.born[:, None])[:, 0])
        self._set_training(settings, lowest_loss, adam)
        self._ask(steps)
        halt = self._with_room(self._train_on)
        control, state = self.launch.host(self.control), self.launch.host(self.state_numbers)
        taken, lowest_loss = int(control[_STEP]), float(state[_LOWEST])
        failure = None
        if halt == _EXPLODED:
            failure = explosion(float(state[_LOSS]), lowest_loss)
        elif halt:
            taken -= 1  # the step that failed was counted
            failure = NOT_FINITE if halt == _NOT_FINITE else NO_KERNEL
        if failure is not None:
            self.slots = None  # what the kernels are now is of no use
            return Progressed(params, taken, lowest_loss, failure)
        rows = self.launch.host(self.params)
        if control[_ALIVE] < len(self.slots):
            staying = rows[self.slots, 0] > 0
            self.slots, adam.born = self.slots[staying], adam.born[staying]
        self.held = rows[self.slots]
        adam.steps += taken
        adam.m, adam.v = (params_of_rows(self.launch.host(moment)[self.slots], len(self.shape))
                          for moment in (self.m, self.v))
        self._moments_given = adam.m
        params = params_of_rows(self.held, len(self.shape), params.image_shape)
        return Progressed(params, taken, lowest_loss, None)

    def keep(self, kernels):
        """Go on with some kernels only, the mask (K,): the others have left the model."""
        if self.slots is None:
            return
        lost, self.slots = self.slots[~kernels], self.slots[kernels]
        self._moments_given = None
        if self.held is not None:
            self.held = self.held[kernels]
        lost = self.launch.array(lost)
        self.params[lost, 0] = 0
        self.records[lost, 0] = _DEAD
        self.control[_ALIVE] = len(self.slots)
        if bool(self.wins[lost].any()):
            self.control[_STALE] = 1

    def forget(self):
        """Go on with a model that has nothing to do with those before."""
        self.slots = None

    def succeed(self, parents):
        """Go on with another model, whose kernels stem from those of an array (K',) of indices."""
        if self.slots is None:
            return
        rates = self.rates[self.launch.array(self.slots[parents])]
        self._begin(len(parents))
        self.rates[...] = rates

    def state(self):
        """Arrays by name from which ``restore`` goes on bit for bit."""
        if self.slots is None or not self.listed:
            return {}
        anchors, moved, rates, control = (self.launch.host(array) for array in (
            self.anchors, self.moved, self.rates, self.control))
        there = anchors[:, 0] != _DEAD
        anchors, number = anchors[there], np.cumsum(there) - 1
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
            "age": np.array(int(control[_AGE])), "stale": np.array(bool(control[_STALE])),
            "tau": np.array(self.listed_tau),
        }

    def restore(self, state):
        """Put the engine into the state that ``state`` gave."""
        if "pis" not in state or (np.median(state["allowance"], axis=1) > _MOST_ALLOWED).any():
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
        self.tau = self.settings[_TAU] = float(state.get("tau", full))
        self._build_lists(self._lists)
        self.tau = full
        self.slots = np.asarray(state["slots"])
        slots = self.launch.array(self.slots)
        self.moved[slots] = self.launch.array(state["moved"][:, :-1].T)
        if "rate" in state:
            self.rates[slots] = self.launch.array(state["rate"][:, :-1].T)
        self.control[_AGE], self.control[_STALE] = int(state["age"]), int(state["stale"])
        self.held, self.may_be_overdue = None, True

    def memory_needed(self, params):
        """Bytes that an iteration takes at its peak, all arrays counted; needs a target."""
        self._prepare(params)
        self._ask(1)
        self._with_room(lambda: self.launch.run(self._moments))
        buffers = [a for a in vars(self).values() if hasattr(a, "nbytes")]
        buffers += [start for _, start, _ in self.levels]
        on_the_way = 6 * self.num_slots * self.width * self.dtype.itemsize
        return sum(array.nbytes for array in buffers) + on_the_way

    @property
    def threads(self):
        """Processors that are used, where it is for us to choose; no result depends on it."""
        return self.launch.threads

    @threads.setter
    def threads(self, threads):
        self.launch.threads = threads

    @property
    def builds(self):
        """How often lists have been built."""
        return 0 if self.slots is None else int(self.launch.host(self.control)[_BUILDS])

    @property
    def pairs_per_pixel(self):
        """Pairs that are computed for a pixel, on the average; before the first iteration 0."""
        if self.slots is None or not self.listed:
            return 0.0
        return self._num_pairs() * self.grid.pixels / math.prod(self.shape)

    def __getstate__(self):
        """All but the launcher and what it recorded, which hold addresses."""
        addresses = ("launch", "_lists", "_build", "_step", "_moments", "_tile")
        return {name: value for name, value in vars(self).items() if name not in addresses}

    def __setstate__(self, state):
        vars(self).update(state)
        if self.channels is not None:
            self.launch = type(self).launcher(len(self.shape), self.channels, self.dtype.name)
        if self.slots is not None:
            self._record()

    # ---- buffers

    def _start(self, channels):
        """Have the kernels for a number of channels."""
        D = len(self.shape)
        _demand(why_not_these(D, channels), self.name)
        self.channels, self.slots = channels, None
        self.width = (D + 1) * (D + 2) // 2 + channels * (D + 1)
        self.launch = launch = type(self).launcher(D, channels, self.dtype.name)
        self.sizes = launch.array(np.array([*self.shape, *self.grid.counts], np.int32))
        self.control = launch.zeros(constants()["CONTROL_WORDS"], np.int32)
        self.state_numbers = launch.zeros(constants()["STATE_NUMBERS"], np.float64)
        self.settings = launch.zeros(constants()["SETTINGS_NUMBERS"], np.float64)
        constant = {"SCALE": 1 / (math.prod(self.shape) * channels),
                    "LEAST_EXPLOSION": LEAST_EXPLOSION}
        for name, value in constant.items():
            self.settings[constants()[name]] = value
        self.errors = launch.zeros(self.tiles, np.float64)
        self.counts = launch.zeros(self.tiles, np.int32)
        self.winners = launch.zeros(self.tiles, np.int32)
        self.levels = []  # of the tree of boxes from the top: level, start of each list, boxes
        for level in reversed(range(max(1, (max(self.grid.counts) - 1).bit_length()))):
            boxes = math.prod(-(-n >> level) for n in self.grid.counts)
            self.levels.append((level, launch.zeros(boxes + 1, np.int32), boxes))
        self.start = self.levels[-1][1]
        row_width = launch.zeros(1, np.int32)
        self._run("row_width", 1, 1, row_width)
        self.row_width = int(launch.host(row_width)[0])
        self.rows = launch.zeros(0, self.dtype)
        self.room = 0
        self._correct_bias_of(BETA2)

    def _begin(self, K):
        """Make room for another model, of K kernels."""
        zeros, D = self.launch.zeros, len(self.shape)
        lower = len(lower_entries(D))
        self.num_slots, self.slots, self.listed = K, np.arange(K), False
        self.held = self._moments_given = None
        self.params, self.m, self.v = (zeros((K, self.width), self.dtype) for _ in range(3))
        self.sums = zeros((K, self.width), np.float64)
        self.records = zeros((K, self.width + 1 + lower), np.float64)
        self.anchors = zeros((K, 1 + D + lower + 3), np.float64)
        self.born = zeros(K, np.int32)
        self.moved, self.rates = zeros((K, 3), np.float64), zeros((K, 3), np.float64)
        self.wins, self.pairs_of_kernel = zeros(K, np.int32), zeros(K, np.int32)
        self.first_of_kernel = zeros(K + 1, np.int32)
        self.pace_sums = zeros(5 * self._blocks(LIST_THREADS), np.float64)
        self.all_kernels = self.launch.array(np.arange(K, dtype=np.int32))
        self.all_start = self.launch.array(np.array([0, K], np.int32))
        pairs, between = (0, 0) if self.list is None else (self.capacity, self.between)
        self._make_lists(max(pairs, min(K, FIRST_PAIRS) * self.tiles),
                         max(between, K + FIRST_PAIRS * (self.tiles // 4 + 1)))

    def _make_lists(self, pairs, between):
        """Have room for so many pairs, and for so many entries of the lists of larger boxes."""
        zeros, D = self.launch.zeros, len(self.shape)
        if max(pairs, between) > _MOST_ENTRIES:
            raise MemoryError(f"{max(pairs, between):g} pairs of tiles and kernels; at most "
                              f"{_MOST_ENTRIES:g} can be listed")
        self.capacity, self.between = int(pairs), int(between)
        self.list, self.number, self.pairs = (
            zeros(self.capacity + spare, np.int32) for spare in (0, 0, constants()["AHEAD"]))
        self.lists_between = zeros((2, self.between), np.int32)
        self.kept = zeros((1 << D) * max(self.between, self.num_slots), np.uint8)
        self._record()

    def _record(self):
        """Record the sequences of launches anew: buffers are others, or there are other batches."""
        record, K = self.launch.record, self.num_slots
        plan = [
            ("pace", self._blocks(LIST_THREADS), LIST_THREADS, (
                self.control, self.records, self.moved, self.rates, self.pace_sums, K)),
            ("plan", 1, LIST_THREADS, (
                self.control, self.pace_sums, self._blocks(LIST_THREADS), self.settings,
                self.state_numbers)),
            ("anchor", self._blocks(LIST_THREADS), LIST_THREADS, (
                self.control, self.records, self.rates, self.state_numbers, self.anchors,
                self.moved, self.wins, K)),
        ]
        lists, parent_start, parent, parents = [], self.all_start, self.all_kernels, 1
        for level, start, boxes in self.levels:
            entries = self.lists_between[level % 2] if level else self.list
            threads = FEW_THREADS if boxes > MANY_BOXES else LIST_THREADS
            lists += [
                ("bound", parents, threads, (
                    self.control, self.settings, self.sizes, level, self.anchors, parent_start,
                    parent, self.kept, self.counts, self.winners, self.wins)),
                ("scan", 1, LIST_THREADS, (
                    self.control, self.counts, start, boxes,
                    self.between if level else self.capacity, int(level > 0))),
                ("fill", boxes, threads, (
                    self.control, self.sizes, level, parent_start, parent, self.kept, start,
                    entries, self.pairs_of_kernel, self.number)),
            ]
            parent_start, parent, parents = start, entries, boxes
        lists += [
            ("scan", 1, LIST_THREADS, (
                self.control, self.pairs_of_kernel, self.first_of_kernel, K, self.capacity, 0)),
            ("place", -(-self.capacity // LIST_THREADS), LIST_THREADS, (
                self.control, self.list, self.number, self.tiles, self.start,
                self.first_of_kernel, self.pairs)),
            ("arrange", K, KERNEL_THREADS, (
                self.control, self.first_of_kernel, self.pairs, self.pairs_of_kernel)),
            ("settle", 1, KERNEL_THREADS, (self.control,)),
        ]
        self._lists, self._build = record(lists), record(plan + lists)
        self._tile = (self.control, self.sizes, self.records, self.start, self.list, self.winners)
        if self.target is None:
            return
        moments = []
        for first, last in self._batch_bounds():
            moments += [
                ("step", last - first, TILE_THREADS, (
                    *self._tile, self.target, first, 1, self.room, self.rows, self.errors)),
                self._gather(first, last),
            ]
        steps = [
            ("judge", 1, LIST_THREADS, (
                self.control, self.state_numbers, self.settings, self.errors, self.tiles,
                self.params, self.records, K)),
            ("update", self._blocks(UPDATE_THREADS), UPDATE_THREADS, (
                self.control, self.state_numbers, self.settings, self.sizes, self.sums,
                self.params, self.m, self.v, self.records, self.anchors, self.moved, self.wins,
                self.born, self.corrections, len(self.corrections), K)),
        ]
        self._moments, self._step = record(moments), record(moments + steps)

    def _gather(self, first, last):
        """The launch that adds up, for each kernel, the rows of its pairs in a batch of tiles."""
        return "gather", self.num_slots, KERNEL_THREADS, (
            self.control, self.first_of_kernel, self.pairs, self.start, first, last, self.rows,
            self.sums)

    def _blocks(self, threads):
        return -(-self.num_slots // threads)

    def _batch_bounds(self):
        """First and last + 1 of the tiles of each batch."""
        batches = self.batches
        if batches is None:
            row = self.row_width * self.dtype.itemsize
            batches = -(-self._num_pairs() * row // ROWS_BYTES) if self.listed else 1
        batches = max(1, min(batches, self.tiles))
        cuts = [self.tiles * b // batches for b in range(batches + 1)]
        return list(zip(cuts[:-1], cuts[1:]))

    def _num_pairs(self):
        return int(self.launch.host(self.start[self.tiles :])[0])

    def _with_room(self, run):
        """Run, and again as long as some buffer was too short; what else halted it, or 0."""
        while True:
            run()
            halt = int(self.launch.host(self.control)[_HALT])
            if halt == _TOO_SHORT:
                self.control[_HALT] = 0
                self._lengthen()
                self._build_lists(self._lists)  # from what was planned already
            elif halt == _NO_ROOM:
                self.control[_HALT] = 0
                starts = self.launch.host(self.start)
                bounds = self._batch_bounds()
                most = max(int(starts[last] - starts[first]) for first, last in bounds)
                self.rows, self.room = self.launch.zeros(0, self.dtype), 0
                self._record()  # so that nothing holds the old ones when there are others
                room = int(ROOM * most) + self.grid.pixels
                self.rows = self.launch.zeros(room * self.row_width, self.dtype)
                self.room = room
                self._record()
            else:
                return halt

    def _lengthen(self):
        needed, between = (int(n) for n in self.launch.host(self.control)[_NEEDED : _NEEDED + 2])
        self._make_lists(max(self.capacity, int(ROOM * needed)),
                         max(self.between, int(ROOM * between)))

    def _build_lists(self, sequence):
        self.control[_STALE] = 1
        while True:
            self.launch.run(sequence)
            if int(self.launch.host(self.control)[_HALT]) != _TOO_SHORT:
                break
            self.control[_HALT] = 0
            self._lengthen()
            sequence = self._lists
        self.listed, self.listed_tau = True, self.tau

    # ---- models in and out

    def _prepare(self, params):
        """Have a model's records, and lists that hold for it."""
        rows = rows_of(params)
        if params.num_channels != self.channels:
            self._start(params.num_channels)
        if self.slots is None or len(self.slots) != len(rows):
            self._begin(len(rows))
        if self.held is None or self.held.dtype != rows.dtype or (self.held != rows).any():
            before = self.launch.host(self.moved).copy()
            self._upload(rows)
            if (before != self.launch.host(self.moved)).any():
                self.control[_AGE] += 1
        self._ask(0)
        self.settings[_TAU], self.settings[_LEAST_LIFE] = self.tau, self.list_life
        if self.may_be_overdue and self.list_life < 2:
            self._see_whether_lists_hold()
        control = self.launch.host(self.control)
        if not self.listed or control[_STALE] or self.tau > self.listed_tau:
            self._build_lists(self._build)

    def _see_whether_lists_hold(self):
        self.may_be_overdue = False
        if self.listed:
            slots = self.launch.array(self.slots)
            allowances = self.anchors[slots, -3:]
            if bool((self.moved[slots] > allowances).any()):
                self.control[_STALE] = 1

    def _upload(self, rows):
        exact = self.launch.array(self._in_slots(rows), np.float64)
        self.params[...] = exact
        life = self.list_life if self.held is None else 0  # of a model that was restored
        self.held = rows
        self.control[_SIGNED], self.control[_ALIVE] = 0, len(rows)
        self._run("follow", self._blocks(UPDATE_THREADS), UPDATE_THREADS, self.control, self.sizes,
                  exact, self.records, self.anchors, self.moved, int(self.listed), life,
                  self.num_slots)

    def _ask(self, steps):
        self.control[_HALT : _TARGET + 1] = self.launch.array(np.array([0, 0, steps], np.int32))

    def _run(self, kernel, blocks, threads, *arguments):
        self.launch.run(self.launch.record([(kernel, blocks, threads, arguments)]))

    def _train_on(self):
        built, self.may_be_overdue = int(self.launch.host(self.control)[_BUILDS]), True
        self.build_seconds += self.launch.train(self._build, self._step, self.control)
        if int(self.launch.host(self.control)[_BUILDS]) > built:
            self.listed_tau = self.tau

    def _set_training(self, settings, lowest_loss, adam):
        rates = [settings.rates.get(name, -1.0) for name in ("pis", "musX", "A", "gamma_e", "nu_e")]
        clip = math.inf if settings.grad_clip is None else settings.grad_clip
        frame = settings.own_frame or OwnFrame(SMALLEST_DIAGONAL, math.inf, math.inf, math.inf, 1)
        numbers = np.array([
            *rates, settings.adam_eps, clip, settings.l1reg / settings.initial_kernels,
            settings.bandwidth_reg, float(settings.radial), adam.beta2, frame.least_diagonal,
            frame.most_diagonal, float(settings.own_frame is not None), frame.fade_from,
            frame.fade_to, frame.fade_to_part, settings.explosion])
        self.settings[: len(numbers)] = self.launch.array(numbers)
        self.state_numbers[_LOWEST] = min(lowest_loss, 1e300)
        self.state_numbers[_ADAM_STEPS] = adam.steps
        if adam.beta2 != self.beta2:
            self._correct_bias_of(adam.beta2)
            self._record()

    def _correct_bias_of(self, beta2):
        self.beta2, self.corrections = beta2, self.launch.array(bias_corrections(beta2))

    def _mean_error(self):
        return float(self.launch.host(self.errors).sum() / (math.prod(self.shape) * self.channels))

    def _in_slots(self, rows):
        """Rows of the kernels that are there as rows of all slots; the others are 0."""
        if len(rows) == self.num_slots:
            return rows
        spread = np.zeros((self.num_slots, rows.shape[1]), rows.dtype)
        spread[self.slots] = rows
        return spread


_C = constants()
_STALE, _HALT, _STEP, _TARGET, _ALIVE, _AGE, _BUILDS, _SIGNED, _NEEDED = (
    _C[name] for name in ("STALE", "HALT", "STEP", "TARGET", "ALIVE", "AGE", "BUILDS", "SIGNED",
                          "NEEDED"))
_TOO_SHORT, _EXPLODED, _NOT_FINITE, _NO_ROOM = (
    _C[name] for name in ("TOO_SHORT", "EXPLODED", "NOT_FINITE", "NO_ROOM"))
_LOWEST, _LOSS, _ADAM_STEPS, _TAU, _LEAST_LIFE = (
    _C[name] for name in ("LOWEST", "LOSS", "ADAM_STEPS", "TAU", "LEAST_LIFE"))
_DEAD = _C["DEAD"]
_MOST_ALLOWED = np.array([0.5, 10.0, 10.0])  # see restore: a forged allowance could exhaust memory
_MOST_ENTRIES = 2**31 - 1
