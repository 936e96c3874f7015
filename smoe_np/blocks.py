"""Pair lists cut into chunks of blocks for the NumPy engine; and its thread pool."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from .machine import processors

BLOCK = 1 << 19  # most pairs × pixels of a block; with fewer, threads wait for each other
PADDING = 1 << 15  # most padding in a block, in pairs × pixels, before another block is begun


class Block(NamedTuple):
    """Tiles that are computed together, with equally many pairs n each, after padding."""

    tiles: np.ndarray  # (B,)
    winner: np.ndarray  # (B,) slot of each tile's winner
    # (B, n) slot of each pair's kernel; padding has the slot of the absent kernel
    slots: np.ndarray
    steep: bool
    pairs: slice  # where its pairs are among the chunk's

    @property
    def size(self):
        """Number of pairs, padding included."""
        return self.pairs.stop - self.pairs.start

    def view(self, rows):
        """The part (B, rows, n) of this block of a chunk's array (rows, pairs)."""
        part = rows[:, self.pairs]
        return part.reshape(len(rows), len(self.tiles), -1).transpose(1, 0, 2)


class Chunk(NamedTuple):
    """Blocks of neighbouring tiles."""

    blocks: list
    tiles: np.ndarray  # (T,)
    winner: np.ndarray  # (T,) slot of each tile's winner
    kernels: np.ndarray  # slots of the kernels that occur, the absent one last
    index: np.ndarray  # (pairs,) int32 index of each pair's kernel into ``kernels``
    tile: np.ndarray  # (pairs,) int32 index of each pair's tile into ``tiles``
    # sparse matrix (kernels, pairs) of 0 and 1: sums over the pairs of each kernel
    sum_by_kernel: object


class Pairs(NamedTuple):
    """The polynomials of a chunk's pairs, with a contiguous row for each number (see ``gate``)."""

    theta: np.ndarray  # (M, pairs)
    expert: np.ndarray  # (J, pairs)
    offset: np.ndarray  # (D, pairs) float64


def chunk_of(lists, ends, first, last, nobody, pixels):
    """The chunk of tiles first:last of pair lists.

    ``ends`` is the running total of the tiles' numbers of pairs, ``nobody`` the slot of the absent
    kernel, ``pixels`` the number of pixels of a tile.
    """
    from scipy import sparse  # takes longer to import than all else, and only NumPy needs it

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
    bounds = _block_bounds(counts, len(order) - int(steep.sum()), pixels)
    widths = np.repeat(counts[bounds[:-1]], np.diff(bounds))
    ends = np.concatenate([[0], np.cumsum(widths)])
    rows = int(ends[-1])
    tile = np.repeat(np.arange(len(order), dtype=np.int32), widths)
    place = np.arange(rows) - ends[tile]
    listed = place < counts[tile]
    index = np.full(rows, len(kernels), np.int32)
    index[listed] = number[slots[(start[tile] + place)[listed]]]
    kernels = np.append(kernels, nobody).astype(np.int32)
    blocks = [Block(tiles[a:b], winner[a:b], kernels[index[ends[a] : ends[b]]].reshape(b - a, -1),
                     bool(steep[a]), slice(int(ends[a]), int(ends[b])))
              for a, b in itertools.pairwise(bounds)]
    pick = sparse.csc_matrix((np.ones(rows), index, np.arange(rows + 1)), (len(kernels), rows))
    return Chunk(blocks, tiles, winner, kernels, index, tile, pick)


def _block_bounds(counts, gentle, pixels):
    """Where to cut tiles of falling counts into blocks; tiles from ``gentle`` on are steep."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    bounds = [0]
    for end in (gentle, len(counts)):
        while bounds[-1] < end:
            at = bounds[-1]
            most = min(end, at + max(1, BLOCK // int(counts[at] * pixels)))
            padding = counts[at] * np.arange(1, most - at + 1) - sums[at + 1 : most + 1] + sums[at]
            bounds.append(at + int(np.searchsorted(padding, PADDING // pixels, side="right")))
    return bounds


def even_cuts(ends, parts):
    """Where to cut items with the running total ``ends`` into at most ``parts`` of similar sums."""
    goals = ends[-1] * np.arange(1, parts) / parts
    return np.unique([0, *np.searchsorted(ends, goals), len(ends)]).tolist()


_pools = {}


def pool():
    """The thread pool of this process; a forked child gets its own, as threads do not survive."""
    if os.getpid() not in _pools:
        _pools.clear()
        _pools[os.getpid()] = ThreadPoolExecutor(processors(), thread_name_prefix="smoe")
    return _pools[os.getpid()]


def map_on_pool(function, parts):
    """``map`` on all cores; results come in order."""
    return map(function, parts) if len(parts) < 2 else pool().map(function, parts)
