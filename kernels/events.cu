// Sums over each kernel's pixels on which pruning and splitting of kernels are based.
#include "tile.cuh"

// 1 − gate below which the sum of the other gates is lost in rounding
#define ALONE (REAL_BYTES == 4 ? 1e-5 : 1e-12)

// For pair j, over the pixels of one part: its mass Σ w; its error Σ w ρ²; and the cost of leaving
// the kernel out, Σ ((clip((y − w e) / (1 − w)) − t)² − ρ²). Where 1 − w is at most ALONE, what
// would replace the kernel is unknown, and the pixel costs its maximum, NCHAN.
//
// `q` holds for each pixel ρ²; then for each channel y and t, both relative to the level; then 1/S,
// or 0 beyond the picture.
template <class Terms, class Gates, class Residuals, class Partial>
FUNCTION void store_weights(const Tile &tile, Terms &terms, Gates &gates, Residuals &q,
                            const Bands &bands, int j, int part, Partial &partial) {
    Pack u[NDIM], sums[WIDTH];
    UNROLL for (int w = 0; w < WIDTH; w++) sums[w] = Pack{};
    FOR_PACKS(i, bands, j, part) {
        UNROLL for (int d = 0; d < NDIM; d++) u[d] = coordinate(d, i);
        const Pack whole = LOAD(q, (1 + 2 * NCHAN) * PIXELS + i);
        const Pack w = LOAD(gates, j * STRIDE + i) * whole, square = LOAD(q, i);
        const Pack rest = 1 - w, known = most(rest, Pack{} + (REAL)ALONE);
        Pack cost = -square;
        UNROLL for (int c = 0; c < NCHAN; c++) {
            const Pack y = LOAD(q, (1 + c) * PIXELS + i);
            const Pack without = y + w * (y - expert_at(terms, j, c, u)) / known;
            const REAL level = (REAL)tile.level[c];
            const Pack clipped = least(most(without, Pack{} - level), Pack{} + (1 - level));
            const Pack error = clipped - LOAD(q, (1 + NCHAN + c) * PIXELS + i);
            cost += error * error;
        }
        cost = where_above_0(rest - (REAL)ALONE, cost - NCHAN) + NCHAN;
        sums[0] += w;
        sums[1] += w * square;
        sums[2] += where_above_0(whole, cost);
    }
    store_sums(sums, j, part, partial);
}

// For pair j, over the pixels of one part that lie on one side of its kernel, where `side` + slope
// · u > 0: Σ w² φ(x − μ), and for each channel Σ w ρ and Σ w ρ (x − μ).
//
// `q` holds 1/S, or 0 beyond the picture; then for each channel ρ / S.
template <class Gates, class Residuals, class Partial>
FUNCTION void store_half(REAL side, const REAL *slope, const REAL *offset, Gates &gates,
                         Residuals &q, const Bands &bands, int j, int part, Partial &partial) {
    Moments moments = {};
    FOR_PACKS(i, bands, j, part) {
        Pack u[NDIM], h[NCHAN], height = Pack{} + side;
        UNROLL for (int d = 0; d < NDIM; d++) {
            u[d] = coordinate(d, i);
            height += slope[d] * u[d];
        }
        const Pack gate = where_above_0(height, LOAD(gates, j * STRIDE + i));
        UNROLL for (int c = 0; c < NCHAN; c++) h[c] = gate * LOAD(q, (1 + c) * PIXELS + i);
        const Pack w = gate * LOAD(q, i);  // squared only now: S² might overflow
        add(moments, i, u, w * w, h);
    }
    store_moments(moments, offset, j, part, partial);
}

// One block per patch: the sums of `store_weights` for each of its rows, added up over its tiles.
KERNEL(weigh, TILE_THREADS, int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners,
       const REAL *target, int patch_level, int first_patch, const int *first_row,
       const int *row_of_pair, int room, REAL *rows)
{
    if (!GOES_ON(control)) return;
    ARRAYS_OF_A_TILE;
    SHARED(REAL, q, (2 + 2 * NCHAN) * PIXELS);
    SHARED(REAL, partial, SUMS * CHUNK);
    const Rows own = rows_of_patch(first_row, first_patch, first_patch + BLOCK);
    if (!has_room(control, own, room)) return;
    clear_rows(own, rows);
    clear_partial(partial);
    FOR_TILES(number, grid, patch_level, first_patch + BLOCK) {
        const Tile tile = tile_of(control, settings, grid, records, start, winners, number);
        forward_called(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
        FOR_PIXELS(i) {
            Pack square = Pack{};
            UNROLL for (int c = 0; c < NCHAN; c++) {
                const REAL level = (REAL)tile.level[c];
                const Pack here = AT(y[c], i);
                const Pack t = LOAD(target, ((long long)number * NCHAN + c) * PIXELS + i) - level;
                const Pack error = least(most(here, Pack{} - level), Pack{} + (1 - level)) - t;
                square += error * error;
                STORE(q, (1 + c) * PIXELS + i, here);
                STORE(q, (1 + NCHAN + c) * PIXELS + i, t);
            }
            STORE(q, i, square);
            STORE(q, (1 + 2 * NCHAN) * PIXELS + i, inside_picture(grid, tile.corner, i) / AT(S, i));
        }
        BARRIER;
        for (int c = 0; c * CHUNK < tile.pairs; c++) {
            const int count =
                chunk_again(records, list, tile, c, terms, offsets, gates, steep, bands, top, S, y);
            FOR_PAIRS(j, part, bands)
                store_weights(tile, terms, gates, q, bands, j, part, partial);
            BARRIER;
            store_rows(tile, c, count, bands, partial, row_of_pair, rows + own.first * ROW);
        }
    }
}

// One block per patch: for each of `many` directions, the sums of `store_half` for each of its
// rows, added up over its tiles. A direction n, in the kernel's own frame, selects the side where n
// · Aᵀ(x − μ) > 0; n = 0 selects all pixels. Each direction has its own set of `room` rows.
KERNEL(halve, TILE_THREADS, int *control, const double *settings, const int *grid,
       const double *records, const int *start, const int *list, const int *winners,
       const REAL *target, int patch_level, int first_patch, const int *first_row,
       const int *row_of_pair, const double *directions, int many, int room, REAL *rows)
{
    if (!GOES_ON(control)) return;
    ARRAYS_OF_A_TILE;
    SHARED(REAL, q, (1 + NCHAN) * PIXELS);
    SHARED(REAL, partial, SUMS * CHUNK);
    const Rows own = rows_of_patch(first_row, first_patch, first_patch + BLOCK);
    if (!has_room(control, own, room)) return;
    for (int r = 0; r < many; r++) clear_rows(own, rows + (long long)r * room * ROW);
    clear_partial(partial);
    FOR_TILES(number, grid, patch_level, first_patch + BLOCK) {
        const Tile tile = tile_of(control, settings, grid, records, start, winners, number);
        forward_called(records, list, tile, terms, offsets, gates, steep, bands, top, S, y);
        FOR_PIXELS(i) {
            const Pack whole = inside_picture(grid, tile.corner, i) / AT(S, i);
            UNROLL for (int c = 0; c < NCHAN; c++) {
                const Pack here = AT(y[c], i) + (REAL)tile.level[c];
                const Pack t = LOAD(target, ((long long)number * NCHAN + c) * PIXELS + i);
                STORE(q, (1 + c) * PIXELS + i, (t - least(most(here, Pack{}), Pack{} + 1)) * whole);
            }
            STORE(q, i, whole);
        }
        BARRIER;
        for (int c = 0; c * CHUNK < tile.pairs; c++) {
            const int count =
                chunk_again(records, list, tile, c, terms, offsets, gates, steep, bands, top, S, y);
            for (int r = 0; r < many; r++) {
                const double *direction = directions + r * NDIM;
                bool both = true;
                UNROLL for (int d = 0; d < NDIM; d++) both = both && direction[d] == 0;
                FOR_PAIRS(j, part, bands) {
                    const double *A = records + OF_STEERING +
                                      (long long)list[tile.first + c * CHUNK + j] * RECORD;
                    REAL slope[NDIM], offset[NDIM], side = both;
                    UNROLL for (int i = 0; i < NDIM; i++) {  // h = n · Aᵀ(x − μ)
                        double along = 0;
                        UNROLL for (int k = 0; k <= i; k++)
                            along += A[TRIANGLE(i, k)] * direction[k];
                        slope[i] = (REAL)along;
                        offset[i] = offsets[i * CHUNK + j];
                        side += slope[i] * offset[i];
                    }
                    store_half(side, slope, offset, gates, q, bands, j, part, partial);
                }
                BARRIER;
                store_rows(tile, c, count, bands, partial, row_of_pair,
                           rows + ((long long)r * room + own.first) * ROW);
                BARRIER;
            }
        }
    }
}
