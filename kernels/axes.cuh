// Adam along axes of each kernel's own: turned_adam.py in C++; how they turn is in axes.cu.
//
// Of a kernel's `trained` numbers, n: `outer` has the n × n mean products of their gradients, each
// times its rate; `axes` an axis in each row. v has the mean square along axis i where the i-th
// trained number is.
#pragma once
#include "control.cuh"
#include "gate.cuh"

#define BETA1 0.9
#define LEAST_PART 1e-3  // of the root mean square along all axes, below which none counts

// The rate of a number of a kernel; below 0: it is not trained.
FUNCTION double rate_of(const double *settings, int w) {
    int kind = RATE_PIS;
    if (w >= AT_MU) kind = RATE_MU;
    if (w >= AT_A) kind = RATE_A;
    if (w >= AT_EXPERT) kind = (w - AT_EXPERT) % (NDIM + 1) == 0 ? RATE_NU : RATE_GAMMA;
    return settings[kind];
}

// What Adam takes off a kernel's numbers, along its axes; `rate`, the correction of bias and the
// fading of the rates.
FUNCTION void change_along_axes(const double *settings, double rate, const double *rates,
                                const double *gradient, int trained, REAL *m, REAL *v, REAL *outer,
                                const REAL *axes, double *change) {
    const double beta1 = 1 - BETA1, beta2 = 1 - settings[BETA2];
    double g[WIDTH], mean[WIDTH], along[WIDTH], square[WIDTH], total = 0;
    int at[WIDTH], n = 0;
    for (int w = 0; w < WIDTH; w++) {
        change[w] = 0;
        if (rates[w] < 0) continue;
        at[n] = w;
        g[n] = gradient[w] * rates[w];
        mean[n] = m[w] + beta1 * (g[n] - m[w]);
        m[w] = (REAL)mean[n];
        along[n++] = 0;
    }
    for (int i = 0; i < n; i++) {
        const REAL *axis = axes + i * trained;
        REAL *products = outer + i * trained;
        double now = 0;
        for (int j = 0; j < n; j++) {
            products[j] = (REAL)(products[j] + beta2 * (g[i] * g[j] - products[j]));
            now += axis[j] * g[j];
            along[i] += axis[j] * mean[j];
        }
        square[i] = v[at[i]] + beta2 * (now * now - v[at[i]]);
        v[at[i]] = (REAL)square[i];
        total += square[i];
    }
    const double least = settings[EPSILON] + LEAST_PART * sqrt(total / n);
    for (int i = 0; i < n; i++) {
        const double step = along[i] / (sqrt(square[i]) + least);
        for (int j = 0; j < n; j++) change[at[j]] += axes[i * trained + j] * step;
    }
    for (int i = 0; i < n; i++) change[at[i]] *= rate * rates[at[i]];
}
