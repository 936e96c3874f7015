// How much there is to do for pixels, for those who measure it.
#include "tile.cuh"

// The pixels at which each tile looks at its pairs, added up over these.
KERNEL(survey, TILE_THREADS, const int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners,
       double *looked_at)
{
    if (control[HALT]) return;
    ARRAYS_OF_A_TILE;
    const Tile tile = tile_of(control, settings, grid, records, start, winners, BLOCK);
    forward(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
    long long pixels = 0;
    for (int c = 0; c * CHUNK < tile.pairs; c++) {
        chunk_again(records, list, tile, c, terms, offsets, gates, steep, bands, top, S, y);
        pixels += pixels_of(bands);
    }
    ONE_THREAD { looked_at[BLOCK] = (double)pixels; }
}
