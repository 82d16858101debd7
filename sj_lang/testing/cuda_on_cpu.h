// Stands in for CUDA's names, so that a .cu text, unchanged, compiles as C++ and runs on the CPU.
//
// The threads of a block are fibres: each runs until its next __syncthreads, in the order of ORDER
// (0 first to last, 1 last to first, 2 shuffled), so a missing barrier shows. A block begins with
// NaN in shared memory. A barrier that some skip is an error. Blocks start first to last with ORDER
// 0, else last to first, one after another, or with ORDER 2 some at a time, which advance from
// barrier to barrier in turn. A thread that waits for another block calls __nanosleep; if all that
// have started wait, that is an error.
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
static inline long long __double_as_longlong(double value) { long long bits; memcpy(&bits, &value, 8); return bits; }
static inline double __longlong_as_double(long long bits) { double value; memcpy(&value, &bits, 8); return value; }
static inline unsigned atomicInc(unsigned *at, unsigned last) {
    const unsigned before = *at;
    *at = before >= last ? 0 : before + 1;
    return before;
}

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

constexpr unsigned AT_ONCE = 3;  // blocks, with ORDER 2

enum State { READY, AT_BARRIER, DONE };

struct Fibre {
    ucontext_t context;
    uint3 index;
    State state;
};

struct Block {
    uint3 index;
    Fibre *fibres;
    char *shared;
    bool running;
};

static ucontext_t scheduler;
static Fibre *current;
static bool waits;  // the current fibre, for another block
static void (*body)(void **);
static void **arguments;

static void enter() {
    body(arguments);
    current->state = DONE;
    swapcontext(&current->context, &scheduler);
}

static inline void barrier() {
    current->state = AT_BARRIER;
    swapcontext(&current->context, &scheduler);
}

static inline void wait() {
    waits = true;
    swapcontext(&current->context, &scheduler);
}

static void start(Block &block, uint3 index, unsigned threads, char *stacks) {
    block.index = index;
    block.running = true;
    memset(block.shared, 0xff, size_t(__stop_cuda_shared - __start_cuda_shared));
    for (unsigned i = 0; i < threads; i++) {
        Fibre &fibre = block.fibres[i];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks + i * STACK;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = nullptr;
        fibre.index = {i % blockDim.x, i / blockDim.x, 0};
        fibre.state = READY;
        makecontext(&fibre.context, enter, 0);
    }
}

// Each thread until its barrier, or until it waits; whether any of them came further.
static bool advance(Block &block, unsigned threads, int order, unsigned random) {
    const size_t size = size_t(__stop_cuda_shared - __start_cuda_shared);
    bool further = false;
    memcpy(__start_cuda_shared, block.shared, size);
    blockIdx = block.index;
    const unsigned first = order == 2 ? (random >> 8) % threads : 0;
    for (unsigned k = 0; k < threads; k++) {
        const unsigned i = order == 1 ? threads - 1 - k : (first + k) % threads;
        current = &block.fibres[i];
        if (current->state != READY) continue;
        threadIdx = current->index;
        waits = false;
        swapcontext(&scheduler, &current->context);
        further |= !waits;
    }
    memcpy(block.shared, __start_cuda_shared, size);
    return further;
}

// 0; 1: some threads of a block returned while others waited at a barrier; 2: all blocks that have
// started wait for others.
static int run_blocks(void (*kernel)(void **), const unsigned *shape, int order, void **values) {
    static Block blocks[AT_ONCE];
    static char *stacks = nullptr;
    static unsigned room = 0;
    gridDim = {shape[0], shape[1], 1};
    blockDim = {shape[2], shape[3], 1};
    const unsigned threads = shape[2] * shape[3], all = gridDim.x * gridDim.y, at_once = order == 2 ? AT_ONCE : 1;
    if (room < threads) {
        stacks = static_cast<char *>(realloc(stacks, AT_ONCE * threads * STACK));
        for (Block &block : blocks) {
            block.fibres = static_cast<Fibre *>(realloc(static_cast<void *>(block.fibres), threads * sizeof(Fibre)));
            block.shared = static_cast<char *>(realloc(block.shared, size_t(__stop_cuda_shared - __start_cuda_shared)));
        }
        room = threads;
    }
    body = kernel;
    arguments = values;
    for (Block &block : blocks) block.running = false;
    unsigned random = 1, finished = 0, started = 0;
    while (finished < all) {
        bool further = false;
        for (unsigned slot = 0; slot < at_once; slot++) {
            Block &block = blocks[slot];
            if (!block.running) {
                if (started == all) continue;
                const unsigned number = order == 0 ? started : all - 1 - started;
                start(block, {number % gridDim.x, number / gridDim.x, 0}, threads, stacks + slot * threads * STACK);
                started++;
            }
            random = random * 1664525u + 1013904223u;
            further |= advance(block, threads, order, random);
            unsigned done = 0, at_barrier = 0;
            for (unsigned i = 0; i < threads; i++) {
                done += block.fibres[i].state == DONE;
                at_barrier += block.fibres[i].state == AT_BARRIER;
            }
            if (done && at_barrier) return 1;
            if (at_barrier == threads)
                for (unsigned i = 0; i < threads; i++) block.fibres[i].state = READY;
            if (done == threads) block.running = false, finished++;
        }
        if (!further) return 2;
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
#define __nanosleep(nanoseconds) cuda_on_cpu::wait()
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
