// DSN's decay. POWER: m = 1 / tau if that is whole and up to 64, else 0.
#pragma once
#include "../scan/tile.cuh"

// 1 / y for y >= 1, to an ulp; 0 beyond 2^126. One instruction, where __fdividef takes four.
__device__ __forceinline__ float reciprocal(float y) {
#ifdef __CUDA_ARCH__
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    return r;
#else
    return __fdividef(1.0f, y);
#endif
}

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
