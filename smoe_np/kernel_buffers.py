"""The buffers of a compiled engine, its pair lists, and the order of launches.

``engine_kernels`` builds the engine on top of this.
"""

import math
import time
from types import SimpleNamespace

import numpy as np

from .adam import BETA2, bias_corrections
from .grid import Grid
from .kernel_files import constants
from .param_rows import lower_entries, rows_of
from .steps import LEAST_EXPLOSION

WORDS = SimpleNamespace(**constants())  # constants of the sources, such as places in ``control``
# tile size along each axis in pixels, by dimensions; LONG times that along axis 0
SIDE = {1: 64, 2: 8, 3: 4}
MOST_CHANNELS = 8
KERNEL_THREADS, FEW_THREADS = 32, 64  # threads of a block; other sizes are defined in the sources
TILE_THREADS, UPDATE_THREADS, LIST_THREADS = (
    WORDS.TILE_THREADS, WORDS.UPDATE_THREADS, WORDS.LIST_THREADS)
SHARE = 8 * LIST_THREADS  # rows per block of ``tally`` where all blocks share one set of counters
MANY_BOXES = 1024  # from so many boxes in a level, blocks have few threads
MOST_SHARES = 256  # most shares of the boxes of a level in all
ROWS_BYTES = 1 << 28  # most bytes of the rows of sums of a batch
SETS_BYTES = 1 << 23  # the same with several sets of rows, which is rare
ROOM = 1.25  # factor by which a list that was too short exceeds what it needed
FIRST_PAIRS = 32  # pairs per TILE_THREADS pixels for which lists have room initially
# On a CPU, patches are the largest boxes of which there are FEW_PATCHES or more, enough to share
# among processors, and of level HIGHEST_PATCH at most.
FEW_PATCHES = 256
HIGHEST_PATCH = 3
MOST_ENTRIES = 2**31 - 1
LAUNCH_BYTES = 1700  # bytes of host memory of a recorded launch: its arguments, as objects


def why_not_these(D, C):
    """Say why the kernels do not support D dimensions and C channels, or return ``None``."""
    if D not in SIDE:
        return f"kernels are made for 1 to 3 dimensions, here are {D}"
    if C > MOST_CHANNELS:
        return f"kernels are made for 1 to {MOST_CHANNELS} channels, here are {C}"
    return None


def demand(why_not, name):
    """Raise ValueError if there is a reason ``why_not`` to use the engine ``name``."""
    if why_not is not None:
        raise ValueError(f'backend {name!r} cannot be used: {why_not}; backend="numpy" takes any')


class KernelBuffers:
    """The buffers of a compiled engine and their contents; the base of ``KernelEngine``."""

    # ---- buffers

    def _start(self, channels):
        """Load the compute kernels for a number of channels, and allocate what it determines."""
        self._settle()
        D = len(self.shape)
        demand(why_not_these(D, channels), self.name)
        self.channels, self.slots = channels, None
        self.width = (D + 1) * (D + 2) // 2 + channels * (D + 1)
        self.launch = launch = type(self).launcher(D, channels, self.dtype.name)
        patches_are_boxes = self._lay_out()
        self.sizes = launch.array(np.array([*self.shape, *self.grid.counts], np.int32))
        self.control = launch.zeros(WORDS.CONTROL_WORDS, np.int32)
        self.state_numbers = launch.zeros(WORDS.STATE_NUMBERS, np.float64)
        self.settings = launch.zeros(WORDS.SETTINGS_NUMBERS, np.float64)
        self.told = np.zeros(WORDS.SETTINGS_NUMBERS)  # the settings that kernels have been told
        build, listed = launch.list_costs(math.prod(self.shape))
        self._tell({WORDS.SCALE: 1 / (math.prod(self.shape) * channels), WORDS.BUILD: build,
                    WORDS.LISTED: listed, WORDS.LEAST_EXPLOSION: LEAST_EXPLOSION})
        self.errors = launch.zeros(self.tiles, np.float64)
        self.counts = launch.zeros(max(self.tiles, MOST_SHARES << D), np.int32)
        self.winners, self.remembered = (launch.zeros(self.tiles, np.int32) for _ in range(2))
        self.levels = []  # of the tree of boxes from the top: level, start of each list, boxes
        for level in reversed(range(max(2, (max(self.grid.counts) - 1).bit_length()))):
            boxes = math.prod(-(-n >> level) for n in self.grid.counts)
            self.levels.append((level, launch.zeros(boxes + 1, np.int32), boxes))
        self.start = self.levels[-1][1]
        # of the boxes of level 1, then of those above
        self.recalled = launch.zeros(sum(boxes for level, _, boxes in self.levels if level),
                                     np.float64)
        # what a block goes through tile by tile: a tile, or a box, and where its kernels are listed
        self.patch_level, self.first_between, self.patches = 0, self.start, self.tiles
        self.first_row = self.start
        if patches_are_boxes:
            self.patch_level, self.first_between, self.patches = next(
                found for found in self.levels
                if found[0] <= HIGHEST_PATCH and (found[2] >= FEW_PATCHES or found[0] == 1))
            self.first_row = launch.zeros(self.patches + 1, np.int32)
        self.trained = 0
        self._correct_bias_of(BETA2)

    def _lay_out(self):
        """Adopt the layout of tiles and rows of these kernels; return whether patches are boxes."""
        layout = self.launch.zeros(3, np.int32)
        self._run("layout", 1, 1, layout)
        self.row_width, patches_are_boxes, long = map(int, self.launch.host(layout))
        sides = [SIDE[len(self.shape)]] * len(self.shape)
        sides[0] *= long
        # only whole tiles; the last ones extend beyond the picture
        self.grid = Grid([-(-n // side) * side for n, side in zip(self.shape, sides)], sides)
        self.tiles = self.grid.num_tiles
        self.rows, self.room = self.launch.zeros(0, self.dtype), 0
        return patches_are_boxes

    def _begin(self, K):
        """Allocate buffers for another model, of K kernels."""
        self._settle()
        zeros, D = self.launch.zeros, len(self.shape)
        lower = len(lower_entries(D))
        self.num_slots, self.slots, self.listed = K, np.arange(K), False
        self.held = self.spare = None
        self.params, self.m, self.v = (zeros((K, self.width), self.dtype) for _ in range(3))
        self.sums = zeros((K, self.width), np.float64)
        self._make_axes()
        self.records = zeros((K, self.width + 1 + lower), np.float64)
        self.anchors = zeros((K, 1 + D + lower + 3), np.float64)
        self.born = zeros(K, np.int32)
        self.moved, self.rates = zeros((K, 3), np.float64), zeros((K, 3), np.float64)
        self.winners[...] = -1
        self.wins, self.rows_by_kernel = zeros(K, np.int32), zeros(K, np.int32)
        self.first_of_kernel = zeros(K + 1, np.int32)
        self.counters = zeros((self.launch.counter_sets, K), np.int32)
        self.pace_sums = zeros(
            WORDS.PACE_SUMS * self._blocks(LIST_THREADS), np.float64)
        self.all_kernels = self.launch.array(np.arange(K, dtype=np.int32))
        self.all_start = self.launch.array(np.array([0, K], np.int32))
        pairs, between, rows = (0, 0, 0) if self.list is None else (
            self.capacity, self.between, self.most_rows)
        of_tile = FIRST_PAIRS * self.grid.pixels // TILE_THREADS
        self._make_lists(max(pairs, min(K, of_tile) * self.tiles),
                         max(between, K + of_tile * (self.tiles // 4 + 1)),
                         max(rows, K + min(K, of_tile) * self.patches))

    def _make_axes(self):
        """Allocate the axes of each kernel's ``trained`` parameters; 0: there are none."""
        self.outer, self.axes = (
            self.launch.zeros((self.num_slots, self.trained, self.trained), self.dtype)
            for _ in range(2))

    def _make_lists(self, pairs, between, rows):
        """Allocate lists for so many pairs, entries of the lists of larger boxes, and rows."""
        zeros, D = self.launch.zeros, len(self.shape)
        if max(pairs, between) > MOST_ENTRIES:
            raise MemoryError(f"{max(pairs, between):g} pairs of tiles and kernels; at most "
                              f"{MOST_ENTRIES:g} can be listed")
        pairs, between, rows = int(pairs), int(between), int(rows if self.patch_level else pairs)
        of_tiles, of_boxes = zeros(pairs, np.int32), zeros((2, between), np.int32)
        kept = zeros((1 << D) * max(between, self.num_slots), np.uint8)
        of_kernels = zeros(rows + WORDS.AHEAD, np.int32)
        kernel_of_row = row_of_pair = of_tiles  # where each pair has a row
        if self.patch_level:
            kernel_of_row, row_of_pair = zeros(rows, np.int32), zeros(pairs, np.int32)
        # set together, so that sizes match the buffers even if an allocation fails
        self.capacity, self.between, self.most_rows = pairs, between, rows
        self.list, self.lists_between, self.kept = of_tiles, of_boxes, kept
        self.kernel_of_row, self.row_of_pair, self.rows_of_kernels = (
            kernel_of_row, row_of_pair, of_kernels)
        self._record()

    def _record(self):
        """Record the sequences of launches, after buffers or batches have changed."""
        record, K = self.launch.record, self.num_slots
        plan = record([
            ("pace", self._blocks(LIST_THREADS), LIST_THREADS, (
                self.control, self.records, self.moved, self.rates, self.pace_sums, K)),
            ("plan", 1, LIST_THREADS, (
                self.control, self.pace_sums, self._blocks(LIST_THREADS), self.settings,
                self.state_numbers)),
            ("anchor", self._blocks(LIST_THREADS), LIST_THREADS, (
                self.control, self.records, self.rates, self.state_numbers, self.anchors,
                self.moved, self.wins, K)),
        ])
        boxes = self.levels[-2][2]
        recall = [
            ("recall", -(-boxes // LIST_THREADS), LIST_THREADS, (
                self.control, self.sizes, boxes, self.anchors, self.winners, self.remembered,
                self.recalled, self.wins)),
            ("lift", 1, LIST_THREADS, (
                self.control, self.sizes, len(self.levels), self.recalled)),
        ]
        lists, parent_start, parent, parents = [], self.all_start, self.all_kernels, 1
        first, entries_above = len(self.recalled), 1
        for number, (level, start, boxes) in enumerate(self.levels):
            shares = 1  # few boxes of long lists are shared among blocks; those of patches are not
            if level > HIGHEST_PATCH:
                shares = max(1, min(MOST_SHARES // parents, K // self.launch.least_share))
            if len(start) != boxes * shares + 1:
                start = self.launch.zeros(boxes * shares + 1, np.int32)
                self.levels[number] = level, start, boxes
            first -= boxes if level else 0  # at level 0 it is not looked at
            entries = self.lists_between[level % 2] if level else self.list
            threads = FEW_THREADS if boxes > MANY_BOXES else LIST_THREADS
            lists += [
                ("bound", parents * shares, min(threads, WORDS.CANDIDATES), (
                    self.control, self.settings, self.sizes, level, shares, self.anchors,
                    parent_start, entries_above, parent, self.recalled[first:], self.kept,
                    self.counts, self.winners, self.wins)),
                ("scan", 1, LIST_THREADS, (
                    self.control, self.counts, start, boxes * shares,
                    self.between if level else self.capacity, int(level > 0))),
                ("fill", boxes * shares, threads, (
                    self.control, self.sizes, level, shares, parent_start, entries_above, parent,
                    self.kept, start, entries)),
            ]
            parent_start, parent, parents, entries_above = start, entries, boxes, shares
        lists += self._lists_of_rows()
        self._lists = record(lists)
        self._planned = record(recall) + self._lists
        self._build = plan + self._planned
        self._tile = (self.control, self.settings, self.sizes, self.records, self.start, self.list,
                      self.winners)
        self._record_steps()

    def _record_steps(self):
        """Record the sequences of a step anew: those that depend on the room for rows as well."""
        if self.target is None:
            return
        record, K, moments = self.launch.record, self.num_slots, []
        for first, last in self._batch_bounds():
            moments += [
                ("step", last - first, TILE_THREADS, (
                    *self._tile, *self._patches_from(first), 1, self.room, self.rows,
                    self.errors)),
                self._gather(first, last, self.rows, self.sums),
            ]
        steps = [
            ("judge", 1, WORDS.JUDGE_THREADS, (
                self.control, self.state_numbers, self.settings, self.errors, self.tiles,
                self.params, self.records, K)),
            ("update", self._blocks(UPDATE_THREADS), UPDATE_THREADS, (
                self.control, self.state_numbers, self.settings, self.sizes, self.sums,
                self.params, self.m, self.v, self.outer, self.axes, self.trained, self.records,
                self.anchors, self.moved, self.wins, self.born, self.corrections,
                len(self.corrections), K)),
        ]
        if self.trained:
            steps.append(("turn", K, KERNEL_THREADS, (
                self.control, self.state_numbers, self.settings, self.records, self.born,
                self.outer, self.trained, self.axes, self.v)))
        self._moments = record(moments)
        self._step = self._moments + record(steps)

    def _lists_of_rows(self):
        """The launches that find the kernel of each row and the rows of each kernel."""
        K, sets, launches = self.num_slots, len(self.counters), []
        if self.patch_level:
            found = self.lists_between[0]  # the lists of tiles are made: it is free
            launches += [
                ("collect", sets, LIST_THREADS, (
                    self.control, self.sizes, self.patch_level, self.patches, self.start, self.list,
                    self.first_between, sets, self.counters, found, self.counts, self.row_of_pair,
                    K)),
                ("scan", 1, LIST_THREADS, (
                    self.control, self.counts, self.first_row, self.patches, self.most_rows, 2)),
                ("join", self.patches, FEW_THREADS, (
                    self.control, found, self.first_between, self.first_row, self.kernel_of_row)),
            ]
        shares = sets if sets > 1 else -(-self.most_rows // SHARE)
        rows = (self.control, self.kernel_of_row, self.patches, self.first_row, shares, sets,
                self.counters)
        return [
            *launches,
            ("tally", shares, LIST_THREADS, (*rows, K)),
            ("add_up", self._blocks(LIST_THREADS), LIST_THREADS, (
                self.control, sets, self.counters, self.rows_by_kernel, K)),
            ("scan", 1, LIST_THREADS, (
                self.control, self.rows_by_kernel, self.first_of_kernel, K, self.most_rows, 2)),
            ("place", shares, LIST_THREADS, (
                *rows, self.first_of_kernel, self.rows_of_kernels, K)),
            ("arrange", K, KERNEL_THREADS, (
                self.control, self.first_of_kernel, self.rows_of_kernels, sets, self.counters, K)),
            ("settle", 1, KERNEL_THREADS, (self.control,)),
        ]

    def _patches_from(self, first):
        """Arguments of a launch over patches: the target, the patches, the start of the batch."""
        return self.target, self.patch_level, first, self.first_row, self.row_of_pair

    def _gather(self, first, last, rows, sums):
        """The launch that adds up, for each kernel, its rows in a batch of patches."""
        return "gather", self.num_slots, KERNEL_THREADS, (
            self.control, self.first_of_kernel, self.rows_of_kernels, self.first_row, first, last,
            rows, sums)

    def _blocks(self, threads):
        return -(-self.num_slots // threads)

    def _batch_bounds(self, sets=1):
        """First and last + 1 of the patches of each batch, for ``sets`` sets of rows."""
        batches = self.batches
        if batches is None:
            row = self.row_width * self.dtype.itemsize
            most = ROWS_BYTES if sets == 1 else SETS_BYTES // sets
            batches = -(-self._num_rows() * row // most) if self.listed else 1
        batches = max(1, min(batches, self.patches))
        cuts = [self.patches * b // batches for b in range(batches + 1)]
        return list(zip(cuts[:-1], cuts[1:]))

    def _num_pairs(self):
        return int(self.launch.host(self.start[self.tiles :])[0])

    def _num_rows(self):
        return int(self.launch.host(self.first_row[self.patches :])[0])

    def _with_room(self, run, sets=1):
        """Run, again with longer buffers while one is too short; return any other HALT, or 0."""
        while True:
            run()
            halt = int(self.launch.host(self.control)[WORDS.HALT])
            if halt == WORDS.TOO_SHORT:
                self.control[WORDS.HALT] = 0
                self._lengthen()
                self._build_lists(self._lists)  # from what was planned already
            elif halt == WORDS.NO_ROOM:
                self.control[WORDS.HALT] = 0
                starts = self.launch.host(self.first_row)
                bounds = self._batch_bounds(sets)
                most = max(int(starts[last] - starts[first]) for first, last in bounds)
                self.rows, self.room = self.launch.zeros(0, self.dtype), 0
                self._record_steps()  # so that nothing holds the old ones when there are others
                room = sets * (int(ROOM * most) + self.grid.pixels)
                self.rows = self.launch.zeros(room * self.row_width, self.dtype)
                self.room = room
                self._record_steps()
            else:
                return halt

    def _lengthen(self):
        control = self.launch.host(self.control)
        pairs, between, rows = (int(ROOM * int(control[WORDS.NEEDED + i])) for i in range(3))
        self._make_lists(max(self.capacity, pairs), max(self.between, between),
                         max(self.most_rows, rows))

    def _build_lists(self, sequence):
        began = time.perf_counter()
        self.control[WORDS.STALE] = 1
        self.counters[...] = 0  # where a build was interrupted they are not
        while True:
            self.launch.run(sequence)
            if int(self.launch.host(self.control)[WORDS.HALT]) != WORDS.TOO_SHORT:
                break
            self.control[WORDS.HALT] = 0
            self._lengthen()
            sequence = self._lists
        self.listed, self.listed_tau = True, self.tau
        self.build_seconds += time.perf_counter() - began

    # ---- models in and out

    def _prepare(self, params):
        """Upload a model if it has changed, and make sure that the lists hold for it."""
        rows = rows_of(params, self.spare)
        if params.num_channels != self.channels:
            self._start(params.num_channels)
        if self.slots is None or len(self.slots) != len(rows):
            self._begin(len(rows))
        if self.held is None or self.held.dtype != rows.dtype or (self.held != rows).any():
            before = self.launch.host(self.moved).copy()
            self._upload(rows)
            if (before != self.launch.host(self.moved)).any():
                self.control[WORDS.AGE] += 1
        else:
            self.spare = rows
        self._ask(1)  # lists are built for a step
        self._tell({WORDS.TAU: self.tau, WORDS.LEAST_LIFE: self.list_life})
        if self.may_be_overdue and self.list_life < 2:
            self._see_whether_lists_hold()
        control = self.launch.host(self.control)
        if not self.listed or control[WORDS.STALE] or self.tau > self.listed_tau:
            self._build_lists(self._build)

    def _hold(self, rows):
        """Remember the model's current rows, in existing memory if it fits."""
        held = self.held
        if held is None or (held.shape, held.dtype) != (rows.shape, rows.dtype):
            self.held = np.empty_like(rows)
        self.held[...] = rows

    def _see_whether_lists_hold(self):
        self.may_be_overdue = False
        if self.listed:
            beyond = (self.moved > self.anchors[:, -3:]).any(axis=1)
            if bool(beyond[self.launch.array(self.slots)].any()):
                self.control[WORDS.STALE] = 1

    def _upload(self, rows):
        exact = self.launch.array(self._in_slots(rows), np.float64)
        self.params[...] = exact
        life = self.list_life if self.held is None else 0  # of a model that was restored
        self.held, self.spare = rows, self.held
        self.control[WORDS.SIGNED], self.control[WORDS.ALIVE] = 0, len(rows)
        self._run("follow", self._blocks(UPDATE_THREADS), UPDATE_THREADS, self.control, self.sizes,
                  exact, self.records, self.anchors, self.moved, int(self.listed), life,
                  self.num_slots)

    def _ask(self, steps):
        asked = np.array([0, 0, steps], np.int32)  # HALT, STEP, TARGET
        self.control[WORDS.HALT : WORDS.TARGET + 1] = self.launch.array(asked)

    def _tell(self, settings):
        """Tell kernels settings, by their index: nothing is copied to a GPU if they know them."""
        wanted = self.told.copy()
        wanted[list(settings)] = list(settings.values())
        if (wanted != self.told).any():
            self.told = wanted
            self.settings[...] = self.launch.array(wanted)

    def _run(self, kernel, blocks, threads, *arguments):
        self.launch.run(self.launch.record([(kernel, blocks, threads, arguments)]))

    def _correct_bias_of(self, beta2):
        self.beta2, self.corrections = beta2, self.launch.array(bias_corrections(beta2))

    def _of_slots(self, rows):
        """The rows of the remaining kernels, from rows of all slots; not copied if all remain."""
        return rows if len(self.slots) == self.num_slots else rows[self.slots]

    def _in_slots(self, rows):
        """Rows of all slots, from rows of the remaining kernels; the others are 0."""
        if len(rows) == self.num_slots:
            return rows
        spread = np.zeros((self.num_slots, *rows.shape[1:]), rows.dtype)
        spread[self.slots] = rows
        return spread
