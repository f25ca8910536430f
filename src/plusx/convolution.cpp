// The gradient of a convolution's weights from bfloat16 images whose channels lie last: 1×1 or 3×3 ("same" padding, a
// stride along both sides, no groups or dilation), channels in multiples of 16. native.py compiles this for the machine
// at hand; fused.py calls it.
//
//     out[o, v, u, i] = sum over images n, rows r, columns c of  gradient[n, r, c, o] · x[n, r·stride + v - side / 2,
//                                                                                       c·stride + u - side / 2, i]
//
// The processor multiplies pairs of bfloat16 numbers and adds both products to a float, for 16 such pairs at once. A
// pair here is two neighbouring columns, so both operands are first packed that way: for each pair of columns 16
// channels, the two columns' values side by side. Packed bands of rows stay in a core's cache while all outputs and
// taps use them.
//
// Images are summed in pieces, and the pieces in order. They depend on the shapes alone, so the result is the same with
// any number of threads.

#ifndef __AVX512BF16__
#error "this processor has no AVX512-bf16"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int64_t LANES = 16;               // channels of a packed vector
constexpr int64_t OUTPUTS = 8;              // outputs whose sums are in registers at once
constexpr int64_t BAND_PAIRS = 400;         // pairs of columns that are packed at once
constexpr int64_t MANY_PAIRS = 2000;        // in a whole batch: sums over so many leave room for few channels at a time
constexpr int64_t TASKS = 16;               // at least so many where images suffice
constexpr int64_t PIECES_BYTES = 16 << 20;  // at most so many in sums of pieces

struct Shape {
    int64_t images, height, width, inputs, outputs, side, stride, rows, columns, pairs;

    // Channels, of either side, of one task.
    int64_t chunk() const { return side == 1 ? 128 : images * rows * pairs < MANY_PAIRS ? 64 : 32; }
    int64_t chunks(int64_t channels) const { return (channels + chunk() - 1) / chunk(); }
    int64_t taps() const { return side * side; }
    int64_t size() const { return outputs * taps() * inputs; }
};

// The values of two columns, 16 channels of each, side by side; zero where there is no column.
__m512i interleaved(const uint16_t* one, const uint16_t* two) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m256i zero = _mm256_setzero_si256();
    __m256i a = one ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(one)) : zero;
    __m256i b = two ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(two)) : zero;
    return _mm512_permutexvar_epi16(order, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
}

// `count` pairs of columns of a row of images: first + 2 p step and first + (2 p + 1) step, zero outside of the row, of
// `vectors` times 16 channels, which go to `apart` of each other.
void pack(const uint16_t* row, int64_t width, int64_t channels, int64_t first, int64_t step, int64_t count,
          int64_t vectors, int64_t apart, __m512i* packed) {
    for (int64_t p = 0; p < count; p++) {
        int64_t column = first + 2 * p * step;
        auto at = [=](int64_t column) { return column < 0 || column >= width ? nullptr : row + column * channels; };
        const uint16_t *one = at(column), *two = at(column + step);
        if (one && two)
            for (int64_t v = 0; v < vectors; v++) packed[v * apart + p] = interleaved(one + v * LANES, two + v * LANES);
        else
            for (int64_t v = 0; v < vectors; v++)
                packed[v * apart + p] = interleaved(one ? one + v * LANES : one, two ? two + v * LANES : two);
    }
}

// Packed images, or rows of one: what lies between them, in vectors.
struct Packed {
    int64_t row, image, vector;
};

// What is packed next is called into the cache while the processor multiplies: pixels, of each some lines of 64 bytes.
struct Ahead {
    const char* pixel = nullptr;
    int64_t pixels = 0, apart = 0, lines = 0, line = 0;

    Ahead() = default;
    Ahead(const uint16_t* first, int64_t pixels, int64_t channels, int64_t vectors)
        : pixel(reinterpret_cast<const char*>(first)), pixels(pixels), apart(2 * channels), lines((vectors + 1) / 2) {}

    bool fetch() {
        if (pixels <= 0) return false;
        _mm_prefetch(pixel + 64 * line, _MM_HINT_T1);
        if (++line == lines) line = 0, pixel += apart, pixels--;
        return true;
    }
    int64_t left() const { return pixels * lines; }
};

// Sums over some rows of some images, of `pairs` pairs, for OUTPUTS outputs and N vectors of inputs.
template <int N>
void multiply(const __m512i* gradient, const Packed& g, const __m512i* const* x, int64_t x_row, int64_t x_image,
              int64_t images, int64_t rows, int64_t pairs, float* const* out, int64_t out_stride, bool fresh,
              Ahead& x_ahead, Ahead& g_ahead, int64_t fetches) {
    __m512 sums[OUTPUTS][N];
    for (int o = 0; o < OUTPUTS; o++)
        for (int k = 0; k < N; k++)
            sums[o][k] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(out[k] + o * out_stride);
    for (int64_t image = 0; image < images; image++)
        for (int64_t row = 0; row < rows; row++) {
            const char* factors = reinterpret_cast<const char*>(gradient + image * g.image + row * g.row);
            const __m512i* from[N];
            for (int k = 0; k < N; k++) from[k] = x[k] + image * x_image + row * x_row;
            for (int64_t k = 0; k < fetches; k++)
                if (!x_ahead.fetch()) g_ahead.fetch();
            for (int64_t pair = 0; pair < pairs; pair++) {
                __m512bh values[N];
                for (int k = 0; k < N; k++) values[k] = reinterpret_cast<__m512bh>(from[k][pair]);
                for (int o = 0; o < OUTPUTS; o++) {
                    int both;
                    std::memcpy(&both, factors + pair * 64 + o * 4, 4);
                    __m512bh factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
                    for (int k = 0; k < N; k++) sums[o][k] = _mm512_dpbf16_ps(sums[o][k], factor, values[k]);
                }
            }
        }
    for (int o = 0; o < OUTPUTS; o++)
        for (int k = 0; k < N; k++) _mm512_storeu_ps(out[k] + o * out_stride, sums[o][k]);
}

struct alignas(64) Line {
    char bytes[64];
};

// One task: some images, some outputs, some inputs.
struct Task {
    const Shape& s;
    int64_t first_output, output_vectors, first_input, input_vectors;
    int64_t variants, x_pairs, band, x_rows, together;
    Packed g, x;
    Ahead x_ahead, g_ahead;
    int64_t fetches = 0;
    std::unique_ptr<Line[]> x_lines, gradient_lines;
    float* out;

    Task(const Shape& s, int64_t first_output, int64_t first_input, float* out)
        : s(s), first_output(first_output), first_input(first_input), out(out) {
        output_vectors = std::min(s.chunk(), s.outputs - first_output) / LANES;
        input_vectors = std::min(s.chunk(), s.inputs - first_input) / LANES;
        // of stride 1 the third tap sees what the first one saw a pair of columns later
        variants = s.side == 1 ? 1 : s.stride == 1 ? 2 : 3;
        x_pairs = s.pairs + (s.side == 3 && s.stride == 1);
        int64_t bands = (s.rows * s.pairs + BAND_PAIRS - 1) / BAND_PAIRS;
        band = (s.rows + bands - 1) / bands;
        together = band == s.rows ? std::max<int64_t>(1, BAND_PAIRS / (s.pairs * s.rows)) : 1;
        x_rows = s.side == 1 ? band : (band - 1) * s.stride + s.side;
        g = {s.pairs, band * s.pairs, together * band * s.pairs};
        x = {x_pairs, x_rows * x_pairs, together * x_rows * x_pairs};
        x_lines.reset(new Line[input_vectors * variants * x.vector]);
        gradient_lines.reset(new Line[output_vectors * g.vector]);
    }

    __m512i* x_at(int64_t vector, int64_t variant, int64_t row) {
        return reinterpret_cast<__m512i*>(x_lines.get()) + (vector * variants + variant) * x.vector + row * x.row;
    }
    __m512i* gradient_at(int64_t vector, int64_t row) {
        return reinterpret_cast<__m512i*>(gradient_lines.get()) + vector * g.vector + row * g.row;
    }

    // The rows of some images from `from` on.
    void add(const uint16_t* all_x, const uint16_t* all_gradients, int64_t begin, int64_t images, int64_t from,
             int64_t end, bool fresh) {
        int64_t count = std::min(band, s.rows - from), edge = s.side / 2;
        int64_t step = s.side == 1 ? s.stride : 1, top = from * s.stride - edge;  // the image's row in packed row 0
        int64_t needed = s.side == 1 ? count : (count - 1) * s.stride + s.side;
        for (int64_t n = 0; n < images; n++) {
            const uint16_t* gradient = all_gradients + first_output;
            for (int64_t row = 0; row < count; row++) {
                int64_t at = ((begin + n) * s.rows + from + row) * s.columns * s.outputs;
                pack(gradient + at, s.columns, s.outputs, 0, 1, s.pairs, output_vectors, g.vector,
                     gradient_at(0, row) + n * g.image);
            }
            const uint16_t* image = all_x + (begin + n) * s.height * s.width * s.inputs + first_input;
            for (int64_t row = 0; row < needed; row++) {
                int64_t y = top + row * step;
                if (y < 0 || y >= s.height) continue;
                for (int64_t variant = 0; variant < variants; variant++)
                    pack(image + y * s.width * s.inputs, s.width, s.inputs, variant - edge, s.stride, x_pairs,
                         input_vectors, variants * x.vector, x_at(0, variant, row) + n * x.image);
            }
        }
        look_ahead(all_x, all_gradients, begin, images, from, count, end);
        if (s.side == 1) {
            for (int64_t v = 0, left; (left = input_vectors - v) > 0;) {
                if (left == 1) point<1>(v, images, count, fresh), v += 1;
                else if (left == 2 || left == 4) point<2>(v, images, count, fresh), v += 2;
                else point<3>(v, images, count, fresh), v += 3;
            }
        } else {
            for (int64_t v = 0; v < input_vectors; v++)
                for (int64_t tap = 0; tap < s.side; tap++) row_of_taps(v, tap, images, count, top, fresh);
        }
    }

    // Have the next band of rows, or of images, fetched while this one is multiplied.
    void look_ahead(const uint16_t* all_x, const uint16_t* all_gradients, int64_t begin, int64_t images, int64_t from,
                    int64_t count, int64_t end) {
        bool same = from + count < s.rows;
        int64_t next = same ? begin : begin + images, row = same ? from + count : 0;
        int64_t many = same ? images : std::min(together, end - next), rows = std::min(band, s.rows - row);
        x_ahead = g_ahead = {};
        if (many > 0) {
            int64_t seen = same ? std::max<int64_t>(0, s.side - s.stride) : 0;  // rows of x that are there already
            int64_t first = std::max<int64_t>(0, row * s.stride - s.side / 2 + seen);
            int64_t last = std::min(s.height, (row + rows - 1) * s.stride - s.side / 2 + s.side);
            int64_t pixels = ((many - 1) * s.height + last - first) * s.width;
            x_ahead = Ahead(all_x + (next * s.height + first) * s.width * s.inputs + first_input, pixels, s.inputs,
                            input_vectors);
            g_ahead = Ahead(all_gradients + (next * s.rows + row) * s.columns * s.outputs + first_output,
                            many * rows * s.columns, s.outputs, output_vectors);
        }
        int64_t products = s.side == 1 ? (input_vectors + 2) / 3 : s.side * input_vectors;
        int64_t steps = products * output_vectors * LANES / OUTPUTS * count * images;
        fetches = (x_ahead.left() + g_ahead.left() + steps - 1) / steps;
    }

    template <int N>
    void point(int64_t vector, int64_t images, int64_t count, bool fresh) {
        const __m512i* from[N];
        for (int k = 0; k < N; k++) from[k] = x_at(vector + k, 0, 0);
        for (int64_t o = 0; o < output_vectors * LANES; o += OUTPUTS) {
            float *to[N], *first = out + (first_output + o) * s.inputs + first_input;
            for (int k = 0; k < N; k++) to[k] = first + (vector + k) * LANES;
            multiply<N>(of_output(o, 0), g, from, x.row, x.image, images, count, s.pairs, to, s.inputs, fresh, x_ahead,
                        g_ahead, fetches);
        }
    }

    void row_of_taps(int64_t vector, int64_t tap, int64_t images, int64_t count, int64_t top, bool fresh) {
        int64_t begin = 0, end = count;  // the rows for which this tap lies within the image
        while (begin < end && top + begin * s.stride + tap < 0) begin++;
        while (end > begin && top + (end - 1) * s.stride + tap >= s.height) end--;
        const __m512i* from[3];
        for (int k = 0; k < 3; k++) from[k] = x_at(vector, k % variants, begin * s.stride + tap) + (k >= variants);
        for (int64_t o = 0; o < output_vectors * LANES; o += OUTPUTS) {
            float* to[3];
            for (int k = 0; k < 3; k++)
                to[k] = out + ((first_output + o) * 9 + tap * 3 + k) * s.inputs + first_input + vector * LANES;
            multiply<3>(of_output(o, begin), g, from, s.stride * x.row, x.image, images, end - begin, s.pairs, to,
                        9 * s.inputs, fresh, x_ahead, g_ahead, fetches);
        }
    }

    const __m512i* of_output(int64_t output, int64_t row) {
        return reinterpret_cast<const __m512i*>(reinterpret_cast<const char*>(gradient_at(output / LANES, row)) +
                                                output % LANES * 4);
    }
};

}  // namespace

extern "C" void weights_gradient(const uint16_t* x, const uint16_t* gradient, float* out, int64_t images,
                                 int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t side,
                                 int64_t stride, int threads) {
    int64_t rows = (height - 1) / stride + 1, columns = (width - 1) / stride + 1;
    Shape s{images, height, width, inputs, outputs, side, stride, rows, columns, (columns + 1) / 2};
    int64_t tiles = s.chunks(outputs) * s.chunks(inputs), fitting = PIECES_BYTES / (s.size() * 4);
    int64_t pieces = std::min({images, (TASKS + tiles - 1) / tiles, std::max<int64_t>(1, fitting)});
    std::unique_ptr<float[]> parts(new float[pieces > 1 ? pieces * s.size() : 0]);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t k = 0; k < pieces * tiles; k++) {
        int64_t piece = k / tiles, tile = k % tiles;
        Task task(s, tile / s.chunks(inputs) * s.chunk(), tile % s.chunks(inputs) * s.chunk(),
                  pieces > 1 ? parts.get() + piece * s.size() : out);
        int64_t begin = images * piece / pieces, end = images * (piece + 1) / pieces;
        for (int64_t n = begin; n < end; n += task.together)
            for (int64_t row = 0; row < rows; row += task.band)
                task.add(x, gradient, n, std::min(task.together, end - n), row, end, n == begin && row == 0);
    }
    if (pieces == 1) return;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < s.size(); i++) {
        float sum = parts[i];
        for (int64_t piece = 1; piece < pieces; piece++) sum += parts[piece * s.size() + i];
        out[i] = sum;
    }
}
