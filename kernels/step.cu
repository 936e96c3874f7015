// The fused step over tiles: the regression, its error, and the moments of every pair.
#include "tile.cuh"

// One tile: its pairs start[tile] … start[tile + 1] of `list`. Writes the sum of its squared
// errors, and of each pair the moments round the centre of its kernel, at row pair −
// start[first_tile], if there is room.
KERNEL(step, TILE_THREADS, int *control, const int *grid, const double *records,
       const int *start, const int *list, const int *winners, const REAL *target, int first_tile,
       int backward, int room, REAL *rows, double *errors)
{
    if (!GOES_ON(control)) return;
    SHARED(REAL, terms, WIDTH * CHUNK);
    SHARED(REAL, offsets, NDIM * CHUNK);
    SHARED(REAL, gates, CHUNK * STRIDE);
    SHARED(int, steep, 2);
    SHARED(REAL, q, (1 + NCHAN) * PIXELS);  // −Σ_c q_c y_c, then q_c = r_c / S but for 2 / (N C)
    SHARED(REAL, squares, PIXELS);
    SHARED(REAL, partial, SUMS * CHUNK);
    PER_PIXEL(top);
    PER_PIXEL(S);
    PER_PIXEL_OF(y, NCHAN);

    const int tile = first_tile + BLOCK, first = start[tile], pairs = start[tile + 1] - first;
    const long long row0 = first - start[first_tile];
    if (backward && row0 + pairs > room) {
        ONE_THREAD { control[HALT] = NO_ROOM; }
        return;
    }
    const bool is_signed = control[SIGNED] != 0;
    int corner[NDIM];
    double centre[NDIM], winner[MOMENTS], offset[NDIM], level[NCHAN];
    tile_corner(grid, tile, corner);
    tile_centre(grid, tile, centre);
    const double *of_winner = records + (long long)winners[tile] * RECORD;
    log_gate_of(of_winner, centre, winner, offset);
    find_level(of_winner, offset, is_signed, level);

    if (is_signed)
        forward<true>(records, list, first, pairs, centre, winner, level, terms, offsets, gates,
                      steep, top, S, y);
    else
        forward<false>(records, list, first, pairs, centre, winner, level, terms, offsets, gates,
                       steep, top, S, y);

    FOR_PIXELS(i) {
        const Pack inside = inside_picture(grid, corner, i), whole = (Pack{} + 1) / AT(S, i);
        Pack square = Pack{}, both = Pack{};
        UNROLL for (int c = 0; c < NCHAN; c++) {
            const Pack here = AT(y[c], i) + (REAL)level[c];
            const Pack clipped = least(most(here, Pack{}), Pack{} + 1);
            const Pack t = LOAD(target, ((long long)tile * NCHAN + c) * PIXELS + i);
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
        errors[tile] = sum(square);
    }
    if (!backward) return;

    const int chunk = CHUNK, chunks = (pairs + chunk - 1) / chunk;
    for (int c = 0; c < chunks; c++) {
        const int count = least_int(chunk, pairs - c * chunk), from = first + c * chunk;
        if (chunks > 1) {
            prepare_pairs(records, list, from, count, centre, winner, level, terms, offsets);
            if (is_signed)
                accumulate<true, true, true>(records, list + from, count, terms, gates, top, S, y);
            else  // top is 0 where the tile is not steep
                accumulate<true, true, false>(records, list + from, count, terms, gates, top, S, y);
        }
        FOR_PARTS(j, part, count) store_moments(terms, gates, q, j, part, partial);
        BARRIER;
        FOR_EACH(j, count) {
            REAL moments[WIDTH], back[NDIM];
            UNROLL for (int w = 0; w < WIDTH; w++) moments[w] = sum_of_parts(partial, j, w);
            UNROLL for (int d = 0; d < NDIM; d++) back[d] = offsets[d * CHUNK + j];
            move_moments(moments, back);
            REAL *row = rows + (row0 + c * chunk + j) * ROW;
            UNROLL for (int w = 0; w < WIDTH; w++) row[w] = moments[w];
        }
    }
}
