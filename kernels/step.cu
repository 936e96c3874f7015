// The fused step over tiles: the regression, its error, and the moments of every pair.
#include "tile.cuh"

// The moments of pair j in a tile, over the pixels of one part: Σ g φ(u), and for each channel Σ w
// r and Σ w r u, but for a factor.
template <class Terms, class Gates, class Residuals, class Partial>
FUNCTION void store_slopes(Terms &terms, Gates &gates, Residuals &q, int j, int part,
                           Partial &partial) {
    Moments moments = {};
    UNROLL for (int i = part * LANES; i < PIXELS; i += PARTS * LANES) {
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
    store_moments(moments, j, part, partial);
}

// One tile: its pairs start[tile] … start[tile + 1] of `list`. Writes the sum of its squared
// errors, and of each pair the moments round the centre of its kernel, at row pair −
// start[first_tile], if there is room.
KERNEL(step, TILE_THREADS, int *control, const int *grid, const double *records,
       const int *start, const int *list, const int *winners, const REAL *target, int first_tile,
       int backward, int room, REAL *rows, double *errors)
{
    if (!GOES_ON(control)) return;
    ARRAYS_OF_A_TILE;
    SHARED(REAL, q, (1 + NCHAN) * PIXELS);  // −Σ_c q_c y_c, then q_c = r_c / S but for 2 / (N C)
    SHARED(REAL, squares, PIXELS);
    SHARED(REAL, partial, SUMS * CHUNK);

    const Tile tile = tile_of(control, grid, records, start, winners, first_tile + BLOCK);
    const long long row0 = tile.first - start[first_tile];
    if (backward && !has_room(control, row0 + tile.pairs, room)) return;
    forward(records, list, tile, terms, offsets, gates, steep, top, S, y);

    FOR_PIXELS(i) {
        const Pack inside = inside_picture(grid, tile.corner, i), whole = (Pack{} + 1) / AT(S, i);
        Pack square = Pack{}, both = Pack{};
        UNROLL for (int c = 0; c < NCHAN; c++) {
            const Pack here = AT(y[c], i) + (REAL)tile.level[c];
            const Pack clipped = least(most(here, Pack{}), Pack{} + 1);
            const Pack t = LOAD(target, ((long long)tile.number * NCHAN + c) * PIXELS + i);
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
        errors[tile.number] = sum(square);
    }
    if (!backward) return;

    for (int c = 0; c * CHUNK < tile.pairs; c++) {
        const int count =
            chunk_again(records, list, tile, c, terms, offsets, gates, top, S, y);
        FOR_PARTS(j, part, count) store_slopes(terms, gates, q, j, part, partial);
        BARRIER;
        store_rows<true>(count, offsets, partial, rows + (row0 + c * CHUNK) * ROW);
    }
}
