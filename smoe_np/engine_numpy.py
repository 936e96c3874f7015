"""The model over a picture in NumPy: blocks of tiles, matrix products, both cores.

A block is a few tiles with about the same number of kernels, padded to the largest. With B tiles of
P pixels, n kernels each and J = 1 + C (D + 1) columns of an expert (``gate``), an iteration is

    p = exp(Θ Φ)            (B, n, P)   from Θ (B, n, M), the log-gates less that of the tile's winner
    N = Eᵀ p                (B, J, P)   the normaliser S and the sums that make y
    g = p ∘ (E Q)           (B, n, P)   from Q (B, J, P) = (−Σ_c q_c y_c, q_c (1, u)), q = r/S
    G = g Φᵀ,  R = p Q'ᵀ    the moments of every pair

so that the only passes over pairs × pixels besides matrix products are exp and one product. Blocks
of neighbouring tiles make a chunk, the unit that a thread takes: what is computed for pairs is
computed for a whole chunk at once, in arrays with one contiguous row for each number of a pair.
Nothing of size pixels × kernels is ever held, nor anything of the size of all pairs but the lists.
"""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse

from . import gate
from .live_lists import LiveLists
from .tiling import Grid

TAU = {np.dtype(np.float32): 12.0, np.dtype(np.float64): 30.0}
SIDE = {1: 64, 2: 16, 3: 4}  # pixels along an axis of a tile, by dimensions
BLOCK = 1 << 16  # pairs × pixels of a block: its two arrays stay in a core's L2 cache
CHUNK = 1 << 13  # pairs of a chunk at most
CHUNKS = 4  # the fewest chunks, so that there is work for every core


class NumpyEngine:
    """A model over one picture: the regression, the loss and its gradients.

    Parameters
    ----------
    shape : tuple of D ints
        Pixels along each axis.
    target : (*shape, C) array of float, optional
        The picture to regress, in [0, 1]; without it there is no loss.
    dtype : {"float32", "float64"}
        Precision of everything that meets pixels. Sums over pixels and all arithmetic on kernels
        are float64.
    batches : int, optional
        Number of chunks into which the pairs are divided. ``None`` makes them as large as suits the
        processor's cache. The results do not depend on it.
    """

    name = "numpy"

    def __init__(self, shape, target=None, dtype="float32", batches=None):
        self.shape, self.batches = tuple(shape), batches
        self.dtype = np.dtype(dtype)
        self.grid = Grid(shape, SIDE.get(len(shape), 2))
        self.threads = _cores()
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="smoe")
        self.phi = gate.monomials(self.grid.offsets()).astype(self.dtype)  # (M, P)
        self.live = LiveLists(self.grid, TAU[self.dtype], self.pool.map)
        self.chunks = None
        self.target = None
        if target is not None:
            self.target = self.grid.cut(np.asarray(target, self.dtype))  # (T, C, P)
            tiles = np.arange(self.grid.num_tiles)
            self.inside = self.grid.inside(tiles) if self.grid.ragged else None
            self.level = self.target.mean(axis=2)  # (T, C)

    def loss_and_gradients(self, params):
        """The mean squared error and its gradients.

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
        kernels = self._prepare(params)
        results = self._run(kernels, self._backward)
        rows = len(self.phi) + params.num_channels * (len(self.shape) + 1)
        total = np.zeros((rows, len(kernels.log_weight)))
        for chunk, (_, moments) in zip(self.chunks, results, strict=True):
            total[:, chunk.kernels] += moments
        scale = 1 / (np.prod(self.shape) * params.num_channels)
        gradients = gate.chain_rule(
            total.T[self.live.slots], params, self.grid.longest, 2 * scale)
        return float(sum(error for error, _ in results) * scale), gradients

    def loss(self, params):
        """The mean squared error, as ``loss_and_gradients`` gives it."""
        def error(chunk, pairs, scratch):
            residuals = (self._residual(block, self._forward(block, pairs, scratch)[-1])[0]
                         for block in chunk.blocks)
            return sum(float(np.vdot(residual, residual)) for residual in residuals)

        errors = self._run(self._prepare(params), error)
        return float(sum(errors) / (np.prod(self.shape) * params.num_channels))

    def render(self, params):
        """The regression, clipped to [0, 1]: (*shape, C)."""
        kernels = self._prepare(params)
        tiles = np.empty((self.grid.num_tiles, params.num_channels, self.grid.pixels), self.dtype)

        def draw(chunk, pairs, scratch):
            for block in chunk.blocks:
                y = self._forward(block, pairs, scratch)[-1]
                y += self._reference(block.tiles, block.winner, kernels)[..., None]
                np.clip(y, 0, 1, out=y)
                tiles[block.tiles] = y

        self._run(kernels, draw)
        return self.grid.paste(tiles)

    def gating(self, params):
        """The index of the kernel with the largest gate at each pixel: (*shape) int32."""
        kernels = self._prepare(params)
        tiles = np.empty((self.grid.num_tiles, 1, self.grid.pixels), np.int32)
        number = np.full(len(kernels.log_weight), -1, np.int32)
        number[self.live.slots] = np.arange(params.num_kernels)

        def choose(chunk, pairs, scratch):
            for block in chunk.blocks:
                columns, p = self._gates(block, pairs, scratch)
                best = (p * columns[:, 0, :, None]).argmax(axis=1)  # column 0: the gate's sign
                index = chunk.index[block.pairs].reshape(p.shape[:2])
                slot = chunk.kernels[np.take_along_axis(index, best, axis=1)]
                tiles[block.tiles, 0] = number[slot]

        self._run(kernels, choose)
        return self.grid.paste(tiles)[..., 0]

    def keep(self, kernels):
        """Go on with some kernels only, the mask (K,): the others have left the model."""
        self.live.keep(kernels)

    def state(self):
        """Arrays by name from which ``restore`` goes on bit for bit."""
        return self.live.state()

    def restore(self, state):
        """Put the engine into the state that ``state`` gave."""
        self.live.restore(state)
        if self.live.lists is not None:
            self.chunks = self._cut_lists(self.live.lists)

    # ---- chunks of blocks

    def _prepare(self, params):
        """The kernels in pixels, numbered as in the lists, which are built anew if they are stale."""
        if self.live.update(params):
            self.chunks = self._cut_lists(self.live.lists)
        return self.live.in_slots()

    def _cut_lists(self, lists):
        """Chunks of neighbouring tiles."""
        ends = np.cumsum(lists.counts)
        if self.batches is None:
            most = min(CHUNK, -(-int(ends[-1]) // CHUNKS))
        else:
            most = -(-int(ends[-1]) // self.batches)
        bounds = [0]
        while bounds[-1] < len(ends):
            first = bounds[-1]
            before = ends[first - 1] if first else 0
            bounds.append(max(first + 1, int(np.searchsorted(ends, before + most, side="right"))))
        return list(self.pool.map(
            lambda ab: _chunk(lists, ends, *ab, self.live.num_slots, self.grid.pixels),
            itertools.pairwise(bounds)))

    def _run(self, kernels, function):
        """``function(chunk, pairs, scratch)`` of every chunk, on all cores; the results in order."""
        chunks = self.chunks
        results = [None] * len(chunks)
        waiting = iter(range(len(chunks)))  # its next() is atomic
        size = max(block.size for chunk in chunks for block in chunk.blocks) * self.grid.pixels
        columns = gate.PairColumns(kernels)

        def drain():
            scratch = np.empty((2, size), self.dtype)
            for i in waiting:
                pairs = self._pairs(chunks[i], columns, kernels)
                results[i] = function(chunks[i], pairs, scratch)

        others = [self.pool.submit(drain) for _ in range(min(self.threads, len(chunks)) - 1)]
        drain()
        for other in others:
            other.result()
        return results

    def _pairs(self, chunk, columns, kernels):
        """Polynomials of a chunk's pairs; log-gates less those of each tile's winner."""
        origin = self.grid.centres(chunk.tiles).T  # (D, T)
        reference = self._reference(chunk.tiles, chunk.winner, kernels).T  # (C, T)
        expert = np.empty((1 + columns.C * (columns.D + 1), len(chunk.index)), self.dtype)
        theta, offset = columns.polynomials(
            chunk.kernels[chunk.index], origin.take(chunk.tile, axis=1),
            reference.take(chunk.tile, axis=1), expert)
        winner = columns.polynomials(
            chunk.winner, origin, reference, np.empty((len(expert), len(chunk.winner))))[0]
        theta -= winner.take(chunk.tile, axis=1)
        return _Pairs(theta.astype(self.dtype), expert, offset)

    def _reference(self, tiles, winner, kernels):
        """(T, C) level of the picture in tiles; of the winner's expert where there is no picture."""
        if self.target is not None:
            return self.level[tiles]
        return kernels.value[winner].astype(self.dtype)

    # ---- what happens in a block

    def _gates(self, block, pairs, scratch):
        """Expert columns (B, J, n), and p (B, n, P): gates but for their sum."""
        theta = block.view(pairs.theta).transpose(0, 2, 1)  # (B, n, M)
        p = scratch[0, : block.size * self.grid.pixels].reshape(*theta.shape[:2], -1)
        np.matmul(theta, self.phi, out=p)
        if block.steep:  # exp of an advantage over the tile's winner would overflow
            p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        return block.view(pairs.expert), p

    def _forward(self, block, pairs, scratch):
        """Also the normaliser S (B, 1, P) and the regression less the reference, y (B, C, P)."""
        columns, p = self._gates(block, pairs, scratch)
        D = len(self.shape)
        sums = np.matmul(columns, p)  # (B, J, P)
        S = sums[:, :1]
        if self.live.signed:  # as in tf-smoe, a sum that is not positive counts as tiny
            np.maximum(S, np.finfo(self.dtype).tiny, out=S)
        experts = sums[:, 1:].reshape(len(sums), -1, D + 1, self.grid.pixels)
        y = experts[:, :, 0]
        for i in range(D):
            y += experts[:, :, 1 + i] * self.phi[1 + i]
        y /= S
        return columns, p, S, y

    def _residual(self, block, y):
        """clip(y) − t, 0 beyond the picture, (B, C, P), and where the clip lets gradients through."""
        y = y + self.level[block.tiles][..., None]
        clipped = np.clip(y, 0, 1)
        inside = clipped == y
        clipped -= self.target[block.tiles]
        if self.inside is not None:
            clipped *= self.inside[block.tiles][:, None]
        return clipped, inside

    def _backward(self, chunk, pairs, scratch):
        """Sum of squared errors of a chunk, and moments of its kernels (M + C (D + 1), kernels)."""
        M, P = len(self.phi), self.grid.pixels
        moments = np.empty((M + len(pairs.expert) - 1, len(chunk.index)), self.dtype)
        error = 0.0
        for block in chunk.blocks:
            columns, p, S, y = self._forward(block, pairs, scratch)
            q, inside = self._residual(block, y)
            error += float(np.vdot(q, q))
            q *= inside
            q /= S
            Q = np.empty((len(p), columns.shape[1], P), self.dtype)
            np.sum(q * y, axis=1, out=Q[:, 0])
            np.negative(Q[:, 0], out=Q[:, 0])
            np.multiply(q[:, :, None], self.phi[: 1 + len(self.shape)],
                        out=Q[:, 1:].reshape(len(p), q.shape[1], -1, P))
            g = scratch[1, : p.size].reshape(p.shape)
            np.matmul(columns.transpose(0, 2, 1), Q, out=g)
            g *= p
            out = block.view(moments)
            np.matmul(self.phi, g.transpose(0, 2, 1), out=out[:, :M])
            np.matmul(Q[:, 1:], p.transpose(0, 2, 1), out=out[:, M:])
        if self.live.signed:
            moments[M:] *= pairs.expert[0]
        moments = gate.moments_at_kernels(moments, pairs.offset)
        pick = sparse.csc_matrix(
            (np.ones(len(chunk.index)), chunk.index, np.arange(len(chunk.index) + 1)),
            (len(chunk.kernels), len(chunk.index)))
        return error, (pick @ moments.T).T


class _Block(NamedTuple):
    """Tiles that are computed together, each with as many pairs."""

    tiles: np.ndarray  # (B,)
    winner: np.ndarray  # (B,) slot
    steep: bool
    pairs: slice  # of the chunk's pairs

    @property
    def size(self):
        return self.pairs.stop - self.pairs.start

    def view(self, rows):
        """Of an array (rows, pairs) of the chunk the part (B, rows, n) of this block."""
        part = rows[:, self.pairs]
        return part.reshape(len(rows), len(self.tiles), -1).transpose(1, 0, 2)


class _Chunk(NamedTuple):
    """Blocks of neighbouring tiles."""

    blocks: list
    tiles: np.ndarray  # (T,)
    winner: np.ndarray  # (T,) slot
    kernels: np.ndarray  # slots of the kernels that occur, the last one nobody's
    index: np.ndarray  # (pairs,) int32 kernel of each pair, among these
    tile: np.ndarray  # (pairs,) int32 its tile, among these


class _Pairs(NamedTuple):
    """What a chunk's pairs are made of, a contiguous row for each number (``gate``)."""

    theta: np.ndarray  # (M, pairs)
    expert: np.ndarray  # (J, pairs)
    offset: np.ndarray  # (D, pairs) float64


def _chunk(lists, ends, first, last, nobody, pixels):
    """The chunk of tiles first:last of the lists."""
    counts, steep = lists.counts[first:last], lists.steep[first:last]
    start = ends[first:last] - counts
    slots = lists.kernels[start[0] : ends[last - 1]]
    occurs = np.zeros(nobody, bool)
    occurs[slots] = True
    kernels = np.flatnonzero(occurs)
    number = np.empty(nobody, np.int32)
    number[kernels] = np.arange(len(kernels))

    order = np.lexsort((-counts, steep))
    counts, steep, start = counts[order], steep[order], start[order] - start[0]
    tiles, winner = lists.tiles[first:last][order], lists.winner[first:last][order]
    widths = np.empty_like(counts)
    blocks, rows, at = [], 0, 0
    gentle = len(order) - int(steep.sum())
    while at < len(order):
        widest = int(counts[at])
        end = min(at + max(1, BLOCK // (widest * pixels)), gentle if at < gentle else len(order))
        widths[at:end] = widest
        blocks.append(_Block(tiles[at:end], winner[at:end], at >= gentle,
                             slice(rows, rows + widest * (end - at))))
        rows += widest * (end - at)
        at = end
    tile = np.repeat(np.arange(len(order), dtype=np.int32), widths)
    place = np.arange(rows) - np.repeat(np.cumsum(widths) - widths, widths)
    listed = place < counts[tile]
    index = np.full(rows, len(kernels), np.int32)
    index[listed] = number[slots[(start[tile] + place)[listed]]]
    return _Chunk(blocks, tiles, winner, np.append(kernels, nobody), index, tile)


def _cores():
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
