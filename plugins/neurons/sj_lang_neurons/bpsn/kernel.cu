// The whole BPSN without K's quantiser. P, Q: the numerators of F and B before and after a step;
// Df, Db: their denominators, the same scans of ones. Valid steps come first.
//
//     P_{t+1} = lf P_t + x_t,   Df_{t+1} = lf Df_t + 1,   and so Q_{t-1}, Db_{t-1} with lb
//     M_t = (P_t + Q_t) / (Df_t + Db_t),   G = g0 + gf + gb
//     u_t = g0 x_t + gf P_t / Df_t + gb Q_t / Db_t - rho G M_t - V,   V the threshold
//
// A side without denominator is absent with its gain. NORMALISED 0: u = g0 x + gf P + gb Q - V.
//
// Three phases, as the future must be known first: what each chunk (a tile of tile.cuh) adds to P
// and Q; the carries, a scan over chunks; all chunks again, from their carries. One chunk needs the
// last alone. Backwards likewise, with wf, wb the factors of P, Q in u:
//
//     A_t = dL/dP_t = wf_t g_t + lf A_{t+1},   E_t = dL/dQ_t = wb_t g_t + lb E_{t-1}
//     gx_t = g0 g_t + A_{t+1} + E_{t-1}
//     d/dlf = sum A_{t+1} P_t + gDf_t dDf_t/dlf,   d/dlb = sum E_{t-1} Q_t + gDb_t dDb_t/dlb
//
// Macros beside those of tile.cuh and surrogates.cuh: PAST, FUTURE: the sides; LATERAL: with rho;
// NORMALISED; SOFTPLUS 0: u of a grid, with gains over the threshold and an offset in its place.
#include "../scan/tile.cuh"
#include "../scan/surrogates.cuh"

// What only `Rect` reads is a constant for the others, which costs no register.
#if FIRE == 1
#define LOWEST (real)lowest
#define SLOPE(u) slope(u, (real)alpha, LOWEST, (real)margin)
#else
#define LOWEST (real)0
#define SLOPE(u) slope(u, (real)alpha, LOWEST, (real)0)
#endif

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

struct Run {
    real x[STEPS], P[STEPS], Q[STEPS], Df[STEPS], Db[STEPS];
    Ones first, last;  // of the past at its first step, with d0; of the future at its last
    real past;         // P after the chunk
};

__device__ __forceinline__ void read(Run &run, const io *x, index_t stride, index_t start, index_t stop) {
    io raw[STEPS];
    fetch<STEPS>(raw, x, stride, start, stop);
#pragma unroll
    for (int i = 0; i < STEPS; i++) run.x[i] = load(raw[i]);
}

// What `count` steps of x add to a numerator, and their factor, to shared memory.
template <bool BACKWARDS>
__device__ __forceinline__ void share(const real *x, int count, real decay, Shared added, Shared factor) {
    real sum = 0, product = 1;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const int i = BACKWARDS ? STEPS - 1 - k : k;
        if (i < count) sum = fma(decay, sum, x[i]), product *= decay;
    }
    mine(added) = sum, mine(factor) = product;
}

// P, Q and denominators of a run, from those at the borders of its chunk.
__device__ __forceinline__ void replay(Run &run, const Parameters &p, real past, real future, real d0, index_t start, index_t length,
                                       Shared added_f, Shared factor_f, Shared added_b, Shared factor_b) {
    const int valid = within<STEPS>(start, length);
    if (RUNS > 1) {
        if (PAST) share<false>(run.x, valid, p.lf, added_f, factor_f);
        if (FUTURE) share<true>(run.x, valid, p.lb, added_b, factor_b);
        barrier();
    }
    real P = past, Q = future;
    if (RUNS > 1 && PAST) P = enter<false, decayed>(past, added_f, factor_f);
    if (RUNS > 1 && FUTURE) Q = enter<true, decayed>(future, added_b, factor_b);
    run.first = run.last = {0, 1, 0, 0};
    if (NORMALISED && PAST) {
        run.first = ones(p.lf, start);
        run.first.D = fma(run.first.power, d0, run.first.D), run.first.slope = fma(run.first.growth, d0, run.first.slope);
    }
    if (NORMALISED && FUTURE && valid) run.last = ones(p.lb, length - start - valid);
    real Df = run.first.D, Db = run.last.D;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        run.P[i] = P, run.Df[i] = Df;
        if (PAST && i < valid) P = fma(p.lf, P, run.x[i]), Df = fma(p.lf, Df, (real)1);
    }
#pragma unroll
    for (int i = STEPS - 1; i >= 0; i--) {
        run.Q[i] = Q, run.Db[i] = Db;
        if (FUTURE && i < valid) Q = fma(p.lb, Q, run.x[i]), Db = fma(p.lb, Db, (real)1);
    }
    run.past = RUNS > 1 ? past : P;
}

// The potential of a step, and what its gradient needs.
struct Potential {
    real u, mean_f, mean_b, weight_f, weight_b, gains, mean, share;  // share = rho G / (Df + Db)
};

__device__ __forceinline__ Potential potential(const Parameters &p, const Run &run, int i) {
    Potential o;
    const real x = run.x[i], P = run.P[i], Q = run.Q[i], Df = run.Df[i], Db = run.Db[i];
    if (!NORMALISED) {
        o.weight_f = p.gf, o.weight_b = p.gb, o.mean_f = P, o.mean_b = Q, o.gains = o.mean = o.share = 0;
        o.u = fma(p.g0, x, fma(p.gf, P, fma(p.gb, Q, -p.threshold)));
        return o;
    }
    const real rf = PAST && Df > 0 ? 1 / Df : (real)0, rb = FUTURE && Db > 0 ? 1 / Db : (real)0;
    o.weight_f = p.gf * rf, o.weight_b = p.gb * rb, o.mean_f = P * rf, o.mean_b = Q * rb;
    o.u = fma(p.g0, x, fma(o.weight_f, P, fma(o.weight_b, Q, -p.threshold)));
    o.gains = o.mean = o.share = 0;
    if (LATERAL) {
        const real both = PAST && FUTURE ? Df + Db : PAST ? Df : Db, r = both > 0 ? 1 / both : (real)0;
        o.gains = p.g0 + (rf > 0 ? p.gf : (real)0) + (rb > 0 ? p.gb : (real)0);
        o.mean = (P + Q) * r, o.share = p.rho * o.gains * r;
        o.u = fma(-o.share, P + Q, o.u);
        o.weight_f -= o.share, o.weight_b -= o.share;
    }
    return o;
}

// Where a block stands: chunk blockIdx.y of the sequence, and in it the run of this thread.
#define PLACE                                                                                                    \
    const Column at = column(batch, channels, places);                                                           \
    const index_t columns = batch * channels * places, length = valid_steps(at, lengths, steps);                 \
    const index_t chunk = blockIdx.y, start = chunk * TILE + threadIdx.y * STEPS;                                \
    const int valid = within<STEPS>(start, length), there = at.there ? within<STEPS>(start, steps) : 0;          \
    READ_PARAMETERS                                                                                              \
    x += OFFSET(at, x);

#define SIZES index_t steps, index_t batch, index_t channels, index_t places

// Phase 1, forward: what each chunk adds, added [2, chunks, B, C, S].
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_chunks(const io *x, STRIDES(x), PARAMETERS, const index_t *lengths, real *added, index_t chunks, SIZES) {
    __shared__ Shared added_f, factor_f, added_b, factor_b;
    PLACE
    Run run;
    read(run, x, x_t, start, length);
    share<false>(run.x, valid, p.lf, added_f, factor_f);
    share<true>(run.x, valid, p.lb, added_b, factor_b);
    barrier();
    real past = 0, future = 0;
    enter<false, decayed>(past, added_f, factor_f);
    enter<true, decayed>(future, added_b, factor_b);
    if (there == 0 || threadIdx.y) return;
    added[chunk * columns + at.n] = past, added[(chunks + chunk) * columns + at.n] = future;
}

// Phase 2: the state before each chunk, and after the last, of the side that goes with time from
// `begin` (null: 0) with decay `ahead`, and of the other, from `end` with decay `back`. Decays are
// logits [C] or null. One thread per column.
#define GROUP 8
template <bool BACKWARDS>
__device__ __forceinline__ void carry_over(const real *added, real *carried, real state, real decay, const Column &at,
                                           index_t columns, index_t length, index_t chunks) {
    const real full = ones(decay, TILE).power;
    for (index_t group = 0; group < chunks; group += GROUP) {
        real of[GROUP];  // loads side by side
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            const index_t k = BACKWARDS ? chunks - 1 - group - i : group + i;
            of[i] = group + i < chunks ? added[k * columns + at.n] : (real)0;
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            const index_t k = BACKWARDS ? chunks - 1 - group - i : group + i;
            if (group + i < chunks) {
                const int valid = within<TILE>(k * TILE, length);
                if (at.there) carried[k * columns + at.n] = state;
                state = fma(valid == TILE ? full : ones(decay, valid).power, state, of[i]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_carries(const real *added, real *carried, const real *begin, const real *end, const real *ahead, const real *back,
                 index_t back_first, const index_t *lengths, index_t chunks, SIZES) {
    const Column at = column(batch, channels, places);
    const index_t columns = batch * channels * places, length = valid_steps(at, lengths, steps);
    if (threadIdx.y) return;
    const index_t with = back_first ? chunks * columns : 0, against = back_first ? 0 : chunks * columns;
    if (ahead) carry_over<false>(added + with, carried + with, begin ? begin[at.n] : (real)0, decay_of(ahead[at.c]), at, columns, length, chunks);
    if (back) carry_over<true>(added + against, carried + against, end ? end[at.n] : (real)0, decay_of(back[at.c]), at, columns, length, chunks);
}

// The carries of a chunk: from phase 2, or those of the whole sequence where there is one chunk.
#define CARRIES                                                                                                              \
    const real past = !PAST ? (real)0 : carried ? carried[chunk * columns + at.n] : numerator ? numerator[at.n] : (real)0;   \
    const real future = FUTURE && carried ? carried[(chunks + chunk) * columns + at.n] : (real)0;                            \
    const real d0 = denominator ? denominator[at.b * channels + at.c] : (real)0;                                             \
    Run run;                                                                                                                 \
    read(run, x, x_t, start, length);                                                                                        \
    replay(run, p, past, future, d0, start, length, added_f, factor_f, added_b, factor_b);

// Phase 3, forward. numerator [B, C, S], denominator [B, C]: before the sequence, null: 0; after,
// ones_after: those after it, or null; without FUTURE only.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn(const io *x, STRIDES(x), PARAMETERS, const real *numerator, const real *denominator, const index_t *lengths,
         const real *carried, spike *out, STRIDES(out), real *after, real *ones_after, index_t chunks, SIZES,
         double alpha, double lowest) {
    __shared__ Shared added_f, factor_f, added_b, factor_b;
    PLACE
    CARRIES
    out += OFFSET(at, out) + start * out_t;
#pragma unroll
    for (int i = 0; i < STEPS; i++, out += out_t)
        if (i < there) *out = narrow(i < valid ? fire(potential(p, run, i).u, (real)alpha, LOWEST) : (real)0);
    if (FUTURE || !after || !at.there || threadIdx.y || chunk < chunks - 1) return;
    after[at.n] = run.past;
    if (!NORMALISED || at.s) return;
    const Ones all = ones(p.lf, length);
    ones_after[at.b * channels + at.c] = fma(all.power, d0, all.D);
}

// The gradients of the potentials of a run, times the weights of P and Q.
#define WEIGHTED                                                                          \
    real g[STEPS], to_P[STEPS], to_Q[STEPS];                                              \
    {                                                                                     \
        spike raw[STEPS];                                                                 \
        fetch<STEPS>(raw, grad + OFFSET(at, grad), grad_t, start, length);                \
        _Pragma("unroll") for (int i = 0; i < STEPS; i++) {                               \
            const Potential o = potential(p, run, i);                                     \
            g[i] = i < valid ? wide(raw[i]) * SLOPE(o.u) : (real)0;                       \
            to_P[i] = i < valid ? o.weight_f * g[i] : (real)0;                            \
            to_Q[i] = i < valid ? o.weight_b * g[i] : (real)0;                            \
        }                                                                                 \
    }                                                                                     \
    share<true>(to_P, valid, p.lf, added_A, factor_f);                                    \
    share<false>(to_Q, valid, p.lb, added_E, factor_b);                                   \
    barrier();

// Phase 1, backward: what each chunk adds to A and E, added [2, chunks, B, C, S].
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_backward_chunks(const spike *grad, STRIDES(grad), const io *x, STRIDES(x), PARAMETERS, const real *numerator,
                         const real *denominator, const index_t *lengths, const real *carried, real *added, index_t chunks,
                         SIZES, double alpha, double lowest, double margin) {
    __shared__ Shared added_f, factor_f, added_b, factor_b, added_A, added_E;
    PLACE
    CARRIES
    barrier();  // others may still read the factors, which are written again
    WEIGHTED
    real A = 0, E = 0;
    enter<true, decayed>(A, added_A, factor_f);
    enter<false, decayed>(E, added_E, factor_b);
    if (!at.there || threadIdx.y) return;
    added[chunk * columns + at.n] = A, added[(chunks + chunk) * columns + at.n] = E;
}

// Phase 3, backward. adjoints [2, chunks, B, C, S]: A after and E before each chunk, or null. sums
// [8, chunks, B, C, S]: what each chunk and column adds to the gradients of g0, threshold, lf, gf,
// lb, gb, rho and denominator. grad_after, grad_ones: of after and ones_after, or null.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_backward(const spike *grad, STRIDES(grad), const real *grad_after, const real *grad_ones, const io *x, STRIDES(x),
                  PARAMETERS, const real *numerator, const real *denominator, const index_t *lengths, const real *carried,
                  const real *adjoints, io *grad_x, STRIDES(grad_x), real *grad_numerator, real *sums, index_t chunks, SIZES,
                  double alpha, double lowest, double margin) {
    __shared__ Shared added_f, factor_f, added_b, factor_b, added_A, added_E;
    PLACE
    CARRIES
    barrier();  // others may still read the factors, which are written again
    WEIGHTED
    real A = adjoints ? adjoints[chunk * columns + at.n] : grad_after ? grad_after[at.n] : (real)0;
    real E = adjoints ? adjoints[(chunks + chunk) * columns + at.n] : (real)0;
    real own_A = enter<true, decayed>(A, added_A, factor_f);  // A: now that before the chunk
    real own_E = enter<false, decayed>(E, added_E, factor_b);

    real sum[8] = {0, 0, 0, 0, 0, 0, 0, 0}, gx[STEPS];
    Ones ones_b = run.last, ones_f = run.first;
#pragma unroll
    for (int i = STEPS - 1; i >= 0; i--) {
        gx[i] = p.g0 * g[i];
        if (i < valid) {
            const Potential o = potential(p, run, i);
            sum[0] += g[i] * (run.x[i] - p.rho * o.mean);
            sum[1] -= g[i];
            if (PAST) sum[3] += g[i] * (o.mean_f - (run.Df[i] > 0 ? p.rho * o.mean : (real)0));
            if (FUTURE) sum[5] += g[i] * (o.mean_b - (run.Db[i] > 0 ? p.rho * o.mean : (real)0));
            sum[6] -= g[i] * o.gains * o.mean;
            if (PAST) gx[i] += own_A, sum[2] += own_A * run.P[i], own_A = fma(p.lf, own_A, to_P[i]);
            if (NORMALISED && FUTURE) {
                const real gD = g[i] * (o.share * o.mean - (run.Db[i] > 0 ? p.gb * o.mean_b / run.Db[i] : (real)0));
                sum[4] += gD * ones_b.slope;
                step_on(ones_b, p.lb);
            }
        }
    }
    grad_x += OFFSET(at, grad_x) + start * grad_x_t;
#pragma unroll
    for (int i = 0; i < STEPS; i++, grad_x += grad_x_t) {
        if (i < valid) {
            if (FUTURE) gx[i] += own_E, sum[4] += own_E * run.Q[i], own_E = fma(p.lb, own_E, to_Q[i]);
            if (NORMALISED && PAST) {
                const Potential o = potential(p, run, i);
                const real gD = g[i] * (o.share * o.mean - (run.Df[i] > 0 ? p.gf * o.mean_f / run.Df[i] : (real)0));
                sum[2] += gD * ones_f.slope, sum[7] += gD * ones_f.power;
                step_on(ones_f, p.lf);
            }
        }
        if (i < there) *grad_x = store(gx[i]);
    }
    if (PAST && !FUTURE && NORMALISED && grad_ones && at.s == 0 && chunk == 0 && threadIdx.y == 0) {
        const Ones all = ones(p.lf, length);
        const real gD = grad_ones[at.b * channels + at.c];
        sum[2] += gD * fma(all.growth, d0, all.slope), sum[7] += gD * all.power;
    }
    if (SOFTPLUS) sum[1] *= -expm1(-p.threshold);
    sum[2] *= decay_slope(p.lf), sum[4] *= decay_slope(p.lb), sum[6] *= p.rho * (1 - p.rho);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const real total = over_runs(sum[j], added_f);
        if (at.there && threadIdx.y == 0) sums[(j * chunks + chunk) * columns + at.n] = total;
    }
    if (grad_numerator && at.there && threadIdx.y == 0 && chunk == 0) grad_numerator[at.n] = A;
}
