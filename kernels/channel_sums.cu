// The norm passes that end in sums over a channel: statistics, and the backward pass of normalisation.
//
// A block owns a tile of channels and a chunk of their positions; its sums go to partials[channel][chunk], and a
// second kernel adds those of a channel, one warp each: the order of additions is fixed, there are no atomics. A
// thread owns 8 positions of one channel at a time: 8 neighbours for (N, C, P), 8 rows of its channel for channels
// last, where neighbouring threads have neighbouring channels. It adds 8 values in the arrays' precision, then goes
// on in double.
#include "quantizer.cuh"
#include "views.cuh"

struct Tile {
    int channels;     // in a tile: a power of two up to 32; 1 for (N, C, P)
    i64 tiles;        // in all channels
    i64 chunk;        // positions of a channel that a block takes
    i64 chunks;
};

// 8 positions of a channel: where they lie in an array and in the dense order.
template <bool kLast>
struct Column {
    i64 outer, channel, pixel;
    int count;
    const Shape& shape;
    __device__ __forceinline__ i64 offset(i64 stride, int j) const {
        if (kLast) return (outer + j) * stride + channel;
        i64 row = outer, at = pixel + j;
        for (; at >= shape.inner; at -= shape.inner) ++row;
        return row * stride + channel * shape.inner + at;
    }
    __device__ __forceinline__ i64 dense(int j) const { return offset(shape.channels * shape.inner, j); }
    __device__ __forceinline__ bool neighbours() const { return !kLast && pixel + count <= shape.inner; }
};

template <bool kLast, class T>
__device__ __forceinline__ void gather(const Column<kLast>& column, const T* from, i64 stride, T (&values)[8]) {
    if (column.neighbours()) {
        load_octet(from + column.offset(stride, 0), column.count, values);
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = from[column.offset(stride, j < column.count ? j : 0)];
    }
}

// Calls visit(column) for all of this thread's positions.
template <bool kLast, class Visit>
__device__ __forceinline__ void for_each_column(const Shape& shape, const Tile& tile, Visit visit) {
    const i64 number = blockIdx.x / tile.tiles;
    const i64 channel = (blockIdx.x - number * tile.tiles) * tile.channels + threadIdx.x % tile.channels;
    if (channel >= shape.channels) return;
    const i64 positions = shape.outer * shape.inner, from = number * tile.chunk;
    const i64 to = from + tile.chunk < positions ? from + tile.chunk : positions;
    const int step = 8 * (kThreads / tile.channels);
    for (i64 at = from + 8 * (threadIdx.x / tile.channels); at < to; at += step) {
        i64 pixel = 0;
        const i64 outer = kLast ? at : divide(at, shape.inner, pixel);
        visit(Column<kLast>{outer, channel, pixel, to - at < 8 ? int(to - at) : 8, shape});
    }
}

__device__ double* channel_scratch() {
    __shared__ double scratch[2 * kThreads];
    return scratch;
}

// Adds a pair of sums over the threads that own the same channel, and stores them among the partial sums.
__device__ __forceinline__ void store_partials(double first, double second, const Shape& shape, const Tile& tile,
                                               double* __restrict__ partials) {
    double* const scratch = channel_scratch();
    scratch[threadIdx.x] = first;
    scratch[kThreads + threadIdx.x] = second;
    for (int half = kThreads / 2; half >= tile.channels; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            scratch[threadIdx.x] += scratch[threadIdx.x + half];
            scratch[kThreads + threadIdx.x] += scratch[kThreads + threadIdx.x + half];
        }
    }
    const i64 number = blockIdx.x / tile.tiles;
    const i64 channel = (blockIdx.x - number * tile.tiles) * tile.channels + threadIdx.x;
    if (threadIdx.x < tile.channels && channel < shape.channels) {
        partials[channel * tile.chunks + number] = scratch[threadIdx.x];
        partials[(shape.channels + channel) * tile.chunks + number] = scratch[kThreads + threadIdx.x];
    }
}

// The two sums of this warp's channel; right in every lane.
struct Totals {
    i64 channel;
    double first, second;
};
__device__ __forceinline__ Totals add_partials(const double* __restrict__ partials, i64 channels, i64 chunks) {
    Totals totals{thread_number() / kLanes, 0, 0};
    const i64 channel = totals.channel < channels ? totals.channel : channels - 1;
    for (i64 chunk = threadIdx.x % kLanes; chunk < chunks; chunk += kLanes) {
        totals.first += partials[channel * chunks + chunk];
        totals.second += partials[(channels + channel) * chunks + chunk];
    }
    totals.first = warp_sum(totals.first);
    totals.second = warp_sum(totals.second);
    return totals;
}

// Sums of (x - pivot) and its square, pivot = the channel's first value: neither a large mean nor an outlier costs
// digits.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    channel_statistics(const T* __restrict__ values, i64 stride, double* __restrict__ partials, i64 outer, i64 channels,
                       i64 inner, int tile_channels, i64 tiles, i64 chunk, i64 chunks) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const Tile tile{tile_channels, tiles, chunk, chunks};
    double sum = 0, squares = 0;
    for_each_column<kLast>(shape, tile, [&](const Column<kLast>& column) {
        const double pivot = widen(values[column.channel * inner]);
        T x[8];
        gather(column, values, stride, x);
        // Differences to the middle of the 8 in their own precision, the middle's difference to the pivot in double.
        A middle = 0, near = 0, near_squares = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) middle += widen(x[j]) * A(0.125);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const A difference = widen(x[j]) - middle;
            if (j < column.count) {
                near += difference;
                near_squares += difference * difference;
            }
        }
        const double far = double(middle) - pivot;
        sum += column.count * far + double(near);
        squares += column.count * far * far + 2 * far * double(near) + double(near_squares);
    });
    store_partials(sum, squares, shape, tile, partials);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_statistics(const double* __restrict__ partials, const T* __restrict__ values,
                      typename Wide<T>::type* __restrict__ mean, typename Wide<T>::type* __restrict__ variance,
                      i64 channels, i64 inner, i64 chunks, i64 positions) {
    typedef typename Wide<T>::type A;
    const Totals totals = add_partials(partials, channels, chunks);
    if (totals.channel >= channels || threadIdx.x % kLanes) return;
    const double shift = totals.first / double(positions);
    const double spread = totals.second / double(positions) - shift * shift;
    mean[totals.channel] = A(double(widen(values[totals.channel * inner])) + shift);
    variance[totals.channel] = A(spread < 0 ? 0 : spread);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    finish_sums(const double* __restrict__ partials, A* __restrict__ first, A* __restrict__ second, i64 channels,
                i64 chunks) {
    const Totals totals = add_partials(partials, channels, chunks);
    if (totals.channel >= channels || threadIdx.x % kLanes) return;
    first[totals.channel] = A(totals.first);
    second[totals.channel] = A(totals.second);
}

// What both backward passes do with 8 gradients and their zhat: target = or += d * scale, and the sums.
template <class T>
struct Backward {
    typedef typename Wide<T>::type A;
    T* target;
    i64 stride;
    const A* scale;
    int activation, accumulate;
    A slope;
    double sum_d, sum_d_zhat;
    template <bool kLast>
    __device__ __forceinline__ void add(const Column<kLast>& column, const T (&gradient)[8], const A (&zhat)[8],
                                        const u32 (&mask)[8]) {
        const A factor = scale[column.channel];
        A near = 0, near_zhat = 0;
        T into[8];
        if (accumulate) gather(column, static_cast<const T*>(target), stride, into);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const A d = masked(widen(gradient[j]), mask[j], activation, slope);
            if (j < column.count) {
                near += d;
                near_zhat = multiply_add(d, zhat[j], near_zhat);
            }
            narrow(accumulate ? multiply_add(d, factor, widen(into[j])) : d * factor, into[j]);
        }
        sum_d += double(near);
        sum_d_zhat += double(near_zhat);
        if (column.neighbours()) {
            store_octet(target + column.offset(stride, 0), column.count, into);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j)
                if (j < column.count) target[column.offset(stride, j)] = into[j];
        }
    }
};

// The masks of 8 positions, by their places in the dense order.
template <bool kLast>
__device__ __forceinline__ void read_masks(const Column<kLast>& column, const u8* mask, int activation,
                                           u32 (&bits)[8]) {
    const i64 first = column.dense(0);
    if (column.neighbours() && first % 8 == 0) {
        const int width = mask_width(activation);
        const u32 octet = load_mask(mask, first / 8, column.count, activation);
#pragma unroll
        for (int j = 0; j < 8; ++j) bits[j] = octet >> j * width & ((1u << width) - 1);
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) bits[j] = mask_at(mask, column.dense(j < column.count ? j : 0), activation);
    }
}

// d = d_out * activation'(values * scale + shift), or by `mask` where there is one. `target` may be `d_out`.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    norm_backward(const T* d_out, i64 d_stride, const T* __restrict__ values, i64 stride,
                  const typename Wide<T>::type* __restrict__ mean, const typename Wide<T>::type* __restrict__ inv_std,
                  const typename Wide<T>::type* __restrict__ scale, const typename Wide<T>::type* __restrict__ shift,
                  const u8* __restrict__ mask, T* target, i64 target_stride, double* __restrict__ partials, i64 outer,
                  i64 channels, i64 inner, int tile_channels, i64 tiles, i64 chunk, i64 chunks, int activation,
                  int accumulate, double slope) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const Tile tile{tile_channels, tiles, chunk, chunks};
    Backward<T> backward{target, target_stride, scale, activation, accumulate, A(slope), 0, 0};
    for_each_column<kLast>(shape, tile, [&](const Column<kLast>& column) {
        T gradient[8], x[8];
        A zhat[8];
        u32 bits[8] = {};
        gather(column, d_out, d_stride, gradient);
        gather(column, values, stride, x);
        const A a = scale[column.channel], b = shift[column.channel];
        const A centre = mean[column.channel], narrowness = inv_std[column.channel];
        if (mask != nullptr) read_masks(column, mask, activation, bits);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            zhat[j] = (widen(x[j]) - centre) * narrowness;
            if (mask == nullptr) bits[j] = mask_of(multiply_add(widen(x[j]), a, b), activation);
        }
        backward.add(column, gradient, zhat, bits);
    });
    store_partials(backward.sum_d, backward.sum_d_zhat, shape, tile, partials);
}

// zhat of 8 positions from their codes.
template <bool kLast, class A>
__device__ __forceinline__ void read_codes(const Column<kLast>& column, const u8* codes, const void* minima,
                                           const u16* steps, int bits, int wide, int group, A (&zhat)[8]) {
    const i64 first = column.dense(0);
    i64 rest;
    if (column.neighbours() && first % 8 == 0) {
        const i64 number = divide(first, group, rest);
        const float minimum = read_minimum(minima, wide != 0, number);
        const float step = __uint_as_float(u32(steps[number]) << 16);
        u64 packed = 0;
        for (int k = 0; k < code_bytes(column.count, bits); ++k) packed |= u64(codes[first / 8 * bits + k]) << 8 * k;
#pragma unroll
        for (int j = 0; j < 8; ++j) zhat[j] = decode(u32(packed >> j * bits) & ((1u << bits) - 1), minimum, step);
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const i64 at = column.dense(j < column.count ? j : 0), number = divide(at, group, rest);
            const u32 q = codes[at * bits / 8] >> at * bits % 8 & ((1u << bits) - 1);
            zhat[j] = decode(q, read_minimum(minima, wide != 0, number), __uint_as_float(u32(steps[number]) << 16));
        }
    }
}

// norm_backward with zhat from its codes and the mask as kept.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    norm_backward_coded(const T* d_out, i64 d_stride, const u8* __restrict__ codes, const void* __restrict__ minima,
                        const u16* __restrict__ steps, const typename Wide<T>::type* __restrict__ scale,
                        const u8* __restrict__ mask, T* target, i64 target_stride, double* __restrict__ partials,
                        i64 outer, i64 channels, i64 inner, int tile_channels, i64 tiles, i64 chunk, i64 chunks,
                        int bits, int group, int wide, int activation, int accumulate, double slope) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const Tile tile{tile_channels, tiles, chunk, chunks};
    Backward<T> backward{target, target_stride, scale, activation, accumulate, A(slope), 0, 0};
    for_each_column<kLast>(shape, tile, [&](const Column<kLast>& column) {
        T gradient[8];
        A zhat[8];
        u32 masks[8] = {};
        gather(column, d_out, d_stride, gradient);
        read_codes(column, codes, minima, steps, bits, wide, group, zhat);
        if (activation != kIdentity) read_masks(column, mask, activation, masks);
        backward.add(column, gradient, zhat, masks);
    });
    store_partials(backward.sum_d, backward.sum_d_zhat, shape, tile, partials);
}
