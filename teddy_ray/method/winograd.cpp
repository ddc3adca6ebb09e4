// Winograd's F(4x4, 3x3), which winograd.py compiles and explains. Images are (B, H, W, C) and filters (3, 3, C, O), C and O
// multiples of eight; what is transformed is 36 planes of factors, `plane` apart; templates work on tiles from `first` to
// `last`. What lies outside an image is zero, and is not written. Threads are OpenMP's, as torch's are: others would find
// those still spinning.

#include <algorithm>
#include <memory>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
constexpr long LANES = sizeof(lanes) / sizeof(float);

// A bfloat16 is a float's upper half; rounded to the nearest, of two the even one.
typedef float float32;
typedef unsigned short bfloat16;
typedef bfloat16 halves __attribute__((vector_size(16), aligned(2), may_alias));
typedef unsigned bits __attribute__((vector_size(32), aligned(2), may_alias));

inline halves rounded(lanes value) {
#ifdef __AVX512BF16__
  return (halves)_mm256_cvtneps_pbh((__m256)value);
#else
  const bits whole = (bits)value;
  return __builtin_convertvector((whole + 0x7fff + (whole >> 16 & 1)) >> 16, halves);
#endif
}

inline bits widened(halves x) { return __builtin_convertvector(x, bits); }

inline lanes load(const float *x) { return *(const lanes *)x; }

inline lanes load(const bfloat16 *x) { return (lanes)(widened(*(const halves *)x) << 16); }

inline void store(float *x, lanes value) { *(lanes *)x = value; }

inline void store(bfloat16 *x, lanes value) { *(halves *)x = rounded(value); }

// As many as a product's step takes, side by side.
inline void store(float *x, const lanes (&values)[1]) { store(x, values[0]); }

inline void store(bfloat16 *x, const lanes (&values)[1]) { store(x, values[0]); }

inline void store(bfloat16 *x, const lanes (&values)[2]) {
  *(bits *)x = widened(rounded(values[0])) | widened(rounded(values[1])) << 16;
}

#ifdef __AVX512F__
typedef float wide_lanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr long ROWS = 12;
#else
typedef lanes wide_lanes;
constexpr long ROWS = 6;
#endif
// A product's sums, ROWS by COLUMNS, stay in registers: AVX2 has 16 of them, AVX-512 and NEON 32.
constexpr long WIDE = sizeof(wide_lanes) / sizeof(float), COLUMNS = 2 * WIDE;

// What is multiplied: floats, and for images of bfloat16 that where an instruction multiplies it, two of them a step.
template <typename Pixel>
struct Of {
  typedef float Factor;
};

inline wide_lanes plus_product(wide_lanes sum, const float *v, wide_lanes u) { return sum + *v * u; }

#ifdef __AVX512BF16__
template <>
struct Of<bfloat16> {
  typedef bfloat16 Factor;
};

inline wide_lanes plus_product(wide_lanes sum, const bfloat16 *v, wide_lanes u) {
  int both;
  __builtin_memcpy(&both, v, sizeof both);
  return (wide_lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)u);
}
#endif

template <typename Factor>
constexpr long A_STEP = sizeof(float) / sizeof(Factor);

constexpr float A = 0.625f, B = 1.5f;  // the points: 0, ±A, ±B and infinity
constexpr long BLOCK = 16;             // tiles that a thread takes of those that all transform
constexpr long APART = 32;             // factors between planes: powers of two apart, their cache lines would share places

// Bᵀ d
inline void input(const lanes d[6], lanes v[6]) {
  const lanes even1 = d[4] - B * B * d[2], odd1 = A * (d[3] - B * B * d[1]);
  const lanes even2 = d[4] - A * A * d[2], odd2 = B * (d[3] - A * A * d[1]);
  v[0] = A * A * B * B * d[0] - (A * A + B * B) * d[2] + d[4];
  v[1] = even1 + odd1;
  v[2] = even1 - odd1;
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  v[5] = A * A * B * B * d[1] - (A * A + B * B) * d[3] + d[5];
}

// Aᵀ m
inline void output(const lanes m[6], lanes y[4]) {
  const lanes sum1 = m[1] + m[2], sum2 = m[3] + m[4], difference1 = m[1] - m[2], difference2 = m[3] - m[4];
  y[0] = m[0] + sum1 + sum2;
  y[1] = A * difference1 + B * difference2;
  y[2] = A * A * sum1 + B * B * sum2;
  y[3] = A * A * A * difference1 + B * B * B * difference2 + m[5];
}

// A g
inline void gradient(const lanes g[4], lanes m[6]) {
  const lanes even1 = g[0] + A * A * g[2], odd1 = A * g[1] + A * A * A * g[3];
  const lanes even2 = g[0] + B * B * g[2], odd2 = B * g[1] + B * B * B * g[3];
  m[0] = g[0];
  m[1] = even1 + odd1;
  m[2] = even1 - odd1;
  m[3] = even2 + odd2;
  m[4] = even2 - odd2;
  m[5] = g[3];
}

constexpr float AT_0 = 1 / (A * A * B * B), AT_A = 0.5f / (A * A * (A * A - B * B)), AT_B = 0.5f / (B * B * (B * B - A * A));

// G g
inline void filter(const lanes g[3], lanes u[6]) {
  const lanes even1 = AT_A * (g[0] + A * A * g[2]), odd1 = A * AT_A * g[1];
  const lanes even2 = AT_B * (g[0] + B * B * g[2]), odd2 = B * AT_B * g[1];
  u[0] = AT_0 * g[0];
  u[1] = even1 + odd1;
  u[2] = even1 - odd1;
  u[3] = even2 + odd2;
  u[4] = even2 - odd2;
  u[5] = g[2];
}

// Gᵀ u
inline void filter_back(const lanes u[6], lanes g[3]) {
  const lanes sum1 = AT_A * (u[1] + u[2]), sum2 = AT_B * (u[3] + u[4]);
  g[0] = AT_0 * u[0] + sum1 + sum2;
  g[1] = A * AT_A * (u[1] - u[2]) + B * AT_B * (u[3] - u[4]);
  g[2] = A * A * sum1 + B * B * sum2 + u[5];
}

// From the left to every column, then, transposed, from the right to every row.
template <int IN, int OUT, void (*transform)(const lanes *, lanes *)>
inline void both_sides(const lanes x[IN][IN], lanes y[OUT][OUT]) {
  lanes left[IN][OUT];
  for (int j = 0; j < IN; j++) {
    lanes column[IN];
    for (int i = 0; i < IN; i++) column[i] = x[i][j];
    transform(column, left[j]);
  }
  for (int i = 0; i < OUT; i++) {
    lanes row[IN];
    for (int j = 0; j < IN; j++) row[j] = left[j][i];
    transform(row, y[i]);
  }
}

// Where the pixels of a square of SIDE by SIDE are in `images`, or null outside of them.
template <int SIDE, typename Pixel>
inline void square(Pixel *images, Pixel *pixels[SIDE][SIDE], long image, long top, long left, long high, long wide,
                   long channels) {
  for (long i = 0; i < SIDE; i++)
    for (long j = 0; j < SIDE; j++) {
      const bool inside = top + i >= 0 && top + i < high && left + j >= 0 && left + j < wide;
      pixels[i][j] = inside ? images + ((image * high + top + i) * wide + left + j) * channels : nullptr;
    }
}

// To the same place in 36 planes, AT_ONCE of them side by side.
template <long AT_ONCE, typename Factor>
inline void store_all(Factor *place, long plane, const lanes (&v)[AT_ONCE][6][6]) {
  for (int i = 0; i < 6; i++)
    for (int j = 0; j < 6; j++) {
      lanes values[AT_ONCE];
      for (long k = 0; k < AT_ONCE; k++) values[k] = v[k][i][j];
      store(place + (6 * i + j) * plane, values);
    }
}

// As (panels, tiles / AT_ONCE, channels of a panel, AT_ONCE), AT_ONCE tiles side by side; those after the last are zero.
template <long AT_ONCE, int SIDE, long MARGIN, void (*transform)(const lanes *, lanes *), typename Pixel, typename Factor>
void to_planes(const Pixel *images, Factor *planes, long plane, long tiles, long panel, long high, long wide, long channels,
               long first, long last) {
  const long rows = (high + 3) / 4, columns = (wide + 3) / 4;
  for (long tile = first; tile < last; tile += AT_ONCE) {
    const Pixel *pixels[AT_ONCE][SIDE][SIDE] = {};
    for (long k = 0; k < AT_ONCE && tile + k < last; k++) {
      const long row = (tile + k) / columns % rows, column = (tile + k) % columns, image = (tile + k) / columns / rows;
      square<SIDE>(images, pixels[k], image, 4 * row - MARGIN, 4 * column - MARGIN, high, wide, channels);
    }
    for (long c = 0; c < channels; c += LANES) {
      lanes v[AT_ONCE][6][6];
      for (long k = 0; k < AT_ONCE; k++) {
        lanes x[SIDE][SIDE];
        for (int i = 0; i < SIDE; i++)
          for (int j = 0; j < SIDE; j++) x[i][j] = pixels[k][i][j] ? load(pixels[k][i][j] + c) : lanes{};
        both_sides<SIDE, 6, transform>(x, v[k]);
      }
      store_all(planes + (c / panel * tiles + tile - first) * panel + c % panel * AT_ONCE, plane, v);
    }
  }
}

template <typename Pixel>
void to_images(Pixel *images, const float *planes, long plane, long across, long high, long wide, long channels, long first,
               long last) {
  const long rows = (high + 3) / 4, columns = (wide + 3) / 4;
  for (long tile = first; tile < last; tile++) {
    Pixel *pixels[4][4];
    square<4>(images, pixels, tile / columns / rows, tile / columns % rows * 4, tile % columns * 4, high, wide, channels);
    for (long c = 0; c < channels; c += LANES) {
      lanes m[6][6], y[4][4];
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) m[i][j] = *(const lanes *)(planes + (6 * i + j) * plane + (tile - first) * across + c);
      both_sides<6, 4, output>(m, y);
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
          if (pixels[i][j]) store(pixels[i][j] + c, y[i][j]);
    }
  }
}

// Filters (3, 3, C, O) as products read them: 36 of (panels, C / A_STEP, COLUMNS, A_STEP), O in panels of COLUMNS.
template <typename Factor>
void filters_to_planes(const float *filters, Factor *planes, long plane, long channels, long outputs, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long c = 0; c < channels; c += A_STEP<Factor>)
    for (long o = 0; o < outputs; o += LANES) {
      lanes u[A_STEP<Factor>][6][6];
      for (long k = 0; k < A_STEP<Factor>; k++) {
        lanes g[3][3];
        for (int i = 0; i < 3; i++)
          for (int j = 0; j < 3; j++) g[i][j] = load(filters + ((3 * i + j) * channels + c + k) * outputs + o);
        both_sides<3, 6, filter>(g, u[k]);
      }
      store_all(planes + (o / COLUMNS * channels + c) * COLUMNS + o % COLUMNS * A_STEP<Factor>, plane, u);
    }
}

// ROWS tiles, `v_row` apart, by COLUMNS filters, summed over `steps`.
template <typename Factor>
inline void product(const Factor *v, long v_row, long v_step, const Factor *u, long u_step, long steps, float *m, long across) {
  wide_lanes sums[ROWS][2] = {};
  for (long step = 0; step < steps; step++, v += v_step, u += u_step) {
    const wide_lanes u0 = *(const wide_lanes *)u, u1 = *(const wide_lanes *)(u + WIDE * A_STEP<Factor>);
#pragma GCC unroll 16
    for (long row = 0; row < ROWS; row++) {
      sums[row][0] = plus_product(sums[row][0], v + row * v_row, u0);
      sums[row][1] = plus_product(sums[row][1], v + row * v_row, u1);
    }
  }
#pragma GCC unroll 16
  for (long row = 0; row < ROWS; row++) {
    *(wide_lanes *)(m + row * across) = sums[row][0];
    *(wide_lanes *)(m + row * across + WIDE) = sums[row][1];
  }
}

inline long up_to(long count, long multiple) { return (count + multiple - 1) / multiple * multiple; }

inline long tiles_of(long batch, long high, long wide) { return batch * ((high + 3) / 4) * ((wide + 3) / 4); }

template <typename T>
std::unique_ptr<T[]> room(long count) {
  return std::unique_ptr<T[]>(new T[count]);
}

template <typename Pixel>
void convolve(const Pixel *images, const float *filters, Pixel *result, long batch, long high, long wide, long channels,
              long outputs, int threads) {
  typedef typename Of<Pixel>::Factor Factor;
  constexpr long STEP = A_STEP<Factor>;
  const long tiles = tiles_of(batch, high, wide), across = up_to(outputs, COLUMNS);
  // Transformed before they are multiplied: of a plane, half as much as the filters that meet it there.
  const long at_once = up_to(channels * outputs / (channels + outputs) / 2, ROWS);
  const long in_plane = at_once * channels + APART, out_plane = at_once * across + APART, filter_plane = channels * across;
  const auto transformed_filters = room<Factor>(36 * filter_plane);
  filters_to_planes(filters, transformed_filters.get(), filter_plane, channels, outputs, threads);
#pragma omp parallel for num_threads(threads)
  for (long thread = 0; thread < threads; thread++) {
    const auto transformed = room<Factor>(36 * in_plane);
    const auto products = room<float>(36 * out_plane);
    const long last = tiles * (thread + 1) / threads;
    for (long start = tiles * thread / threads; start < last; start += at_once) {
      const long end = std::min(start + at_once, last);
      to_planes<1, 6, 1, input>(images, transformed.get(), in_plane, at_once, channels, high, wide, channels, start, end);
      for (long plane = 0; plane < 36; plane++)
        for (long column = 0; column < across; column += COLUMNS)
          for (long row = 0; row < end - start; row += ROWS)
            product(&transformed[plane * in_plane + row * channels], channels, STEP,
                    &transformed_filters[plane * filter_plane + column * channels], COLUMNS * STEP, channels / STEP,
                    &products[plane * out_plane + row * across + column], across);
      to_images(result, products.get(), out_plane, across, high, wide, outputs, start, end);
    }
  }
}

// Adds one panel's 36 products, each (ROWS, COLUMNS), to `sums` (3, 3, C, O), of which it is ROWS by COLUMNS from (c, o) on.
inline void to_filters(const float *products, float *sums, long channels, long outputs, long c, long o) {
  for (long row = 0; row < std::min(ROWS, channels - c); row++)
    for (long column = 0; column < std::min(COLUMNS, outputs - o); column += LANES) {
      lanes u[6][6], g[3][3];
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) u[i][j] = load(products + ((6 * i + j) * ROWS + row) * COLUMNS + column);
      both_sides<6, 3, filter_back>(u, g);
      for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
          float *const sum = sums + ((3 * i + j) * channels + c + row) * outputs + o + column;
          store(sum, load(sum) + g[i][j]);
        }
    }
}

// Adds to `sums` (3, 3, C, O). Threads share the panels of it, and no sum: how many they are changes nothing.
template <typename Pixel>
void filter_gradients(const Pixel *images, const Pixel *gradients, float *sums, long at_once, long batch, long high, long wide,
                      long channels, long outputs, int threads) {
  typedef typename Of<Pixel>::Factor Factor;
  constexpr long STEP = A_STEP<Factor>;
  const long tiles = tiles_of(batch, high, wide);
  at_once = std::min(up_to(tiles, BLOCK), up_to(at_once, BLOCK));
  const long in_plane = at_once * channels + APART, out_plane = at_once * up_to(outputs, COLUMNS) + APART;
  const auto of_images = room<Factor>(36 * in_plane + ROWS * STEP);  // is read up to ROWS
  const auto of_gradients = room<Factor>(36 * out_plane);
  for (long first = 0; first < tiles; first += at_once) {
    const long last = std::min(first + at_once, tiles), steps = (last - first + STEP - 1) / STEP;
#pragma omp parallel for num_threads(threads)
    for (long start = first; start < last; start += BLOCK) {
      const long end = std::min(start + BLOCK, last);
      Factor *const x = &of_images[(start - first) * channels], *const y = &of_gradients[(start - first) * COLUMNS];
      to_planes<STEP, 6, 1, input>(images, x, in_plane, at_once, channels, high, wide, channels, start, end);
      to_planes<STEP, 4, 0, gradient>(gradients, y, out_plane, at_once, COLUMNS, high, wide, outputs, start, end);
    }
#pragma omp parallel for collapse(2) num_threads(threads)
    for (long c = 0; c < channels; c += ROWS)
      for (long o = 0; o < outputs; o += COLUMNS) {
        float products[36 * ROWS * COLUMNS];
        for (long plane = 0; plane < 36; plane++)
          product(&of_images[plane * in_plane + c * STEP], STEP, channels * STEP,
                  &of_gradients[plane * out_plane + o * at_once], COLUMNS * STEP, steps, products + plane * ROWS * COLUMNS,
                  COLUMNS);
        to_filters(products, sums, channels, outputs, c, o);
      }
  }
}

}  // namespace

// What Python calls, for images of each type.
#define FOR_IMAGES_OF(Pixel)                                                                                                  \
  void convolve_##Pixel(const Pixel *images, const float *filters, Pixel *result, long batch, long high, long wide,           \
                        long channels, long outputs, int threads) {                                                           \
    convolve(images, filters, result, batch, high, wide, channels, outputs, threads);                                         \
  }                                                                                                                           \
  void filter_gradients_##Pixel(const Pixel *images, const Pixel *gradients, float *sums, long at_once, long batch,           \
                                long high, long wide, long channels, long outputs, int threads) {                             \
    filter_gradients(images, gradients, sums, at_once, batch, high, wide, channels, outputs, threads);                        \
  }

extern "C" {

FOR_IMAGES_OF(float32)
FOR_IMAGES_OF(bfloat16)

}  // extern "C"
