// What the kernels share: element types, columns, and the exchange between the runs of a tile.
//
// A column is an element of a step [batch, channels, places], with a recurrence of its own. A block
// holds COLUMNS of them and RUNS runs of STEPS steps: a tile of RUNS * STEPS steps, one thread per
// column and run. A thread computes its run from zero, in registers; what a run adds and its factor
// go through shared memory; each thread composes those of the runs before it, and computes its run
// again from the right start. So memory is passed over once. RUNS = 1: a loop per column.
//
// Macros: IO 0 float, 1 double, 2 half, 3 bfloat16; COLUMNS, RUNS, STEPS; SPLIT 1: a block has one
// tile of its columns, see chain.cuh. States: float or double.
#pragma once

#ifndef SPLIT
#define SPLIT 0
#endif

#if IO == 1
typedef double real;
typedef double io;
#elif IO == 0
typedef float real;
typedef float io;
#else
typedef float real;
typedef unsigned short io;  // its bits: no header is needed to convert them
#endif
typedef long long index_t;
constexpr int TILE = RUNS * STEPS;

#if IO < 2
__device__ __forceinline__ real load(io value) { return value; }
__device__ __forceinline__ io store(real value) { return value; }
#elif IO == 3
__device__ __forceinline__ real load(io bits) { return __uint_as_float((unsigned)bits << 16); }
#endif
// From compute capability 8.0 on a conversion is one instruction, which does what the text below
// does, but for the bits of NaN.
#if IO >= 2 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
__device__ __forceinline__ io store(real value) {
    io bits;
#if IO == 3
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
    return bits;
}
#if IO == 2
__device__ __forceinline__ real load(io bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif
#elif IO == 3
__device__ __forceinline__ io store(real value) {  // to the nearest, ties to even; NaN stays NaN
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (io)((bits >> 16) | 0x40u);
    return (io)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#elif IO == 2
__device__ __forceinline__ real load(io bits) {
    const unsigned sign = (unsigned)(bits & 0x8000u) << 16, rest = (unsigned)(bits & 0x7fffu) << 13;
    if (rest >= 0x0f800000u) return __uint_as_float(sign | rest | 0x7f800000u);  // infinite, NaN
    if (rest >= 0x00800000u) return __uint_as_float(sign | (rest + 0x38000000u));
    // 0x38800000 is 2^-14
    const float value = __uint_as_float(rest | 0x38800000u) - __uint_as_float(0x38800000u);
    return __uint_as_float(sign | __float_as_uint(value));  // no subnormal float, which is flushed
}
__device__ __forceinline__ io store(real value) {
    const unsigned bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return (io)(sign | 0x7e00u);
    if (size >= 0x47800000u) return (io)(sign | 0x7c00u);
    if (size < 0x38800000u)  // subnormal: units of 2^-24
        return (io)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u));
    return (io)(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
}
#endif

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

// A parameter that is double for the launch: where it is used, it would be converted each time.
__device__ __forceinline__ real once(double parameter) {
    real value = (real)parameter;
#if defined(__CUDA_ARCH__) && IO != 1
    asm volatile("mov.b32 %0, %0;" : "+f"(value));
#endif
    return value;
}

// Parameters of a kernel, after all pointers: the strides of a tensor [T, B, C, S], in elements,
// and the sizes that all of them have.
#define STRIDES(x) index_t x##_t, index_t x##_b, index_t x##_c, index_t x##_s
#define SIZES index_t steps, index_t batch, index_t channels, index_t places
#define OFFSET(at, x) (at.b * x##_b + at.c * x##_c + at.s * x##_s)

struct Column {
    index_t n, b, c, s;  // n: in [B, C, S] flattened
    bool there;          // false: beyond the last; it computes another one's and writes nothing
};

#if SPLIT
typedef unsigned count_t;  // a division by it is a fourth of the work, of which one tile has little
#else
typedef index_t count_t;
#endif

__device__ __forceinline__ Column column(index_t group, index_t batch, index_t channels, index_t places) {
    Column at;
    const index_t all = batch * channels * places, n = group * COLUMNS + threadIdx.x;
    at.there = n < all;
    at.n = at.there ? n : all - 1;
    const count_t number = (count_t)at.n, rest = places == 1 ? number : number / (count_t)places;
    at.s = number - rest * (count_t)places;
    at.c = rest % (count_t)channels;
    at.b = rest / (count_t)channels;
    return at;
}

// How many steps of the column's sequence are valid; they come first. lengths [B], or null: all.
__device__ __forceinline__ index_t valid_steps(const Column &at, const index_t *lengths, index_t steps) {
    return lengths == nullptr || lengths[at.b] > steps ? steps : lengths[at.b];
}

// How many of N steps from `start` on lie before `stop`.
template <int N>
__device__ __forceinline__ int within(index_t start, index_t stop) {
    const index_t left = stop - start;
    return left < 0 ? 0 : left > N ? N : (int)left;
}

// N steps of a column of x from `start` on, all >= 0; 0 from `stop` on.
template <int N, class T>
__device__ __forceinline__ void fetch(T *out, const T *x, index_t stride, index_t start, index_t stop) {
    const int there = within<N>(start, stop);
    x += start * stride;
#pragma unroll
    for (int i = 0; i < N; i++, x += stride) out[i] = i < there ? *x : (T)0;
}

__device__ __forceinline__ void barrier() {
    if (RUNS > 1) __syncthreads();
}

// A run in short: a state c before it becomes join(c, added, factor) after it.
__device__ __forceinline__ real decayed(real c, real added, real factor) { return fma(factor, c, added); }
// The same with a gain w = 1 - decay for a factor, which keeps its digits near a decay of 1.
__device__ __forceinline__ real leaked(real c, real added, real gain) { return c + fma(-gain, c, added); }

typedef real Shared[RUNS][COLUMNS];

__device__ __forceinline__ real &mine(Shared shared) { return shared[threadIdx.y][threadIdx.x]; }

// The state before the thread's run; moves `state` over the tile. Call after a barrier.
// With SPLIT it moves it over the runs up to the thread's, which suffices for the last one.
template <bool BACKWARDS, real JOIN(real, real, real)>
__device__ __forceinline__ real enter(real &state, Shared added, Shared factor) {
    real own = state;
#if SPLIT
    const int before = BACKWARDS ? RUNS - 1 - (int)threadIdx.y : (int)threadIdx.y;
    for (int i = 0; i < before; i++) {
        const int run = BACKWARDS ? RUNS - 1 - i : i;
        own = JOIN(own, added[run][threadIdx.x], factor[run][threadIdx.x]);
    }
    state = JOIN(own, mine(added), mine(factor));
#else
    for (int i = 0; i < RUNS; i++) {
        const int run = BACKWARDS ? RUNS - 1 - i : i;
        if (run == (int)threadIdx.y) own = state;
        state = JOIN(state, added[run][threadIdx.x], factor[run][threadIdx.x]);
    }
#endif
    return own;
}
