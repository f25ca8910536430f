// Batch norm, the addition of the shortcut and ReLU with as few passes over memory as there can be, and max pooling,
// forward and backward, for bfloat16 images whose channels lie last: `rows` (N·H·W) by `channels`. native.py compiles
// this for the machine at hand; fused.py calls it.
//
//     y = relu(weight · (x - mean) / sqrt(var + eps) + bias + shortcut)        (shortcut and relu may be absent)
//
// Sums run over pieces of rows, in float within a piece and in double from piece to piece. The pieces depend on the
// shape alone, so the result is the same with any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t LANES = 16, WIDE = 64;    // values handled at once; so many fit in registers with their sums
constexpr int64_t PIECE_BYTES = 128 << 10;  // of x, so that a piece stays in a core's cache between its uses

using Floats = float __attribute__((vector_size(64)));
using Bits = uint32_t __attribute__((vector_size(64)));
using Half = uint16_t __attribute__((vector_size(32)));
using Taps = uint8_t __attribute__((vector_size(16)));
using Signed = int32_t __attribute__((vector_size(64)));

Floats wide(Half half) { return reinterpret_cast<Floats>(__builtin_convertvector(half, Bits) << 16); }

Half narrow(Floats value) {  // to the nearest, ties to even; not-a-number stays one
    Bits bits = reinterpret_cast<Bits>(value);
    Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(value == value ? rounded : Bits{} + 0x7fc0, Half);
}

// PARTS times 16 values from `first` on; `count` of them where they are fewer than 16.
template <int PARTS>
struct Group {
    static constexpr int SIZE = PARTS;
    int64_t first = 0, count = LANES;

    Half load(const uint16_t* row, int part) const { return read<Half>(row + first + part * LANES); }
    Floats load(const float* values, int part) const { return read<Floats>(values + first + part * LANES); }
    void store(uint16_t* row, int part, Half half) const { write(row + first + part * LANES, half); }
    void store(float* values, int part, Floats value) const { write(values + first + part * LANES, value); }

private:
    template <typename Vector, typename Value>
    Vector read(const Value* from) const {
        Vector vector{};
        if (PARTS > 1 || count == LANES) std::memcpy(&vector, from, sizeof vector);  // of known size: one instruction
        else std::memcpy(&vector, from, count * sizeof(Value));
        return vector;
    }
    template <typename Vector, typename Value>
    void write(Value* to, const Vector& vector) const {
        if (PARTS > 1 || count == LANES) std::memcpy(to, &vector, sizeof vector);
        else std::memcpy(to, &vector, count * sizeof(Value));
    }
};

// x as a matrix, cut into pieces of rows. Where channels are few, several rows are handled as one: `fold`.
struct Matrix {
    int64_t channels, fold, width, rows, length, pieces;

    Matrix(int64_t all, int64_t channels) : channels(channels) {
        bool fits = WIDE % channels == 0 && all % (WIDE / channels) == 0;
        fold = fits ? WIDE / channels : 1;
        width = channels * fold;
        rows = all / fold;
        length = std::max<int64_t>(1, PIECE_BYTES / (2 * width));
        pieces = (rows + length - 1) / length;
    }

    // work(piece, group, first value, last value + 1): all rows of the piece at once where their sums fit in registers,
    // one by one elsewhere, so that memory is read from front to back.
    template <typename Work>
    void each(int threads, Work work) const {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t from = piece * length, to = std::min(rows, from + length);
            if (width == WIDE) {
                work(piece, Group<WIDE / LANES>{}, from * width, to * width);
                continue;
            }
            for (int64_t row = from * width; row < to * width; row += width) {
                int64_t first = 0;
                for (; first + LANES <= width; first += LANES) work(piece, Group<1>{first}, row, row + width);
                if (first < width) work(piece, Group<1>{first, width - first}, row, row + width);
            }
        }
    }

    std::vector<float> repeated(const float* values) const {
        std::vector<float> all(width);
        for (int64_t i = 0; i < width; i++) all[i] = values[i % channels];
        return all;
    }
};

// Two sums per channel.
struct Sums {
    const Matrix& x;
    std::vector<float> parts;  // per piece: the ones, then the twos
    std::vector<double> one, two;

    explicit Sums(const Matrix& x) : x(x), parts(2 * x.pieces * x.width), one(x.channels), two(x.channels) {}

    void total() {
        for (int64_t piece = 0; piece < x.pieces; piece++)
            for (int64_t from = 2 * piece * x.width, end = from + x.width; from < end; from += x.channels)
                for (int64_t c = 0; c < x.channels; c++) {
                    one[c] += parts[from + c];
                    two[c] += parts[from + x.width + c];
                }
    }
};

enum Relu { NONE, OF_X, OF_Y };  // what tells where the ReLU let the gradient pass: nothing, x itself, or y

// The gradient that passes the ReLU that gave `output`.
Floats passing(Floats gradient, Floats output) { return output <= 0 ? Floats{} : gradient; }

// Sums of x - about and of its square.
void moments(const Matrix& m, int threads, const uint16_t* x, const float* about, Sums& sums) {
    m.each(threads, [=, width = m.width, parts = sums.parts.data()](int64_t piece, auto group, int64_t begin,
                                                                     int64_t end) {
        constexpr int SIZE = decltype(group)::SIZE;
        float *ones = parts + 2 * piece * width, *twos = ones + width;
        Floats centre[SIZE], one[SIZE], two[SIZE];
        for (int k = 0; k < SIZE; k++)
            centre[k] = group.load(about, k), one[k] = group.load(ones, k), two[k] = group.load(twos, k);
        for (int64_t row = begin; row < end; row += width)
            for (int k = 0; k < SIZE; k++) {
                Floats value = wide(group.load(x + row, k)) - centre[k];
                one[k] += value;
                two[k] += value * value;
            }
        for (int k = 0; k < SIZE; k++) group.store(ones, k, one[k]), group.store(twos, k, two[k]);
    });
    sums.total();
}

// y = relu(x · scale + shift + shortcut)
template <bool SHORTCUT, bool RELU>
void normalise(const Matrix& m, int threads, const uint16_t* x, const uint16_t* shortcut, const float* scale,
               const float* shift, uint16_t* y) {
    m.each(threads, [=, width = m.width](int64_t, auto group, int64_t begin, int64_t end) {
        constexpr int SIZE = decltype(group)::SIZE;
        Floats a[SIZE], b[SIZE];
        for (int k = 0; k < SIZE; k++) a[k] = group.load(scale, k), b[k] = group.load(shift, k);
        for (int64_t row = begin; row < end; row += width)
            for (int k = 0; k < SIZE; k++) {
                Floats value = wide(group.load(x + row, k)) * a[k] + b[k];
                if (SHORTCUT) value += wide(group.load(shortcut + row, k));
                if (RELU) value = value < 0 ? Floats{} : value;
                group.store(y + row, k, narrow(value));
            }
    });
}

// Sums of the gradient and of its product with x - mean; the gradient itself is the shortcut's, written to `passed`.
template <bool SHORTCUT, Relu RELU>
void correlate(const Matrix& m, int threads, const uint16_t* gradient, const uint16_t* y, const uint16_t* x,
               const float* scale, const float* shift, const float* mean, uint16_t* passed, Sums& sums) {
    m.each(threads, [=, width = m.width, parts = sums.parts.data()](int64_t piece, auto group, int64_t begin,
                                                                     int64_t end) {
        constexpr int SIZE = decltype(group)::SIZE;
        float *ones = parts + 2 * piece * width, *twos = ones + width;
        Floats a[SIZE], b[SIZE], centre[SIZE], one[SIZE], two[SIZE];
        for (int k = 0; k < SIZE; k++) {
            a[k] = group.load(scale, k), b[k] = group.load(shift, k), centre[k] = group.load(mean, k);
            one[k] = group.load(ones, k), two[k] = group.load(twos, k);
        }
        for (int64_t row = begin; row < end; row += width)
            for (int k = 0; k < SIZE; k++) {
                Floats g = wide(group.load(gradient + row, k)), value = wide(group.load(x + row, k));
                if (RELU == OF_X) g = passing(g, value * a[k] + b[k]);
                if (RELU == OF_Y) g = passing(g, wide(group.load(y + row, k)));
                if (SHORTCUT) group.store(passed + row, k, narrow(g));
                one[k] += g;
                two[k] += g * (value - centre[k]);
            }
        for (int k = 0; k < SIZE; k++) group.store(ones, k, one[k]), group.store(twos, k, two[k]);
    });
    sums.total();
}

// The gradient of x: of_gradient · gradient + of_x · x + constant
template <bool RELU>
void combine(const Matrix& m, int threads, const uint16_t* gradient, const uint16_t* x, const float* scale,
             const float* shift, const float* of_gradient, const float* of_x, const float* constant,
             uint16_t* x_gradient) {
    m.each(threads, [=, width = m.width](int64_t, auto group, int64_t begin, int64_t end) {
        constexpr int SIZE = decltype(group)::SIZE;
        Floats a[SIZE], b[SIZE], p[SIZE], q[SIZE], r[SIZE];
        for (int k = 0; k < SIZE; k++) {
            a[k] = group.load(scale, k), b[k] = group.load(shift, k);
            p[k] = group.load(of_gradient, k), q[k] = group.load(of_x, k), r[k] = group.load(constant, k);
        }
        for (int64_t row = begin; row < end; row += width)
            for (int k = 0; k < SIZE; k++) {
                Floats g = wide(group.load(gradient + row, k)), value = wide(group.load(x + row, k));
                if (RELU) g = passing(g, value * a[k] + b[k]);
                group.store(x_gradient + row, k, narrow(g * p[k] + value * q[k] + r[k]));
            }
    });
}

// y = x · scale + shift, as both directions compute it
void affine(int64_t channels, const float* weight, const float* bias, const float* mean, const float* invstd,
            std::vector<float>& scale, std::vector<float>& shift) {
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = weight[c] * invstd[c];
        shift[c] = bias[c] - mean[c] * scale[c];
    }
}

// Square windows over square steps. What lies outside of the image is never the greatest.
struct Windows {
    int64_t height, width, channels, side, stride, padding, rows, columns;

    Windows(int64_t height, int64_t width, int64_t channels, int64_t side, int64_t stride, int64_t padding)
        : height(height), width(width), channels(channels), side(side), stride(stride), padding(padding),
          rows((height + 2 * padding - side) / stride + 1), columns((width + 2 * padding - side) / stride + 1) {}

    // The part of a window that begins at `begin` which lies within `size` pixels.
    int64_t from(int64_t begin) const { return std::max<int64_t>(0, -begin); }
    int64_t to(int64_t begin, int64_t size) const { return std::min(side, size - begin); }
};

template <typename Vector>
Vector read(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

}  // namespace

// Per window and channel the greatest value, the first of equals, not-a-number before all; and which of its pixels it
// was. Channels are a multiple of 16.
extern "C" void pool_forward(const uint16_t* x, uint16_t* y, uint8_t* taps, int64_t images, int64_t height,
                             int64_t width, int64_t channels, int64_t side, int64_t stride, int64_t padding,
                             int threads) {
    Windows w(height, width, channels, side, stride, padding);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < images * w.rows; row++) {
        const uint16_t* image = x + row / w.rows * height * width * channels;
        int64_t top = row % w.rows * stride - padding;
        for (int64_t column = 0; column < w.columns; column++) {
            int64_t left = column * stride - padding, at = (row * w.columns + column) * channels;
            int64_t v_from = w.from(top), v_to = w.to(top, height), u_from = w.from(left), u_to = w.to(left, width);
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats most = Floats{} - INFINITY;
                Signed which = Signed{} + int32_t(v_from * side + u_from);
                for (int64_t v = v_from; v < v_to; v++)
                    for (int64_t u = u_from; u < u_to; u++) {
                        Floats value = wide(read<Half>(image + ((top + v) * width + left + u) * channels + c));
                        Signed more = (value > most) | (value != value);
                        most = more ? value : most;
                        which = more ? Signed{} + int32_t(v * side + u) : which;
                    }
                Half half = narrow(most);
                Taps tap = __builtin_convertvector(which, Taps);
                std::memcpy(y + at + c, &half, sizeof half);
                std::memcpy(taps + at + c, &tap, sizeof tap);
            }
        }
    }
}

// Each pixel's gradient: the sum of those of the windows in which it was the greatest.
extern "C" void pool_backward(const uint16_t* gradient, const uint8_t* taps, uint16_t* x_gradient, int64_t images,
                              int64_t height, int64_t width, int64_t channels, int64_t side, int64_t stride,
                              int64_t padding, int threads) {
    Windows w(height, width, channels, side, stride, padding);
    int64_t vectors = channels / LANES;
#pragma omp parallel num_threads(threads)
    {
        std::vector<Floats> sums(width * vectors);  // of a row of pixels
#pragma omp for schedule(static)
        for (int64_t row = 0; row < images * height; row++) {
            int64_t y = row % height, begin = std::max<int64_t>(0, y + padding - side + stride) / stride;
            std::fill(sums.begin(), sums.end(), Floats{});
            for (int64_t r = begin; r < w.rows && r * stride <= y + padding; r++) {
                int64_t first_tap = (y + padding - r * stride) * side;
                for (int64_t k = 0; k < w.columns; k++) {
                    int64_t left = k * stride - padding, at = ((row / height * w.rows + r) * w.columns + k) * channels;
                    for (int64_t vector = 0; vector < vectors; vector++) {
                        Floats given = wide(read<Half>(gradient + at + vector * LANES));
                        Signed tap = __builtin_convertvector(read<Taps>(taps + at + vector * LANES), Signed);
                        for (int64_t u = w.from(left); u < w.to(left, width); u++)
                            sums[(left + u) * vectors + vector] += tap == int32_t(first_tap + u) ? given : Floats{};
                    }
                }
            }
            for (int64_t k = 0; k < width * vectors; k++) {
                Half half = narrow(sums[k]);
                std::memcpy(x_gradient + row * width * channels + k * LANES, &half, sizeof half);
            }
        }
    }
}

// y from x; also the batch's mean and 1 / sqrt(var + eps), and the running statistics, moved by `momentum`.
extern "C" void norm_forward(const uint16_t* x, const uint16_t* shortcut, uint16_t* y, const float* weight,
                             const float* bias, float* running_mean, float* running_var, float* mean, float* invstd,
                             int64_t rows, int64_t channels, double eps, double momentum, int relu, int threads) {
    Matrix m(rows, channels);
    Sums sums(m);
    std::vector<float> about(channels), scale(channels), shift(channels);
    // about the mean of some rows, which is not far from that of all: little is lost to cancellation
    int64_t some = std::min<int64_t>(rows, 32);
    for (int64_t row = 0; row < some; row++)
        for (int64_t c = 0; c < channels; c++) about[c] += wide(Half{x[row * rows / some * channels + c]})[0] / some;
    moments(m, threads, x, m.repeated(about.data()).data(), sums);
    for (int64_t c = 0; c < channels; c++) {
        double offset = sums.one[c] / rows, variance = sums.two[c] / rows - offset * offset;
        variance = variance < 0 ? 0 : variance;  // not-a-number stays one
        mean[c] = about[c] + offset;
        invstd[c] = 1 / std::sqrt(variance + eps);
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * (variance * rows / (rows - 1) - running_var[c]);
    }
    affine(channels, weight, bias, mean, invstd, scale, shift);
    auto run = shortcut ? (relu ? normalise<true, true> : normalise<true, false>)
                        : (relu ? normalise<false, true> : normalise<false, false>);
    run(m, threads, x, shortcut, m.repeated(scale.data()).data(), m.repeated(shift.data()).data(), y);
}

// The gradients of x, weight, bias, and of the shortcut unless `passed` is null; `y`, what came out, is read only then.
extern "C" void norm_backward(const uint16_t* gradient, const uint16_t* y, const uint16_t* x, const float* weight,
                              const float* bias, const float* mean, const float* invstd, uint16_t* x_gradient,
                              uint16_t* passed, float* weight_gradient, float* bias_gradient, int64_t rows,
                              int64_t channels, int relu, int threads) {
    Matrix m(rows, channels);
    Sums sums(m);
    std::vector<float> scale(channels), shift(channels), of_gradient(channels), of_x(channels), constant(channels);
    affine(channels, weight, bias, mean, invstd, scale, shift);
    std::vector<float> a = m.repeated(scale.data()), b = m.repeated(shift.data());
    auto sum = !relu ? correlate<false, NONE> : passed ? correlate<true, OF_Y> : correlate<false, OF_X>;
    sum(m, threads, gradient, y, x, a.data(), b.data(), m.repeated(mean).data(), passed, sums);
    for (int64_t c = 0; c < channels; c++) {
        weight_gradient[c] = sums.two[c] * invstd[c];
        bias_gradient[c] = sums.one[c];
        of_gradient[c] = scale[c];
        of_x[c] = -scale[c] * invstd[c] * invstd[c] * sums.two[c] / rows;
        constant[c] = -scale[c] * sums.one[c] / rows - of_x[c] * mean[c];
    }
    auto run = relu && !passed ? combine<true> : combine<false>;
    run(m, threads, passed ? passed : gradient, x, a.data(), b.data(), m.repeated(of_gradient.data()).data(),
        m.repeated(of_x.data()).data(), m.repeated(constant.data()).data(), x_gradient);
}
