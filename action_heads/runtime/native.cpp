// One evaluation of `mlp` or `mixer` on a CPU in a single call. A chunk has few rows, so for a library's matrix products
// the packing, dispatch and waking of threads would take longer than the arithmetic.
//
// Axes: m rows (batch x horizon), h horizon, a action, w width, k inputs and n outputs of a product.
// A matrix (n, k) is packed in panels of 2 V outputs: (n / 2V, k, 2V). In bfloat16, pairs of inputs are adjacent:
// (n / 2V, k / 2, 2V, 2), as AVX-512, AMX and NEON read them. native.py builds this file for the processor that it is on.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <unistd.h>
#include <vector>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

// V is the number of floats in a register, R the number of rows of a tile, whose 2 R sums stay in registers.
#if defined(__AVX512F__)
#include <immintrin.h>
#define INSTRUCTIONS "AVX-512"
constexpr int V = 16, R = 8;
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define INSTRUCTIONS "AVX2"
constexpr int V = 8, R = 6;
#elif defined(__aarch64__)
#include <arm_neon.h>
#define INSTRUCTIONS "NEON"
constexpr int V = 4, R = 8;
#else
#define INSTRUCTIONS "registers of 128 bits"
constexpr int V = 4, R = 8;
#endif
#if defined(__AVX512BF16__) || defined(__aarch64__)
#define BF16
#endif
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define AMX
#endif
constexpr bool AHEAD = V == 8;  // measured with AVX2 alone: for few rows, weights come later than they are used
constexpr long TILED = 32;  // rows of two tiles of AMX, one below the other

typedef float vec __attribute__((vector_size(4 * V), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * V), aligned(4)));
struct bf16 { uint16_t bits; };

struct Shape {  // The fields are those of `Shape` in native.py.
    int64_t depth, width, hidden, horizon, action;
    int64_t values;  // number of modulation values of a site; below, the offset of each kind in them, or -1
    int64_t enter_scale, enter_shift, hidden_scale, hidden_shift, gate;
    int64_t rms;  // 1 if norms are root-mean-square
    float eps;
};

struct Ends {  // embed (h, a, w) and its bias (h, w), the last norm, out (a, w) and its bias
    const float *embed, *embed_bias, *norm, *norm_bias, *out, *out_bias;
};

template <class T> struct Block {
    const T *up, *down;
    const float *up_bias, *down_bias, *norm, *norm_bias, *mix, *mix_bias;  // mix is null in `mlp`
};

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }

static inline vec all(float x) { return x - vec{}; }  // unlike x + 0, it is x for -0 too, so nothing is computed

// a * b + c, rounded once where the processor can. native.py forbids the compiler to choose between one rounding and two:
// it would choose anew at each place where it inlines a function, and a chunk's bits would depend on its neighbours.
static inline vec fma(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
static inline vec fma(vec a, float b, vec c) { return fma(a, all(b), c); }
static inline vec fma(vec a, float b, float c) { return fma(a, all(b), all(c)); }
static inline vec fma(vec a, vec b, float c) { return fma(a, b, all(c)); }

#ifdef BF16
#if defined(__AVX512BF16__)
static inline auto rounded(vec x) { return _mm512_cvtneps_pbh((__m512)x); }
static inline vec add_products(vec sum, ivec a, ivec b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
static inline auto rounded(vec x) { return vcvt_bf16_f32((float32x4_t)x); }
static inline vec add_products(vec sum, ivec a, ivec b) {
    return (vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)b);
}
#else  // ARM before 8.6. A bfloat16 is the upper half of a float.
static inline auto rounded(vec x) {
    uint32x4_t bits = (uint32x4_t)(x == x ? x : all(NAN));  // Rounding could overflow other NaNs.
    return vshrn_n_u32(bits + 0x7fff + (bits >> 16 & 1), 16);  // to nearest, and to even between two
}
static inline vec add_products(vec sum, ivec a, ivec b) {
    const int32_t upper = 0xffff0000;
    return fma((vec)(a & upper), (vec)(b & upper), fma((vec)(a << 16), (vec)(b << 16), sum));
}
#endif

static inline void store(bf16* p, vec x) {
    auto half = rounded(x);
    memcpy(p, &half, sizeof half);
}

static inline ivec load_pairs(const bf16* p) {
    ivec pairs;
    memcpy(&pairs, p, sizeof pairs);
    return pairs;
}
#endif

static inline float sum(vec x) {
    float s = 0;
    for (int i = 0; i < V; i++) s += x[i];
    return s;
}

// e^x for x <= 0, exact to 2 units in the last place. Below -87 the result is tiny rather than 0.
static inline vec exp_of(vec x) {
    x = x > -87.0f ? x : all(-87.0f);
    const float magic = 12582912.0f;  // Adding it to a float leaves the nearest integer in the low bits.
    vec shifted = fma(x, 1.44269504f, magic), n = shifted - magic;
    vec r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x));
    vec p = fma(r, 1.9875691500e-4f, 1.3981999507e-3f);
    p = fma(p, r, 8.3334519073e-3f);
    p = fma(p, r, 4.1665795894e-2f);
    p = fma(p, r, 1.6666665459e-1f);
    p = fma(p, r, 5.0000001201e-1f);
    p = fma(p, r * r, r) + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

// x (1 + erf(x / sqrt 2)) / 2, with erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
template <class T> static inline vec gelu(vec x) {
    vec z = x * 0.70710678f, a = z < 0 ? -z : z;
    vec t = 1.0f / fma(a, 0.3275911f, 1.0f);
    vec p = fma(t, 1.061405429f, -1.453152027f);
    p = fma(p, t, 1.421413741f);
    p = fma(p, t, -0.284496736f);
    p = fma(p, t, 0.254829592f) * t;
    vec tail = p * exp_of(-a * a);  // 1 - erf(a)
    return 0.5f * x * (x < 0 ? tail : 2.0f - tail);
}

// The same to 2e-4 for x within +-8, and to 3e-5 x beyond, since the result is rounded to bfloat16.
template <> inline vec gelu<bf16>(vec x) {
    vec a = x > 4.0f ? all(4.0f) : x < -4.0f ? all(-4.0f) : x, s = a * a;
    vec p = fma(s, 2.27808217e-8f, -1.59856810e-6f);
    p = fma(p, s, 4.79547796e-5f);
    p = fma(p, s, -8.14007611e-4f);
    p = fma(p, s, 8.77234607e-3f);
    p = fma(p, s, -6.45730063e-2f);
    p = fma(p, s, 3.97883263e-1f);
    return x * fma(a, p, 0.5f);
}

// sums[r][c] += a[r] . panel, over k inputs. `ahead` fetches the panel behind this one meanwhile.
template <bool ahead, int rows>
static inline void tile(const float* a, long k, const float* panel, vec (&sums)[rows][2]) {
    for (long i = 0; i < k; i++, panel += 2 * V) {
        if constexpr (ahead) __builtin_prefetch(panel + k * 2 * V, 0, 2);  // to the second cache
        vec left = load(panel), right = load(panel + V);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec own = all(a[r * k + i]);
            sums[r][0] = fma(own, left, sums[r][0]);
            sums[r][1] = fma(own, right, sums[r][1]);
        }
    }
}
#ifdef BF16
template <bool, int rows>
static inline void tile(const bf16* a, long k, const bf16* panel, vec (&sums)[rows][2]) {
    for (long i = 0; i < k; i += 2, panel += 4 * V) {
        ivec left = load_pairs(panel), right = load_pairs(panel + 2 * V);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, a + r * k + i, 4);
            sums[r][0] = add_products(sums[r][0], ivec{} + pair, left);
            sums[r][1] = add_products(sums[r][1], ivec{} + pair, right);
        }
    }
}
#endif

template <int rows, class T, class Then>
static inline void few(int count, const T* a, long k, const T* panel, long row, long column, Then then) {
    if constexpr (rows > 1)
        if (count < rows) return few<rows - 1>(count, a, k, panel, row, column, then);
    vec sums[rows][2] = {};
    AHEAD && row == 0 ? tile<true>(a + row * k, k, panel, sums) : tile<false>(a + row * k, k, panel, sums);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 2; c++) then(row + r, column + c * V, sums[r][c]);
}

// The range [from, to) of one of several equal shares of `all` items.
struct Share {
    long from, to;
    Share(long all, int part, int parts) : from(all * part / parts), to(all * (part + 1) / parts) {}
};

// AMX multiplies a tile of `a`, 16 rows by 32 inputs, with one of a panel, 32 inputs by 16 outputs. Here two tiles of
// `a` multiply two of a panel. The system must permit it to the process, and each thread must configure its tiles.
#ifdef AMX
#ifndef ASK_FOR_TILES
#define ASK_FOR_TILES 0x1023  // ARCH_REQ_XCOMP_PERM, which older headers lack
#endif
static bool has_tiles() {
    static const bool permitted = !syscall(SYS_arch_prctl, ASK_FOR_TILES, 18);  // XFEATURE_XTILEDATA
    return permitted;
}

static const struct alignas(64) {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} EIGHT_TILES;

struct Tiles {  // lets a thread use its tiles while this lives, if they are wanted
    const bool wanted;
    explicit Tiles(bool wanted) : wanted(wanted) {
        if (wanted) _tile_loadconfig(&EIGHT_TILES);
    }
    ~Tiles() {
        if (wanted) _tile_release();
    }
};

template <class Then>
static inline void tiles(const bf16* a, long m, long k, const bf16* panel, long row, long column, Then then) {
    alignas(64) float sums[TILED][2 * V];
    const bf16 *upper = a + row * k, *lower = upper + 16 * k;
    bool both = m - row > 16;
    asm volatile("" ::: "memory");  // The loads below don't tell the compiler what they read.
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long i = 0; i < k; i += 32, panel += 32 * 2 * V) {
        _tile_loadd(6, panel, 8 * V);
        _tile_loadd(7, panel + 2 * V, 8 * V);
        _tile_loadd(4, upper + i, 2 * k);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!both) continue;
        _tile_loadd(5, lower + i, 2 * k);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], 8 * V);
    _tile_stored(1, sums[0] + V, 8 * V);
    if (both) {
        _tile_stored(2, sums[16], 8 * V);
        _tile_stored(3, sums[16] + V, 8 * V);
    }
    for (long r = 0; r < TILED && row + r < m; r++)
        for (int c = 0; c < 2; c++) then(row + r, column + c * V, load(sums[r] + c * V));
}
#else
static bool has_tiles() { return false; }
struct Tiles {
    explicit Tiles(bool) {}
};
#endif

template <class T> static bool tiled() { return std::is_same_v<T, bf16> && has_tiles(); }

// Number of rows whose sums `product` computes at once.
template <class T> static long rows_at_once() { return tiled<T>() ? TILED : R; }

// Computes part i of the product of a (m, k) and a packed matrix. `then(row, column, V sums)` uses its sums.
template <class T, class Then>
static inline void product(const T* a, long m, long k, const T* packed, long i, Then then) {
    long some = rows_at_once<T>(), groups = (m + some - 1) / some, panel = i / groups, row = i % groups * some;
    const T* own = packed + panel * k * 2 * V;
#ifdef AMX
    if constexpr (std::is_same_v<T, bf16>)
        if (has_tiles()) return tiles(a, m, k, own, row, panel * 2 * V, then);
#endif
    few<R>(m - row < R ? m - row : R, a, k, own, row, panel * 2 * V, then);
}

static inline void normalize(float* x, long w, const float* weight, const float* bias, bool rms, float eps) {
    vec total = {}, squares = {};
    if (!rms)
        for (long i = 0; i < w; i += V) total += load(x + i);
    float mean = sum(total) / w;
    for (long i = 0; i < w; i += V) {
        vec d = load(x + i) - mean;
        squares = fma(d, d, squares);
    }
    float scale = 1.0f / std::sqrt(sum(squares) / w + eps);
    for (long i = 0; i < w; i += V) {
        vec y = (load(x + i) - mean) * scale;
        store(x + i, rms ? y * load(weight + i) : fma(y, load(weight + i), load(bias + i)));
    }
}

// A number that threads wait for. A waiting thread spins briefly and then sleeps: if it kept spinning, it would take the
// core from the thread that it waits for, where other processes are busy.
struct Signal {
    static constexpr auto SPIN = std::chrono::microseconds(50);
    alignas(64) std::atomic<uint32_t> number{0};
    std::atomic<int> sleeping{0};

    void wait_past(uint32_t seen) {
        auto began = std::chrono::steady_clock::now();
        do {
            for (int i = 0; i < 16; i++) {
                if (number.load(std::memory_order_acquire) != seen) return;
#if defined(__x86_64__)
                __builtin_ia32_pause();
#elif defined(__aarch64__)
                asm volatile("yield");
#endif
            }
        } while (std::chrono::steady_clock::now() - began < SPIN);
        sleeping.fetch_add(1);
        while (number.load() == seen) sleep(seen);
        sleeping.fetch_sub(1);
    }

    void advance() {
        number.fetch_add(1);
        if (sleeping.load()) wake();
    }

private:
#ifdef __linux__
    void sleep(uint32_t seen) { syscall(SYS_futex, &number, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0); }
    void wake() { syscall(SYS_futex, &number, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
#else  // C++20, which compilers under Linux may lack
    void sleep(uint32_t seen) { number.wait(seen); }
    void wake() { number.notify_all(); }
#endif
};

// The threads that share the work of a calling thread, which is part 0 and goes on alone where the others have no core.
//
// The work comes in phases, one after another. A phase has pieces. Every part takes those of its own range first, so that
// it meets the same weights in every call, and then what other parts have not taken. The caller waits only for pieces
// that a thread is at.
class Team {
public:
    explicit Team(int parts) : parts(parts), next(parts) {
        for (int part = 1; part < parts; part++) threads.emplace_back(&Team::help, this, part);
    }

    ~Team() {
        if (process != getpid()) {  // after a fork its threads are in the parent alone, and can't be joined here
            new std::vector<std::thread>(std::move(threads));
            return;
        }
        ends = true;
        phase.advance();
        for (auto& thread : threads) thread.join();
    }

    // Call `work(part, i)` for every piece i of so many, and return when all are done.
    template <class Work> void share(long pieces, const Work& work) {
        uint32_t coming = phase.number.load() + 1;
        for (int part = 0; part < parts; part++)  // from here on, no part can take a piece of the phase before
            next[part].taken.store((uint64_t)coming << 32 | (uint64_t)Share(pieces, part, parts).from);
        left.store(pieces);
        count = pieces;
        context = &work;
        call = [](const void* work, int part, long i) { (*(const Work*)work)(part, i); };
        phase.advance();
        take(0, coming);
        for (uint32_t seen; seen = done.number.load(), left.load();) done.wait_past(seen);
    }

private:
    struct alignas(64) Next {
        std::atomic<uint64_t> taken{0};  // the phase, and the first piece of the range that nobody has taken
    };
    const int parts;
    const pid_t process = getpid();
    std::vector<Next> next;
    Signal phase, done;
    alignas(64) std::atomic<long> left{0};
    // They may change while a part reads them for a phase that is over, of which it can't take a piece any more.
    std::atomic<long> count{0};
    std::atomic<const void*> context{nullptr};
    std::atomic<void (*)(const void*, int, long)> call{nullptr};
    std::atomic<bool> ends{false};
    std::vector<std::thread> threads;  // last, since they use all the rest

    void help(int part) {
        Tiles tiles(has_tiles());
        for (uint32_t seen = 0; !ends; seen = phase.number.load()) {
            take(part, seen);
            phase.wait_past(seen);
        }
    }

    void take(int part, uint32_t now) {
        long pieces = count;
        const void* work = context;
        auto run = call.load();
        for (int turn = 0; turn < parts; turn++) {
            int owner = (part + turn) % parts;
            std::atomic<uint64_t>& taken = next[owner].taken;
            long to = Share(pieces, owner, parts).to;
            for (uint64_t at = taken.load(); at >> 32 == now && (long)(at & UINT32_MAX) < to;) {
                if (!taken.compare_exchange_weak(at, at + 1)) continue;
                run(work, part, at & UINT32_MAX);
                if (left.fetch_sub(1) == 1 && part) done.advance();
                at = taken.load();
            }
        }
    }
};

// Which of several ways to do the same work takes the least time, learned from the times of its calls.
//
// Each way has a trial at first, and later the neighbours of the best one in turn: often in the beginning, then at every
// 128th call. A trial is several calls, of which the first does not count: it finds threads asleep, and weights in the
// caches of other cores.
struct Choice {
    static constexpr unsigned TRIAL = 4, EVERY = 128;  // calls of a trial, and from the beginning of one to the next
    std::vector<double> cost;                           // of each way: the mean of a trial, then a moving mean
    unsigned calls = 0, trials = 0;
    size_t tried = 0;
    double sum = 0;

    bool in_trial(unsigned call) const {
        unsigned begin = call - call % TRIAL;
        return call < TRIAL * cost.size() || begin % EVERY == 0 || (begin & (begin - 1)) == 0;
    }

    size_t next() {
        size_t ways = cost.size(), call = calls++, best = std::min_element(cost.begin(), cost.end()) - cost.begin();
        if (call < TRIAL * ways) return ways - 1 - call / TRIAL;
        if (ways == 1 || !in_trial(call)) return best;
        bool more = best == 0 || (best < ways - 1 && trials % 2);
        if (call % TRIAL == 0) tried = more ? best + 1 : best - 1, trials++;
        return tried;
    }

    void learn(size_t way, double took) {
        unsigned call = calls - 1, place = call % TRIAL;
        if (!in_trial(call)) {
            cost[way] = 0.75 * cost[way] + 0.25 * took;
            return;
        }
        sum = place ? sum + took : 0;
        if (place == TRIAL - 1) cost[way] = sum / (TRIAL - 1);
    }
};

// The teams of a calling thread: none for the thread alone, then of 2, 4, 8 ... parts, up to as many as it may use. Their
// threads sleep between calls.
//
// More threads are not always faster: other processes keep cores busy, where a thread without a core holds up the piece
// that it is at; a container may have fewer cores than it sees; and a small network has little work to share.
class Teams {
public:
    explicit Teams(int most) : most(most) {
        teams.emplace_back();
        for (long parts = 2; most > 1; parts *= 2) {
            teams.push_back(std::make_unique<Team>(parts < most ? parts : most));
            if (parts >= most) break;
        }
    }

    // Call `work(team)`, with the team or with none: whichever took least time for its arithmetic lately, with as many chunks.
    template <class Work> void call_with_what_pays(long chunks, double arithmetic, const Work& work) {
        if (most == 1) return work(nullptr);
        size_t size = 0;
        while (size < choices.size() - 1 && chunks >> (size + 1)) size++;
        Choice& choice = choices[size];
        choice.cost.resize(teams.size());
        size_t way = choice.next();
        auto began = std::chrono::steady_clock::now();
        work(teams[way].get());
        choice.learn(way, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() / arithmetic);
    }

    // Return those of the calling thread.
    static Teams& of(int most) {
        static thread_local std::unique_ptr<Teams> teams;
        if (!teams || teams->most != most || teams->process != getpid()) {
            teams.reset();
            teams = std::make_unique<Teams>(most);
        }
        return *teams;
    }

private:
    const int most;
    const pid_t process = getpid();
    std::vector<std::unique_ptr<Team>> teams;
    std::array<Choice, 12> choices;  // by the number of chunks: 1, 2 and 3, 4 to 7, ...
};

struct Values {  // modulation values (m / h or 1, h or 1, depth * s.values) with strides
    const float* at;
    long by_chunk, by_step;
};

// The network on noisy (m, a) -> out (m, a). A team shares its work, if there is one.
template <class T> struct Network {
    const Shape& s;
    const Ends& ends;
    const Block<T>* blocks;
    const float* noisy;
    float* out;
    Values values;
    long m;
    float *x, *unmixed;  // scratch (m, w) each; below, `entered` (m, w) and `hidden` (m, s.hidden)
    T *entered, *hidden;
    Team* team;

    // Call `work(i)` for i below `all`, in pieces of some.
    template <class Work> void each(long all, long some, const Work& work) const {
        if (!team) {
            for (long i = 0; i < all; i++) work(i);
            return;
        }
        team->share((all + some - 1) / some, [&](int, long piece) {
            for (long i = piece * some; i < all && i < (piece + 1) * some; i++) work(i);
        });
    }

    const float* at(long row, long site) const {
        return values.at + row / s.horizon * values.by_chunk + row % s.horizon * values.by_step + site * s.values;
    }

    // y (1 + scale) + shift for V numbers of a row. A negative offset means that the mechanism lacks the value.
    static vec scaled(vec y, const float* v, long scale, long shift, long column) {
        if (scale >= 0) y = fma(y, load(v + scale + column), y);
        if (shift >= 0) y = y + load(v + shift + column);
        return y;
    }

    void embed(long row) const {
        long step = row % s.horizon, w = s.width;
        const float *weights = ends.embed + step * s.action * w, *bias = ends.embed_bias + step * w;
        for (long c = 0; c < w; c += V) {
            vec y = load(bias + c);
            for (long i = 0; i < s.action; i++) y = fma(load(weights + i * w + c), noisy[row * s.action + i], y);
            store(x + row * w + c, y);
        }
    }

    void leave(long row) const {
        float* own = x + row * s.width;
        normalize(own, s.width, ends.norm, ends.norm_bias, false, s.eps);
        for (long i = 0; i < s.action; i++) {
            vec y = {};
            for (long c = 0; c < s.width; c += V) y = fma(load(own + c), load(ends.out + i * s.width + c), y);
            out[row * s.action + i] = sum(y) + ends.out_bias[i];
        }
    }

    template <class To> void enter(long row, long site, To* to) const {
        for (long c = 0; c < s.width; c += V)
            store(to + row * s.width + c,
                  scaled(load(x + row * s.width + c), at(row, site), s.enter_scale, s.enter_shift, c));
    }

    void enter(long row, long site) const {
        blocks[site].mix ? enter(row, site, unmixed) : enter(row, site, entered);
    }

    void mix(long row, const Block<T>& block) const {
        long step = row % s.horizon, w = s.width;
        const float *first = unmixed + (row - step) * w, *weights = block.mix + step * s.horizon;
        for (long c = 0; c < w; c += V) {
            vec y = load(unmixed + row * w + c) + block.mix_bias[step];
            for (long i = 0; i < s.horizon; i++) y = fma(load(first + i * w + c), weights[i], y);
            store(entered + row * w + c, y);
        }
    }

    void run() const {
        long some = rows_at_once<T>(), groups = (m + some - 1) / some;
        long ups = s.hidden / (2 * V) * groups, downs = s.width / (2 * V) * groups;
        each(m, 2, [&](long row) { embed(row), enter(row, 0); });
        for (long site = 0; site < s.depth; site++) {
            const Block<T>& block = blocks[site];
            if (block.mix) each(m, 2, [&](long row) { mix(row, block); });
            each(ups, 4, [&](long i) {
                product(entered, m, s.width, block.up, i, [&](long row, long c, vec y) {
                    y = gelu<T>(y + load(block.up_bias + c));
                    store(hidden + row * s.hidden + c, scaled(y, at(row, site), s.hidden_scale, s.hidden_shift, c));
                });
            });
            each(downs, 1, [&](long i) {
                product(hidden, m, s.hidden, block.down, i, [&](long row, long c, vec y) {
                    y = scaled(y + load(block.down_bias + c), at(row, site), s.gate, -1, c);
                    store(x + row * s.width + c, load(x + row * s.width + c) + y);
                });
            });
            each(m, 2, [&](long row) {
                normalize(x + row * s.width, s.width, block.norm, block.norm_bias, s.rms, s.eps);
                site + 1 < s.depth ? enter(row, site + 1) : leave(row);
            });
        }
    }
};

// Number of rows of a block that one thread computes alone in a large batch. A block holds whole chunks. Tiles compute
// faster than weights arrive, so there more rows share them, if two blocks are left for each thread.
template <class T> static long block_rows(const Shape& s, long m, int threads) {
    long most = tiled<T>() ? m / threads / 2 : 0, rows = most < 64 ? 64 : most < 256 ? most : 256;
    return s.horizon * (s.horizon < rows ? rows / s.horizon : 1);
}

// Number of rows that scratch must hold: one block for each thread, or all rows if there are fewer.
template <class T> static long held_rows(const Shape& s, long chunks, int threads) {
    long m = chunks * s.horizon, own = threads * block_rows<T>(s, m, threads);
    return m < own ? m : own;
}

template <class T>
static void run(const Shape& s, const Ends& ends, const Block<T>* blocks, const float* noisy, float* out, Values values,
                long chunks, float* scratch, int threads) {
    long m = chunks * s.horizon, held = held_rows<T>(s, chunks, threads), many = block_rows<T>(s, m, threads);
    float *x = scratch, *unmixed = x + held * s.width;
    T *entered = (T*)(unmixed + held * s.width), *hidden = entered + held * s.width;
    Tiles tiles(tiled<T>());
    auto work = [&](Team* team) {
        if (held == m) return Network<T>{s, ends, blocks, noisy, out, values, m, x, unmixed, entered, hidden, team}.run();
        auto block = [&](int part, long i) {
            long first = i * many, rows = m - first < many ? m - first : many, a = first * s.action;
            long w = part * many * s.width, u = part * many * s.hidden;  // into this thread's scratch
            Values own = {values.at + first / s.horizon * values.by_chunk, values.by_chunk, values.by_step};
            Network<T>{s, ends, blocks, noisy + a, out + a, own, rows, x + w, unmixed + w, entered + w, hidden + u, nullptr}
                .run();
        };
        long pieces = (m + many - 1) / many;
        if (team) return team->share(pieces, block);
        for (long i = 0; i < pieces; i++) block(0, i);
    };
    Teams::of(threads).call_with_what_pays(chunks, (double)m * s.depth * s.width * s.hidden, work);
}

extern "C" {

int columns() { return 2 * V; }

int has_bf16() {
#ifdef BF16
    return 1;
#else
    return 0;
#endif
}

// Name of the instruction set that multiplies float32 or bfloat16.
const char* instructions(int bf16) { return bf16 && has_tiles() ? "AMX" : INSTRUCTIONS; }

// Number of scratch floats that a call needs in either precision. A tile is read beyond the last row.
long scratch_size(const Shape* s, long chunks, int threads) {
    return (held_rows<bf16>(*s, chunks, threads) + TILED) * (3 * s->width + s->hidden);
}

void run_fp32(const Shape* s, const Ends* ends, const Block<float>* blocks, const float* noisy, float* out,
              const float* values, long by_chunk, long by_step, long chunks, float* scratch, int threads) {
    run(*s, *ends, blocks, noisy, out, {values, by_chunk, by_step}, chunks, scratch, threads);
}

#ifdef BF16
void run_bf16(const Shape* s, const Ends* ends, const Block<bf16>* blocks, const float* noisy, float* out,
              const float* values, long by_chunk, long by_step, long chunks, float* scratch, int threads) {
    run(*s, *ends, blocks, noisy, out, {values, by_chunk, by_step}, chunks, scratch, threads);
}
#endif

}
