// Token similarities of many pairs without ever holding their cosines; models/native.py says what for.
//
// Tokens come as 16-bit integers, 32,000 times unit vectors. `rough` rounds them on to 8 bits and multiplies twice as many
// in an instruction; `fine` takes them as they are. Both keep 8 gallery tokens x 32 query tokens in registers, take the
// maxima there, and give both directions. Products of integers are exact; only the maxima are scaled and averaged in float.
//
// Sets are padded to whole registers with copies of a token that counts: they change no maximum and weigh nothing in
// the mean. The same serves tokens that a mask hides.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#if !defined(__AVX512F__) || !defined(__AVX512VNNI__)
#error "needs a processor with AVX-512 VNNI"
#endif

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t CHUNK = 32;  // gallery images at a time, and queries: they stay in the second-level cache
constexpr int64_t BLOCK = 16;
constexpr float UNIT = 32000.0f;
// In which lane `lanes_max` leaves the maximum of which row.
constexpr int ORDER[LANES] = {0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15};

struct Sets {
  const int16_t* tokens;  // (count, size, dim)
  const uint8_t* mask;    // (count, size), or null where all count
  int64_t count, size, dim;
};

template <class T>
struct Buffer {
  std::unique_ptr<T, decltype(&std::free)> memory;
  explicit Buffer(int64_t count)
      : memory(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)), &std::free) {}
  T* at(int64_t place) const { return memory.get() + place; }
};

// One side of the products. A token is `steps` words of 4 bytes; columns lie word by word, 16 tokens beside each other.
struct Packed {
  int64_t tokens, steps;
  Buffer<int32_t> words;
  Buffer<float> scale, weight;  // of each token: what a product has to be multiplied by, and its share in the mean
  Buffer<int32_t> start;        // what a sum of products starts from
  Packed(int64_t count, int64_t tokens, int64_t steps)
      : tokens(tokens), steps(steps), words(count * tokens * steps), scale(count * tokens), weight(count * tokens),
        start(count * tokens) {}
};

int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
int64_t steps_of(int64_t dim, bool eight) { return eight ? up(dim, 4) / 4 : up(dim, 2) / 2; }

// Round a token to 8 bits; the norm of what that changes, in units of a unit vector.
float to_eight(const int16_t* token, int64_t dim, int8_t* out, float* scale, int32_t* total) {
  int32_t largest = 0, sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t k = 0; k < dim; k++) largest = std::max(largest, std::abs(int32_t(token[k])));
  const float size = largest ? largest / 127.0f : 1.0f, inverse = 1.0f / size;
  float lost = 0;
#pragma omp simd reduction(+ : lost, sum)
  for (int64_t k = 0; k < dim; k++) {
    const float near = __builtin_rintf(token[k] * inverse), miss = near * size - token[k];
    lost += miss * miss;
    sum += int32_t(near);
    out[k] = int8_t(near);
  }
  *scale = size / UNIT;
  *total = sum;
  return std::sqrt(lost) / UNIT;
}

// Pack one set. `losses` gets the mean and the largest loss of its tokens that count; null for 16 bits, which lose nothing.
void pack(const Sets& sets, int64_t row, bool eight, bool columns, const Packed& out, int64_t place, float* losses,
          int32_t* scratch) {
  const uint8_t* mask = sets.mask ? sets.mask + row * sets.size : nullptr;
  const int64_t steps = out.steps, base = place * out.tokens;
  int64_t first = 0, counting = sets.size;
  if (mask) {
    counting = std::count(mask, mask + sets.size, uint8_t(1));
    first = std::find(mask, mask + sets.size, uint8_t(1)) - mask;
  }
  float mean = 0, worst = 0;
  for (int64_t t = 0; t < out.tokens; t++) {
    const bool counts = t < sets.size && (!mask || mask[t]);
    const int16_t* token = sets.tokens + (row * sets.size + (counts ? t : first)) * sets.dim;
    float scale = 1 / UNIT;
    int32_t sum = 0;
    scratch[steps - 1] = 0;
    if (eight) {
      const float lost = to_eight(token, sets.dim, reinterpret_cast<int8_t*>(scratch), &scale, &sum);
      if (counts) mean += lost / counting, worst = std::max(worst, lost);
    } else {
      std::memcpy(scratch, token, sets.dim * sizeof(int16_t));
    }
    const int64_t at = base + t;
    if (columns) {
      // The instruction wants one side without signs: 128 more for each, and less at the start of the other side's sums.
      int32_t* to = out.words.at(base * steps + t / LANES * LANES * steps + t % LANES);
      for (int64_t k = 0; k < steps; k++) to[k * LANES] = eight ? scratch[k] ^ int32_t(0x80808080) : scratch[k];
    } else {
      std::memcpy(out.words.at(at * steps), scratch, steps * sizeof(int32_t));
    }
    *out.scale.at(at) = scale;
    *out.start.at(at) = -128 * sum;
    const int64_t lane = std::find(ORDER, ORDER + LANES, int(t % LANES)) - ORDER;
    *out.weight.at(columns ? at : base + t / LANES * LANES + lane) = counts ? 1.0f / counting : 0.0f;
  }
  if (losses) losses[0] = mean, losses[1] = worst;
}

// The largest of the 16 lanes of each of 16 vectors, in one vector.
inline __m512 lanes_max(const __m512* v) {
  __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) a[i] = _mm512_max_ps(_mm512_unpacklo_ps(v[i], v[i + 8]), _mm512_unpackhi_ps(v[i], v[i + 8]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) b[i] = _mm512_max_ps(_mm512_unpacklo_ps(a[i], a[i + 4]), _mm512_unpackhi_ps(a[i], a[i + 4]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
    c[i] = _mm512_max_ps(_mm512_shuffle_f32x4(b[i], b[i + 2], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 2], 0xdd));
  return _mm512_max_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// Products of 8 rows with two times 16 columns. Assembler, because gcc 12 copies every sum of the 8-bit intrinsic.
#define EACH(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)
#define OPEN(r) __m512i a##r = _mm512_set1_epi32(start[r]), b##r = a##r;
#define CLOSE(r) out[r] = a##r, out[8 + r] = b##r;
#define STEP(name, r)                                                            \
  {                                                                              \
    const __m512i row = _mm512_set1_epi32(rows[r * steps + k]);                  \
    asm(name " %1, %2, %0" : "+v"(a##r) : "v"(row), "v"(left));                  \
    asm(name " %1, %2, %0" : "+v"(b##r) : "v"(row), "v"(right));                 \
  }
#define STEP8(r) STEP("vpdpbusd", r)
#define STEP16(r) STEP("vpdpwssd", r)

template <bool EIGHT>
inline void products(const int32_t* rows, int64_t steps, const int32_t* columns, const int32_t* start, __m512i* out) {
  EACH(OPEN)
  for (int64_t k = 0; k < steps; k++) {
    const __m512i left = _mm512_load_si512(columns + k * LANES);
    const __m512i right = _mm512_load_si512(columns + (steps + k) * LANES);
    if constexpr (EIGHT) { EACH(STEP8) } else { EACH(STEP16) }
  }
  EACH(CLOSE)
}

// Both similarities of one pair; `best` has room for the best of each column.
template <bool EIGHT>
inline void similarity(const Packed& queries, int64_t q, const Packed& gallery, int64_t g, float* best,
                       float* ahead, float* behind) {
  const int64_t steps = queries.steps, rows = gallery.tokens, columns = queries.tokens;
  const int32_t* words = gallery.words.at(g * rows * steps);
  const float *row_scale = gallery.scale.at(g * rows), *scale = queries.scale.at(q * columns);
  __m512 back = _mm512_setzero_ps(), front = back;
  const __m512 lowest = _mm512_set1_ps(-INFINITY);
  for (int64_t c = 0; c < columns; c += LANES) _mm512_store_ps(best + c, lowest);
  for (int64_t r = 0; r < rows; r += LANES) {
    __m512 row_best[LANES];
    for (auto& one : row_best) one = lowest;
    for (int64_t c = 0; c < columns; c += 2 * LANES) {
      const int32_t* some = queries.words.at((q * columns + c) * steps);
      __m512 left = _mm512_load_ps(best + c), right = _mm512_load_ps(best + c + LANES);
      const __m512 left_scale = _mm512_loadu_ps(scale + c), right_scale = _mm512_loadu_ps(scale + c + LANES);
#pragma GCC unroll 2
      for (int half = 0; half < 16; half += 8) {
        __m512i sums[16];
        products<EIGHT>(words + (r + half) * steps, steps, some, gallery.start.at(g * rows + r + half), sums);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
          const __m512 size = _mm512_set1_ps(row_scale[r + half + i]);
          const __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), size);
          const __m512 b = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[8 + i]), size);
          left = _mm512_max_ps(left, a), right = _mm512_max_ps(right, b);
          const __m512 both = _mm512_max_ps(_mm512_mul_ps(a, left_scale), _mm512_mul_ps(b, right_scale));
          row_best[half + i] = _mm512_max_ps(row_best[half + i], both);
        }
      }
      _mm512_store_ps(best + c, left), _mm512_store_ps(best + c + LANES, right);
    }
    back = _mm512_fmadd_ps(lanes_max(row_best), _mm512_loadu_ps(gallery.weight.at(g * rows + r)), back);
  }
  for (int64_t c = 0; c < columns; c += LANES) {
    const __m512 share = _mm512_mul_ps(_mm512_loadu_ps(scale + c), _mm512_loadu_ps(queries.weight.at(q * columns + c)));
    front = _mm512_fmadd_ps(_mm512_load_ps(best + c), share, front);
  }
  *ahead = _mm512_reduce_add_ps(front), *behind = _mm512_reduce_add_ps(back);
}

template <bool EIGHT>
void all(const Sets& queries, const Sets& gallery, const uint8_t* wanted, float* ahead, float* behind, int64_t width,
         float* query_losses, float* gallery_losses) {
  const int64_t steps = steps_of(queries.dim, EIGHT);
  const Buffer<int32_t> scratch(steps);
  const Buffer<float> best(up(queries.size, 2 * LANES));
  const Packed columns(queries.count, up(queries.size, 2 * LANES), steps), rows(CHUNK, up(gallery.size, LANES), steps);
  for (int64_t q = 0; q < queries.count; q++)
    pack(queries, q, EIGHT, true, columns, q, EIGHT ? query_losses + 2 * q : nullptr, scratch.at(0));
  for (int64_t g0 = 0; g0 < gallery.count; g0 += CHUNK) {
    const int64_t end = std::min(gallery.count, g0 + CHUNK);
    for (int64_t g = g0; g < end; g++)
      pack(gallery, g, EIGHT, false, rows, g - g0, EIGHT ? gallery_losses + 2 * g : nullptr, scratch.at(0));
    for (int64_t q0 = 0; q0 < queries.count; q0 += BLOCK)
      for (int64_t g = g0; g < end; g++)
        for (int64_t q = q0; q < std::min(queries.count, q0 + BLOCK); q++) {
          const int64_t at = q * width + g;
          if (!wanted || wanted[at]) similarity<EIGHT>(columns, q, rows, g - g0, best.at(0), ahead + at, behind + at);
        }
  }
}

}  // namespace

extern "C" {

// Rough scores of all pairs. ahead, behind: (Q, .) with rows `width` apart, s(query, image) and s(image, query);
// losses: (count, 2), the mean and the largest norm of what rounding to 8 bits changed in the tokens of a set.
void rough(const int16_t* queries, const uint8_t* query_mask, int64_t query_count, int64_t query_size,
           const int16_t* gallery, const uint8_t* gallery_mask, int64_t gallery_count, int64_t gallery_size, int64_t dim,
           float* ahead, float* behind, int64_t width, float* query_losses, float* gallery_losses) {
  all<true>({queries, query_mask, query_count, query_size, dim}, {gallery, gallery_mask, gallery_count, gallery_size, dim},
            nullptr, ahead, behind, width, query_losses, gallery_losses);
}

// Scores of the pairs that are wanted, a byte for each, laid out as the scores are; null for all of them.
void fine(const int16_t* queries, const uint8_t* query_mask, int64_t query_count, int64_t query_size,
          const int16_t* gallery, const uint8_t* gallery_mask, int64_t gallery_count, int64_t gallery_size, int64_t dim,
          float* ahead, float* behind, int64_t width, const uint8_t* wanted) {
  all<false>({queries, query_mask, query_count, query_size, dim}, {gallery, gallery_mask, gallery_count, gallery_size, dim},
             wanted, ahead, behind, width, nullptr, nullptr);
}
}
