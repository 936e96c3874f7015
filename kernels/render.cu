// Rendering: the picture of a model, and the kernel that owns each pixel.
#include "tile.cuh"

// The index of pixel i of a tile in the picture (row-major), or −1 if it lies outside.
FUNCTION long long place_in_picture(const int *grid, const int *corner, int i) {
    long long at = 0;
    int stride = PIXELS;
    UNROLL for (int d = 0; d < NDIM; d++) {
        stride /= side_of(d);
        const int x = corner[d] + i / stride % side_of(d);
        if (x >= grid[d]) return -1;
        at = at * grid[d] + x;
    }
    return at;
}

// The regression, clipped to [0, 1]: image (pixels, NCHAN).
KERNEL(render, TILE_THREADS, const int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners, REAL *image)
{
    if (control[HALT]) return;
    ARRAYS_OF_A_TILE;
    SHARED(REAL, drawn, NCHAN * PIXELS);
    const Tile tile = tile_of(control, settings, grid, records, start, winners, BLOCK);
    forward_called(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
    FOR_PIXELS(i) {
        UNROLL for (int c = 0; c < NCHAN; c++) {
            const Pack here = AT(y[c], i) + (REAL)tile.level[c];
            STORE(drawn, c * PIXELS + i, least(most(here, Pack{}), Pack{} + 1));
        }
    }
    FOR_EACH_PLAIN(i, PIXELS) {
        const long long at = place_in_picture(grid, tile.corner, i);
        if (at >= 0) {
            UNROLL for (int c = 0; c < NCHAN; c++)
                image[at * NCHAN + c] = (REAL)drawn[c * PIXELS + i];
        }
    }
}

// The kernel with the largest positive gate at each pixel; of equal ones the first in the list; −1
// if there is none.
KERNEL(gating, TILE_THREADS, const int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners, int *owners)
{
    if (control[HALT]) return;
    SHARED(REAL, terms, TERMS * CHUNK);
    SHARED(REAL, offsets, NDIM * CHUNK);
    SHARED(REAL, gates, CHUNK * STRIDE);
    SHARED(double, signs, CHUNK);
    const Tile tile = tile_of(control, settings, grid, records, start, winners, BLOCK);
    SHARED(REAL, best, PIXELS);
    SHARED(int, owner, PIXELS);
    FOR_EACH_PLAIN(i, PIXELS) {
        best[i] = (REAL)-1e30;
        owner[i] = -1;
    }
    const int chunk = CHUNK;
    for (int c = 0; c * chunk < tile.pairs; c++) {
        const int count = least_int(chunk, tile.pairs - c * chunk), from = tile.first + c * chunk;
        prepare_pairs(records, list, from, count, tile, terms, offsets);
        FOR_EACH_PLAIN(j, count) signs[j] = records[(long long)list[from + j] * RECORD + 1];
        FOR_PIXELS(i) {
            Pack u[NDIM];
            UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
            for (int j = 0; j < count; j++)
                STORE(gates, j * STRIDE + i, log_gate_at(terms, j, u));
        }
        BARRIER;
        FOR_EACH_PLAIN(i, PIXELS) {
            REAL best_here = best[i];
            int owner_here = owner[i];
            for (int j = 0; j < count; j++) {
                const REAL gate = gates[j * STRIDE + i];
                if (gate > best_here && (double)signs[j] > 0)
                    best_here = gate, owner_here = list[from + j];
            }
            best[i] = best_here;
            owner[i] = owner_here;
        }
    }
    FOR_EACH_PLAIN(i, PIXELS) {
        const long long at = place_in_picture(grid, tile.corner, i);
        if (at >= 0) owners[at] = owner[i];
    }
}
