// Octets of (rows, C) and (N, C, P) arrays whose first dimension may have gaps, and the activations' masks.
//
// kLast: channels last, (rows, C), a run of neighbours is a row; otherwise (N, C, P), a run is one channel's P
// values. Octet o holds the values 8*o to 8*o+7 of the view in row-major order without gaps, the order of codes and
// masks. Inside a run (`whole`) an octet is read by 16-byte loads where its address allows; across runs value by
// value.
#pragma once
#include "octets.cuh"

struct Shape {
    i64 outer, channels, inner;  // inner = 1 for channels last
    __device__ __forceinline__ i64 size() const { return outer * channels * inner; }
};

template <bool kLast>
struct Place {
    i64 outer, channel, pixel;
    int count;   // values in this octet, 0 to 8
    bool whole;  // all of them are neighbours
    const Shape& shape;

    __device__ __forceinline__ Place(const Shape& of, i64 first, int values) : count(values), shape(of) {
        if (kLast) {
            pixel = 0;
            outer = divide(first, shape.channels, channel);
            whole = channel + count <= shape.channels;
        } else {
            outer = divide(divide(first, shape.inner, pixel), shape.channels, channel);
            whole = pixel + count <= shape.inner;
        }
    }
    __device__ __forceinline__ i64 offset(i64 stride) const {
        return outer * stride + (kLast ? channel : channel * shape.inner + pixel);
    }
    __device__ __forceinline__ void next() {
        if (!kLast && ++pixel < shape.inner) return;
        pixel = 0;
        if (++channel < shape.channels) return;
        channel = 0;
        ++outer;
    }
};

template <bool kLast, class T>
__device__ __forceinline__ void gather(Place<kLast> place, const T* from, i64 stride, T (&values)[8]) {
    if (place.count == 0) return;
    if (place.whole) {
        load_octet(from + place.offset(stride), place.count, values);
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            values[j] = j < place.count ? from[place.offset(stride)] : values[0];
            if (j + 1 < place.count) place.next();
        }
    }
}

// All lanes of a warp call this.
template <bool kLast, class T>
__device__ __forceinline__ void scatter(Place<kLast> place, T* to, i64 stride, const T (&values)[8]) {
    store_octets(to + place.offset(stride), place.whole ? place.count : 0, values);
    if (place.whole) return;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (j < place.count) to[place.offset(stride)] = values[j];
        if (j + 1 < place.count) place.next();
    }
}

// Calls visit(j, v) for every value j with v[k] = vectors[k][channel of the value]. Channels that are neighbours are
// read four at a time: eight of several vectors would fill the registers.
template <bool kLast, int n, class A, class Visit>
__device__ __forceinline__ void with_channels(Place<kLast> place, const A* const (&vectors)[n], Visit visit) {
    A of_value[n];
    if (place.count == 0) return;
    if (kLast && place.whole) {
#pragma unroll
        for (int half = 0; half < 8; half += 4) {
            A of_four[n][4];
#pragma unroll
            for (int k = 0; k < n; ++k) load_four(vectors[k] + place.channel, half, place.count, of_four[k]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int k = 0; k < n; ++k) of_value[k] = of_four[k][j];
                visit(half + j, of_value);
            }
        }
        return;
    }
    if (!kLast && place.whole)
#pragma unroll
        for (int k = 0; k < n; ++k) of_value[k] = vectors[k][place.channel];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (kLast || !place.whole)
#pragma unroll
            for (int k = 0; k < n; ++k) of_value[k] = vectors[k][place.channel];
        visit(j, of_value);
        if (!place.whole && j + 1 < place.count) place.next();
    }
}

// Numbered as checks.ACTIVATIONS.
enum Activation { kIdentity, kRelu, kRelu6, kLeakyRelu };

// Bits of the mask of one value: 1 bit u > 0, for relu6 the region 0 (u <= 0), 2 (u >= 6), 1 (between, NaN).
template <class A>
__device__ __forceinline__ u32 mask_of(A u, int activation) {
    if (activation == kRelu6) return u <= 0 ? 0 : u >= 6 ? 2 : 1;
    return u > 0;
}
__device__ __forceinline__ int mask_width(int activation) {
    return activation == kIdentity ? 0 : activation == kRelu6 ? 2 : 1;
}

// Written so that NaN passes.
template <class A>
__device__ __forceinline__ A activate(A u, int activation, A slope) {
    if (activation == kLeakyRelu) return u > 0 ? u : u * slope;
    if (activation != kIdentity && u < 0) u = 0;
    if (activation == kRelu6 && u > 6) u = 6;
    return u;
}

// d times the derivative; chosen, not multiplied, so that what is masked out may be NaN.
template <class A>
__device__ __forceinline__ A masked(A d, u32 mask, int activation, A slope) {
    if (activation == kIdentity || mask == 1) return d;
    return activation == kLeakyRelu ? d * slope : A(0);
}

__device__ __forceinline__ void store_mask(u8* mask, i64 octet, int count, int activation, u32 bits) {
    if (mask == nullptr || count == 0) return;
    if (activation == kRelu6) {
        store_bytes<2>(mask + 2 * octet, code_bytes(count, 2), bits);
    } else {
        mask[octet] = u8(bits);
    }
}
__device__ __forceinline__ u32 load_mask(const u8* mask, i64 octet, int count, int activation) {
    if (mask == nullptr || count == 0) return 0;
    return activation == kRelu6 ? u32(load_bytes<2>(mask + 2 * octet, code_bytes(count, 2))) : mask[octet];
}
// The mask of the value numbered `index`.
__device__ __forceinline__ u32 mask_at(const u8* mask, i64 index, int activation) {
    if (activation == kRelu6) return mask[index / 4] >> 2 * (index % 4) & 3;
    return mask[index / 8] >> index % 8 & 1;
}
