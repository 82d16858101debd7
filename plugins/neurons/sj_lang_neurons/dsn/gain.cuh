// DSN's decay. POWER: m = 1 / tau if that is whole and up to 64, else 0.
#pragma once
#include "../scan/tile.cuh"

// q and w of a logit.
__device__ __forceinline__ void gain(real a, real m, real &q, real &w) {
#if IO == 1
    q = 1 / (1 + exp(a));
#else
    q = reciprocal(1.0f + __expf(a));
#endif
#if POWER > 0
    constexpr int BITS = POWER < 2 ? 0 : POWER < 4 ? 1 : POWER < 8 ? 2 : POWER < 16 ? 3 : POWER < 32 ? 4 : POWER < 64 ? 5 : 6;
    w = q;  // the gain of i + j is w_i + (1 - w_i) w_j: sums of positive numbers, no exp and no log
#pragma unroll
    for (int bit = BITS - 1; bit >= 0; bit--) {
        w = fma(1 - w, w, w);
        if (POWER >> bit & 1) w = fma(1 - w, q, w);
    }
#else
    w = -expm1(-m * ((a < 0 ? -a : (real)0) + log1p(exp(-fabs(a)))));
#endif
}
