// The norm passes that go value by value: a thread owns an octet in dense order, a block 256 octets (in the coding
// pass a warp owns a group). Past the end threads hold 0 values and only take part in shuffles.
#include "quantizer.cuh"
#include "views.cuh"

// out = activation(values * scale + shift), and the mask where one is asked for. `out` may be `values`.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    affine_activation(const T* values, i64 stride, const typename Wide<T>::type* __restrict__ scale,
                      const typename Wide<T>::type* __restrict__ shift, T* out, i64 out_stride, u8* __restrict__ mask,
                      i64 outer, i64 channels, i64 inner, int activation, double slope) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const i64 octet = thread_number();
    const Place<kLast> place(shape, 8 * octet, octet_count(octet, shape.size()));
    T x[8], y[8];
    u32 bits = 0;
    gather(place, values, stride, x);
    const A* const vectors[2] = {scale, shift};
    with_channels(place, vectors, [&](int j, const A(&v)[2]) {
        const A u = multiply_add(widen(x[j]), v[0], v[1]);
        if (j < place.count) bits |= mask_of(u, activation) << j * mask_width(activation);
        narrow(activate(u, activation, A(slope)), y[j]);
    });
    scatter(place, out, out_stride, y);
    store_mask(mask, octet, place.count, activation, bits);
}

// (values - mean) * inv_std coded by the group quantiser, the activation's mask, and out where it is asked for: one
// read.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2)
    normalize_quantize_mask(const T* __restrict__ values, i64 stride,
                            const typename Wide<T>::type* __restrict__ mean,
                            const typename Wide<T>::type* __restrict__ inv_std,
                            const typename Wide<T>::type* __restrict__ scale,
                            const typename Wide<T>::type* __restrict__ shift, T* __restrict__ out, i64 out_stride,
                            u8* __restrict__ codes, void* __restrict__ minima, u16* __restrict__ steps,
                            u8* __restrict__ mask, double* __restrict__ energies, i64 outer, i64 channels, i64 inner,
                            int bits, int group, int groups_per_block, int wide, int activation, double slope,
                            u64 seed, u64 start) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const i64 size = shape.size(), groups = (size + group - 1) / group;
    const i64 from = i64(blockIdx.x) * groups_per_block;
    const i64 to = from + groups_per_block < groups ? from + groups_per_block : groups;
    const Coded coded{codes, minima, steps, wide != 0};
    const Keys keys(seed, start + u64(from * group));
    const A* const vectors[4] = {mean, inv_std, scale, shift};
    double energy = 0;
    for (i64 number = from + threadIdx.x / kLanes; number < to; number += kWarps) {
        const i64 first = number * group;
        const int count = size - first < group ? int(size - first) : group;
        const auto load = [&](int octet, int here, float(&zhat)[8], bool again) {
            const Place<kLast> place(shape, first + 8 * octet, here);
            T x[8], y[8];
            u32 flags = 0;
            gather(place, values, stride, x);
            with_channels(place, vectors, [&](int j, const A(&v)[4]) {
                const A wide_x = widen(x[j]);
                zhat[j] = float((wide_x - v[0]) * v[1]);
                const A u = multiply_add(wide_x, v[2], v[3]);
                if (j < here) flags |= mask_of(u, activation) << j * mask_width(activation);
                narrow(activate(u, activation, A(slope)), y[j]);
            });
#pragma unroll
            for (int j = 1; j < 8; ++j) zhat[j] = j < here ? zhat[j] : zhat[0];
            if (again) return;
            store_mask(mask, first / 8 + octet, here, activation, flags);
            if (out != nullptr) scatter(place, out, out_stride, y);
        };
        energy += quantize_group<0>(load, bits, number, first, count, keys, start + u64(first), coded);
    }
    energy = block_sum(energy);
    if (threadIdx.x == 0) energies[blockIdx.x] = energy;
}

// zhat of an octet from its codes.
__device__ __forceinline__ void decode_octet(const u8* codes, const void* minima, const u16* steps, int bits, int wide,
                                             int group, i64 octet, int count, float (&zhat)[8]) {
    if (count == 0) return;
    i64 rest;
    const i64 number = divide(octet, group / 8, rest);
    const float minimum = read_minimum(minima, wide != 0, number);
    const float step = __uint_as_float(u32(steps[number]) << 16);
    const u8* const from = codes + octet * bits;
    const int valid = code_bytes(count, bits);
    const u64 packed = bits == 1   ? load_bytes<1>(from, valid)
                       : bits == 2 ? load_bytes<2>(from, valid)
                       : bits == 4 ? load_bytes<4>(from, valid)
                                   : load_bytes<8>(from, valid);
#pragma unroll
    for (int j = 0; j < 8; ++j) zhat[j] = decode(u32(packed >> j * bits) & ((1u << bits) - 1), minimum, step);
}

// What value j of an octet with these masks chooses of a = weight * zhat + bias.
template <class A>
__device__ __forceinline__ A rebuilt(A a, u32 masks, int j, int activation, A slope) {
    const int width = mask_width(activation);
    const u32 mask = masks >> j * width & ((1u << width) - 1);
    return activation == kRelu6 && mask == 2 ? A(6) : masked(a, mask, activation, slope);
}

// out = mask * (weight * zhat + bias), zhat from its codes; never clamped.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    dequantize_affine(const u8* __restrict__ codes, const void* __restrict__ minima, const u16* __restrict__ steps,
                      const typename Wide<T>::type* __restrict__ weight,
                      const typename Wide<T>::type* __restrict__ bias, const u8* __restrict__ mask,
                      T* __restrict__ out, i64 stride, i64 outer, i64 channels, i64 inner,
                      int bits, int group, int wide, int activation, double slope) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const i64 octet = thread_number();
    const Place<kLast> place(shape, 8 * octet, octet_count(octet, shape.size()));
    const u32 flags = load_mask(mask, octet, place.count, activation);
    float zhat[8];
    T y[8];
    decode_octet(codes, minima, steps, bits, wide, group, octet, place.count, zhat);
    const A* const vectors[2] = {weight, bias};
    with_channels(place, vectors, [&](int j, const A(&v)[2]) {
        narrow(rebuilt(multiply_add(A(zhat[j]), v[0], v[1]), flags, j, activation, A(slope)), y[j]);
    });
    scatter(place, out, stride, y);
}

// The same with zhat as it is. `out` may be `values`.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    rebuild_activation(const T* values, i64 stride, const typename Wide<T>::type* __restrict__ weight,
                       const typename Wide<T>::type* __restrict__ bias, const u8* __restrict__ mask, T* out,
                       i64 out_stride, i64 outer, i64 channels, i64 inner, int activation, double slope) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const i64 octet = thread_number();
    const Place<kLast> place(shape, 8 * octet, octet_count(octet, shape.size()));
    const u32 flags = load_mask(mask, octet, place.count, activation);
    T x[8], y[8];
    gather(place, values, stride, x);
    const A* const vectors[2] = {weight, bias};
    with_channels(place, vectors, [&](int j, const A(&v)[2]) {
        narrow(rebuilt(multiply_add(widen(x[j]), v[0], v[1]), flags, j, activation, A(slope)), y[j]);
    });
    scatter(place, out, out_stride, y);
}

// target -= constant + (values - mean) * slope.
template <class T, bool kLast>
__global__ void __launch_bounds__(kThreads)
    subtract_norm_terms(T* target, i64 target_stride, const T* values, i64 stride,
                        const typename Wide<T>::type* __restrict__ mean,
                        const typename Wide<T>::type* __restrict__ constant,
                        const typename Wide<T>::type* __restrict__ slope, i64 outer, i64 channels, i64 inner) {
    typedef typename Wide<T>::type A;
    const Shape shape{outer, channels, inner};
    const i64 octet = thread_number();
    const Place<kLast> place(shape, 8 * octet, octet_count(octet, shape.size()));
    T x[8], y[8];
    gather(place, values, stride, x);
    gather(place, static_cast<const T*>(target), target_stride, y);
    const A* const vectors[3] = {mean, constant, slope};
    with_channels(place, vectors, [&](int j, const A(&v)[3]) {
        narrow(widen(y[j]) - multiply_add(widen(x[j]) - v[0], v[2], v[1]), y[j]);
    });
    scatter(place, target, target_stride, y);
}
