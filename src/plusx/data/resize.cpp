// One uint8 image H W C, C being 1 or 3, resized: along the rows, rounded to bytes, then down the columns, both with
// weights in fixed point, which is Pillow's arithmetic to the bit. decode.py calls it and computes the weights.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int BITS = 22;  // of the weights behind the point; they are not negative and add up to 1, so no byte overflows
constexpr int LANES = 16;
typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

// Several rows at once, as many as fill the lanes, three channels taking four of them. `lines`: their pixels in turn.
template <int C>
void along(const uint8_t* image, int64_t width, int64_t height, const int32_t* first, const int32_t* weights,
           int64_t taps, int64_t size, std::vector<Sums>& lines, uint8_t* to) {
    constexpr int STEP = C == 1 ? 1 : 4, ROWS = LANES / STEP;
    int64_t begin = first[0], end = first[size - 1] + taps;
    for (int64_t top = 0; top < height; top += ROWS) {
        int64_t rows = std::min<int64_t>(ROWS, height - top);
        for (int64_t row = 0; row < rows; row++) {
            const uint8_t* from = image + (top + row) * width * C;
            int32_t* line = reinterpret_cast<int32_t*>(lines.data()) + row * STEP;
            for (int64_t x = begin; x < end; x++)
                for (int c = 0; c < C; c++) line[x * LANES + c] = from[x * C + c];
        }
        const int32_t* weight = weights;
        for (int64_t x = 0; x < size; x++) {
            Sums sums = Sums{} + (1 << (BITS - 1));
            for (int64_t k = 0; k < taps; k++) sums += *weight++ * lines[first[x] + k];
            sums >>= BITS;
            int32_t done[LANES];
            std::memcpy(done, &sums, sizeof done);
            for (int64_t row = 0; row < rows; row++)
                for (int c = 0; c < C; c++) to[((top + row) * size + x) * C + c] = uint8_t(done[row * STEP + c]);
        }
    }
}

}  // namespace

// columns, rows: the first pixel of each of `size` places; column_weights, row_weights: of `…_taps` pixels from there.
extern "C" void resize(const uint8_t* image, int64_t width, int64_t channels, int64_t size, const int32_t* columns,
                       const int32_t* column_weights, int64_t column_taps, const int32_t* rows,
                       const int32_t* row_weights, int64_t row_taps, uint8_t* to) {
    int64_t top = rows[0], height = rows[size - 1] + row_taps - top, wide = size * channels;
    std::vector<Sums> lines(width);
    std::vector<uint8_t> narrow(height * wide);
    auto run = channels == 1 ? along<1> : along<3>;
    run(image + top * width * channels, width, height, columns, column_weights, column_taps, size, lines, narrow.data());
    std::vector<int32_t> sums(wide);
    for (int64_t y = 0; y < size; y++, row_weights += row_taps, to += wide) {
        std::fill(sums.begin(), sums.end(), 1 << (BITS - 1));
        for (int64_t k = 0; k < row_taps; k++) {
            const uint8_t* row = &narrow[(rows[y] - top + k) * wide];
            int32_t weight = row_weights[k];
            for (int64_t i = 0; i < wide; i++) sums[i] += weight * row[i];
        }
        for (int64_t i = 0; i < wide; i++) to[i] = uint8_t(sums[i] >> BITS);
    }
}
