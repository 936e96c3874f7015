"""The tiles of an image: their positions, and conversion between images and tiles."""

import itertools

import numpy as np

PARTS = 2  # parts of a tile along an axis; the kernel with the largest gate is found for each part
NEIGHBOURS = 8  # tiles along an axis of the blocks that are kept together in the order of tiles


class Grid:
    """The tiles of an image, numbered in row-major order.

    Parameters
    ----------
    shape : tuple of D ints
        Number of pixels of the image along each axis.
    side : int or tuple of D ints
        Number of pixels of a tile along each axis; a shorter axis is not cut.
    """

    def __init__(self, shape, side):
        self.shape = tuple(shape)
        self.longest = max(shape)
        sides = np.broadcast_to(side, len(shape)).tolist()
        self.tile = tuple(min(s, n) for s, n in zip(sides, shape, strict=True))
        self.counts = tuple(-(-n // s) for n, s in zip(shape, self.tile, strict=True))
        self.num_tiles = int(np.prod(self.counts))
        self.pixels = int(np.prod(self.tile))  # P, pixels of a tile
        corner = np.stack(np.unravel_index(np.arange(self.num_tiles), self.counts))
        self.order = np.lexsort([*corner[::-1], *(corner[::-1] // NEIGHBOURS)])
        self.rank = np.empty_like(self.order)  # position of each tile in ``order``
        self.rank[self.order] = np.arange(self.num_tiles)
        self.ragged = any(c * s != n for c, s, n in zip(self.counts, self.tile, shape, strict=True))

    def offsets(self):
        """(D, P) coordinates of a tile's pixels from its centre, in pixels."""
        axes = [np.arange(s) - (s - 1) / 2 for s in self.tile]
        return np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")])

    def centres(self, tiles):
        """(T, D) centres of tiles, in pixels of the picture."""
        corner = np.stack(np.unravel_index(tiles, self.counts), axis=-1)
        return (corner + 0.5) * self.tile

    def parts(self):
        """The parts of a tile: their centres (D, parts), relative to the tile's, and half extents.

        The extents are those of the pixel centres.
        """
        axes = []
        for s in self.tile:
            cuts = np.linspace(0, s, min(PARTS, s) + 1).astype(int)
            axes.append([((a + b - s) / 2, (b - a - 1) / 2) for a, b in itertools.pairwise(cuts)])
        return np.array(list(itertools.product(*axes))).T  # (2, D, parts)

    def inside(self, tiles):
        """(T, P) bool: whether each pixel of the tiles lies inside the image."""
        points = self.centres(tiles)[:, :, None] + self.offsets()
        return (points < np.reshape(self.shape, (-1, 1))).all(axis=1)

    def cut(self, image):
        """(T, C, P) tiles of an image (*shape, C); pixels outside the image are 0."""
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
