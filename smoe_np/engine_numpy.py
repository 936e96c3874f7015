"""The NumPy engine: the model over a picture by matrix products over blocks of tiles, on all cores.

A block is a few tiles with about the same number of kernels, padded to the largest. With B tiles of
P pixels, n kernels each and J = 1 + C (D + 1) columns of an expert (``gate``), an iteration is

    p = exp(Θ Φ)            (B, n, P)   from Θ (B, n, M), log-gates less that of a tile's winner
    N = Eᵀ p                (B, J, P)   the normaliser S and the sums that make y
    g = p ∘ (E Q)           (B, n, P)   from Q (B, J, P) = (−Σ_c q_c y_c, q_c (1, u)), q = r/S
    G = g Φᵀ,  R = p Q'ᵀ    the moments of every pair; Q' is Q less its first row

Here y is relative to a nearby level of the picture, and r lacks its factor 2/(N C), which the chain
rule supplies. Besides matrix products, only exp and one multiplication pass over pairs × pixels.
This is done block by block on all cores; a block is small enough for a core's cache, and large
enough that threads seldom wait for Python's lock. What depends on pairs alone is computed before
and after, for chunks of neighbouring tiles, in arrays with one contiguous row for each number of a
pair. No array of pixels × kernels is ever held, and of all pairs at once only the lists: chunks are
processed in batches.
"""

import itertools
import math
import time

import numpy as np

from . import gate
from .blocks import Pairs, chunk_of, even_cuts, map_on_pool, pool
from .grid import Grid
from .live_lists import LiveLists
from .machine import processors
from .steps import take_step
from .tiling import TAU

SIDE = {1: 64, 2: 16, 3: 4}  # tile size along each axis in pixels, by number of dimensions
# least sum of signed gates, relative to the largest: a sum that is not positive counts as this
TINY = 1e-19
# 1 − gate below which the sum of the other gates is lost in rounding
ALONE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
# Gates whose log is below this count as 0. Beside the largest gate, which is 1 or more, they are
# negligible, and products near the smallest normal number would take a hundred times longer.
FAINTEST = {np.dtype(np.float32): -60.0, np.dtype(np.float64): -600.0}
# That costs two passes over the gates. They are skipped if at most this fraction of kernels is so
# sharp that log-gates fall so low across a tile.
HARDLY_ANY = 0.01
THREAD = 1 << 20  # pairs × pixels that justify another thread
CHUNK = 1 << 13  # most pairs of a chunk: its rows stay in a core's L2 cache
BATCH = 1 << 18  # most pairs of a batch
# bytes per pair: in the lists, in a chunk, while lists are built
LIST_BYTES, CHUNK_BYTES, BUILDING_BYTES = 4, 24, 100
KERNEL_NUMBERS = 4  # number of arrays with all numbers of all kernels that exist at a time


class NumpyEngine:
    """A model over one picture: the regression, the loss and its gradients.

    Parameters
    ----------
    shape : tuple of D ints
        Pixels along each axis.
    target : (*shape, C) array of float, optional
        The picture to regress, in [0, 1]; without it there is no loss.
    dtype : {"float32", "float64"}
        Precision of arithmetic on pixels. Sums over pixels and all arithmetic on kernels are
        float64.
    batches : int, optional
        Number of batches into which the pairs are divided, at most one for each CHUNK of them; only
        one batch is held in memory at a time. ``None`` chooses. The results do not depend on it.

    Attributes
    ----------
    threads : int
        Number of processors to use; results do not depend on it.
    tau : float
        Lists may leave out pairs whose gate is below e^−tau everywhere in the tile. A smaller value
        than the initial one makes computation cheaper and less exact.
    list_life : int
        Number of steps of ``advance`` for which lists are used even if kernels have moved so far
        that the lists no longer hold; initially 0.
    build_seconds : float
        Seconds spent on building lists so far.
    """

    name = "numpy"

    def __init__(self, shape, target=None, dtype="float32", batches=None):
        self.shape, self.batches = tuple(shape), batches
        self.dtype = np.dtype(dtype)
        self.grid = Grid(shape, SIDE.get(len(shape), 2))
        self.threads = processors()
        self.phi = gate.monomials(self.grid.offsets()).astype(self.dtype)  # (M, P)
        self.live = LiveLists(self.grid, TAU[self.dtype], map_on_pool)
        self.chunks = []  # in batches
        self.build_seconds = 0.0  # seconds spent on building lists so far
        self.target, self.faint = None, False
        if target is not None:
            self.target = self.grid.cut(np.asarray(target, self.dtype))  # (T, C, P)
            tiles = np.arange(self.grid.num_tiles)
            self.inside = self.grid.inside(tiles) if self.grid.ragged else None
            self.level = self.target.mean(axis=2)  # (T, C)

    @staticmethod
    def why_not(D=2, C=1):
        """Say in one sentence why this engine cannot be used here: never, so always ``None``."""
        return

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
        (sums,), errors = self._sum_pairs(params, self._row_width(params), self._backward)
        scale = 1 / (np.prod(self.shape) * params.num_channels)
        gradients = gate.chain_rule(sums, params, self.grid.longest, 2 * scale)
        return float(sum(errors) * scale), gradients

    def loss(self, params):
        """The mean squared error, as ``loss_and_gradients`` gives it; needs a target."""
        def error(block, pairs, scratch):
            residual = self._residual(block, self._forward(block, pairs, scratch)[-1])[0]
            return float((residual * residual).sum())

        errors = self._run_all(self._prepare(params), error)
        return float(sum(errors) / (np.prod(self.shape) * params.num_channels))

    def picture(self):
        """The picture to regress, (*shape, C); needs a target."""
        return self.grid.paste(self.target)

    def another(self, picture):
        """A new engine with the same settings for another picture (*shape, C)."""
        return type(self)(picture.shape[:-1], picture, self.dtype, self.batches)

    def weigh(self, params):
        """Each kernel's mass, its error, and the cost of leaving it out; needs a target.

        A pixel's error ρ² = (t − clip(y))² is summed over its channels.

        Parameters
        ----------
        params : SmoeParams
            No gate is negative.

        Returns
        -------
        (K, 3) float64 array
            Mass Σ w; error Σ w ρ²; and the cost of leaving the kernel out, Σ (ρ'² − ρ²), where y' =
            (y − w e)/(1 − w). Where the gate is within 1e-5 of 1 (float64: 1e-12), what would
            replace the kernel is unknown: such a pixel costs C.
        """
        return self._sum_pairs(params, 3, self._weigh, moments=False)[0][0].T

    def halve(self, params, directions=()):
        """Sums to fit corrections of the experts: over each kernel's pixels, and over halves of
        them.

        Parameters
        ----------
        params : SmoeParams
            No gate is negative.
        directions : (R, D) array
            Unit vectors n in each kernel's own frame: a half is where n · Aᵀ(x − μ) > 0.

        Returns
        -------
        (1 + R, K, M + C (D + 1)) float64 array
            Over all pixels, then over the half in each direction: Σ w² φ(x − μ) with the monomials
            φ of ``gate``; then for each channel Σ w ρ and Σ w ρ (x − μ), with ρ = t − clip(y); in
            pixels.
        """
        def of_block(block, pairs, scratch, sums):
            A = self.live.in_slots().A[block.slots]
            self._halve(block, pairs, scratch, sums, [A @ n for n in np.asarray(directions)])

        sums = self._sum_pairs(params, self._row_width(params), of_block, 1 + len(directions))[0]
        return sums.transpose(0, 2, 1)

    def render(self, params):
        """The regression, clipped to [0, 1]: (*shape, C)."""
        kernels = self._prepare(params)
        tiles = np.empty((self.grid.num_tiles, params.num_channels, self.grid.pixels), self.dtype)

        def draw(block, pairs, scratch):
            y = self._forward(block, pairs, scratch)[-1]
            y += self._reference(block.tiles, block.winner, kernels)[..., None]
            np.clip(y, 0, 1, out=y)
            tiles[block.tiles] = y

        self._run_all(kernels, draw)
        return self.grid.paste(tiles)

    def gating(self, params):
        """The index of the kernel with the largest gate at each pixel: (*shape) int32."""
        kernels = self._prepare(params)
        tiles = np.empty((self.grid.num_tiles, 1, self.grid.pixels), np.int32)
        number = np.full(len(kernels.log_weight), -1, np.int32)
        number[self.live.slots] = np.arange(params.num_kernels)

        def choose(block, pairs, scratch):
            columns, p = self._gates(block, pairs, scratch)
            p *= columns[:, 0, :, None]  # column 0: the gate's sign
            slot = np.take_along_axis(block.slots, p.argmax(axis=1), axis=1)
            tiles[block.tiles, 0] = number[slot]

        self._run_all(kernels, choose)
        return self.grid.paste(tiles)[..., 0]

    def advance(self, params, adam, settings, lowest_loss, steps):
        """Take a training step; needs a target.

        Parameters
        ----------
        params : SmoeParams
        adam : Adam
            Its moments and its number of steps are updated.
        settings : StepSettings
        lowest_loss : float
            The lowest loss so far.
        steps : int
            Most steps to take; this engine takes one.

        Returns
        -------
        Progressed
        """
        return take_step(self, params, adam, settings, lowest_loss)

    def keep(self, kernels):
        """Keep only the kernels of a mask (K,): the others have left the model."""
        self.live.keep(kernels)

    def forget(self):
        """Forget the current model: the next one is unrelated."""
        self.live.forget()

    def succeed(self, parents):
        """Expect another model, whose kernels descend from ``parents``, numbers (K',)."""
        self.live.succeed(parents)

    def state(self):
        """Arrays by name from which ``restore`` continues bit for bit."""
        return self.live.state()

    def restore(self, state):
        """Put the engine into the state in which ``state`` was called."""
        self.live.restore(state)
        if self.live.lists is not None:
            self.chunks = self._cut_lists(self.live.lists)

    @property
    def tau(self):
        """See the attributes of this class."""
        return self.live.tau

    @tau.setter
    def tau(self, tau):
        self.live.tau = tau

    @property
    def list_life(self):
        """See the attributes of this class."""
        return self.live.life

    @list_life.setter
    def list_life(self, steps):
        self.live.life = steps

    @property
    def builds(self):
        """How often lists have been built."""
        return self.live.builds

    @property
    def pairs_per_pixel(self):
        """Mean number of pairs that are computed per pixel; 0 before the first iteration."""
        rows = sum(len(chunk.index) for batch in self.chunks for chunk in batch)
        return rows * self.grid.pixels / int(np.prod(self.shape))

    def memory_needed(self, params):
        """Peak memory of an iteration in bytes, with all arrays of the engine; needs a target."""
        self._prepare(params)
        D, M, C = len(self.shape), len(self.phi), params.num_channels
        pairs, real = len(self.live.lists.kernels), self.dtype.itemsize
        rows = sum(len(chunk.index) for batch in self.chunks for chunk in batch)
        batch = max(sum(len(chunk.index) for chunk in batch) for batch in self.chunks)
        block = max(block.size for batch in self.chunks for chunk in batch
                    for block in chunk.blocks)
        tiles = max(len(block.tiles) for batch in self.chunks for chunk in batch
                    for block in chunk.blocks)
        J = 1 + C * (D + 1)
        lists = LIST_BYTES * pairs + CHUNK_BYTES * rows
        held = ((2 * M + 2 * J - 1) * real + 8 * D) * batch
        workers = max(self._workers(batch) for batch in self.chunks)
        blocks = workers * self.grid.pixels * real * (2 * block + tiles * (2 * J + 5 * C))
        building = lists + BUILDING_BYTES * pairs
        own = self.target.nbytes + self.level.nbytes + self.phi.nbytes + 100 * self.grid.num_tiles
        kernels = KERNEL_NUMBERS * 8 * (4 + 3 * D + 2 * D * D + C * (D + 1)) * params.num_kernels
        return int(own + kernels + max(lists + held + blocks, lists + building))

    # ---- batches of chunks of blocks

    def _prepare(self, params):
        """The PixelKernels by slot of the lists, which are rebuilt if they no longer hold."""
        started = time.perf_counter()
        if self.live.update(params):
            self.chunks = self._cut_lists(self.live.lists)
            self.build_seconds += time.perf_counter() - started
        kernels = self.live.in_slots()
        end = math.sqrt(2 * self.tau) + 1  # ‖z‖ beyond which a kernel usually no longer matters
        far = math.sqrt(-1.8 * math.log(np.finfo(self.dtype).tiny)) - end  # with a margin
        across = np.sqrt((kernels.A * kernels.A).sum(2)) * np.subtract(self.grid.tile, 1)
        self.faint = (across > far).any(axis=1).mean() > HARDLY_ANY
        return kernels

    def _cut_lists(self, lists):
        """Batches of chunks of neighbouring tiles: lists of lists."""
        ends = np.cumsum(lists.counts)
        pairs = int(ends[-1])
        batches = -(-pairs // BATCH) if self.batches is None else self.batches
        bounds = even_cuts(ends, -(-pairs // CHUNK))
        chunks = [chunk_of(lists, ends, a, b, self.live.num_slots, self.grid.pixels)
                  for a, b in itertools.pairwise(bounds)]
        bounds = even_cuts(np.cumsum([len(chunk.index) for chunk in chunks]), batches)
        return [chunks[a:b] for a, b in itertools.pairwise(bounds)]

    def _batches(self, kernels):
        """Yield each batch with the Pairs of its chunks."""
        columns = gate.PairColumns(kernels)
        for batch in self.chunks:
            yield batch, [self._pairs(chunk, columns, kernels) for chunk in batch]

    def _row_width(self, params):
        """The number of moments of a pair."""
        return len(self.phi) + params.num_channels * (len(self.shape) + 1)

    def _sum_pairs(self, params, width, function, sets=1, moments=True):
        """Sum over each kernel's pairs what ``function(block, pairs, scratch, sums)`` writes.

        Parameters
        ----------
        params : SmoeParams
        width : int
            Number of sums in a set.
        function : callable
            Writes to its ``sums``, (B, sets × width, n).
        sets : int
            Number of sets.
        moments : bool
            Whether the sums are moments round the tiles' centres, to be moved to the kernels'
            centres.

        Returns
        -------
        (sets, width, K) float64 array
        list
            What the function returned for each block.
        """
        kernels = self._prepare(params)
        total = np.zeros((sets, width, len(kernels.log_weight)))
        returned = []
        for batch, pairs in self._batches(kernels):
            sums = [np.empty((sets * width, len(chunk.index)), self.dtype) for chunk in batch]
            returned += self._run(batch, lambda block, i, scratch, pairs=pairs, sums=sums:
                                  function(block, pairs[i], scratch, block.view(sums[i])))
            for chunk, (_, expert, offset), parts in zip(batch, pairs, sums, strict=True):
                for of_set, part in zip(total, np.split(parts, sets)):
                    if moments:
                        if self.live.signed:
                            part[len(self.phi) :] *= expert[0]
                        part = gate.moments_at_kernels(part, offset)
                    of_set[:, chunk.kernels] += (chunk.sum_by_kernel @ part.T).T
        return total[..., self.live.slots], returned

    def _run_all(self, kernels, function):
        """Call ``function(block, pairs, scratch)`` for every block; the results, in order."""
        results = []
        for batch, pairs in self._batches(kernels):
            results += self._run(batch, lambda block, i, scratch, pairs=pairs:
                                 function(block, pairs[i], scratch))
        return results

    def _workers(self, batch):
        """The number of threads to use for a batch."""
        enough = 1 + sum(len(chunk.index) for chunk in batch) * self.grid.pixels // THREAD
        return min(self.threads, sum(len(chunk.blocks) for chunk in batch), enough)

    def _run(self, batch, function):
        """Call ``function(block, number of its chunk, scratch)`` for the blocks of a batch."""
        work = [(block, i) for i, chunk in enumerate(batch) for block in chunk.blocks]
        results = [None] * len(work)
        waiting = iter(range(len(work)))  # its next() is atomic
        size = max(block.size for block, _ in work) * self.grid.pixels

        def drain():
            scratch = np.empty((2, size), self.dtype)
            # diverged models may overflow; the setting is per thread
            with np.errstate(all="ignore"):
                for w in waiting:
                    results[w] = function(*work[w], scratch)

        others = [pool().submit(drain) for _ in range(self._workers(batch) - 1)]
        drain()
        for other in others:
            other.result()
        return results

    def _pairs(self, chunk, columns, kernels):
        """The polynomials of a chunk's pairs; log-gates are relative to each tile's winner."""
        origin = self.grid.centres(chunk.tiles).T  # (D, T)
        reference = self._reference(chunk.tiles, chunk.winner, kernels).T  # (C, T)
        expert = np.empty((1 + columns.C * (columns.D + 1), len(chunk.index)), self.dtype)
        theta, offset = columns.polynomials(
            chunk.kernels[chunk.index], origin.take(chunk.tile, axis=1),
            reference.take(chunk.tile, axis=1), expert)
        winner = columns.polynomials(
            chunk.winner, origin, reference, np.empty((len(expert), len(chunk.winner))))[0]
        theta -= winner.take(chunk.tile, axis=1)
        return Pairs(theta.astype(self.dtype), expert, offset)

    def _reference(self, tiles, winner, kernels):
        """The level to subtract in each tile: (T, C).

        It is the mean of the picture; without a picture, the value of the winner's expert at its
        centre.
        """
        # the sum of signed gates may be replaced, and a level could not be added back
        if self.live.signed:
            return np.zeros((len(tiles), kernels.value.shape[1]), self.dtype)
        if self.target is not None:
            return self.level[tiles]
        return kernels.value[winner].astype(self.dtype)

    # ---- what happens in a block

    def _gates(self, block, pairs, scratch):
        """Expert columns (B, J, n), and p (B, n, P), the unnormalised gates."""
        theta = block.view(pairs.theta).transpose(0, 2, 1)  # (B, n, M)
        p = scratch[0, : block.size * self.grid.pixels].reshape(*theta.shape[:2], -1)
        np.matmul(theta, self.phi, out=p)
        if block.steep or self.live.signed or self.live.overdue:
            # exp of a difference to the tile's winner would overflow, or underflow everywhere at a
            # pixel
            p -= p.max(axis=1, keepdims=True)
        # not for signed gates: their large terms may cancel, so that small ones matter
        if self.faint and not self.live.signed:
            _exp_of_advantage(p)
        else:
            np.exp(p, out=p)
        return block.view(pairs.expert), p

    def _forward(self, block, pairs, scratch):
        """The result of ``_gates``; the normaliser S (B, 1, P); y less the level (B, C, P)."""
        columns, p = self._gates(block, pairs, scratch)
        D = len(self.shape)
        sums = np.matmul(columns, p)  # (B, J, P)
        S = sums[:, :1]
        if self.live.signed:  # as in tf-smoe, a sum that is not positive counts as tiny
            np.maximum(S, TINY, out=S)
        experts = sums[:, 1:].reshape(len(sums), -1, D + 1, self.grid.pixels)
        y = experts[:, :, 0]
        for i in range(D):
            y += experts[:, :, 1 + i] * self.phi[1 + i]
        y /= S
        return columns, p, S, y

    def _residual(self, block, y):
        """clip(y) − t (B, C, P), 0 beyond the picture; and where gradients pass the clip."""
        if not self.live.signed:
            y = y + self.level[block.tiles][..., None]
        clipped = np.minimum(np.maximum(y, 0), 1)
        inside = clipped == y
        clipped -= self.target[block.tiles]
        if self.inside is not None:
            clipped *= self.inside[block.tiles][:, None]
        return clipped, inside

    def _backward(self, block, pairs, scratch, moments):
        """Write the moments (B, W, n) of a block; return the sum of its squared errors."""
        columns, p, S, y = self._forward(block, pairs, scratch)
        q, inside = self._residual(block, y)
        error = float((q * q).sum())  # not np.vdot, for which BLAS may start threads of its own
        q *= inside
        q /= S
        Q = np.empty((len(p), columns.shape[1], self.grid.pixels), self.dtype)
        Q[:, 0] = 0
        for c in range(q.shape[1]):
            Q[:, 0] -= q[:, c] * y[:, c]
        np.multiply(q[:, :, None], self.phi[: 1 + len(self.shape)],
                    out=Q[:, 1:].reshape(len(p), q.shape[1], -1, self.grid.pixels))
        g = scratch[1, : p.size].reshape(p.shape)
        np.matmul(columns.transpose(0, 2, 1), Q, out=g)
        g *= p
        M = len(self.phi)
        np.matmul(self.phi, g.transpose(0, 2, 1), out=moments[:, :M])
        np.matmul(Q[:, 1:], p.transpose(0, 2, 1), out=moments[:, M:])
        return error

    def _weigh(self, block, pairs, scratch, sums):
        """Write a block's part of the sums of ``weigh``, (B, 3, n)."""
        columns, p, S, y = self._forward(block, pairs, scratch)
        residual = self._residual(block, y)[0]
        square = (residual * residual).sum(1, keepdims=True)  # (B, 1, P)
        inside = 1 if self.inside is None else self.inside[block.tiles][:, None]
        p /= S
        others = 1 - p
        known = others > ALONE[self.dtype]
        np.maximum(others, ALONE[self.dtype], out=others)
        cost = scratch[1, : p.size].reshape(p.shape)
        cost[...] = -square
        experts = columns[:, 1:].reshape(len(p), y.shape[1], 1 + len(self.shape), -1)
        for c in range(y.shape[1]):
            here = y[:, c, None]
            expert = np.matmul(experts[:, c].transpose(0, 2, 1), self.phi[: 1 + len(self.shape)])
            without = here + p * (here - expert) / others
            without += self.level[block.tiles][:, c, None, None]
            np.clip(without, 0, 1, out=without)
            without -= self.target[block.tiles][:, c, None]
            cost += without * without
        cost = np.where(known, cost, y.shape[1]) * inside
        p *= inside
        sums[:, 0], sums[:, 1], sums[:, 2] = p.sum(2), (p * square).sum(2), cost.sum(2)

    def _halve(self, block, pairs, scratch, sums, slopes):
        """Write a block's part of the sums of ``halve``; ``slopes`` are n · Aᵀ, (B, n, D) each."""
        _, p, S, y = self._forward(block, pairs, scratch)
        residual = self._residual(block, y)[0]
        M, linear = len(self.phi), self.phi[: 1 + len(self.shape)]
        p /= S
        if self.inside is not None:
            p *= self.inside[block.tiles][:, None]
        errors = [-residual[:, c, None] * linear for c in range(y.shape[1])]  # (B, 1 + D, P)
        half = scratch[1, : p.size].reshape(p.shape)
        for slope, of_side in zip([None, *slopes], np.split(sums, 1 + len(slopes), axis=1)):
            if slope is None:
                half[...] = p
            else:
                height = np.empty((*slope.shape[:2], 1 + len(self.shape)), self.dtype)
                height[:, :, 0] = (block.view(pairs.offset).transpose(0, 2, 1) * slope).sum(2)
                height[:, :, 1:] = slope
                np.multiply(p, np.matmul(height, linear) > 0, out=half)
            for error, of_channel in zip(errors, np.split(of_side[:, M:], len(errors), axis=1)):
                np.matmul(error, half.transpose(0, 2, 1), out=of_channel)
            half *= half
            np.matmul(self.phi, half.transpose(0, 2, 1), out=of_side[:, :M])


def _exp_of_advantage(p):
    """Exponentiate relative log-gates in place; those below FAINTEST give exactly 0."""
    faintest = np.full(1, FAINTEST[p.dtype], p.dtype)
    np.maximum(p, faintest, out=p)
    np.exp(p, out=p)
    p -= np.exp(faintest)
