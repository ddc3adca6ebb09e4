// The transforms of Winograd's F(4x4, 3x3), which winograd.py compiles and explains: passes over memory, eight channels at
// a time. Images are (B, H, W, C); what is transformed is 36 planes of (tiles, C), `plane` floats apart. Each works on tiles
// from `first` to `last`. C is a multiple of eight. What lies outside an image is zero, and is not written.

namespace {

typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
constexpr long LANES = sizeof(lanes) / sizeof(float);

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
template <int SIDE, typename Float>
inline void square(Float *images, Float *pixels[SIDE][SIDE], long image, long top, long left, long high, long wide, long channels) {
  for (long i = 0; i < SIDE; i++)
    for (long j = 0; j < SIDE; j++) {
      const bool inside = top + i >= 0 && top + i < high && left + j >= 0 && left + j < wide;
      pixels[i][j] = inside ? images + ((image * high + top + i) * wide + left + j) * channels : nullptr;
    }
}

template <int SIDE, long MARGIN, void (*transform)(const lanes *, lanes *)>
void to_planes(const float *images, float *planes, long plane, long high, long wide, long channels, long first, long last) {
  const long rows = (high + 3) / 4, columns = (wide + 3) / 4;
  for (long tile = first; tile < last; tile++) {
    const float *pixels[SIDE][SIDE];
    const long row = tile / columns % rows, column = tile % columns;
    square<SIDE>(images, pixels, tile / columns / rows, 4 * row - MARGIN, 4 * column - MARGIN, high, wide, channels);
    for (long c = 0; c < channels; c += LANES) {
      lanes x[SIDE][SIDE], v[6][6];
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) x[i][j] = pixels[i][j] ? *(const lanes *)(pixels[i][j] + c) : lanes{};
      both_sides<SIDE, 6, transform>(x, v);
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) *(lanes *)(planes + (6 * i + j) * plane + tile * channels + c) = v[i][j];
    }
  }
}

}  // namespace

extern "C" {

void input_to_planes(const float *images, float *planes, long plane, long high, long wide, long channels, long first, long last) {
  to_planes<6, 1, input>(images, planes, plane, high, wide, channels, first, last);
}

void gradient_to_planes(const float *images, float *planes, long plane, long high, long wide, long channels, long first, long last) {
  to_planes<4, 0, gradient>(images, planes, plane, high, wide, channels, first, last);
}

void planes_to_output(float *images, const float *planes, long plane, long high, long wide, long channels, long first, long last) {
  const long rows = (high + 3) / 4, columns = (wide + 3) / 4;
  for (long tile = first; tile < last; tile++) {
    float *pixels[4][4];
    square<4>(images, pixels, tile / columns / rows, tile / columns % rows * 4, tile % columns * 4, high, wide, channels);
    for (long c = 0; c < channels; c += LANES) {
      lanes m[6][6], y[4][4];
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) m[i][j] = *(const lanes *)(planes + (6 * i + j) * plane + tile * channels + c);
      both_sides<6, 4, output>(m, y);
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
          if (pixels[i][j]) *(lanes *)(pixels[i][j] + c) = y[i][j];
    }
  }
}

}  // extern "C"
