// Adam steps for one kernel of the model, per number or along rotated axes: the C++ counterpart of
// adam.py and turned_adam.py.
#pragma once
#include "control.cuh"
#include "gate.cuh"

#define BETA1 0.9
// Floor of an axis's √v, as a fraction of the root mean square over the kernel's axes
// (turned_adam.py)
#define LEAST_PART 1e-3

// The learning rate of number w of a kernel's parameter row; negative if it is not trained.
FUNCTION double rate_of(const double *settings, int w) {
    int kind = RATE_PIS;
    if (w >= AT_MU) kind = RATE_MU;
    if (w >= AT_A) kind = RATE_A;
    if (w >= AT_EXPERT) kind = (w - AT_EXPERT) % (NDIM + 1) == 0 ? RATE_NU : RATE_GAMMA;
    return settings[kind];
}

// The amounts `change` that an Adam step subtracts from each number, in the form of TensorFlow 1: ε
// is added to √v before bias correction. `rate` is the bias correction times the fading of the
// learning rates. Updates m and v.
FUNCTION void change_numbers(const double *settings, double rate, const double *rates,
                             const double *gradient, REAL *m, REAL *v, double *change) {
    for (int w = 0; w < WIDTH; w++) {  // not unrolled, so that a CPU compiler vectorizes it
        const double g = gradient[w];
        const double m_now = m[w] + (1 - BETA1) * (g - m[w]);
        const double v_now = v[w] + (1 - settings[BETA2]) * (g * g - v[w]);
        const bool trained = rates[w] >= 0;
        change[w] = trained ? rates[w] * rate * m_now / (sqrt(v_now) + settings[EPSILON]) : 0;
        m[w] = trained ? (REAL)m_now : m[w];
        v[w] = trained ? (REAL)v_now : v[w];
    }
}

// The amounts that Adam subtracts from the `trained` numbers (n of them) of a kernel, with second
// moments taken along the kernel's own axes. `outer` (n × n) is the running mean of g gᵀ, with g
// the gradient times the learning rates; `axes` (n × n) has one axis per row. v holds the mean
// square along axis i at the place of the i-th trained number.
FUNCTION void change_along_axes(const double *settings, double rate, const double *rates,
                                const double *gradient, int trained, REAL *m, REAL *v, REAL *outer,
                                const REAL *axes, double *change) {
    const double beta2 = settings[BETA2];
    double g[WIDTH], mean[WIDTH], along[WIDTH], square[WIDTH], total = 0;
    int at[WIDTH], n = 0;
    for (int w = 0; w < WIDTH; w++) {
        change[w] = 0;
        if (rates[w] < 0) continue;
        at[n] = w;
        g[n] = gradient[w] * rates[w];
        mean[n] = m[w] + (1 - BETA1) * (g[n] - m[w]);
        m[w] = (REAL)mean[n];
        along[n++] = 0;
    }
    for (int i = 0; i < n; i++) {
        const REAL *axis = axes + i * trained;
        REAL *products = outer + i * trained;
        double now = 0;
        for (int j = 0; j < n; j++) {
            products[j] = (REAL)(products[j] + (1 - beta2) * (g[i] * g[j] - products[j]));
            now += axis[j] * g[j];
            along[i] += axis[j] * mean[j];
        }
        square[i] = v[at[i]] + (1 - beta2) * (now * now - v[at[i]]);
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
