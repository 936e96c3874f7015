// Measurement of the work per pixel, for benchmarks.
#include "pairs.cuh"

// For each tile, the number of (pair, pixel) combinations that are evaluated.
KERNEL(survey, TILE_THREADS, const int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners,
       double *looked_at)
{
    if (control[HALT]) return;
    SHARED(REAL, terms, TERMS * CHUNK);
    SHARED(REAL, offsets, NDIM * CHUNK);
    Bands bands;
    const Tile tile = tile_of(control, settings, grid, records, start, winners, BLOCK);
    long long pixels = 0;
    for (int c = 0; c * CHUNK < tile.pairs; c++) {
        prepare_chunk(records, list, tile, c, terms, offsets, bands);
        pixels += pixels_of(bands);
    }
    ONE_THREAD { looked_at[BLOCK] = (double)pixels; }
}
