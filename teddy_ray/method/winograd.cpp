// Winograd's F(4x4, 3x3), which winograd.py compiles and explains. Images are (B, H, W, C), C a multiple of eight; what is
// transformed is 36 planes of floats (tiles, C), `plane` apart; templates work on tiles from `first` to `last`. What lies
// outside an image is zero, and is not written. Threads are OpenMP's, as torch's are: others would find those still spinning.

namespace {

typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
constexpr long LANES = sizeof(lanes) / sizeof(float);

// A bfloat16 is a float's upper half; rounded to the nearest, of two the even one.
typedef float float32;
typedef unsigned short bfloat16;
typedef bfloat16 halves __attribute__((vector_size(16), aligned(2), may_alias));
typedef unsigned bits __attribute__((vector_size(32)));

inline lanes load(const float *x) { return *(const lanes *)x; }

inline lanes load(const bfloat16 *x) { return (lanes)(__builtin_convertvector(*(const halves *)x, bits) << 16); }

inline void store(float *x, lanes value) { *(lanes *)x = value; }

inline void store(bfloat16 *x, lanes value) {
  const bits whole = (bits)value;
  *(halves *)x = __builtin_convertvector((whole + 0x7fff + (whole >> 16 & 1)) >> 16, halves);
}

// A product's sums of ROWS tiles by two registers stay in registers: AVX2 has 16 of them, AVX-512 and NEON 32.
#ifdef __AVX512F__
typedef float wide_lanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr long ROWS = 12;
#else
typedef lanes wide_lanes;
constexpr long ROWS = 6;
#endif
constexpr long APART = 16;  // floats between planes: see winograd.py
constexpr long WIDE = sizeof(wide_lanes) / sizeof(float), COLUMNS = 2 * WIDE;

// Bᵀ d
inline void input(const lanes d[6], lanes v[6]) {
  const lanes even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
  const lanes near = d[4] - d[2], far = 2.0f * (d[3] - d[1]);
  v[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
  v[1] = even + odd;
  v[2] = even - odd;
  v[3] = near + far;
  v[4] = near - far;
  v[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

// Aᵀ m
inline void output(const lanes m[6], lanes y[4]) {
  const lanes sum1 = m[1] + m[2], sum2 = m[3] + m[4], difference1 = m[1] - m[2], difference2 = m[3] - m[4];
  y[0] = m[0] + sum1 + sum2;
  y[1] = difference1 + 2.0f * difference2;
  y[2] = sum1 + 4.0f * sum2;
  y[3] = difference1 + 8.0f * difference2 + m[5];
}

// A g
inline void gradient(const lanes g[4], lanes m[6]) {
  const lanes even1 = g[0] + g[2], odd1 = g[1] + g[3], even2 = g[0] + 4.0f * g[2], odd2 = 2.0f * g[1] + 8.0f * g[3];
  m[0] = g[0];
  m[1] = even1 + odd1;
  m[2] = even1 - odd1;
  m[3] = even2 + odd2;
  m[4] = even2 - odd2;
  m[5] = g[3];
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
inline void square(Pixel *images, Pixel *pixels[SIDE][SIDE], long image, long top, long left, long high, long wide, long channels) {
  for (long i = 0; i < SIDE; i++)
    for (long j = 0; j < SIDE; j++) {
      const bool inside = top + i >= 0 && top + i < high && left + j >= 0 && left + j < wide;
      pixels[i][j] = inside ? images + ((image * high + top + i) * wide + left + j) * channels : nullptr;
    }
}

template <int SIDE, long MARGIN, void (*transform)(const lanes *, lanes *), typename Pixel>
void to_planes(const Pixel *images, float *planes, long plane, long high, long wide, long channels, long first, long last) {
  const long rows = (high + 3) / 4, columns = (wide + 3) / 4;
  for (long tile = first; tile < last; tile++) {
    const Pixel *pixels[SIDE][SIDE];
    const long row = tile / columns % rows, column = tile % columns;
    square<SIDE>(images, pixels, tile / columns / rows, 4 * row - MARGIN, 4 * column - MARGIN, high, wide, channels);
    for (long c = 0; c < channels; c += LANES) {
      lanes x[SIDE][SIDE], v[6][6];
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) x[i][j] = pixels[i][j] ? load(pixels[i][j] + c) : lanes{};
      both_sides<SIDE, 6, transform>(x, v);
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) *(lanes *)(planes + (6 * i + j) * plane + (tile - first) * channels + c) = v[i][j];
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

// ROWS tiles (., channels) by COLUMNS filters (channels, COLUMNS).
inline void product(const float *v, const float *u, float *m, long channels, long across) {
  wide_lanes sums[ROWS][2] = {};
  for (long c = 0; c < channels; c++, u += COLUMNS) {
    const wide_lanes u0 = *(const wide_lanes *)u, u1 = *(const wide_lanes *)(u + WIDE);
#pragma GCC unroll 16
    for (long row = 0; row < ROWS; row++) {
      sums[row][0] += v[row * channels + c] * u0;
      sums[row][1] += v[row * channels + c] * u1;
    }
  }
#pragma GCC unroll 16
  for (long row = 0; row < ROWS; row++) {
    *(wide_lanes *)(m + row * across) = sums[row][0];
    *(wide_lanes *)(m + row * across + WIDE) = sums[row][1];
  }
}

template <typename Work>
void share(long batch, long high, long wide, long threads, Work work) {
  const long tiles = batch * ((high + 3) / 4) * ((wide + 3) / 4);
#pragma omp parallel for num_threads(threads)
  for (long thread = 0; thread < threads; thread++) work(thread, tiles * thread / threads, tiles * (thread + 1) / threads);
}

// `filters` are 36 of (across / COLUMNS, channels, COLUMNS), across = outputs up to a multiple of COLUMNS; each thread's part of
// `room`, `each` floats, is for two times 36 planes of `at_once` tiles, a multiple of ROWS: transformed input, and products.
template <typename Pixel>
void convolve_images(const Pixel *images, const float *filters, Pixel *result, float *room, long each, long at_once, long batch,
                     long high, long wide, long channels, long outputs, long threads) {
  const long across = (outputs + COLUMNS - 1) / COLUMNS * COLUMNS;
  const long in_plane = at_once * channels + APART, out_plane = at_once * across + APART;
  share(batch, high, wide, threads, [=](long thread, long first, long last) {
    float *const transformed = room + thread * each, *const products = transformed + 36 * in_plane;
    for (long start = first; start < last; start += at_once) {
      const long end = start + at_once < last ? start + at_once : last;
      to_planes<6, 1, input>(images, transformed, in_plane, high, wide, channels, start, end);
      for (long plane = 0; plane < 36; plane++)
        for (long column = 0; column < across; column += COLUMNS)
          for (long row = 0; row < end - start; row += ROWS)
            product(transformed + plane * in_plane + row * channels, filters + (plane * across + column) * channels,
                    products + plane * out_plane + row * across + column, channels, across);
      to_images(result, products, out_plane, across, high, wide, outputs, start, end);
    }
  });
}

template <int SIDE, long MARGIN, void (*transform)(const lanes *, lanes *), typename Pixel>
void all_to_planes(const Pixel *images, float *planes, long plane, long batch, long high, long wide, long channels, long threads) {
  share(batch, high, wide, threads, [=](long, long first, long last) {
    to_planes<SIDE, MARGIN, transform>(images, planes + first * channels, plane, high, wide, channels, first, last);
  });
}

}  // namespace

// What Python calls, for images of each type.
#define FOR_IMAGES_OF(Pixel)                                                                                                   \
  void convolve_##Pixel(const Pixel *images, const float *filters, Pixel *result, float *room, long each, long at_once,       \
                        long batch, long high, long wide, long channels, long outputs, long threads) {                         \
    convolve_images(images, filters, result, room, each, at_once, batch, high, wide, channels, outputs, threads);              \
  }                                                                                                                            \
  void input_to_planes_##Pixel(const Pixel *images, float *planes, long plane, long batch, long high, long wide,               \
                               long channels, long threads) {                                                                  \
    all_to_planes<6, 1, input>(images, planes, plane, batch, high, wide, channels, threads);                                   \
  }                                                                                                                            \
  void gradient_to_planes_##Pixel(const Pixel *images, float *planes, long plane, long batch, long high, long wide,            \
                                  long channels, long threads) {                                                               \
    all_to_planes<4, 0, gradient>(images, planes, plane, batch, high, wide, channels, threads);                                \
  }

extern "C" {

long rows() { return ROWS; }

long columns() { return COLUMNS; }

FOR_IMAGES_OF(float32)
FOR_IMAGES_OF(bfloat16)

}  // extern "C"
