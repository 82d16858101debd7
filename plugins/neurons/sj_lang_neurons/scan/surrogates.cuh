// Firing and its gradient; FIRE as in firing.py. From 2 on, SpikingJelly's: a step at h = V,
// and the derivative of a smooth one. 1 is `Rect` from threshold to alpha. NaN stays NaN.
#pragma once
#include "tile.cuh"

#if FIRE == 0
typedef real spike;  // a potential, not rounded
#else
typedef io spike;
#endif
__device__ __forceinline__ real wide(spike value) { return FIRE == 0 ? (real)value : load((io)value); }
__device__ __forceinline__ spike narrow(real value) { return FIRE == 0 ? (spike)value : (spike)store(value); }

__device__ __forceinline__ real fire(real h, real alpha, real threshold) {
#if FIRE == 0
    return h;
#elif FIRE == 1
    const real s = rint(h);
    return s <= threshold ? threshold : s > alpha ? alpha : s;
#else
    const real u = h - threshold;
    return u >= 0 ? (real)1 : u < 0 ? (real)0 : u;
#endif
}

__device__ __forceinline__ real slope(real h, real alpha, real threshold, real margin) {
    const real u = h - threshold, size = fabs(u);
#if FIRE == 0
    return 1;
#elif FIRE == 1
    return h >= threshold - margin && h <= alpha + margin ? (real)1 : (real)0;
#elif FIRE == 2  // ATan
    const real v = (real)1.5707963267948966 * alpha * u, y = fma(v, v, (real)1);
#if IO == 1
    return alpha / (2 * y);
#else
    return alpha / 2 * reciprocal(y);
#endif
#elif FIRE == 3  // Sigmoid
    const real s = 1 / (1 + exp(-alpha * u));
    return alpha * s * (1 - s);
#elif FIRE == 4  // PiecewiseQuadratic
    return size <= 1 / alpha ? alpha - alpha * alpha * size : (real)0;
#elif FIRE == 5  // PiecewiseExp
    return alpha / 2 * exp(-alpha * size);
#elif FIRE == 6  // SoftSign
    const real v = 1 / alpha + size;
    return 1 / (2 * alpha * v * v);
#elif FIRE == 7  // Erf
    return alpha * (real)0.5641895835477563 * exp(-alpha * alpha * u * u);
#elif FIRE == 8  // SuperSpike
    return alpha / ((1 + size) * (1 + size));
#elif FIRE == 9  // Rect
    return size < (real)0.5 / alpha ? alpha : (real)0;
#endif
}
