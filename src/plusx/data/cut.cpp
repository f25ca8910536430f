// Boxes of whole batches of uint8 images N H W C, C being 1 or 3, each resized to `size` by `size` with antialiased
// bilinear interpolation. native.py compiles this for the machine at hand; warp.py calls it, and says the same in torch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// What the pixels of a line give to each of `size` evenly spaced places of a stretch of it.
struct Taps {
    std::vector<int64_t> first, count;
    std::vector<float> weights;  // `most` for each place
    int64_t most;

    Taps(float start, float length, int64_t pixels, int64_t size, bool within) : first(size), count(size) {
        float step = length / size, reach = std::max(step, 1.0f);
        most = int64_t(2 * reach) + 2;
        weights.resize(size * most);
        for (int64_t i = 0; i < size; i++) {
            float centre = start + (i + 0.5f) * step, sum = 0;
            int64_t from = std::max<int64_t>(0, std::ceil(centre - reach - 0.5f));
            int64_t to = std::min<int64_t>(pixels - 1, std::floor(centre + reach - 0.5f));
            if (within) {
                while (from < to && !(from + 0.5f > start)) from++;
                while (to > from && !(to + 0.5f < start + length)) to--;
            }
            first[i] = std::min(from, pixels - 1), count[i] = std::clamp<int64_t>(to - from + 1, 1, most);
            float* own = &weights[i * most];
            for (int64_t k = 0; k < count[i]; k++)
                sum += own[k] = std::max(0.0f, 1 - std::abs(from + k + 0.5f - centre) / reach);
            for (int64_t k = 0; k < count[i]; k++) own[k] = sum > 0 ? own[k] / sum : 1.0f / count[i];
        }
    }
};

template <int C>
void cut_image(const uint8_t* image, int64_t width, int64_t size, const Taps& rows, const Taps& columns, bool mirrored,
               std::vector<float>& line, uint8_t* to) {
    int64_t begin = columns.first[0] * C, end = (columns.first[size - 1] + columns.count[size - 1]) * C;
    for (int64_t y = 0; y < size; y++, to += size * C) {
        std::fill(line.begin() + begin, line.begin() + end, 0.0f);
        for (int64_t k = 0; k < rows.count[y]; k++) {
            const uint8_t* row = image + (rows.first[y] + k) * width * C;
            float weight = rows.weights[y * rows.most + k];
            for (int64_t i = begin; i < end; i++) line[i] += weight * row[i];
        }
        for (int64_t x = 0; x < size; x++) {
            const float *at = &line[columns.first[x] * C], *weights = &columns.weights[x * columns.most];
            float sum[4] = {0.5f, 0.5f, 0.5f, 0.5f};  // four at once, though there be three: `line` is long enough
            for (int64_t k = 0; k < columns.count[x]; k++)
                for (int c = 0; c < (C == 1 ? 1 : 4); c++) sum[c] += weights[k] * at[k * C + c];
            uint8_t* pixel = to + (mirrored ? size - 1 - x : x) * C;
            for (int c = 0; c < C; c++) pixel[c] = uint8_t(int32_t(std::min(255.0f, std::max(0.0f, sum[c]))));
        }
    }
}

}  // namespace

// boxes: top, left, height and width of each image's box, in pixels, N each. within: only pixels of the box count.
extern "C" void cut(const uint8_t* images, int64_t n, int64_t height, int64_t width, int64_t channels,
                    const double* boxes, const uint8_t* mirrored, int64_t size, int within, uint8_t* to, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> line(width * channels + 4);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            Taps rows(boxes[i], boxes[2 * n + i], height, size, within);
            Taps columns(boxes[n + i], boxes[3 * n + i], width, size, within);
            const uint8_t* image = images + i * height * width * channels;
            uint8_t* own = to + i * size * size * channels;
            auto run = channels == 1 ? cut_image<1> : cut_image<3>;
            run(image, width, size, rows, columns, mirrored[i], line, own);
        }
    }
}
