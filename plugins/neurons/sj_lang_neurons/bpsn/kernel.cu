// The whole BPSN without K's quantiser. P, Q: the numerators of F and B before and after a step;
// Df, Db: their denominators, the same scans of ones. Valid steps come first.
//
//     P_{t+1} = lf P_t + x_t,   Df_{t+1} = lf Df_t + 1,   and so Q_{t-1}, Db_{t-1} with lb
//     M_t = (P_t + Q_t) / (Df_t + Db_t),   G = g0 + gf + gb
//     u_t = g0 x_t + gf P_t / Df_t + gb Q_t / Db_t - rho G M_t - V,   V the threshold
//
// A side without denominator is absent with its gain. NORMALISED 0: u = g0 x + gf P + gb Q - V.
//
// Denominators depend on step, channel and length alone, so u = g0 x + wf P + wb Q - V with weights
// that a thread computes once for all sequences of one length that its block reads in turn. Their
// gradients are sum g P and sum g Q over sequences. Those of what they are made of follow once from
// these. With denominators before the sequence each sequence has weights of its own.
//
// Three phases, as the future must be known first: what each chunk (a tile of tile.cuh) adds to P
// and Q; the carries, a scan over chunks; all chunks again, from their carries. One chunk needs the
// last alone. Backwards likewise:
//
//     A_t = dL/dP_t = wf_t g_t + lf A_{t+1},   E_t = dL/dQ_t = wb_t g_t + lb E_{t-1}
//     gx_t = g0 g_t + A_{t+1} + E_{t-1}
//     d/dlf = sum A_{t+1} P_t + gDf_t dDf_t/dlf,   d/dlb = sum E_{t-1} Q_t + gDb_t dDb_t/dlb
//
// Beyond the valid steps x and g are 0, so Q and A are, but for an A that comes from a state. P and
// E are anything there, and are not read.
//
// Macros beside those of tile.cuh and surrogates.cuh: PAST, FUTURE: the sides; LATERAL: with rho;
// NORMALISED; SOFTPLUS 0: u of a grid, with gains over the threshold and an offset in its place.
#include "../scan/tile.cuh"
#include "../scan/surrogates.cuh"
#include "weights.cuh"
#include "enter.cuh"

// What only `Rect` reads is a constant for the others, which costs no register.
#if FIRE == 1
#define LOWEST (real)lowest
#define SLOPE(u) slope(u, (real)alpha, LOWEST, (real)margin)
#else
#define LOWEST (real)0
#define SLOPE(u) slope(u, (real)alpha, LOWEST, (real)0)
#endif

// What a run of x adds to a numerator.
template <bool BACKWARDS>
__device__ __forceinline__ real total(const real *x, real decay) {
    real sum = 0;
#pragma unroll
    for (int k = 0; k < STEPS; k++) sum = fma(decay, sum, x[BACKWARDS ? STEPS - 1 - k : k]);
    return sum;
}

struct Run {
    real x[STEPS], P[STEPS], Q[STEPS];
};

// P and Q at the steps of a run from those at the borders of its chunk; P after it.
__device__ __forceinline__ real replay(Run &run, const Parameters &p, real past, real future, int valid, Shared added_f,
                                       Shared added_b) {
    if (RUNS > 1) {
        if (PAST) mine(added_f) = total<false>(run.x, p.lf);
        if (FUTURE) mine(added_b) = total<true>(run.x, p.lb);
        barrier();
        enter_both<false>(past, future, added_f, added_b, p);
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        run.P[i] = past;
        if (PAST && (FUTURE || i < valid)) past = fma(p.lf, past, run.x[i]);
    }
#pragma unroll
    for (int i = STEPS - 1; i >= 0; i--) {
        run.Q[i] = future;
        if (FUTURE) future = fma(p.lb, future, run.x[i]);
    }
    return past;
}

__device__ __forceinline__ real potential(const Run &run, const Weights &w, const Parameters &p, int i) {
    return fma(p.g0, run.x[i], fma(w.f[i], run.P[i], fma(w.b[i], run.Q[i], -p.threshold)));
}

__device__ __forceinline__ index_t length_of(const index_t *lengths, index_t b, index_t steps) {
    return lengths == nullptr || lengths[b] > steps ? steps : lengths[b];
}

// The sum of a value over the runs of a column, for run 0.
__device__ __forceinline__ real over_runs(real value, Shared memory) {
    barrier();
    mine(memory) = value;
    barrier();
    real sum = 0;
    for (int run = 0; run < RUNS; run++) sum += memory[run][threadIdx.x];
    return sum;
}

// Phase 1, forward: what each chunk adds, added [2, chunks, B, C, S].
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_chunks(const io *x, PARAMETERS, const index_t *lengths, real *added, STRIDES(x), index_t chunks, SIZES) {
    __shared__ Shared added_f, factor_f, added_b, factor_b;
    const Column at = column(blockIdx.x, batch, channels, places);
    const index_t columns = batch * channels * places, chunk = blockIdx.y, start = chunk * TILE + threadIdx.y * STEPS;
    const index_t length = valid_steps(at, lengths, steps);
    const int valid = within<STEPS>(start, length);
    READ_PARAMETERS
    io raw[STEPS];
    real values[STEPS];
    fetch<STEPS>(raw, x + OFFSET(at, x), x_t, start, length);
#pragma unroll
    for (int i = 0; i < STEPS; i++) values[i] = load(raw[i]);
    real sum = 0;  // without the decay of steps that are not valid, as it goes on into other chunks
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        if (i < valid) sum = fma(p.lf, sum, values[i]);
    mine(added_f) = sum, mine(factor_f) = over_run(p.lf, valid);
    mine(added_b) = total<true>(values, p.lb), mine(factor_b) = over_run(p.lb, valid);
    barrier();
    real past = 0, future = 0;
    enter<false, decayed>(past, added_f, factor_f);
    enter<true, decayed>(future, added_b, factor_b);
    if (!at.there || threadIdx.y) return;
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
                 const index_t *lengths, index_t back_first, index_t chunks, SIZES) {
    const Column at = column(blockIdx.x, batch, channels, places);
    const index_t columns = batch * channels * places, length = valid_steps(at, lengths, steps);
    if (threadIdx.y) return;
    const index_t with = back_first ? chunks * columns : 0, against = back_first ? 0 : chunks * columns;
    if (ahead) carry_over<false>(added + with, carried + with, begin ? begin[at.n] : (real)0, decay_of(ahead[at.c]), at, columns, length, chunks);
    if (back) carry_over<true>(added + against, carried + against, end ? end[at.n] : (real)0, decay_of(back[at.c]), at, columns, length, chunks);
}

// Phase 3 and its adjoint: a block stands at a chunk, blockIdx.y, of COLUMNS columns of one step,
// [C, S], and passes over `sequences` sequences, each a stretch of one length after another.
#define PLACE                                                                                          \
    const index_t across = channels * places, columns = batch * across, chunk = blockIdx.y;            \
    const unsigned blocks = (unsigned)((across + COLUMNS - 1) / COLUMNS);                              \
    const index_t place = (index_t)(blockIdx.x % blocks) * COLUMNS + threadIdx.x;                      \
    const index_t first = blockIdx.x / blocks * sequences, start = chunk * TILE + threadIdx.y * STEPS; \
    const index_t last = first + sequences < batch ? first + sequences : batch;                        \
    Column at;                                                                                         \
    at.there = place < across, at.n = at.there ? place : across - 1;                                   \
    at.b = first, at.c = at.n / places, at.s = at.n % places;                                          \
    const int there = at.there ? within<STEPS>(start, steps) : 0;                                      \
    READ_PARAMETERS

// What is the same in a stretch that begins at sequence b.
#define STRETCH                                                                        \
    const index_t length = length_of(lengths, b, steps);                               \
    const int valid = within<STEPS>(start, length);                                    \
    const real d0 = denominator ? denominator[b * channels + at.c] : (real)0;          \
    const Weights w = weights(p, d0, start, length);

// Whether the next sequence is of this stretch.
#define MORE (b + 1 < last && !denominator && length_of(lengths, b + 1, steps) == length)

// P and Q of sequence b, whose x is loaded, from the carries of phase 2, or those of the whole
// sequence where there is one chunk.
#define REPLAY                                                                                                               \
    const index_t n = b * across + at.n;                                                                                     \
    const real past = !PAST ? (real)0 : carried ? carried[chunk * columns + n] : numerator ? numerator[n] : (real)0;         \
    const real future = FUTURE && carried ? carried[(chunks + chunk) * columns + n] : (real)0;                               \
    Run run;                                                                                                                 \
    _Pragma("unroll") for (int i = 0; i < STEPS; i++) run.x[i] = load(next[i]);                                              \
    if (more) fetch<STEPS>(next, x + (b + 1) * x_b, x_t, start, length);                                                     \
    const real past_after = replay(run, p, past, future, valid, added_f, added_b);

// numerator [B, C, S], denominator [B, C]: before the sequence, null: 0; after, ones_after: those
// after it, or null; without FUTURE only.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn(const io *x, PARAMETERS, const real *numerator, const real *denominator, const index_t *lengths, const real *carried,
         spike *out, real *after, real *ones_after, STRIDES(x), STRIDES(out), index_t chunks, index_t sequences, SIZES,
         double alpha, double lowest) {
    __shared__ Shared added_f, added_b;
    PLACE
    x += at.c * x_c + at.s * x_s, out += at.c * out_c + at.s * out_s + start * out_t;
    for (index_t b = first; b < last;) {
        STRETCH
        io next[STEPS];
        fetch<STEPS>(next, x + b * x_b, x_t, start, length);
        for (bool more = true; more; b++) {
            more = MORE;
            REPLAY
            spike *to = out + b * out_b;
#pragma unroll
            for (int i = 0; i < STEPS; i++, to += out_t)
                if (i < there) *to = narrow(i < valid ? fire(potential(run, w, p, i), (real)alpha, LOWEST) : (real)0);
            if (!ONE_CARRIES) barrier();
            // the run that ends the sequence, or the first of an empty one
            if (FUTURE || !after || !at.there || (length ? start >= length || start + STEPS < length : start > 0)) continue;
            after[n] = past_after;
            if (!NORMALISED || at.s) continue;
            const Ones all = ones(p.lf, length);
            ones_after[b * channels + at.c] = fma(all.power, d0, all.D);
        }
    }
}

// The gradients of the potentials of a run. Loading them ahead would cost registers.
#define POTENTIALS                                                                                        \
    real g[STEPS];                                                                                        \
    _Pragma("unroll") for (int i = 0; i < STEPS; i++)                                                     \
        g[i] = i < valid ? wide(raw_grad[i]) * SLOPE(potential(run, w, p, i)) : (real)0;

// What they add to A and E, to shared memory.
#define SHARE                                                                            \
    {                                                                                    \
        real A = 0, E = 0;                                                               \
        _Pragma("unroll") for (int i = 0; i < STEPS; i++) E = fma(p.lb, E, w.b[i] * g[i]);          \
        _Pragma("unroll") for (int i = STEPS - 1; i >= 0; i--) A = fma(p.lf, A, w.f[i] * g[i]);     \
        if (PAST) mine(added_A) = A;                                                     \
        if (FUTURE) mine(added_E) = E;                                                   \
    }                                                                                    \
    barrier();

// Phase 1, backward: what each chunk adds to A and E, added [2, chunks, B, C, S].
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_backward_chunks(const spike *grad, const io *x, PARAMETERS, const real *numerator, const real *denominator,
                         const index_t *lengths, const real *carried, real *added, STRIDES(grad), STRIDES(x), index_t chunks,
                         index_t sequences, SIZES, double alpha, double lowest, double margin) {
    __shared__ Shared added_f, added_b, added_A, added_E;
    PLACE
    x += at.c * x_c + at.s * x_s, grad += at.c * grad_c + at.s * grad_s;
    for (index_t b = first; b < last;) {
        STRETCH
        io next[STEPS];
        fetch<STEPS>(next, x + b * x_b, x_t, start, length);
        for (bool more = true; more; b++) {
            more = MORE;
            spike raw_grad[STEPS];
            fetch<STEPS>(raw_grad, grad + b * grad_b, grad_t, start, length);
            REPLAY
            POTENTIALS
            SHARE
            real A = 0, E = 0;
            if (!at.there || threadIdx.y) continue;
            if (PAST) enter_whole<true>(A, added_A, over_run(p.lf, STEPS));
            if (FUTURE) enter_whole<false>(E, added_E, over_run(p.lb, STEPS));
            added[chunk * columns + n] = A, added[(chunks + chunk) * columns + n] = E;
        }
    }
}

// Phase 3, backward. adjoints [2, chunks, B, C, S]: A after and E before each chunk, or null. sums
// [7, chunks, groups, C, S]: what each chunk and column adds to the gradients of g0, threshold, lf,
// gf, lb, gb and rho. grad_after, grad_ones: of after and ones_after, or null. grad_denominator
// [chunks, B, C, S]: null if denominator is.
extern "C" __global__ void __launch_bounds__(COLUMNS *RUNS)
    bpsn_backward(const spike *grad, const real *grad_after, const real *grad_ones, const io *x, PARAMETERS,
                  const real *numerator, const real *denominator, const index_t *lengths, const real *carried,
                  const real *adjoints, io *grad_x, real *grad_numerator, real *grad_denominator, real *sums, STRIDES(grad),
                  STRIDES(x), STRIDES(grad_x), index_t chunks, index_t sequences, SIZES, double alpha, double lowest,
                  double margin) {
    __shared__ Shared added_f, added_b, added_A, added_E, factor;
    PLACE
    x += at.c * x_c + at.s * x_s, grad += at.c * grad_c + at.s * grad_s;
    grad_x += at.c * grad_x_c + at.s * grad_x_s + start * grad_x_t;
    real sum[7] = {0, 0, 0, 0, 0, 0, 0};
    for (index_t b = first; b < last;) {
        STRETCH
        if (!FUTURE && RUNS > 1) {  // A comes from a state, through steps that are not valid too
            if (b > first) barrier();
            mine(factor) = over_run(p.lf, valid);
        }
        io next[STEPS];
        fetch<STEPS>(next, x + b * x_b, x_t, start, length);
        real of_f[STEPS], of_b[STEPS], of_d0 = 0;  // gradients of the weights and of d0
#pragma unroll
        for (int i = 0; i < STEPS; i++) of_f[i] = of_b[i] = 0;
        for (bool more = true; more; b++) {
            more = MORE;
            REPLAY
            spike raw_grad[STEPS];
            fetch<STEPS>(raw_grad, grad + b * grad_b, grad_t, start, length);
            POTENTIALS
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
                sum[0] = fma(g[i], run.x[i], sum[0]), sum[1] -= g[i];
                if (PAST) of_f[i] = fma(g[i], run.P[i], of_f[i]);
                if (FUTURE) of_b[i] = fma(g[i], run.Q[i], of_b[i]);
            }
            SHARE
            real A = adjoints ? adjoints[chunk * columns + n] : grad_after ? grad_after[n] : (real)0;
            real E = adjoints ? adjoints[(chunks + chunk) * columns + n] : (real)0, gx[STEPS];
            real own_A = A, own_E = E;
            if (RUNS > 1 && FUTURE) enter_both<true>(own_A, own_E, added_A, added_E, p);
            if (RUNS > 1 && !FUTURE) own_A = enter<true, decayed>(A, added_A, factor);
#pragma unroll
            for (int i = STEPS - 1; i >= 0; i--) {
                gx[i] = p.g0 * g[i];
                if (PAST && (FUTURE || i < valid))
                    gx[i] += own_A, sum[2] = fma(own_A, run.P[i], sum[2]), own_A = fma(p.lf, own_A, w.f[i] * g[i]);
            }
            io *to = grad_x + b * grad_x_b;
#pragma unroll
            for (int i = 0; i < STEPS; i++, to += grad_x_t) {
                if (FUTURE) gx[i] += own_E, sum[4] = fma(own_E, run.Q[i], sum[4]), own_E = fma(p.lb, own_E, w.b[i] * g[i]);
                if (i < there) *to = store(i < valid ? gx[i] : (real)0);
            }
            if (RUNS == 1) A = own_A;
            if (chunk || threadIdx.y) continue;
            if (grad_numerator && at.there) grad_numerator[n] = A;
            if (PAST && !FUTURE && NORMALISED && grad_ones && at.s == 0) {
                const Ones all = ones(p.lf, length);
                const real gD = grad_ones[b * channels + at.c];
                sum[2] = fma(gD, fma(all.growth, d0, all.slope), sum[2]), of_d0 = gD * all.power;
            }
        }

        // Computed again: kept, they would cost registers of the loop.
        const Denominators d = denominators(p, d0, start, length);
        Ones past = d.past, future = d.future;
        real of_Db[STEPS], Df = past.D;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const Over o = over(p, Df, d.Db[i]);
            // of G rho / (Df + Db): -both
            const real both = (of_f[i] + of_b[i]) * o.both, shared = p.rho * both;
            of_Db[i] = 0;
            if (!NORMALISED) {
                sum[3] += of_f[i], sum[5] += of_b[i];
            } else if (i < valid) {
                sum[0] -= shared, sum[6] -= both * o.gains;
                if (PAST) sum[3] += of_f[i] * o.f - (Df > 0 ? shared : (real)0);
                if (FUTURE) sum[5] += of_b[i] * o.b - (d.Db[i] > 0 ? shared : (real)0);
                const real of_both = shared * o.gains * o.both, of_Df = of_both - of_f[i] * p.gf * o.f * o.f;
                of_Db[i] = of_both - of_b[i] * p.gb * o.b * o.b;
                if (PAST) sum[2] = fma(of_Df, past.slope, sum[2]), of_d0 = fma(of_Df, past.power, of_d0);
                step_on(past, p.lf), Df = past.D;
            }
        }
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--) {
            if (!NORMALISED || !FUTURE || i >= valid) continue;
            sum[4] = fma(of_Db[i], future.slope, sum[4]);
            step_on(future, p.lb);
        }
        if (grad_denominator) {  // then a stretch is one sequence
            const real of_sequence = over_runs(of_d0, added_f);
            if (at.there && threadIdx.y == 0) grad_denominator[(chunk * batch + b - 1) * across + at.n] = of_sequence;
        }
    }
    if (SOFTPLUS) sum[1] *= -expm1(-p.threshold);
    sum[2] *= decay_slope(p.lf), sum[4] *= decay_slope(p.lb), sum[6] *= p.rho * (1 - p.rho);
    const index_t groups = (batch + sequences - 1) / sequences, group = first / sequences;
#pragma unroll
    for (int j = 0; j < 7; j++) {
        const real over_all = over_runs(sum[j], added_f);
        if (at.there && threadIdx.y == 0) sums[((j * chunks + chunk) * groups + group) * across + at.n] = over_all;
    }
}
