// The fused training step over tiles: the regression, its error, and the moments of every pair.
#include "tile.cuh"

// The moments of pair j in a tile, over the pixels of one part, without the factor 2 / (N C): Σ g
// φ(x − μ), and for each channel Σ w r and Σ w r (x − μ).
template <class Terms, class Offsets, class Gates, class Residuals, class Partial>
FUNCTION void store_slopes(Terms &terms, Offsets &offsets, Gates &gates, Residuals &q,
                           const Bands &bands, int j, int part, Partial &partial) {
    Moments moments = {};
    FOR_PACKS(i, bands, j, part) {
        Pack u[NDIM], h[NCHAN];
        UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
        const Pack gate = LOAD(gates, j * STRIDE + i);
        Pack pull = LOAD(q, i);
        UNROLL for (int c = 0; c < NCHAN; c++) {
            const Pack q_c = LOAD(q, (1 + c) * PIXELS + i);
            h[c] = gate * q_c;
            pull += q_c * expert_at(terms, j, c, u);
        }
        add(moments, i, u, gate * pull, h);
    }
    REAL offset[NDIM];
    UNROLL for (int d = 0; d < NDIM; d++) offset[d] = offsets[d * CHUNK + j];
    store_moments(moments, offset, j, part, partial);
}

// One block per patch. Writes the sum of squared errors of each of its tiles, whose pairs are
// entries start[tile] … start[tile + 1] − 1 of `list`. If `backward`, also writes the moments of
// each of its rows round the centre of the row's kernel; the rows begin at row first_row[patch] −
// first_row[first_patch] of `rows`, which has `room` rows.
KERNEL(step, TILE_THREADS, int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners,
       const REAL *target, int patch_level, int first_patch, const int *first_row,
       const int *row_of_pair, int backward, int room, REAL *rows, double *errors)
{
    if (!GOES_ON(control)) return;
    ARRAYS_OF_A_TILE;
    // −Σ_c q_c y_c, then q_c = r_c / S, without the factor 2 / (N C) of r
    SHARED(REAL, q, (1 + NCHAN) * PIXELS);
    SHARED(REAL, squares, PIXELS);
    SHARED(REAL, partial, SUMS * CHUNK);
    const Rows own = rows_of_patch(first_row, first_patch, first_patch + BLOCK);
    if (backward && !has_room(control, own, room)) return;
    if (backward) clear_rows(own, rows);
    clear_partial(partial);
    FOR_TILES(number, grid, patch_level, first_patch + BLOCK) {
        const Tile tile = tile_of(control, settings, grid, records, start, winners, number);
        forward(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
        FOR_PIXELS(i) {
            const Pack inside = inside_picture(grid, tile.corner, i);
            const Pack whole = (Pack{} + 1) / AT(S, i);
            Pack square = Pack{}, both = Pack{};
            UNROLL for (int c = 0; c < NCHAN; c++) {
                const Pack here = AT(y[c], i) + (REAL)tile.level[c];
                const Pack clipped = least(most(here, Pack{}), Pack{} + 1);
                const Pack t = LOAD(target, ((long long)number * NCHAN + c) * PIXELS + i);
                const Pack residual = (clipped - t) * inside;
                const Pack passed = where_inside(here, residual) * whole;
                square += residual * residual;
                both -= passed * AT(y[c], i);
                STORE(q, (1 + c) * PIXELS + i, passed);
            }
            STORE(q, i, both);
            STORE(squares, i, square);
        }
        BARRIER;
        ONE_THREAD {
            Pack square = Pack{};
            for (int i = 0; i < PIXELS; i += LANES) square += LOAD(squares, i);
            errors[number] = sum(square);
        }
        for (int c = 0; backward && c * CHUNK < tile.pairs; c++) {
            const int count =
                chunk_again(records, list, tile, c, terms, offsets, gates, steep, bands, top, S, y);
            FOR_PAIRS(j, part, bands)
                store_slopes(terms, offsets, gates, q, bands, j, part, partial);
            BARRIER;
            store_rows(tile, c, count, bands, partial, row_of_pair, rows + own.first * ROW);
        }
    }
}
