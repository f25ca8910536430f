// Brightness, contrast and saturation of whole batches of uint8 images N H W 3, each with matrices of its own: a pixel
// becomes of_pixels · pixel + of_mean · (the image's mean) + 1/2, cut to 0 to 255 and to a whole number. native.py
// compiles this for the machine at hand; colour.py calls it.

#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t AT_ONCE = 256;  // pixels

void recolour_image(const uint8_t* image, int64_t pixels, const float* of_pixels, const float* of_mean, uint8_t* to) {
    uint64_t sums[3]{};
    for (int64_t from = 0; from < pixels; from += AT_ONCE) {
        int64_t count = std::min(AT_ONCE, pixels - from);
        uint32_t part[3]{};
        for (int64_t i = 0; i < count; i++)
            for (int c = 0; c < 3; c++) part[c] += image[3 * (from + i) + c];
        for (int c = 0; c < 3; c++) sums[c] += part[c];
    }
    float offset[3];
    for (int c = 0; c < 3; c++) {
        double sum = 0.5;
        for (int k = 0; k < 3; k++) sum += double(of_mean[3 * c + k]) * sums[k] / pixels;
        offset[c] = float(sum);
    }
    for (int64_t from = 0; from < pixels; from += AT_ONCE) {
        int64_t count = std::min(AT_ONCE, pixels - from);
        const uint8_t* pixel = image + 3 * from;
        uint8_t* out = to + 3 * from;
        float planes[3][AT_ONCE];
        for (int64_t i = 0; i < count; i++)
            for (int c = 0; c < 3; c++) planes[c][i] = pixel[3 * i + c];
        uint8_t changed[3][AT_ONCE];
        for (int c = 0; c < 3; c++) {
            float r = of_pixels[3 * c], g = of_pixels[3 * c + 1], b = of_pixels[3 * c + 2];
            for (int64_t i = 0; i < count; i++) {
                float value = r * planes[0][i] + g * planes[1][i] + b * planes[2][i] + offset[c];
                changed[c][i] = uint8_t(int32_t(std::min(255.0f, std::max(0.0f, value))));
            }
        }
        for (int64_t i = 0; i < count; i++)
            for (int c = 0; c < 3; c++) out[3 * i + c] = changed[c][i];
    }
}

}  // namespace

extern "C" void recolour(const uint8_t* images, int64_t n, int64_t pixels, const float* of_pixels, const float* of_mean,
                         uint8_t* to, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++)
        recolour_image(images + 3 * pixels * i, pixels, of_pixels + 9 * i, of_mean + 9 * i, to + 3 * pixels * i);
}
