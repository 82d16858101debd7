// Stands in for CUDA's names, so that a .cu text, unchanged, compiles as C++ and runs on the CPU.
//
// Blocks run one after another. The threads of a block are fibres: each runs until its next
// __syncthreads, in the order of ORDER (0 first to last, 1 last to first, 2 shuffled), so a missing
// barrier shows. A block begins with NaN in shared memory. A barrier that some skip is an error.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static __attribute__((section("cuda_shared")))

struct uint3 {
    unsigned x, y, z;
};
static uint3 gridDim, blockDim, blockIdx, threadIdx;

static inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }

// FLUSH: as -ftz=true on a GPU, subnormal float is 0, unless IO says that the kernel is in double.
// ROUGH: __expf and __fdividef err as there. Other than x86 has no FLUSH here.
#if FLUSH && defined(__SSE__) && !(defined(IO) && IO == 1)
#include <xmmintrin.h>
static inline unsigned flush() { const unsigned before = _mm_getcsr(); _mm_setcsr(before | 0x8040); return before; }
static inline void keep(unsigned before) { _mm_setcsr(before); }
#else
static inline unsigned flush() { return 0; }
static inline void keep(unsigned) {}
#endif
#if ROUGH
// Two units in the last place of 2^(x log2 e), and of a / b, which is 0 from 2^126 on.
static inline float off(float value, unsigned bits) { return value * (1 + 1.2e-7f * ((bits & 3) - 1.5f) / 1.5f); }
static inline float rough_exp(float x) {
    const float y = x * 1.4426950408889634f;
    return off((float)exp2((double)y), __float_as_uint(y) >> 8);
}
static inline float rough_divide(float a, float b) {
    return fabsf(b) > 8.507059e37f && fabsf(b) < INFINITY ? a * 0.0f : off(a / b, __float_as_uint(b));
}
#define __expf rough_exp
#define __fdividef rough_divide
#else
#define __expf expf
#define __fdividef(a, b) ((a) / (b))
#endif

extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));

namespace cuda_on_cpu {

constexpr size_t STACK = 128 * 1024;

struct Fibre {
    ucontext_t context;
    uint3 index;
    bool done;
};

static ucontext_t scheduler;
static Fibre *current;
static void (*body)(void **);
static void **arguments;

static void enter() {
    body(arguments);
    current->done = true;
    swapcontext(&current->context, &scheduler);
}

static inline void barrier() { swapcontext(&current->context, &scheduler); }

// 0, or 1: some threads of a block returned while others waited at a barrier.
static int run_blocks(void (*kernel)(void **), const unsigned *shape, int order, void **values) {
    static Fibre *fibres = nullptr;
    static char *stacks = nullptr;
    static unsigned room = 0;
    gridDim = {shape[0], shape[1], 1};
    blockDim = {shape[2], shape[3], 1};
    const unsigned threads = shape[2] * shape[3];
    if (room < threads) {
        fibres = static_cast<Fibre *>(realloc(static_cast<void *>(fibres), threads * sizeof(Fibre)));
        stacks = static_cast<char *>(realloc(stacks, threads * STACK));
        room = threads;
    }
    body = kernel;
    arguments = values;
    unsigned random = 1;
    for (unsigned y = 0; y < gridDim.y; y++)
        for (unsigned x = 0; x < gridDim.x; x++) {
            blockIdx = {x, y, 0};
            if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, size_t(__stop_cuda_shared - __start_cuda_shared));
            for (unsigned i = 0; i < threads; i++) {
                Fibre &fibre = fibres[i];
                getcontext(&fibre.context);
                fibre.context.uc_stack.ss_sp = stacks + i * STACK;
                fibre.context.uc_stack.ss_size = STACK;
                fibre.context.uc_link = nullptr;
                fibre.index = {i % blockDim.x, i / blockDim.x, 0};
                fibre.done = false;
                makecontext(&fibre.context, enter, 0);
            }
            for (unsigned finished = 0; finished < threads;) {
                random = random * 1664525u + 1013904223u;
                const unsigned start = order == 2 ? (random >> 8) % threads : 0;
                for (unsigned k = 0; k < threads; k++) {
                    const unsigned i = order == 1 ? threads - 1 - k : (start + k) % threads;
                    current = &fibres[i];
                    threadIdx = current->index;
                    swapcontext(&scheduler, &current->context);
                    finished += current->done;
                }
                if (finished != 0 && finished != threads) return 1;
            }
        }
    return 0;
}

static int run(void (*kernel)(void **), const unsigned *shape, int order, void **values) {
    const unsigned before = flush();
    const int failed = run_blocks(kernel, shape, order, values);
    keep(before);
    return failed;
}

template <unsigned... I>
struct Indices {};
template <unsigned N, unsigned... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I>
struct Count<0, I...> {
    typedef Indices<I...> type;
};

template <class... A, unsigned... I>
static void call(void (*kernel)(A...), void **values, Indices<I...>) {
    kernel(*reinterpret_cast<A *>(values[I])...);
}
template <class... A>
static constexpr unsigned count(void (*)(A...)) { return sizeof...(A); }

template <class T> struct Kind { static constexpr char code = 'p'; };
template <> struct Kind<long long> { static constexpr char code = 'i'; };
template <> struct Kind<double> { static constexpr char code = 'd'; };

// One letter per parameter: p pointer, i long long, d double.
template <class... A>
static const char *kinds(void (*)(A...)) {
    static const char codes[] = {Kind<A>::code..., 0};
    return codes;
}

}  // namespace cuda_on_cpu

#define __syncthreads() cuda_on_cpu::barrier()
// What Python finds of a kernel: its parameters, and a way to run it.
#define CUDA_ON_CPU(kernel)                                                                                  \
    extern "C" const char *parameters_of_##kernel() { return cuda_on_cpu::kinds(kernel); }                   \
    extern "C" int run_##kernel(const unsigned *shape, int order, void **values) {                          \
        return cuda_on_cpu::run(                                                                             \
            [](void **v) {                                                                                   \
                cuda_on_cpu::call(kernel, v, cuda_on_cpu::Count<cuda_on_cpu::count(kernel)>::type());        \
            },                                                                                               \
            shape, order, values);                                                                           \
    }
