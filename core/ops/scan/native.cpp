// Selective scan (Mamba's recurrence) for CPUs: forward and analytic backward, behind a plain C interface.
//
//   h[l] = exp(delta[l] A) h[l-1] + delta[l] u[l] B[l]        y[l] = <C[l], h[l]> + D u[l],  then y silu(z)
//
// Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", equations 2 and 4.
// u, delta, z: (batch, length, channels); A: (channels, states); B, C: (batch, length, states).
//
// Lanes run over channels, so that no step of the recurrence crosses lanes. Time is cut into chunks of
// CHUNK steps; within one chunk a block of LANES channels is prepared (softplus), scanned by tiles of
// states that stay in registers, and finished (skip, gate). The forward pass may leave the state before
// each chunk; the backward pass recomputes the chunk from it and walks it in reverse:
//
//   g[l] = dy[l] C[l] + a[l+1] g[l+1]       a = exp(delta A)
//   dC = sum_d dy h    dB = sum_d g delta u    dA = sum_l g a h[l-1] delta
//   ddelta = sum_n g (a h[l-1] A + u B)        du = sum_n g delta B + dy D
//
// Work is cut by shape alone and partial sums are added in one fixed order, so results are the same bits
// for any number of threads. No header of PyTorch is used: the library outlives its versions.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// One translation unit serves every instruction set: bytes of a vector, and how many states a tile
// keeps in registers (forward; backward keeps a tile's decays and states in the first-level cache).
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define ISA "avx512"
constexpr int BYTES = 64, TILE = 16, REVERSE_TILE = 4;
#elif defined(__AVX2__) && defined(__FMA__)
#define ISA "avx2"
constexpr int BYTES = 32, TILE = 8, REVERSE_TILE = 4;
#elif defined(__aarch64__)
#define ISA "neon"
constexpr int BYTES = 16, TILE = 16, REVERSE_TILE = 8;
#else
#define ISA "portable"
constexpr int BYTES = 16, TILE = 8, REVERSE_TILE = 4;
#endif

namespace {

constexpr int64_t CHUNK = 64;
constexpr int64_t MIN_UNITS = 8;  // backward: pieces that a small batch is cut into; each more costs partial sums

template <class T> struct Vector;
template <> struct Vector<float> {
  typedef float type __attribute__((vector_size(BYTES)));
  typedef int32_t bits __attribute__((vector_size(BYTES)));
};
template <> struct Vector<double> {
  typedef double type __attribute__((vector_size(BYTES)));
  typedef int64_t bits __attribute__((vector_size(BYTES)));
};
template <class T> using vec = typename Vector<T>::type;
template <class T> constexpr int LANES = BYTES / (int)sizeof(T);
template <class T> constexpr int REVERSE = REVERSE_TILE < LANES<T> ? REVERSE_TILE : LANES<T>;
using F = vec<float>;
using I = Vector<float>::bits;

template <class T> inline vec<T> all(T x) { return x - vec<T>{}; }
template <class T> inline vec<T> load(const T* p) { vec<T> v; std::memcpy(&v, p, BYTES); return v; }
template <class T> inline void store(T* p, vec<T> v) { std::memcpy(p, &v, BYTES); }
// The last block of channels may be narrower than a vector: its other lanes compute on zeros.
template <class T> inline vec<T> load(const T* p, int64_t n) {
  if (n == LANES<T>) return load(p);
  vec<T> v{};
  std::memcpy(&v, p, n * sizeof(T));
  return v;
}
template <class T> inline void store(T* p, vec<T> v, int64_t n) {
  if (n == LANES<T>) store(p, v);
  else std::memcpy(p, &v, n * sizeof(T));
}
// Lane i of the result is lane AT[i] of a followed by b.
template <class T, int... AT> inline vec<T> shuffle(vec<T> a, vec<T> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, AT...);
#else                                             // GCC has the other one from version 12 only
  return __builtin_shuffle(a, b, typename Vector<T>::bits{AT...});
#endif
}
// Sums of NT vectors over lanes, as far as one vector can hold them: lanes [i W/NT, (i+1) W/NT) of the
// result add up to the sum of v[i]. Halves first, then halves of halves.
template <class T, int PART, int... AT>
inline vec<T> fold(vec<T> a, vec<T> b, std::integer_sequence<int, AT...>) {
  constexpr int HALF = PART / 2;
  return shuffle<T, (AT / HALF * PART + AT % HALF)...>(a, b) +
         shuffle<T, (AT / HALF * PART + AT % HALF + HALF)...>(a, b);
}
template <class T, int NT> inline vec<T> fold(const vec<T>* v) {
  constexpr int W = LANES<T>;
  if constexpr (NT == 1) return v[0];
  else {
    const vec<T> a = fold<T, NT / 2>(v), b = fold<T, NT / 2>(v + NT / 2);
    return fold<T, 2 * W / NT>(a, b, std::make_integer_sequence<int, W>());
  }
}
// Finishes fold: writes the NT sums themselves.
template <class T, int STEP, int... AT>
inline vec<T> swap_lanes(vec<T> v, std::integer_sequence<int, AT...>) {
  return shuffle<T, (AT ^ STEP)...>(v, v);
}
template <class T, int NT, int... AT>
inline void store_sums(T* to, vec<T> v, std::integer_sequence<int, AT...> lanes) {
  constexpr int W = LANES<T>;
  if constexpr (W / NT >= 16) v = v + swap_lanes<T, 8>(v, lanes);
  if constexpr (W / NT >= 8) v = v + swap_lanes<T, 4>(v, lanes);
  if constexpr (W / NT >= 4) v = v + swap_lanes<T, 2>(v, lanes);
  if constexpr (W / NT >= 2) v = v + swap_lanes<T, 1>(v, lanes);
  v = shuffle<T, (AT * (W / NT) % W)...>(v, v);
  std::memcpy(to, &v, NT * sizeof(T));
}

template <class V> inline V fma(V a, V b, V c) { return a * b + c; }
template <class V> inline V fms(V a, V b, V c) { return a * b - c; }
#if defined(__AVX512F__)
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
#elif defined(__AVX2__)
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
#elif defined(__aarch64__)
inline F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline F fms(F a, F b, F c) { return fma(a, b, -c); }
#endif
// Second argument wins when it is not a number, so that NaN reaches the result.
template <class V> inline V at_least(V low, V x) { return low > x ? low : x; }
template <class V> inline V at_most(V high, V x) { return high < x ? high : x; }

// ---- exponentials -----------------------------------------------------------------------------
// A is multiplied by log2(e) once, so that a step needs only 2^x. Adding 1.5 * 2^m to x rounds it to a
// multiple of 2^(m - 23), leaves that multiple k in the low bits of the sum, and a remainder r.
constexpr float LOG2E = 1.44269504f, LOG2E_LOW = 1.92596299e-8f;
constexpr float LN2 = 0.693147181f;
constexpr float LIMIT = 125.0f;                   // |x| up to which the fast form below is exact

// Any x: 2^r on |r| <= 1/2 as a polynomial of degree 5 (1e-7), 2^k by shifting k into the exponent field.
// k = -127 is zero and k = 128 infinity, so clamping x to that range is all that extremes need.
constexpr float MAGIC = 12582912.0f + 127.0f;     // 1.5 * 2^23: steps of 1; 127 is the exponent's bias
inline F exp2_parts(F t, F r) {
  F p = fma(all(1.33002644e-3f), r, all(9.66970859e-3f));
  p = fma(p, r, all(5.55055999e-2f));
  p = fma(p, r, all(2.40222816e-1f));
  p = fma(p, r, all(LN2));
  p = fma(p, r, all(1.0f));
  return p * (F)((I)t << 23);
}
inline F exp2_any(F x) {
  x = at_most(all(128.0f), at_least(all(-127.0f), x));
  const F t = x + all(MAGIC);
  return exp2_parts(t, x - (t - all(MAGIC)));
}
inline F exp(F x) {
  x = at_most(all(88.8f), at_least(all(-88.1f), x));
  const F t = fma(x, all(LOG2E), all(MAGIC));
  return exp2_parts(t, fma(x, all(LOG2E_LOW), fms(x, all(LOG2E), t - all(MAGIC))));
}

// |x| <= LIMIT, where a register can be a table: powers 2^(j/16) or 2^(j/8), a cubic for the small rest
// (2e-9 or 3e-8). Each entry has j's share taken off its exponent, so that adding k shifted to the
// exponent field leaves 2^(k/16). Additions rather than multiply-adds make t and r: there are spare
// units for them. On an AVX2 machine the table saves a tenth of the polynomial's time.
#if defined(__AVX512F__)
#define TABLE
constexpr int SHIFT = 19;
constexpr float TABLE_MAGIC = 786432.0f, CUBIC = 0.05550428f, SQUARE = 0.24023427f;
inline F exp2_entry(F t) {
  const I table = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                   0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  return (F)((I)_mm512_permutexvar_epi32((__m512i)t, (__m512i)table) + ((I)t << SHIFT));
}
#elif defined(__AVX2__)
#define TABLE
constexpr int SHIFT = 20;
constexpr float TABLE_MAGIC = 1572864.0f, CUBIC = 0.05550475f, SQUARE = 0.24025748f;
inline F exp2_entry(F t) {
  const I table = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
  return (F)((I)_mm256_permutevar8x32_epi32((__m256i)table, (__m256i)t) + ((I)t << SHIFT));
}
#endif
template <bool ANY> inline F decay(F delta, F a) {
  const F x = delta * a;
#if defined(TABLE)
  if (!ANY) {
    const F t = x + all(TABLE_MAGIC), r = x - (t - all(TABLE_MAGIC));
    F p = fma(all(CUBIC), r, all(SQUARE));
    p = fma(p, r, all(LN2));
    return exp2_entry(t) * fma(p, r, all(1.0f));
  }
#endif
  return ANY ? exp2_any(x) : exp2_parts(x + all(MAGIC), x - ((x + all(MAGIC)) - all(MAGIC)));
}

// float64 exists for gradient checks and as an oracle: it takes the library's own functions.
template <class FN> inline vec<double> each(vec<double> x, FN f) {
  for (int i = 0; i < LANES<double>; i++) x[i] = f(x[i]);
  return x;
}
template <bool ANY> inline vec<double> decay(vec<double> delta, vec<double> a) {
  return each(delta * a, [](double x) { return std::exp(x); });
}
inline vec<double> exp(vec<double> x) { return each(x, [](double v) { return std::exp(v); }); }
template <class T> constexpr T FOLD = std::is_same<T, float>::value ? (T)LOG2E : (T)1;
template <class T> constexpr T UNFOLD = std::is_same<T, float>::value ? (T)LN2 : (T)1;

// log(1 + w) for 0 <= w <= 1 by 2 atanh(w / (2 + w)): accurate relative to the result, which log(1 + w)
// computed as written is not (softplus(-12) would lose three digits).
inline F log1p_unit(F w) {
  F s = w / (w + all(2.0f)), q = s * s;
  F p = fma(all(0.140122325f), q, all(0.1399957f));
  p = fma(p, q, all(0.200108496f));
  p = fma(p, q, all(0.333332066f));
  return fma(p * q, s + s, s + s);
}
inline vec<double> log1p_unit(vec<double> w) { return each(w, [](double v) { return std::log1p(v); }); }

template <class T> inline vec<T> sigmoid(vec<T> x) { return all(T(1)) / (all(T(1)) + exp(-x)); }
template <class T> inline vec<T> softplus(vec<T> x) {
  vec<T> magnitude = at_least(-x, x);
  return at_least(vec<T>{}, x) + log1p_unit(exp(-magnitude));
}

// ---- arguments --------------------------------------------------------------------------------
// Mirrors native.py. Strides count elements, of batch and of length; the last axis is contiguous.
struct Rows { void* data; int64_t batch, length; };
struct Arguments {
  int64_t batch, length, channels, states, threads, softplus;
  Rows u, delta, z, B, C, dy;                     // z.data may be null; dy: backward only
  void *A, *D, *bias, *initial;                   // (channels, states), (channels), (channels), (batch, channels, states)
  void *y, *final_state, *checkpoints;            // forward: (B, L, D), (B, D, N), null or (B, chunks, N, D)
  void *dfinal, *du, *ddelta, *dz, *dA, *dB, *dC, *dD, *dbias, *dinitial;
};

template <class T> struct Scratch {
  T* data;
  explicit Scratch(int64_t n) : data(nullptr) {
    void* p = nullptr;
    if (!posix_memalign(&p, 64, (n > 0 ? n : 1) * sizeof(T))) data = static_cast<T*>(p);
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// Each thread keeps what its pieces of work need: a few hundred kilobytes, whose pages would otherwise
// be mapped and cleared anew for every piece.
struct Workspace {
  char* base = nullptr;
  int64_t capacity = 0, used = 0;
  bool reserve(int64_t bytes) {
    used = 0;
    if (bytes <= capacity) return true;
    std::free(base);
    void* p = nullptr;
    base = posix_memalign(&p, 64, bytes) ? nullptr : static_cast<char*>(p);
    capacity = base ? bytes : 0;
    return base != nullptr;
  }
  template <class T> T* take(int64_t n) {
    T* p = reinterpret_cast<T*>(base + used);
    used += room<T>(n);
    return p;
  }
  template <class T> static int64_t room(int64_t n) { return (n * (int64_t)sizeof(T) + 63) / 64 * 64; }
  ~Workspace() { std::free(base); }
};
thread_local Workspace workspace;

// Denormal numbers are worth nothing to a decaying state and cost a hundred cycles each on some CPUs.
struct FlushDenormals {
#if defined(__SSE2__)
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#else
  FlushDenormals() {}
#endif
};

template <class T> struct Block;
template <class T> void watch(Block<T>& s, const void* at, int64_t stride);

template <class T> struct Problem {
  const Arguments& arg;
  const int64_t batch, length, channels, states, chunks, blocks;
  static constexpr int W = LANES<T>;
  explicit Problem(const Arguments& a)
      : arg(a), batch(a.batch), length(a.length), channels(a.channels), states(a.states),
        chunks((a.length + CHUNK - 1) / CHUNK), blocks((a.channels + W - 1) / W) {}
  int64_t width(int64_t block) const {
    return block * W + W <= channels ? W : channels - block * W;
  }
  const T* row(const Rows& r, int64_t b, int64_t l, int64_t block) const {
    return static_cast<const T*>(r.data) + b * r.batch + l * r.length + block * W;
  }
  template <class S> void look_ahead(S& s, int64_t b, int64_t l, int64_t block) const {
    if (l < 0 || l >= length) return;
    for (const Rows* rows : {&arg.u, &arg.delta, &arg.z, &arg.dy})
      if (rows->data) watch(s, row(*rows, b, l, block), rows->length);
  }
  // (blocks, states, W) times log2(e): what the inner loop loads.
  void pack(T* out, T* cap) const {
    const T* A = static_cast<const T*>(arg.A);
    for (int64_t j = 0; j < blocks; j++)
      for (int64_t i = 0; i < W; i++) {
        const int64_t d = j * W + i;
        T largest = 0;
        for (int64_t n = 0; n < states; n++) {
          const T a = d < channels ? A[d * states + n] * FOLD<T> : T(0);
          out[(j * states + n) * W + i] = a;
          if (std::fabs(a) > largest) largest = std::fabs(a);
        }
        cap[d] = std::is_same<T, float>::value && largest > 0 ? T(LIMIT) / largest : T(INFINITY);
      }
  }
  // State (channels, states) of one batch entry <-> (states, W) of one block.
  void gather(T* to, const T* from, int64_t block) const {
    const int64_t w = width(block);
    for (int64_t n = 0; n < states; n++)
      for (int64_t i = 0; i < W; i++)
        to[n * W + i] = from && i < w ? from[(block * W + i) * states + n] : T(0);
  }
  void scatter(T* to, const T* from, int64_t block) const {
    const int64_t w = width(block);
    for (int64_t i = 0; i < w; i++)
      for (int64_t n = 0; n < states; n++) to[(block * W + i) * states + n] = from[n * W + i];
  }
};

// Calls f(tile, first state) for tiles of at most MAX states: 17 states are 16 and 1.
template <int MAX, class FN> inline void tiles(int64_t states, FN f) {
  int64_t n = 0;
  if (MAX >= 16) for (; states - n >= 16; n += 16) f(std::integral_constant<int, MAX >= 16 ? 16 : 1>(), n);
  if (MAX >= 8) for (; states - n >= 8; n += 8) f(std::integral_constant<int, MAX >= 8 ? 8 : 1>(), n);
  if (MAX >= 4) for (; states - n >= 4; n += 4) f(std::integral_constant<int, MAX >= 4 ? 4 : 1>(), n);
  if (MAX >= 2) for (; states - n >= 2; n += 2) f(std::integral_constant<int, MAX >= 2 ? 2 : 1>(), n);
  for (; states - n >= 1; n += 1) f(std::integral_constant<int, 1>(), n);
}

// One block of channels during one chunk, every row padded to a vector.
template <class T> struct Block {
  vec<T> u[CHUNK], delta[CHUNK], x[CHUNK], y[CHUNK];      // x = delta u
  vec<T> slope[CHUNK], dy[CHUNK], z[CHUNK], gate[CHUNK], sb[CHUNK], sa[CHUNK];  // backward only
  // Rows to fetch while the first tile computes: inputs of the next block, outputs of this one.
  struct { const char* at; int64_t stride; } ahead[8];
  int streams;
  bool extreme;                                   // some |delta A| leaves the range of the fast exponential
};

template <class T> inline void watch(Block<T>& s, const void* at, int64_t stride) {
  s.ahead[s.streams].at = static_cast<const char*>(at);
  s.ahead[s.streams++].stride = stride * (int64_t)sizeof(T);
}
// Hardware prefetchers do not follow rows a whole width of channels apart: without this, 16 updates take
// 9.5 cycles of a Zen 5 core instead of 5.8 as soon as the inputs outgrow its second-level cache.
template <class T> inline void fetch(const Block<T>& s, int64_t l) {
  for (int k = 0; k < s.streams; k++)
    __builtin_prefetch(s.ahead[k].at + l * s.ahead[k].stride, 0, 2);
}

template <class T, bool BACKWARD>
void prepare(const Problem<T>& p, Block<T>& s, int64_t b, int64_t first, int64_t steps, int64_t block,
             const T* cap) {
  const Arguments& a = p.arg;
  const int64_t w = p.width(block);
  const vec<T> bias = a.bias ? load(static_cast<const T*>(a.bias) + block * p.W, w) : vec<T>{};
  const vec<T> skip = a.D ? load(static_cast<const T*>(a.D) + block * p.W, w) : vec<T>{};
  const vec<T> high = load(cap + block * p.W);
  typename Vector<T>::bits outside{};
  for (int64_t l = 0; l < steps; l++) {
    const vec<T> u = load(p.row(a.u, b, first + l, block), w);
    vec<T> delta = load(p.row(a.delta, b, first + l, block), w) + bias;
    if (a.softplus) {
      if (BACKWARD) s.slope[l] = sigmoid<T>(delta);
      delta = softplus<T>(delta);
    } else if (BACKWARD) {
      s.slope[l] = all(T(1));
    }
    s.u[l] = u;
    s.delta[l] = delta;
    s.x[l] = delta * u;
    s.y[l] = skip * u;
    outside |= (delta > high) | (delta < -high);
    if (BACKWARD) {
      vec<T> dy = load(p.row(a.dy, b, first + l, block), w);
      if (a.z.data) {
        const vec<T> z = load(p.row(a.z, b, first + l, block), w), q = sigmoid<T>(z);
        s.z[l] = dy * q * (all(T(1)) + z * (all(T(1)) - q));     // dy times the slope of silu
        dy = dy * z * q;
      }
      s.dy[l] = dy;
      s.sb[l] = s.sa[l] = vec<T>{};
    }
  }
  s.extreme = false;
  for (int i = 0; i < p.W; i++) s.extreme |= outside[i] != 0;
}

template <class T, int NT, bool ANY>
void scan_tile(Block<T>& s, int64_t steps, const T* A, const T* B, int64_t B_row, const T* C, int64_t C_row,
               T* state) {
  constexpr int W = LANES<T>;
  vec<T> h[NT];
  UNROLL for (int n = 0; n < NT; n++) h[n] = load(state + n * W);
  for (int64_t l = 0; l < steps; l++, B += B_row, C += C_row) {
    const vec<T> delta = s.delta[l], x = s.x[l];
    fetch(s, l);
    vec<T> even = s.y[l], odd{};
    UNROLL for (int n = 0; n < NT; n++) {
      const vec<T> a = decay<ANY>(delta, load(A + n * W));
      h[n] = fma(a, h[n], x * all(B[n]));
      if (n % 2) odd = fma(h[n], all(C[n]), odd);
      else even = fma(h[n], all(C[n]), even);
    }
    s.y[l] = even + odd;
  }
  UNROLL for (int n = 0; n < NT; n++) store(state + n * W, h[n]);
}

template <class T>
bool forward_unit(const Problem<T>& p, const T* A, const T* cap, int64_t b, int64_t first, int64_t last) {
  constexpr int W = LANES<T>;
  const Arguments& a = p.arg;
  const int64_t N = p.states, size = N * W;
  Workspace& work = workspace;
  if (!work.reserve(Workspace::room<T>((last - first) * size) + Workspace::room<Block<T>>(1))) return false;
  T* states = work.take<T>((last - first) * size);
  Block<T>& s = *work.take<Block<T>>(1);
  const T* initial = static_cast<const T*>(a.initial);
  for (int64_t j = first; j < last; j++)
    p.gather(states + (j - first) * size, initial ? initial + b * p.channels * N : nullptr, j);
  for (int64_t c = 0; c < p.chunks; c++) {
    const int64_t l0 = c * CHUNK, steps = p.length - l0 < CHUNK ? p.length - l0 : CHUNK;
    const T* B = static_cast<const T*>(a.B.data) + b * a.B.batch + l0 * a.B.length;
    const T* C = static_cast<const T*>(a.C.data) + b * a.C.batch + l0 * a.C.length;
    for (int64_t j = first; j < last; j++) {
      T* h = states + (j - first) * size;
      const T* Aj = A + j * size;
      const int64_t w = p.width(j);
      if (a.checkpoints) {
        T* to = static_cast<T*>(a.checkpoints) + (b * p.chunks + c) * N * p.channels + j * W;
        for (int64_t n = 0; n < N; n++) store(to + n * p.channels, load(h + n * W), w);
      }
      prepare<T, false>(p, s, b, l0, steps, j, cap);
      T* y = static_cast<T*>(a.y) + (b * p.length + l0) * p.channels + j * W;
      s.streams = 0;
      p.look_ahead(s, b, j + 1 < last ? l0 : l0 + CHUNK, j + 1 < last ? j + 1 : first);
      watch(s, y, p.channels);
      tiles<TILE>(N, [&](auto tile, int64_t n) {
        constexpr int NT = decltype(tile)::value;
        if (s.extreme) scan_tile<T, NT, true>(s, steps, Aj + n * W, B + n, a.B.length, C + n, a.C.length, h + n * W);
        else scan_tile<T, NT, false>(s, steps, Aj + n * W, B + n, a.B.length, C + n, a.C.length, h + n * W);
        s.streams = 0;
      });
      for (int64_t l = 0; l < steps; l++) {
        vec<T> out = s.y[l];
        if (a.z.data) {
          const vec<T> z = load(p.row(a.z, b, l0 + l, j), w);
          out = out * z * sigmoid<T>(z);
        }
        store(y + l * p.channels, out, w);
      }
    }
  }
  T* final_state = static_cast<T*>(a.final_state) + b * p.channels * N;
  for (int64_t j = first; j < last; j++) p.scatter(final_state, states + (j - first) * size, j);
  return true;
}

template <class T> int forward(const Arguments& a) {
  const Problem<T> p(a);
  Scratch<T> A(p.blocks * p.states * p.W), cap(p.blocks * p.W);
  if (!A.data || !cap.data) return 1;
  p.pack(A.data, cap.data);
  // Every channel is independent: here, unlike in backward, the cut may follow the number of threads.
  int64_t groups = a.threads > 1 ? (4 * a.threads + p.batch - 1) / (p.batch > 0 ? p.batch : 1) : 1;
  if (groups > p.blocks) groups = p.blocks;
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)a.threads) if (a.threads > 1) reduction(| : failed)
  for (int64_t unit = 0; unit < p.batch * groups; unit++) {
    FlushDenormals flush;
    const int64_t g = unit % groups;
    failed |= !forward_unit(p, A.data, cap.data, unit / groups, p.blocks * g / groups, p.blocks * (g + 1) / groups);
  }
  return failed;
}

// Recompute one tile of a chunk, keeping every decay and state, then walk it in reverse.
// g: gradient that reaches the state after the chunk, replaced by that before it. accB, accC: (CHUNK, N, W).
template <class T, int NT, bool ANY>
void reverse_tile(Block<T>& s, int64_t steps, int64_t N, const T* A, const T* B, int64_t B_row, const T* C,
                  int64_t C_row, const T* checkpoint, int64_t channels, int64_t w, bool gated, T* g_state, T* accB,
                  T* accC, double* dA, vec<T> (*decays)[REVERSE<T>], vec<T> (*states)[REVERSE<T>]) {
  constexpr int W = LANES<T>;
  {
    vec<T> h[NT];
    UNROLL for (int n = 0; n < NT; n++) states[0][n] = h[n] = load(checkpoint + n * channels, w);
    for (int64_t l = 0; l < steps; l++) {
      const vec<T> delta = s.delta[l], x = s.x[l];
      const T* Bl = B + l * B_row;
      fetch(s, l);
      UNROLL for (int n = 0; n < NT; n++) {
        const vec<T> a = decay<ANY>(delta, load(A + n * W));
        h[n] = fma(a, h[n], x * all(Bl[n]));
        decays[l][n] = a;
        states[l + 1][n] = h[n];
      }
      if (gated) {
        const T* Cl = C + l * C_row;
        vec<T> y = s.y[l];
        UNROLL for (int n = 0; n < NT; n++) y = fma(h[n], all(Cl[n]), y);
        s.y[l] = y;
      }
    }
  }
  vec<T> g[NT], h[NT], total[NT];
  UNROLL for (int n = 0; n < NT; n++) {
    g[n] = load(g_state + n * W);
    h[n] = states[steps][n];
    total[n] = vec<T>{};
  }
  for (int64_t l = steps - 1; l >= 0; l--) {
    const vec<T> dy = s.dy[l], x = s.x[l], delta = s.delta[l];
    const T *Bl = B + l * B_row, *Cl = C + l * C_row;
    vec<T> partB[NT], partC[NT];
    vec<T> sb = s.sb[l], sa = s.sa[l];
    UNROLL for (int n = 0; n < NT; n++) {
      const vec<T> gn = fma(dy, all(Cl[n]), g[n]);
      partC[n] = dy * h[n];
      partB[n] = gn * x;
      sb = fma(gn, all(Bl[n]), sb);
      g[n] = gn * decays[l][n];
      h[n] = states[l][n];
      const vec<T> gah = g[n] * h[n];
      sa = fma(gah, load(A + n * W), sa);
      total[n] = fma(gah, delta, total[n]);
    }
    s.sb[l] = sb;
    s.sa[l] = sa;
    store(accB + l * W, load(accB + l * W) + fold<T, NT>(partB));
    store(accC + l * W, load(accC + l * W) + fold<T, NT>(partC));
  }
  for (int n = 0; n < NT; n++) {
    store(g_state + n * W, g[n]);
    for (int i = 0; i < W; i++) dA[n * W + i] += total[n][i];    // a million steps: chunk sums add in double
  }
}

template <class T> struct Partial {
  double *A, *D, *bias;                           // (batch, blocks, N, W), (batch, blocks, W) twice
  T *B, *C;                                       // (groups, batch, L, N)
};

template <class T>
bool backward_unit(const Problem<T>& p, const T* A, const T* cap, const Partial<T>& out, int64_t b, int64_t group,
                   int64_t first, int64_t last) {
  constexpr int W = LANES<T>;
  const Arguments& a = p.arg;
  const int64_t N = p.states, size = N * W;
  Workspace& work = workspace;
  if (!work.reserve(Workspace::room<T>((last - first) * size) + Workspace::room<T>(2 * CHUNK * size) +
                    Workspace::room<Block<T>>(1) + Workspace::room<vec<T>>((2 * CHUNK + 1) * REVERSE<T>)))
    return false;
  T* carried = work.take<T>((last - first) * size);
  T *accB = work.take<T>(2 * CHUNK * size), *accC = accB + CHUNK * size;
  Block<T>& s = *work.take<Block<T>>(1);
  auto decays = reinterpret_cast<vec<T>(*)[REVERSE<T>]>(work.take<vec<T>>((2 * CHUNK + 1) * REVERSE<T>));
  auto states = decays + CHUNK;
  const T* dfinal = static_cast<const T*>(a.dfinal);
  for (int64_t j = first; j < last; j++)
    p.gather(carried + (j - first) * size, dfinal ? dfinal + b * p.channels * N : nullptr, j);
  std::memset(out.A + (b * p.blocks + first) * size, 0, (last - first) * size * sizeof(double));
  std::memset(out.D + (b * p.blocks + first) * W, 0, (last - first) * W * sizeof(double));
  std::memset(out.bias + (b * p.blocks + first) * W, 0, (last - first) * W * sizeof(double));
  for (int64_t c = p.chunks - 1; c >= 0; c--) {
    const int64_t l0 = c * CHUNK, steps = p.length - l0 < CHUNK ? p.length - l0 : CHUNK;
    const T* B = static_cast<const T*>(a.B.data) + b * a.B.batch + l0 * a.B.length;
    const T* C = static_cast<const T*>(a.C.data) + b * a.C.batch + l0 * a.C.length;
    tiles<REVERSE<T>>(N, [&](auto, int64_t n) {
      std::memset(accB + n * CHUNK * W, 0, steps * W * sizeof(T));
      std::memset(accC + n * CHUNK * W, 0, steps * W * sizeof(T));
    });
    for (int64_t j = first; j < last; j++) {
      const int64_t w = p.width(j);
      prepare<T, true>(p, s, b, l0, steps, j, cap);
      const int64_t here = (b * p.length + l0) * p.channels + j * W;
      s.streams = 0;
      p.look_ahead(s, b, j + 1 < last ? l0 : l0 - CHUNK, j + 1 < last ? j + 1 : first);
      watch(s, static_cast<T*>(a.du) + here, p.channels);
      watch(s, static_cast<T*>(a.ddelta) + here, p.channels);
      if (a.z.data) watch(s, static_cast<T*>(a.dz) + here, p.channels);
      const T* checkpoint = static_cast<const T*>(a.checkpoints) + (b * p.chunks + c) * N * p.channels + j * W;
      tiles<REVERSE<T>>(N, [&](auto tile, int64_t n) {
        constexpr int NT = decltype(tile)::value;
        auto run = s.extreme ? reverse_tile<T, NT, true> : reverse_tile<T, NT, false>;
        run(s, steps, N, A + j * size + n * W, B + n, a.B.length, C + n, a.C.length, checkpoint + n * p.channels,
            p.channels, w, a.z.data != nullptr, carried + (j - first) * size + n * W, accB + n * CHUNK * W,
            accC + n * CHUNK * W, out.A + (b * p.blocks + j) * size + n * W, decays, states);
        s.streams = 0;
      });
      const vec<T> skip = a.D ? load(static_cast<const T*>(a.D) + j * W, w) : vec<T>{};
      vec<T> dD{}, dbias{};
      for (int64_t l = 0; l < steps; l++) {
        const int64_t at = here + l * p.channels;
        const vec<T> dy = s.dy[l];
        const vec<T> ddelta = fma(s.sa[l], all(UNFOLD<T>), s.sb[l] * s.u[l]) * s.slope[l];
        store(static_cast<T*>(a.du) + at, fma(s.sb[l], s.delta[l], dy * skip), w);
        store(static_cast<T*>(a.ddelta) + at, ddelta, w);
        if (a.z.data) store(static_cast<T*>(a.dz) + at, s.z[l] * s.y[l], w);
        dbias = dbias + ddelta;
        dD = fma(dy, s.u[l], dD);
      }
      for (int i = 0; i < W; i++) {
        out.D[(b * p.blocks + j) * W + i] += dD[i];
        out.bias[(b * p.blocks + j) * W + i] += dbias[i];
      }
    }
    T* dB = out.B + ((group * p.batch + b) * p.length + l0) * N;
    T* dC = out.C + ((group * p.batch + b) * p.length + l0) * N;
    tiles<REVERSE<T>>(N, [&](auto tile, int64_t n) {
      constexpr int NT = decltype(tile)::value;
      const T *fromB = accB + n * CHUNK * W, *fromC = accC + n * CHUNK * W;
      for (int64_t l = 0; l < steps; l++) {
        store_sums<T, NT>(dB + l * N + n, load(fromB + l * W), std::make_integer_sequence<int, W>());
        store_sums<T, NT>(dC + l * N + n, load(fromC + l * W), std::make_integer_sequence<int, W>());
      }
    });
  }
  T* dinitial = static_cast<T*>(a.dinitial) + b * p.channels * N;
  for (int64_t j = first; j < last; j++) p.scatter(dinitial, carried + (j - first) * size, j);
  return true;
}

template <class T> int backward(const Arguments& a) {
  const Problem<T> p(a);
  const int64_t N = p.states, rows = p.batch * p.length * N, lanes = p.blocks * p.W;
  int64_t groups = p.batch > 0 ? (MIN_UNITS + p.batch - 1) / p.batch : 1;
  if (groups > p.blocks) groups = p.blocks;
  if (groups < 1) groups = 1;
  Scratch<T> A(lanes * N), cap(lanes), partB(groups > 1 ? groups * rows : 0), partC(groups > 1 ? groups * rows : 0);
  Scratch<double> sums(p.batch * lanes * (N + 2));
  if (!A.data || !cap.data || !partB.data || !partC.data || !sums.data) return 1;
  p.pack(A.data, cap.data);
  Partial<T> out;
  out.A = sums.data;
  out.D = out.A + p.batch * lanes * N;
  out.bias = out.D + p.batch * lanes;
  out.B = groups > 1 ? partB.data : static_cast<T*>(a.dB);
  out.C = groups > 1 ? partC.data : static_cast<T*>(a.dC);
  int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)a.threads) if (a.threads > 1) reduction(| : failed)
  for (int64_t unit = 0; unit < p.batch * groups; unit++) {
    FlushDenormals flush;
    const int64_t g = unit % groups;
    failed |= !backward_unit(p, A.data, cap.data, out, unit / groups, g, p.blocks * g / groups,
                             p.blocks * (g + 1) / groups);
  }
  if (failed) return 1;
  if (groups > 1) {
    T *dB = static_cast<T*>(a.dB), *dC = static_cast<T*>(a.dC);
#pragma omp parallel for schedule(static) num_threads((int)a.threads) if (a.threads > 1)
    for (int64_t i = 0; i < rows; i++) {
      T sumB = out.B[i], sumC = out.C[i];
      for (int64_t g = 1; g < groups; g++) {
        sumB += out.B[g * rows + i];
        sumC += out.C[g * rows + i];
      }
      dB[i] = sumB;
      dC[i] = sumC;
    }
  }
  T *dA = static_cast<T*>(a.dA), *dD = static_cast<T*>(a.dD), *dbias = static_cast<T*>(a.dbias);
  for (int64_t d = 0; d < p.channels; d++) {
    const int64_t j = d / p.W, i = d % p.W;
    for (int64_t n = 0; n < N; n++) {
      double total = 0;
      for (int64_t b = 0; b < p.batch; b++) total += out.A[((b * p.blocks + j) * N + n) * p.W + i];
      dA[d * N + n] = (T)total;
    }
    double skip = 0, bias = 0;
    for (int64_t b = 0; b < p.batch; b++) {
      skip += out.D[b * lanes + d];
      bias += out.bias[b * lanes + d];
    }
    if (dD) dD[d] = (T)skip;
    if (dbias) dbias[d] = (T)bias;
  }
  return 0;
}

}  // namespace

// Each returns 0, or 1 when memory ran out.
extern "C" {
__attribute__((visibility("default"))) int triptych_scan_forward_f32(const Arguments* a) { return forward<float>(*a); }
__attribute__((visibility("default"))) int triptych_scan_forward_f64(const Arguments* a) { return forward<double>(*a); }
__attribute__((visibility("default"))) int triptych_scan_backward_f32(const Arguments* a) { return backward<float>(*a); }
__attribute__((visibility("default"))) int triptych_scan_backward_f64(const Arguments* a) { return backward<double>(*a); }
__attribute__((visibility("default"))) const char* triptych_scan_isa() { return ISA; }
__attribute__((visibility("default"))) int triptych_scan_threaded() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}
__attribute__((visibility("default"))) int64_t triptych_scan_arguments() { return sizeof(Arguments); }
}
