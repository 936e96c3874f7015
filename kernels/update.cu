// From moments to parameters: sums over the rows of patches, the loss, gradients, Adam steps, and
// the removal of kernels.
#include "adam.cuh"
#include "bounds.cuh"

#define UPDATE_THREADS 128
#define JUDGE_THREADS 256
// rows are prefetched this many ahead; the list of rows has as many spare entries at its end
#define AHEAD 16

// The index of the first of the ascending `rows`, from `first` to `last` − 1, that is `row` or
// more; else `last`.
FUNCTION int first_at_least(const int *rows, int first, int last, int row) {
    while (first < last) {
        const int middle = first + (last - first) / 2;
        if (rows[middle] < row)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

// One block per kernel of the model: the sum of its moments over a batch, the rows of patches
// first_patch to last_patch − 1, added to the sums of earlier batches. The order of summation is
// fixed.
KERNEL(gather, 32, const int *control, const int *first_of_kernel, const int *rows_of_kernels,
       const int *first_row, int first_patch, int last_patch, const REAL *rows, double *sums)
{
    if (!GOES_ON(control)) return;
    SHARED(double, part, WIDTH * 32);
    const int begin = first_row[first_patch], end = first_row[last_patch];
    int first = first_of_kernel[BLOCK], last = first_of_kernel[BLOCK + 1];
    double *of_kernel = sums + (long long)BLOCK * WIDTH;
    if (begin > 0) first = first_at_least(rows_of_kernels, first, last, begin);
    last = first_at_least(rows_of_kernels, first, last, end);
    FOR_THREADS(t) {
        double sum[ROW];
        UNROLL for (int w = 0; w < ROW; w++)
            sum[w] = w < WIDTH && t == 0 && first_patch > 0 ? of_kernel[w] : 0;
        STRIDED(r, first + t, last) {
            const REAL *row = rows + (long long)(rows_of_kernels[r] - begin) * ROW;
            PREFETCH(rows + (long long)(rows_of_kernels[r + AHEAD] - begin) * ROW);
            UNROLL for (int w = 0; w < ROW; w++) sum[w] += row[w];
        }
        UNROLL for (int w = 0; w < WIDTH; w++) part[w * THREADS + t] = sum[w];
    }
    BARRIER;
    FOR_EACH_PLAIN(w, WIDTH) {
        double sum = part[w * THREADS];
        for (int t = 1; t < THREADS; t++) sum += part[w * THREADS + t];
        of_kernel[w] = sum;
    }
}

// Tell the host the layout: numbers in a row of sums, whether patches are boxes of many tiles, and
// the factor by which tiles are longer along axis 0.
KERNEL(layout, 1, int *found)
{
    found[0] = ROW;
    found[1] = PATCHES_ARE_BOXES;
    found[2] = LONG;
}

// The loss of the current parameters, and whether the step may change them; else HALT is set to
// EXPLODED.
KERNEL(judge, JUDGE_THREADS, int *control, double *state, const double *settings,
       const double *errors, int tiles, const REAL *params, const double *records, int K)
{
    SHARED(double, part, 2 * JUDGE_THREADS);
    if (!GOES_ON(control)) {
        ONE_THREAD { control[APPLY] = 0; }
        return;
    }
    const bool penalised = settings[L1] != 0 || settings[BANDWIDTH] != 0;
    FOR_THREADS(t) {
        double error = 0, penalty = 0;
        STRIDED(i, t, tiles) error += errors[i];
        STRIDED(k, t, penalised ? K : 0) {
            const REAL *row = params + (long long)k * WIDTH;
            if (records[(long long)k * RECORD] == DEAD) continue;
            penalty += settings[L1] * (double)row[0];
            UNROLL for (int d = 0; d < NDIM; d++)
                penalty += settings[BANDWIDTH] * fabs((double)row[AT_A + TRIANGLE(d, d)]);
        }
        part[t] = error;
        part[THREADS + t] = penalty;
    }
    BARRIER;
    ONE_THREAD {
        double error = 0, penalty = 0;
        for (int t = 0; t < THREADS; t++) error += part[t], penalty += part[THREADS + t];
        const double loss = error * settings[SCALE] + penalty;
        const double lowest = smaller(state[LOWEST], loss == loss ? loss : state[LOWEST]);
        state[LOSS] = loss;
        state[LOWEST] = lowest;
        const bool fine = loss <= settings[EXPLOSION] * larger(lowest, settings[LEAST_EXPLOSION]);
        control[APPLY] = fine;
        if (fine) {
            control[STEP] += 1;
            control[AGE] += 1;
            state[ADAM_STEPS] += 1;
        } else {
            control[HALT] = EXPLODED;
        }
    }
}

// The factor of all learning rates after so many Adam steps.
FUNCTION double fading(const double *settings, double steps) {
    const double pi = 3.141592653589793, from = settings[FADE_FROM], to = settings[FADE_TO];
    if (steps <= from) return 1;
    const double way = steps < to ? (steps - from) / (to - from) : 1;
    return settings[FADE_TO_PART] + (1 - settings[FADE_TO_PART]) * (0.5 + 0.5 * cos(pi * way));
}

// The gradient that a step follows, regularisers included, and in the kernel's own frame if
// WHITENED.
FUNCTION void find_gradient(const double *settings, int longest, const double *sums,
                            const REAL *row, double *gradient) {
    if (settings[WHITENED] != 0) {
        chain_rule_whitened(sums, row, longest, gradient);
        UNROLL for (int d = 0; d < NDIM; d++)  // of half the sum of squared errors, like the rest
            gradient[AT_A + TRIANGLE(d, d)] +=
                0.5 * settings[BANDWIDTH] / settings[SCALE] * row[AT_A + TRIANGLE(d, d)];
        if (settings[L1] != 0)  // the penalty acts on π itself, so π is trained, not its logarithm
            gradient[0] = gradient[0] / larger(row[0], LEAST_DIVISOR) +
                          settings[L1] / (2 * settings[SCALE]);
        return;
    }
    chain_rule(sums, row, longest, 2 * settings[SCALE], gradient);
    gradient[0] += settings[L1];
    UNROLL for (int d = 0; d < NDIM; d++)
        gradient[AT_A + TRIANGLE(d, d)] +=
            row[AT_A + TRIANGLE(d, d)] < 0 ? -settings[BANDWIDTH] : settings[BANDWIDTH];
    if (settings[RADIAL] != 0) {  // ∂L/∂α is the trace of ∂L/∂A
        double trace = 0;
        UNROLL for (int d = 0; d < NDIM; d++) trace += gradient[AT_A + TRIANGLE(d, d)];
        UNROLL for (int i = 0; i < NDIM; i++) {
            UNROLL for (int j = 0; j <= i; j++)
                gradient[AT_A + TRIANGLE(i, j)] = i == j ? trace : 0;
        }
    }
}

// Apply a step: in the kernel's own frame, or number by number. In the latter case a column of A
// whose A_dd turns negative is negated, with its m, which leaves A Aᵀ as it is; and A_dd is kept at
// LEAST_DIAGONAL or more.
FUNCTION void move_kernel(const double *settings, const double *change, REAL *row, REAL *m) {
    const double least = settings[LEAST_DIAGONAL], most = settings[MOST_SHARPNESS];
    if (settings[WHITENED] != 0) {
        double exact[WIDTH];
        UNROLL for (int w = 0; w < WIDTH; w++) exact[w] = row[w];
        retract(change, least, most, settings[MOST_BEYOND], settings[MOST_SLOPE], exact);
        if (settings[L1] != 0) exact[0] = (double)row[0] - change[0];
        UNROLL for (int w = 0; w < WIDTH; w++) row[w] = (REAL)exact[w];
        return;
    }
    for (int w = 0; w < WIDTH; w++) row[w] = (REAL)(row[w] - change[w]);
    UNROLL for (int d = 0; d < NDIM; d++) {
        REAL &own = row[AT_A + TRIANGLE(d, d)];
        if (own < 0) {
            UNROLL for (int i = d; i < NDIM; i++) {
                row[AT_A + TRIANGLE(i, d)] = -row[AT_A + TRIANGLE(i, d)];
                m[AT_A + TRIANGLE(i, d)] = -m[AT_A + TRIANGLE(i, d)];
            }
        }
        if (own < (REAL)least) own = (REAL)least;
    }
}

// One step of one kernel: gradient, clipping, Adam (along the kernel's axes if `trained`, the
// number of its trained parameters, is not 0); then its new record, and whether the lists still
// hold.
FUNCTION void take_step(int *control, const double *settings, double rate, int longest,
                        const double *sums, REAL *row, REAL *m, REAL *v, REAL *outer,
                        const REAL *axes, int trained, double *record, const double *anchor,
                        double *moved, bool wins) {
    double gradient[WIDTH];
    find_gradient(settings, longest, sums, row, gradient);
    double rates[WIDTH], change[WIDTH];
    UNROLL for (int w = 0; w < WIDTH; w++) {
        rates[w] = rate_of(settings, w);
        gradient[w] = smaller(larger(gradient[w], -settings[GRAD_CLIP]), settings[GRAD_CLIP]);
    }
    if (trained > 0)
        change_along_axes(settings, rate, rates, gradient, trained, m, v, outer, axes, change);
    else
        change_numbers(settings, rate, rates, gradient, m, v, change);
    move_kernel(settings, change, row, m);
    bool finite = true;
    UNROLL for (int w = 0; w < WIDTH; w++) finite = finite && fabs((double)row[w]) <= LARGEST;
    double exact[WIDTH];
    UNROLL for (int w = 0; w < WIDTH; w++) exact[w] = row[w];
    derive(exact, longest, record);
    if (!finite) {
        control[HALT] = NOT_FINITE;
    } else if (row[0] <= 0) {
        if (wins) control[STALE] = 1;
        if (ATOMIC_ADD(control + ALIVE, -1) == 1) control[HALT] = NO_KERNEL;
    } else {
        drift(anchor, record, moved);
        if (!still_holds(anchor, moved) && control[AGE] >= settings[LEAST_LIFE])
            control[STALE] = 1;
    }
}

// One training step of all kernels. corrections[t] is Adam's bias correction for a kernel in its
// t-th step since it was born; the last of the `ages` entries applies from there on.
KERNEL(update, UPDATE_THREADS, int *control, const double *state, const double *settings,
       const int *grid, const double *sums, REAL *params, REAL *m, REAL *v, REAL *outer,
       const REAL *axes, int trained, double *records, const double *anchors, double *moved,
       const int *wins, const int *born, const double *corrections, int ages, int K)
{
    if (!control[APPLY]) return;
    const int longest = longest_of(grid);
    const int steps = (int)state[ADAM_STEPS];
    const double part = fading(settings, steps);
    FOR_EACH_PLAIN(j, UPDATE_THREADS) {
        const long long k = (long long)BLOCK * UPDATE_THREADS + j;
        if (k < K && records[k * RECORD] != DEAD) {
            const double rate = part * corrections[least_int(steps - born[k], ages - 1)];
            take_step(control, settings, rate, longest, sums + k * WIDTH, params + k * WIDTH,
                      m + k * WIDTH, v + k * WIDTH, outer + k * trained * trained,
                      axes + k * trained * trained, trained, records + k * RECORD,
                      anchors + k * ANCHOR, moved + 3 * k, wins[k]);
        }
    }
}

// The gradients of the mean squared error alone, without regularisers.
KERNEL(differentiate, UPDATE_THREADS, const double *settings, const int *grid, const double *sums,
       const double *rows, double *gradients, int K)
{
    const int longest = longest_of(grid);
    FOR_EACH_PLAIN(j, UPDATE_THREADS) {
        const long long k = (long long)BLOCK * UPDATE_THREADS + j;
        if (k < K)
            chain_rule(sums + k * WIDTH, rows + k * WIDTH, longest, 2 * settings[SCALE],
                       gradients + k * WIDTH);
    }
}

// Take in parameters from the host: their records, and whether the lists still hold for them, which
// is ignored while the lists are younger than `life` steps.
KERNEL(follow, UPDATE_THREADS, int *control, const int *grid, const double *rows, double *records,
       const double *anchors, double *moved, int listed, int life, int K)
{
    const int longest = longest_of(grid);
    FOR_EACH_PLAIN(j, UPDATE_THREADS) {
        const long long k = (long long)BLOCK * UPDATE_THREADS + j;
        if (k < K) {
            double *record = records + k * RECORD;
            derive(rows + k * WIDTH, longest, record);
            if (record[1] < 0) control[SIGNED] = 1;
            if (listed && record[0] != DEAD) {
                const double *anchor = anchors + k * ANCHOR;
                drift(anchor, record, moved + 3 * k);
                if (!still_holds(anchor, moved + 3 * k) && control[AGE] >= life)
                    control[STALE] = 1;
            }
        }
    }
}
