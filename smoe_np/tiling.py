"""Pair lists: for each tile of a picture, the kernels that matter there, with an error bound.

The gates at a pixel add up to 1, so a kernel matters only if its log-gate ℓ_k is close to the
largest one, the winner's. A kernel is listed for a tile T unless its log-gate is everywhere in T at
least ``tau`` below min_S max_k min_{x∈S} ℓ_k(x), with S the parts of T: at any pixel, the winner's
log-gate is at least that. Every kernel that is left out therefore has a gate below e^−tau at every
pixel of T. The lists are found by descending a tree of boxes of tiles, which halve along each axis
at every level; a kernel is dropped from a box as soon as the bound allows it. Lists that are
slightly out of date make the search for new ones faster (``rebuild_lists``).

Lists outlive the parameters from which they were built: each kernel gets an allowance, and the
lists hold while no kernel has moved further than its own (``drift``).
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from .gate import precisions

# if log-gates in a tile may exceed the winner's by more, exp needs each pixel's own maximum
STEEP = 60.0
PIECE = 16384  # pairs bounded at a time: about 20 arrays of this length fit into a core's L2 cache
MOST_EXHAUSTIVE = 1 << 15  # up to so many kernels × tiles, every pair is bounded, without a search
# by precision of the pixels; see build_lists
TAU = {np.dtype(np.float32): 12.0, np.dtype(np.float64): 30.0}
ROUNDING = 1e-9  # bound on the relative rounding error of a bound, with a wide margin


def drift(kernels, inverse, now):
    """How far kernels have moved from where they were: (3, K+1).

    With z(x) = Aᵀ(x − μ), B = A_nowᵀ A⁻ᵀ and d = A_nowᵀ (μ − μ_now), z_now = B z + d. So ‖z‖
    changes by a factor of at most 1 ± ‖B − I‖_F, and then by at most ± ‖d‖; these two norms are the
    first two rows. The third row is the absolute change of the log weight, log π + Σ log A_dd.

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
        for i in range(j + 1):  # element (i, j) of B: column i of A_now times row j of A⁻¹
            element = sum(now.A[:, m, i] * inverse[:, j, m] for m in range(i, j + 1))
            relative = relative + (element - (i == j)) ** 2
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
    """The kernels that matter in each tile. The pairs of a tile are contiguous, kernels ascending.

    The threshold below which kernels were left out of a tile comes from the winners of its parts.
    """

    tiles: np.ndarray  # (T,) tile numbers
    counts: np.ndarray  # (T,) number of kernels listed for each tile
    kernels: np.ndarray  # (pairs,) int32
    winner: np.ndarray  # (T,) the winner of a part with the largest lower bound over the whole tile
    winners: np.ndarray  # (T, parts) the kernel with the largest lower bound over each part
    steep: np.ndarray  # (T,) bool: log-gates may exceed the winner's by more than STEEP


def build_lists(kernels, grid, tau, allowance=None, pool=map):
    """List the kernels that matter in each tile; costs about K + pairs bounds per level of the
    tree.

    Parameters
    ----------
    kernels : PixelKernels
    grid : Grid
    tau : float
        Kernels are left out where their gate is below e^−tau; ``inf`` leaves none out.
    allowance : (3, K+1) array, optional
        How far each kernel may move while the lists must hold, in the units of ``drift``.
    pool : callable
        Maps a function over a list, in order: ``map``, or the ``map`` of a thread pool.

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
    # breadth first until there is work for all threads, then each piece down to the tiles
    while work[0].level > 0 and sum(len(boxes.kernels) for boxes in work) < 4 * PIECE:
        work = [piece for boxes in work for piece in bounds.descend(boxes)]
    done = list(pool(bounds.finish, work))
    return bounds.by_tile(itertools.chain(*done))


def rebuild_lists(kernels, grid, tau, allowance, old, pool=map):
    """Build the same lists as ``build_lists``, starting from lists built a few steps ago.

    The old winners give every tile a lower bound of its winner's log-gate. That bounds how far from
    its centre each kernel can matter, and so a box of tiles; the pairs in these boxes are the
    candidates. With few kernels and few tiles, all pairs are candidates.

    Parameters
    ----------
    old : PairLists
        Lists of the same grid; kernels that have left the model have the number K.

    Returns
    -------
    PairLists, or None if there are far more candidates than pairs before, so that ``build_lists``
    is faster. Also None in three dimensions and more: ``_nearest`` is not exact there, and the
    ellipses used here would leave out other pairs than the boxes of ``build_lists``.
    """
    if len(grid.shape) > 2:
        return None
    K = len(kernels.log_weight) - 1
    bounds = _Bounds(kernels, grid, tau, allowance)
    best = np.empty(grid.num_tiles)
    best[old.tiles] = bounds.of_winners(old)
    if not np.isfinite(best).all():
        return None
    if K * grid.num_tiles <= MOST_EXHAUSTIVE:
        return bounds.by_tile([bounds.everywhere(best)])
    reach, first, last = bounds.tile_ranges(best.reshape(grid.counts))
    boxes = (last - first).prod(axis=0)
    if boxes.sum() > 8 * len(old.kernels) + 16 * PIECE:
        return None
    cuts = np.searchsorted(np.cumsum(boxes), np.arange(PIECE, boxes.sum(), PIECE))
    parts = [part for part in np.split(np.arange(K, dtype=np.int32), cuts) if len(part)]
    found = pool(lambda part: bounds.among(part, reach, first, last, best), parts)
    return bounds.by_tile(found)


class _Boxes(NamedTuple):
    """Boxes of one level of the tree, with the kernels that may matter in each."""

    level: int  # a box has 2^level tiles along each axis
    corner: np.ndarray  # (boxes, D) index of the box along each axis
    counts: np.ndarray  # (boxes,) number of kernels of each
    kernels: np.ndarray  # (pairs,) int32

    def pieces(self):
        """Yield the boxes in parts of at most PIECE pairs (or of one box)."""
        for boxes, pairs in _pieces(self.counts, PIECE):
            yield _Boxes(self.level, self.corner[boxes], self.counts[boxes], self.kernels[pairs])


class _Bounds:
    """Bounds of log-gates over boxes, and the descent that uses them."""

    def __init__(self, kernels, grid, tau, allowance):
        self.grid, self.tau, self.allowance = grid, tau, allowance
        D = len(grid.shape)
        self.log_weight = kernels.log_weight
        self.centre = [kernels.centre[:, i].copy() for i in range(D)]
        self.A = {(i, j): kernels.A[:, i, j].copy() for i in range(D) for j in range(i + 1)}
        self.precision = precisions(kernels.A)
        self.inverse = lower_inverse(kernels.A)
        self.children = np.array(list(itertools.product((0, 1), repeat=D)))

    def finish(self, boxes):
        """The pairs of all tiles below some boxes: a list of parts as ``by_tile`` takes them."""
        if boxes.level == 0:
            return [self.tiles(piece) for piece in boxes.pieces()]
        found = []
        for piece in self.descend(boxes):
            found += self.finish(piece)
        return found

    def descend(self, boxes):
        """The children of boxes, with the kernels that the bound does not exclude, in pieces."""
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
        """The pairs of boxes that are single tiles: a part as ``by_tile`` takes it."""
        keep, upper, best = self.bound(boxes)
        tile = np.repeat(np.ravel_multi_index(boxes.corner.T, self.grid.counts), boxes.counts)
        return boxes.kernels[keep], tile[keep], upper[keep], (upper >= best)[keep]

    def of_winners(self, old):
        """For each tile, a lower bound of its winner's log-gate, from older lists: (T,).

        It is the least over the tile's parts of the lower bound of the part's old winner. Where
        such a winner has left the model, all remaining kernels of the tile's list are tried; −inf
        if none remain.
        """
        K, (middles, halves) = len(self.log_weight) - 1, self.grid.parts()
        there = old.winners < K
        centres = self.grid.centres(old.tiles).T  # (D, T)
        winners = np.where(there, old.winners, 0)
        lower = self.lower(winners, list(centres[:, :, None] + middles[:, None]), halves)
        lower[~there] = -np.inf
        orphans = ~there.all(axis=1)
        left = (old.kernels < K) & np.repeat(orphans, old.counts)
        counts = np.add.reduceat(left, _starts(old.counts), dtype=np.int64)
        listed, rows = np.flatnonzero(counts), np.flatnonzero(left)
        for run, pairs in _pieces(counts[listed], PIECE // len(middles[0])):
            tiles, each = listed[run], counts[listed[run]]
            middle = np.repeat(centres[:, tiles], each, axis=1)[:, None] + middles[:, :, None]
            found = self.lower(old.kernels[rows[pairs]], list(middle), halves[:, :, None])
            best = np.maximum.reduceat(found, _starts(each), axis=1)  # (parts, tiles)
            lower[tiles] = np.maximum(lower[tiles], best.T)
        return lower.min(axis=1)

    def everywhere(self, best):
        """The pairs that matter, from bounds of all kernels in all tiles: as ``by_tile`` takes."""
        order = self.grid.order
        centres = self.grid.centres(order).T[:, :, None]  # (D, T, 1)
        upper = self.upper(np.arange(len(self.log_weight) - 1), list(centres),
                           [(t - 1) / 2 for t in self.grid.tile])  # (T, K)
        best = best[order][:, None]
        place, kernels = np.nonzero(upper >= best - self.tau)
        upper = upper[place, kernels]
        return kernels, order[place], upper, upper >= best[place, 0]

    def tile_ranges(self, best):
        """How far each kernel may matter: ‖z‖ (K,), and a box of tiles, first and last + 1 (D, K).

        A kernel that matters in a tile has ‖z‖² ≤ ρ² = 2 (log weight + tau − best) somewhere in it,
        with ``best`` the tile's lower bound. The lowest ``best`` of the candidate tiles gives ρ;
        the ellipse ‖z‖ ≤ ρ has a bounding box with fewer tiles; this is done twice.
        """
        D, K = best.ndim, len(self.log_weight) - 1
        log_weight = self.log_weight[:K] + self.allowance[2, :K]
        slack, shift = np.maximum(1 - self.allowance[0, :K], 1e-9), self.allowance[1, :K]
        extent = [np.sqrt((self.inverse[:K, :, i] ** 2).sum(1)) for i in range(D)]
        lowest = _Lowest(best)
        first = np.zeros((D, K), np.int64)
        last = np.repeat(np.array(best.shape)[:, None], K, axis=1)
        for _ in range(2):
            square = 2 * (log_weight + self.tau - lowest(first, last))
            reach = (1 + ROUNDING) * (np.sqrt(np.maximum(square, 0)) + shift) / slack
            for i in range(D):
                middle, half = self.centre[i][:K], extent[i] * reach
                first[i], last[i] = self.tiles_between(
                    i, middle - half, middle + half, first[i], last[i])
        return reach, first, last

    def tiles_between(self, axis, low, high, first, last):
        """Limit a range of tiles along an axis to those with a pixel centre from low to high."""
        tile = self.grid.tile[axis]  # pixel centres of tile t: t · tile + ½ to (t + 1) · tile − ½
        low = np.nan_to_num(np.ceil((low + 0.5) / tile - 1e-9) - 1, nan=-np.inf, neginf=-np.inf)
        high = np.nan_to_num(np.floor((high - 0.5) / tile + 1e-9) + 1, nan=np.inf, posinf=np.inf)
        first = np.maximum(first, np.minimum(low, last)).astype(np.int64)
        return first, np.maximum(np.minimum(last, np.maximum(high, 0)), first).astype(np.int64)

    def among(self, part, reach, first, last, best):
        """The pairs of some kernels that matter: a part as ``by_tile`` takes it.

        Candidates are found axis by axis, the last one first. As x − μ = A⁻ᵀ z with A⁻ᵀ upper
        triangular, the z_j, j ≥ i, that are possible in a tile's interval along the axes so far
        bound what is left of ‖z‖² ≤ reach², and with it the interval along the next axis.
        """
        D = len(first)
        k, left = part, reach[part] ** 2
        tile, middle, z = 0, {}, {}
        stride = [math.prod(self.grid.counts[i + 1 :]) for i in range(D)]
        for i in reversed(range(D)):
            around = self.centre[i][k]
            low, high = around, around
            for j, (z_low, z_high) in z.items():
                slope = self.inverse[:, j, i][k]
                low = low + np.minimum(slope * z_low, slope * z_high)
                high = high + np.maximum(slope * z_low, slope * z_high)
            root, scale = np.sqrt(left), np.abs(self.inverse[:, i, i])[k]
            start, stop = self.tiles_between(
                i, low - scale * root, high + scale * root, first[i][k], last[i][k])
            counts = stop - start
            rows = np.repeat(np.arange(len(k), dtype=np.int32), counts)
            along = np.arange(len(rows)) + (start - _starts(counts))[rows]
            k, tile = k[rows], (tile if i == D - 1 else tile[rows]) + along * stride[i]
            middle = {j: m[rows] for j, m in middle.items()}
            middle[i] = (along + 0.5) * self.grid.tile[i]
            if i > 0:
                half, scale, root = (self.grid.tile[i] - 1) / 2, scale[rows], root[rows]
                z = {j: (a[rows], b[rows]) for j, (a, b) in z.items()}
                z_low = np.maximum((middle[i] - half - high[rows]) / scale, -root)
                z_high = np.minimum((middle[i] + half - low[rows]) / scale, root)
                z[i] = z_low, z_high
                least = np.maximum(0, np.maximum(z_low, -z_high))
                left = np.maximum(left[rows] - least * least, 0)
        half = [(t - 1) / 2 for t in self.grid.tile]
        upper = self.upper(k, [middle[i] for i in range(D)], half)
        best = best[tile]
        keep = upper >= best - self.tau
        return k[keep], tile[keep], upper[keep], (upper >= best)[keep]

    def bound(self, boxes):
        """For each pair: whether to keep it; its upper bound; its box's best lower bound."""
        counts, size = boxes.counts, 2**boxes.level
        tile, grid = self.grid.tile, self.grid.counts
        low = [c * (size * t) + 0.5 for c, t in zip(boxes.corner.T, tile, strict=True)]
        high = [np.minimum((c + 1) * size, n) * t - 0.5
                for c, t, n in zip(boxes.corner.T, tile, grid, strict=True)]
        half = [np.repeat((h - b) / 2, counts) for b, h in zip(low, high, strict=True)]
        middle = [np.repeat((b + h) / 2, counts) for b, h in zip(low, high, strict=True)]
        upper = self.upper(boxes.kernels, middle, half)
        lower = self.lower(boxes.kernels, middle, half)
        best = np.repeat(np.maximum.reduceat(lower, _starts(counts)), counts)
        return upper >= best - self.tau, upper, best

    def by_tile(self, found):
        """Assemble PairLists from parts of (kernel, tile, upper bound, able).

        ``able`` marks all pairs that may be the best of a part of their tile. The thresholds by
        which the pairs were kept may have been looser than possible, so each tile is judged once
        more by the winners of its parts. Lists are therefore a function of kernels and allowance
        alone, however they were found.
        """
        grid = self.grid
        kernels, tiles, upper, able = (np.concatenate(part) for part in zip(*found, strict=True))
        rank = grid.rank[tiles]
        # kernels of a tile arrive in ascending order, and a stable sort keeps it
        order = _stable_order(rank)
        kernels, upper, able = kernels[order], upper[order], able[order]
        counts = np.bincount(rank, minlength=grid.num_tiles)
        starts = _starts(counts)
        candidates, able_counts = kernels[able], np.add.reduceat(able, starts, dtype=np.int64)
        centres = grid.centres(grid.order).T  # (D, T)
        middles, halves = grid.parts()
        winners = np.empty((middles.shape[1], grid.num_tiles), kernels.dtype)
        best = np.empty(grid.num_tiles)
        for run, pairs in _pieces(able_counts, PIECE // len(winners)):
            k, run_counts = candidates[pairs], able_counts[run]
            tile = np.repeat(np.arange(len(run_counts)), run_counts)
            middle = centres[:, run].take(tile, axis=1)[:, None] + middles[:, :, None]
            lower = self.lower(k, list(middle), halves[:, :, None])  # (parts, pairs)
            run_starts = _starts(run_counts)
            best_of_part = np.maximum.reduceat(lower, run_starts, axis=1)
            is_best = lower == best_of_part.take(tile, axis=1)
            for part, mask in enumerate(is_best):
                winners[part, run] = k[_first_of_run(mask, run_starts)]
            best[run] = best_of_part.min(axis=0)
        lower = self.lower(winners, centres[:, None], [(t - 1) / 2 for t in grid.tile])
        winner = np.take_along_axis(winners, lower.argmax(axis=0)[None], axis=0)[0]
        steep = np.maximum.reduceat(upper, starts) - lower.max(axis=0) > STEEP
        keep = upper >= np.repeat(best - self.tau, counts)
        return PairLists(
            grid.order, np.add.reduceat(keep, starts, dtype=np.int64),
            kernels[keep].astype(np.int32, copy=False), winner, winners.T, steep)

    # In the methods below, ``middle`` and ``half`` hold for each axis the middle, and half the
    # extent, of the pixel centres of boxes, (pairs,) or a number; k (pairs,) are kernel numbers.

    def upper(self, k, middle, half):
        """Upper bounds of log-gates over boxes: at the point nearest to the kernel."""
        middle, A, precision, z = self._seen_from(k, middle)
        relative, shift, weight = (a[k] for a in self.allowance)
        nearest = _nearest(middle, half, A, precision, z)
        nearest *= (1 - ROUNDING) * (1 - relative)
        nearest -= shift
        np.maximum(nearest, 0, out=nearest)
        nearest *= nearest
        nearest *= 0.5
        return np.subtract(self.log_weight[k] + weight, nearest, out=nearest)

    def lower(self, k, middle, half):
        """Lower bounds of log-gates over boxes: at the point farthest from the kernel.

        The bound is ‖z‖² at the middle plus the most that moving by half the box can add.
        """
        _, A, precision, z = self._seen_from(k, middle)
        relative, shift, weight = (a[k] for a in self.allowance)
        farthest = sum(z_j * z_j for z_j in z)
        for i in range(len(z)):
            slope = sum(A[i, j] * z[j] for j in range(i + 1))  # of ‖z‖²/2 along axis i
            farthest += (2 * half[i]) * np.abs(slope) + precision[i, i] * half[i] ** 2
            for j in range(i):
                farthest += (2 * half[i] * half[j]) * np.abs(precision[j, i])
        np.sqrt(farthest, out=farthest)
        farthest *= (1 + ROUNDING) * (1 + relative)
        farthest += shift
        return self.log_weight[k] - weight - 0.5 * farthest * farthest

    def _seen_from(self, k, middle):
        """Middles of boxes relative to kernels k; the kernels' A, precision; z = Aᵀ middle."""
        D = len(middle)
        middle = [m - self.centre[i][k] for i, m in enumerate(middle)]
        A = {ij: a[k] for ij, a in self.A.items()}
        precision = {ij: p[k] for ij, p in self.precision.items()}
        return middle, A, precision, [_dot(A, middle, range(j, D), j) for j in range(D)]


def _nearest(middle, half, A, precision, z):
    """A lower bound of ‖z‖ over boxes; exact if the descent has converged, as in two dimensions.

    One step of coordinate descent along each axis finds a point y near the minimum of the convex
    ‖Aᵀy‖² over the box. For any w, ‖z(x)‖ ≥ w·z(x)/‖w‖, which is linear in x, so its minimum over
    the box is known; w = Aᵀy makes it tight.
    """
    D = len(middle)
    low = [m - h for m, h in zip(middle, half, strict=True)]
    high = [m + h for m, h in zip(middle, half, strict=True)]
    point = [np.minimum(np.maximum(b, 0), h) for b, h in zip(low, high, strict=True)]
    for i in range(D) if D > 1 else ():
        rest = sum(precision[min(i, j), max(i, j)] * point[j] for j in range(D) if j != i)
        rest /= precision[i, i]
        np.negative(rest, out=rest)
        np.maximum(rest, low[i], out=rest)
        point[i] = np.minimum(rest, high[i], out=rest)
    w = [_dot(A, point, range(j, D), j) for j in range(D)]
    norm = sum(w_j * w_j for w_j in w)
    reach = sum(w_j * z_j for w_j, z_j in zip(w, z, strict=True))
    for i in range(D):
        along = sum(A[i, j] * w[j] for j in range(i + 1))
        reach -= np.abs(along, out=along) * half[i]
    np.sqrt(norm, out=norm)
    np.maximum(norm, 1e-300, out=norm)
    np.maximum(reach, 0, out=reach)
    reach /= norm
    return reach


class _Lowest:
    """Lower bounds of the minimum of an array (D axes) over boxes, from a pyramid of minima."""

    def __init__(self, values):
        self.levels = [values]
        while max(self.levels[-1].shape) > 1:
            values = self.levels[-1]
            odd = [(0, n % 2) for n in values.shape]
            values = np.pad(values, odd, constant_values=np.inf)
            for i in range(values.ndim):
                values = np.minimum(values.take(range(0, values.shape[i], 2), i),
                                    values.take(range(1, values.shape[i], 2), i))
            self.levels.append(values)

    def __call__(self, first, last):
        """For boxes first to last − 1 (D, K), a lower bound of their minimum; +inf if empty."""
        lowest = np.full(first.shape[1], np.inf)
        longest = (last - first).max(axis=0)
        there = (last > first).all(axis=0)
        level_of = np.frexp(np.maximum(longest - 1, 0).astype(float))[1]  # 2^level ≥ the longest
        for level in np.unique(level_of):
            boxes = np.flatnonzero((level_of == level) & there)
            values = self.levels[min(level, len(self.levels) - 1)]
            low = [f[boxes] >> level for f in first]
            high = [(t[boxes] - 1) >> level for t in last]
            for corner in itertools.product(*zip(low, high, strict=True)):
                lowest[boxes] = np.minimum(lowest[boxes], values[corner])
        return lowest


def _dot(A, vector, rows, column):
    """Σ_i A_i,column · vector_i over some rows."""
    return sum(A[i, column] * vector[i] for i in rows)


def _first_of_run(mask, starts):
    """The first index in each run, from ``starts``, at which ``mask`` holds."""
    true = np.flatnonzero(mask)
    return true[np.searchsorted(true, starts)]


def _pieces(counts, most):
    """Yield slices of runs and of their entries, with at most ``most`` entries, or one run."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(first, last), slice(before, int(ends[last - 1]))
        first = last


def _stable_order(keys):
    """``np.argsort(keys, kind="stable")`` by radix sort, which NumPy offers for 16 bits only."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if keys.max() >> 16:
        order = order[np.argsort((keys[order] >> 16).astype(np.uint16), kind="stable")]
    return order


def _starts(counts):
    """The index at which each run of ``counts`` entries starts."""
    starts = np.zeros(len(counts), np.int64)
    np.cumsum(counts[:-1], out=starts[1:])
    return starts
