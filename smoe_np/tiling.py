"""Tiles of a picture, and for each the kernels that matter there, with a bound.

The gate is normalised, so what matters is how far a kernel stays behind the winner: a kernel is
listed for a tile T unless its log-gate is everywhere in T at least ``tau`` below a lower bound of the
winner's, max_k min_{x∈T} ℓ_k(x). Every kernel left out then has a gate below e^−tau at every pixel of
T (DESIGN §2). The lists are found by descending a tree of boxes, which halve at every level: a
kernel is dropped where the bound first allows it. That costs about K + pairs.

Lists outlive the parameters they were built from: they are built with an allowance for each kernel,
and hold while no kernel has moved further than its own (``drift``).
"""

import itertools
from typing import NamedTuple

import numpy as np

from .gate import pixel_kernels
from .params import SmoeParams

STEEP = 60.0  # a spread of log-gates in a tile above which exp needs the pixel's own maximum
PIECE = 16384  # pairs that are bounded at a time: about 20 arrays of it fit a core's L2 cache
ROUNDING = 1e-9  # relative error of a bound, far above that of float64
HORIZON = 6.0  # steps like the recent ones that lists are built to outlive
LEAST = np.array([0.02, 0.1, 0.1])  # what every kernel is allowed to move, in the terms of ``drift``
FADING = 0.7  # of a kernel's motion is remembered from lists to lists


class Grid:
    """A picture of some shape cut into tiles, numbered in row-major order.

    Parameters
    ----------
    shape : tuple of D ints
        Pixels along each axis.
    side : int
        Pixels along each axis of a tile; an axis shorter than that is not cut.
    """

    def __init__(self, shape, side):
        self.shape = tuple(shape)
        self.longest = max(shape)
        self.tile = tuple(min(side, n) for n in shape)
        self.counts = tuple(-(-n // s) for n, s in zip(shape, self.tile, strict=True))
        self.num_tiles = int(np.prod(self.counts))
        self.pixels = int(np.prod(self.tile))  # P, pixels of a tile
        self.ragged = any(c * s != n for c, s, n in zip(self.counts, self.tile, shape, strict=True))

    def offsets(self):
        """(D, P) coordinates of a tile's pixels from its centre, in pixels."""
        axes = [np.arange(s) - (s - 1) / 2 for s in self.tile]
        return np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")])

    def centres(self, tiles):
        """(T, D) centres of tiles, in pixels of the picture."""
        corner = np.stack(np.unravel_index(tiles, self.counts), axis=-1)
        return (corner + 0.5) * self.tile

    def inside(self, tiles):
        """(T, P) bool: whether a pixel of a tile belongs to the picture."""
        points = self.centres(tiles)[:, :, None] + self.offsets()
        return (points < np.reshape(self.shape, (-1, 1))).all(axis=1)

    def cut(self, image):
        """(T, C, P) tiles of an image (*shape, C); what lies beyond the picture is 0."""
        C, D = image.shape[-1], len(self.shape)
        if self.ragged:
            beyond = [(0, c * s - n) for c, s, n in
                      zip(self.counts, self.tile, self.shape, strict=True)]
            image = np.pad(image, [*beyond, (0, 0)])
        blocks = image.reshape(*itertools.chain(*zip(self.counts, self.tile, strict=True)), C)
        order = [*range(0, 2 * D, 2), 2 * D, *range(1, 2 * D, 2)]
        return np.ascontiguousarray(blocks.transpose(order)).reshape(self.num_tiles, C, self.pixels)

    def paste(self, tiles):
        """The image (*shape, C) of tiles (T, C, P): the inverse of ``cut``."""
        C, D = tiles.shape[1], len(self.shape)
        blocks = tiles.reshape(*self.counts, C, *self.tile)
        order = [*itertools.chain(*((i, D + 1 + i) for i in range(D))), D]
        image = blocks.transpose(order).reshape(
            *(c * s for c, s in zip(self.counts, self.tile, strict=True)), C)
        return np.ascontiguousarray(image[tuple(slice(n) for n in self.shape)])


def drift(kernels, inverse, now):
    """How far kernels have moved from where they were, (3, K+1).

    With z(x) = Aᵀ(x − μ), B = A_nowᵀ A⁻ᵀ and d = A_nowᵀ (μ − μ_now), z_now = B z + d. So ‖z‖ changes
    by a factor of at most 1 ± ‖B − I‖_F, and then by at most ± ‖d‖; these are the first two rows. The
    third is the change of the log weight, log π + Σ log A_dd.

    Parameters
    ----------
    kernels, now : PixelKernels
    inverse : (K+1, D, D) array
        A⁻¹ of ``kernels``, from ``lower_inverse``.
    """
    D = kernels.centre.shape[1]
    moved = [kernels.centre[:, i] - now.centre[:, i] for i in range(D)]
    relative, shift = 0.0, 0.0
    for j in range(D):
        shift = shift + sum(now.A[:, i, j] * moved[i] for i in range(j, D)) ** 2
        for i in range(D):  # element (i, j) of B: column i of A_now times row j of A⁻¹
            terms = [now.A[:, m, i] * inverse[:, j, m] for m in range(i, j + 1)]
            if terms or i == j:
                relative = relative + (sum(terms) - (i == j)) ** 2
    weight = np.abs(now.log_weight - kernels.log_weight)
    return np.stack([np.sqrt(relative), np.sqrt(shift), weight])


def lower_inverse(A):
    """Inverses of lower triangular matrices (K, D, D), by forward substitution."""
    D = A.shape[1]
    inverse = np.zeros_like(A)
    for i in range(D):
        inverse[:, i, i] = 1 / A[:, i, i]
        for j in range(i):
            inverse[:, i, j] = -sum(
                A[:, i, m] * inverse[:, m, j] for m in range(j, i)) * inverse[:, i, i]
    return inverse


class PairLists(NamedTuple):
    """The kernels that matter in each tile. Pairs of a tile stand together, kernels ascending."""

    tiles: np.ndarray  # (T,) number of the tile
    counts: np.ndarray  # (T,) kernels of the tile
    kernels: np.ndarray  # (pairs,) int32
    winner: np.ndarray  # (T,) the kernel with the largest lower bound
    steep: np.ndarray  # (T,) bool: log-gates spread over more than STEEP
    essential: np.ndarray  # (K+1,) bool: kernels without which the lists would not hold


def build_lists(kernels, grid, tau, allowance=None, pool=map):
    """List the kernels that matter in each tile.

    Parameters
    ----------
    kernels : PixelKernels
    grid : Grid
    tau : float
        Kernels are left out where their gate is below e^−tau; ``inf`` leaves none out.
    allowance : (3, K+1) array, optional
        How far each kernel may move while the lists must hold, in the terms of ``drift``.
    pool : callable
        Maps a function over a list, in order: ``map``, or that of a thread pool.

    Returns
    -------
    PairLists
    """
    K, D = len(kernels.log_weight) - 1, len(grid.shape)
    if allowance is None:
        allowance = np.zeros((3, K + 1))
    levels = (max(grid.counts) - 1).bit_length()
    work = [_Boxes(levels, np.zeros((1, D), int), np.array([K]), np.arange(K, dtype=np.int32))]
    bounds = _Bounds(kernels, grid, tau, allowance)
    # breadth first until there is work for everyone, then each piece to its end
    while work[0].level > 0 and sum(len(boxes.kernels) for boxes in work) < 4 * PIECE:
        work = [piece for boxes in work for piece in bounds.descend(boxes)]
    done = list(pool(bounds.finish, work))
    joined = [np.concatenate(arrays) for arrays in zip(*itertools.chain(*done), strict=True)]
    return PairLists(*joined, bounds.essential)


class _Boxes(NamedTuple):
    """Boxes of one level of the tree with the kernels that may matter in each."""

    level: int  # a box has 2^level tiles along each axis
    corner: np.ndarray  # (boxes, D) its number along each axis
    counts: np.ndarray  # (boxes,) kernels of each
    kernels: np.ndarray  # (pairs,) int32

    def pieces(self):
        """The boxes in parts of at most PIECE pairs (or one box)."""
        ends = np.cumsum(self.counts)
        first = 0
        while first < len(ends):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + PIECE, side="right")))
            yield _Boxes(self.level, self.corner[first:last], self.counts[first:last],
                         self.kernels[before : ends[last - 1]])
            first = last


class _Bounds:
    """Bounds of log-gates over boxes, and the descent that uses them."""

    def __init__(self, kernels, grid, tau, allowance):
        self.grid, self.tau, self.allowance = grid, tau, allowance
        D = len(grid.shape)
        self.log_weight = kernels.log_weight
        self.centre = [kernels.centre[:, i].copy() for i in range(D)]
        self.A = {(i, j): kernels.A[:, i, j].copy() for i in range(D) for j in range(i + 1)}
        precision = kernels.A @ kernels.A.transpose(0, 2, 1)
        self.precision = {(i, j): precision[:, i, j].copy() for i in range(D) for j in range(D)}
        self.essential = np.zeros(len(self.log_weight), bool)
        self.children = np.array(list(itertools.product((0, 1), repeat=D)))

    def finish(self, boxes):
        """All tiles below some boxes, in order: a list of the arrays of PairLists."""
        if boxes.level == 0:
            return [self.tiles(piece) for piece in boxes.pieces()]
        found = []
        for piece in self.descend(boxes):
            found += self.finish(piece)
        return found

    def descend(self, boxes):
        """The children of boxes, with the kernels that the bound leaves them, in pieces."""
        found = []
        for piece in boxes.pieces():
            keep = self.bound(piece)[0]
            counts = np.add.reduceat(keep, _starts(piece.counts), dtype=np.int64)
            kernels = piece.kernels[keep]
            size = 2 ** (piece.level - 1)
            limit = -(-np.array(self.grid.counts) // size)
            corner = (2 * piece.corner[:, None] + self.children).reshape(-1, len(limit))
            there = (corner < limit).all(1)
            start = np.repeat(_starts(counts), len(self.children))[there]
            counts = np.repeat(counts, len(self.children))[there]
            rows = np.arange(counts.sum()) + np.repeat(start - _starts(counts), counts)
            found.append(_Boxes(piece.level - 1, corner[there], counts, kernels[rows]))
        return found

    def tiles(self, boxes):
        """The arrays of PairLists of boxes that are single tiles."""
        keep, upper, best, winner = self.bound(boxes)
        starts = _starts(boxes.counts)
        return (
            np.ravel_multi_index(boxes.corner.T, self.grid.counts),
            np.add.reduceat(keep, starts, dtype=np.int64),
            boxes.kernels[keep],
            winner,
            np.maximum.reduceat(upper, starts) - best > STEEP,
        )

    def bound(self, boxes):
        """Which pairs to keep, the upper bound of ℓ of each; the best lower bound of a box, and whose."""
        D, k = len(self.grid.shape), boxes.kernels
        tile, counts = self.grid.tile, boxes.counts
        size = 2**boxes.level
        low = [boxes.corner[:, i] * (size * tile[i]) + 0.5 for i in range(D)]
        high = [np.minimum((boxes.corner[:, i] + 1) * size, self.grid.counts[i]) * tile[i] - 0.5
                for i in range(D)]
        half = [np.repeat((h - b) / 2, counts) for b, h in zip(low, high, strict=True)]
        middle = [np.repeat((b + h) / 2, counts) - self.centre[i][k]
                  for i, (b, h) in enumerate(zip(low, high, strict=True))]  # from μ
        A = {ij: a[k] for ij, a in self.A.items()}
        z = [sum(A[i, j] * middle[i] for i in range(j, D)) for j in range(D)]
        slope = [sum(A[i, j] * z[j] for j in range(i + 1)) for i in range(D)]  # A z
        # the farthest point of the box: ‖z‖² at its middle and the most that half a box adds
        precision = {ij: p[k] for ij, p in self.precision.items()}
        farthest = sum(z_j * z_j for z_j in z)
        for i in range(D):
            farthest += 2 * np.abs(slope[i]) * half[i]
            for j in range(D):
                farthest += np.abs(precision[i, j]) * half[i] * half[j]
        nearest = self.nearest(middle, half, A, precision, z)
        relative, shift, weight = (a[k] for a in self.allowance)
        nearest = np.maximum((1 - relative) * nearest * (1 - ROUNDING) - shift, 0)
        farthest = (1 + relative) * np.sqrt(farthest) * (1 + ROUNDING) + shift
        log_weight = self.log_weight[k]
        upper = log_weight + weight - 0.5 * nearest * nearest
        lower = log_weight - weight - 0.5 * farthest * farthest
        starts = _starts(counts)
        best = np.maximum.reduceat(lower, starts)
        is_best = np.flatnonzero(lower == np.repeat(best, counts))
        winner = k[is_best[np.searchsorted(is_best, starts)]]  # the first, where several tie
        self.essential[winner] = True  # by any thread, always to the same value
        keep = upper >= np.repeat(best - self.tau, counts)
        return keep, upper, best, winner

    def nearest(self, middle, half, A, precision, z):
        """A lower bound of ‖z‖ over a box, exact but for rounding once the descent has converged.

        A few steps of coordinate descent find a point y near the minimum of the convex ‖Aᵀy‖² over
        the box; then for any w, ‖z(x)‖ ≥ w·z(x)/‖w‖, which is linear in x; w = Aᵀy makes it tight.
        """
        D = len(middle)
        point = [np.clip(0, m - h, m + h) for m, h in zip(middle, half, strict=True)]
        for i in [*range(D), *range(D)] if D > 1 else ():
            rest = sum(precision[i, j] * point[j] for j in range(D) if j != i)
            point[i] = np.clip(-rest / precision[i, i], middle[i] - half[i], middle[i] + half[i])
        w = [sum(A[i, j] * point[i] for i in range(j, D)) for j in range(D)]
        norm = np.sqrt(sum(w_j * w_j for w_j in w))
        reach = sum(w_j * z_j for w_j, z_j in zip(w, z, strict=True))
        for i in range(D):
            reach -= np.abs(sum(A[i, j] * w[j] for j in range(i + 1))) * half[i]
        return np.maximum(reach, 0) / np.maximum(norm, 1e-300)


def _starts(counts):
    """Where each run of ``counts`` entries starts."""
    starts = np.zeros(len(counts), np.int64)
    np.cumsum(counts[:-1], out=starts[1:])
    return starts


class LiveLists:
    """Lists that follow kernels which move and leave, and are built anew when they no longer hold.

    Kernels are numbered in "slots", by their place when the lists were built, so that lists survive
    kernels that leave: unless a bound rests on one of these.

    Parameters
    ----------
    grid : Grid
    tau : float
        See ``build_lists``. A model with negative gates is never cut: no bound holds there.
    pool : callable
        Maps a function over a list, in order.
    """

    def __init__(self, grid, tau, pool=map):
        self.grid, self.tau, self.pool = grid, tau, pool
        self.lists = None
        self.rate = None  # (3, K+1) motion of each kernel a step, or None before the first
        self.builds = 0

    def update(self, params):
        """Take note of where the kernels are now; return whether the lists had to be built anew."""
        self.now = pixel_kernels(params, self.grid.longest)
        if self.lists is not None and len(self.slots) != params.num_kernels:
            self.lists = self.rate = None  # not kernels that moved, but another model
        if self.lists is not None:
            moved = drift(self.anchor, self.inverse, self.now)
            if (moved != self.moved).any():
                self.age, self.moved = self.age + 1, moved
            if (moved <= self.allowance).all():
                return False
            self._note_rate()
        # a kernel at rest may start: each is allowed some of the usual motion
        allowance = (np.zeros((3, params.num_kernels + 1)) if self.rate is None else
                     HORIZON * self.rate + LEAST[:, None])
        self._build(params.map(np.copy), allowance)
        return True

    def _note_rate(self):
        """Motion a step: that of these lists' time, or what is left of an earlier, faster one."""
        rate = self.moved / max(self.age, 1)
        self.rate = rate if self.rate is None else np.maximum(rate, FADING * self.rate)

    def _build(self, params, allowance):
        kernels = pixel_kernels(params, self.grid.longest)
        self.signed = bool((kernels.sign < 0).any())
        tau = np.inf if self.signed else self.tau
        self.lists = build_lists(kernels, self.grid, tau, allowance, self.pool)
        self.built_from = params, allowance
        self.num_slots = params.num_kernels
        self.slots = np.arange(self.num_slots)
        self.anchor, self.inverse = kernels, lower_inverse(kernels.A)
        self.allowance, self.moved, self.age = allowance, np.zeros_like(allowance), 0
        self.builds += 1

    def in_slots(self):
        """The kernels of the last update, numbered in slots."""
        if len(self.slots) == self.num_slots:
            return self.now
        number = np.full(self.num_slots + 1, len(self.slots))
        number[self.slots] = np.arange(len(self.slots))
        return self.now.take(number)

    def keep(self, kernels):
        """Go on with the kernels of a mask (K,)."""
        mask = np.append(kernels, True)
        if self.rate is not None:
            self.rate = self.rate[:, mask]
        if self.lists is None:
            return
        self.anchor, self.inverse = self.anchor.take(mask), self.inverse[mask]
        self.allowance, self.moved = self.allowance[:, mask], self.moved[:, mask]
        lost, self.slots = self.slots[~kernels], self.slots[kernels]
        if self.lists.essential[lost].any():
            self._note_rate()
            self.lists = None

    def state(self):
        """Arrays by name from which ``restore`` makes the same lists."""
        state = {} if self.rate is None else {"rate": self.rate}
        if self.lists is not None:
            params, allowance = self.built_from
            state.update(pis=params.pis, musX=params.musX, A=params.A, allowance=allowance,
                         slots=self.slots, moved=self.moved, age=np.array(self.age))
        return state

    def restore(self, state):
        """Build the lists again that gave ``state``, so that results go on bit for bit."""
        self.rate = state.get("rate")
        if "pis" not in state:
            return
        K, D = state["musX"].shape
        self._build(SmoeParams(state["pis"], state["musX"], state["A"], np.zeros((K, 1, D)),
                               np.zeros((K, 1))), state["allowance"])
        self.slots, self.moved, self.age = state["slots"], state["moved"], int(state["age"])
        mask = np.append(self.slots, self.num_slots)
        self.anchor, self.inverse = self.anchor.take(mask), self.inverse[mask]
        self.allowance = self.allowance[:, mask]
