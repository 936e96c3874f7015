// How much there is to do for pixels, for those who measure it.
#include "pairs.cuh"

// The pixels at which each tile looks at its pairs, added up over these.
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
