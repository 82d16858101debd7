// BPSN's parameters as the kernels read them, its denominators, and the weights of P and Q in u. See
// kernel.cu.
#pragma once
#include "../scan/tile.cuh"

struct Parameters {
    real g0, threshold, lf, gf, lb, gb, rho;
};

__device__ __forceinline__ real sigmoid(real z) { return 1 / (1 + exp(-z)); }

__device__ __forceinline__ real softplus(real z) { return z > 20 ? z : log1p(exp(z)); }

// The decay of a logit, inside (0, 1), where a saturated sigmoid would leave it.
#if IO == 1
constexpr real LEAST = 2.2250738585072014e-308, MOST = 1 - 1.1102230246251565e-16;
#else
constexpr real LEAST = 1.17549435e-38f, MOST = 1 - 5.9604645e-8f;
#endif
__device__ __forceinline__ real decay_of(real logit) {
    const real l = sigmoid(logit);
    return l < LEAST ? LEAST : l > MOST ? MOST : l;
}

// Its derivative by the logit.
__device__ __forceinline__ real decay_slope(real l) { return l > LEAST && l < MOST ? l * (1 - l) : (real)0; }

// All [C], as the node learns them: the threshold (null: 0), with SOFTPLUS before its softplus,
// decays as logits, rho before its sigmoid. Those of an absent side, and rho without LATERAL: null.
#define PARAMETERS                                                                                                          \
    const real *g0, const real *threshold, const real *lf, const real *gf, const real *lb, const real *gb, const real *rho
#define READ_PARAMETERS                                                               \
    Parameters p;                                                                     \
    p.g0 = g0[at.c];                                                                  \
    p.threshold = !threshold ? (real)0 : SOFTPLUS ? softplus(threshold[at.c]) : threshold[at.c]; \
    p.lf = PAST ? decay_of(lf[at.c]) : (real)0, p.gf = PAST ? gf[at.c] : (real)0;     \
    p.lb = FUTURE ? decay_of(lb[at.c]) : (real)0, p.gb = FUTURE ? gb[at.c] : (real)0; \
    p.rho = LATERAL ? sigmoid(rho[at.c]) : (real)0;

// n steps of a denominator: D = 1 + l + ... + l^(n-1), power = l^n, and their derivatives by l.
struct Ones {
    real D, power, slope, growth;
};

__device__ __forceinline__ Ones then(const Ones &a, const Ones &b) {
    Ones c;
    c.D = fma(b.power, a.D, b.D), c.power = a.power * b.power;
    c.slope = fma(b.growth, a.D, fma(b.power, a.slope, b.slope)), c.growth = fma(a.growth, b.power, a.power * b.growth);
    return c;
}

// By doubling: sums and products of positive numbers, however near to 1 the decay is.
__device__ __forceinline__ Ones ones(real decay, index_t n) {
    Ones all = {0, 1, 0, 0}, block = {1, decay, 0, 1};
    for (; n > 0; n >>= 1) {
        if (n & 1) all = then(all, block);
        block = then(block, block);
    }
    return all;
}

__device__ __forceinline__ void step_on(Ones &o, real decay) {
    o.slope = fma(decay, o.slope, o.D), o.D = fma(decay, o.D, (real)1);
    o.growth = fma(decay, o.growth, o.power), o.power *= decay;
}

// 1 / Df, 1 / Db and 1 / (Df + Db), 0 where there is nothing to divide by, and G.
struct Over {
    real f, b, both, gains;
};

__device__ __forceinline__ Over over(const Parameters &p, real Df, real Db) {
    const bool past = PAST && Df > 0, future = FUTURE && Db > 0;
    Over o;
    o.f = past ? 1 / Df : (real)0, o.b = future ? 1 / Db : (real)0;
    o.both = !LATERAL ? (real)0 : past && future ? 1 / (Df + Db) : past ? o.f : o.b;
    o.gains = p.g0 + (past ? p.gf : (real)0) + (future ? p.gb : (real)0);
    return o;
}

// The denominators of a run in all sequences of one length: of the past before its first step, with
// d0, and of the future after its last valid step and at each.
struct Denominators {
    Ones past, future;
    real Db[STEPS];
};

__device__ __forceinline__ Denominators denominators(const Parameters &p, real d0, index_t start, index_t length) {
    const int valid = within<STEPS>(start, length);
    Denominators d;
    d.past = d.future = {0, 1, 0, 0};
    if (NORMALISED && PAST) {
        d.past = ones(p.lf, start);
        d.past.D = fma(d.past.power, d0, d.past.D), d.past.slope = fma(d.past.growth, d0, d.past.slope);
    }
    if (NORMALISED && FUTURE && valid) d.future = ones(p.lb, length - start - valid);
    real Db = d.future.D;
#pragma unroll
    for (int i = STEPS - 1; i >= 0; i--) {
        d.Db[i] = Db;
        if (i < valid) Db = fma(p.lb, Db, (real)1);
    }
    return d;
}

// The factors of P and Q in u.
struct Weights {
    real f[STEPS], b[STEPS];
};

__device__ __forceinline__ Weights weights(const Parameters &p, real d0, index_t start, index_t length) {
    const Denominators d = denominators(p, d0, start, length);
    Weights w;
    real Df = d.past.D;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const Over o = over(p, Df, d.Db[i]);
        const real share = p.rho * o.gains * o.both;
        w.f[i] = NORMALISED ? fma(p.gf, o.f, -share) : p.gf;
        w.b[i] = NORMALISED ? fma(p.gb, o.b, -share) : p.gb;
        Df = fma(p.lf, Df, (real)1);
    }
    return w;
}

// The decay of a run with so many valid steps.
__device__ __forceinline__ real over_run(real decay, int valid) {
    real product = 1;
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        if (i < valid) product *= decay;
    return product;
}
