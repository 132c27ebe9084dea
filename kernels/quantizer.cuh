// The group quantiser for one warp: noise, range of a group, codes. The definition is kernels/_reference_group.py.
#pragma once
#include "octets.cuh"

constexpr u64 kGolden64 = 0x9E3779B97F4A7C15ull;
constexpr float kSmallestRange = 7.888609052210118e-31f;  // 2^-100

// kernels/_reference_noise.py defines the noise.
__device__ __forceinline__ u64 mix64(u64 value) {
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ value >> 27) * 0x94D049BB133111EBull;
    return value ^ value >> 31;
}

// 24 uniform bits of element `low` (the lower half of its index) under a key.
__device__ __forceinline__ u32 noise_bits(u32 low, u32 key) {
    u32 hash = low * 0x9E3779B9u ^ key;
    hash ^= hash >> 16;
    hash *= 0x7FEB352Du;
    hash ^= hash >> 15;
    hash *= 0x846CA68Bu;
    return hash >> 8;
}

// Keys depend on the seed (mixed by the host) and on the upper half of the index, which changes at most once in a
// block.
struct Keys {
    u32 high, key, next;
    __device__ __forceinline__ Keys(u64 mixed_seed, u64 first) : high(u32(first >> 32)) {
        key = u32(mix64(mixed_seed + high * kGolden64) >> 32);
        next = u32(mix64(mixed_seed + (high + 1) * kGolden64) >> 32);
    }
};

// The noise of 8 elements from `index` on.
struct Noise {
    u32 low, key, next;
    __device__ __forceinline__ Noise(const Keys& keys, u64 index)
        : low(u32(index)), key(u32(index >> 32) == keys.high ? keys.key : keys.next), next(keys.next) {}
    __device__ __forceinline__ u32 bits(int j) const { return noise_bits(low + j, low + j < low ? next : key); }
};

// floor(t) for t in [0, 2^22], at the rate of additions: the lowest bits of t + 2^23 rounded down.
constexpr float kTwo23 = 8388608.0f;

// Whole numbers and fractions of t = (x - Z) / D, rounded up where the noise is below the fraction. Returns the
// packed codes and adds f(1 - f) of every value to `variance`.
template <int kBits>
__device__ __forceinline__ u64 round_octet(const float (&x)[8], float minimum, float inverse, const Noise& noise,
                                           float& variance) {
    constexpr u32 top = (1u << kBits) - 1;
    u64 packed = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float t = (x[j] - minimum) * inverse;
        const float shifted = __fadd_rd(t, kTwo23);
        const float fraction = t - (shifted - kTwo23);
        u32 q = __float_as_uint(shifted) & 0x7fffffu;
        // Both sides are exact: u = bits * 2^-24.
        q += float(noise.bits(j)) < fraction * 16777216.0f;
        packed |= u64(q < top ? q : top) << j * kBits;
        variance += fraction * (1.0f - fraction);
    }
    return packed;
}

__device__ __forceinline__ float bf16_down(float x) {
    const u32 bits = __float_as_uint(x);
    return __uint_as_float((bits >> 31 ? bits + 0xffffu : bits) & 0xffff0000u);
}
__device__ __forceinline__ float bf16_up(float x) {  // for x >= 0
    return __uint_as_float((__float_as_uint(x) + 0xffffu) & 0xffff0000u);
}

struct Range {
    float minimum, step, inverse;
    bool broken;
};

// What a group is coded with, from its smallest and largest value; `finite` = 0 unless a value is not finite.
__device__ __forceinline__ Range group_range(float lowest, float highest, float finite, int bits, bool wide) {
    const float top = float((1 << bits) - 1);
#pragma unroll
    for (int lanes = kLanes / 2; lanes; lanes /= 2) {
        lowest = fminf(lowest, __shfl_xor_sync(kAllLanes, lowest, lanes));
        highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, lanes));
        finite += __shfl_xor_sync(kAllLanes, finite, lanes);
    }
    Range range;
    lowest += 0.0f;  // zero is stored as +0
    range.minimum = wide ? lowest : bf16_down(lowest);
    const float extent = highest - range.minimum;
    range.step = bf16_up(extent * __frcp_rn(top));
    range.broken = finite != 0 || !(fabsf(range.minimum + top * range.step) <= kLargest);
    if (range.broken || extent < kSmallestRange) {
        range.step = 1;
        range.inverse = 0;
    } else {
        range.inverse = __frcp_rn(range.step);
    }
    return range;
}

// Calls body.run<bits>(): kBits is the number of bits, or 0 where only `bits` knows it.
template <int kBits, class Body>
__device__ __forceinline__ void with_bits(int bits, const Body& body) {
    if constexpr (kBits != 0) {
        body.template run<kBits>();
    } else {
        if (bits == 1) body.template run<1>();
        if (bits == 2) body.template run<2>();
        if (bits == 4) body.template run<4>();
        if (bits == 8) body.template run<8>();
    }
}

// Codes of an octet of `here` values of a group, and the noise energy (in units of D^2) they add.
struct CodedOctet {
    const float (&x)[8];
    const Range& range;
    const Noise& noise;
    u8* codes;  // of the run
    i64 octet;  // in the run
    int here;
    float& variance;
    template <int kBits>
    __device__ __forceinline__ void run() const {
        const u64 packed = range.broken ? 0 : round_octet<kBits>(x, range.minimum, range.inverse, noise, variance);
        store_bytes<kBits>(codes + octet * kBits, code_bytes(here, kBits), packed);
    }
};

// Where a run's codes and its groups' minima and steps go. `minima` is float with `wide`, else bfloat16 bits.
struct Coded {
    u8* codes;
    void* minima;
    u16* steps;
    bool wide;
    __device__ __forceinline__ void store_range(i64 group, const Range& range) const {
        const u32 bits = range.broken ? 0x7fc00000u : __float_as_uint(range.minimum);
        if (wide) {
            static_cast<float*>(minima)[group] = __uint_as_float(bits);
        } else {
            static_cast<u16*>(minima)[group] = u16(bits >> 16);
        }
        steps[group] = u16(__float_as_uint(range.step) >> 16);
    }
};

// Codes one group of `count` values with a whole warp, in kBits bits, or in `bits` where kBits is 0.
//
// All lanes call `load(octet, here, x, again)`, which reads an octet of `here` values (0 past the group's end: then x
// is not looked at); the places after them repeat one of them. A group of more than 256 values is read twice
// (`again`), the second time from cache. Value 0 of the group is value `first` of its run and `index` of the noise
// stream. Returns this lane's part of the noise energy.
template <int kBits, class Load>
__device__ __forceinline__ double quantize_group(Load load, int bits, i64 group, i64 first, int count, const Keys& keys,
                                                 u64 index, const Coded& coded) {
    const int rounds = (count + 8 * kLanes - 1) / (8 * kLanes);
    float x[8], lowest = infinity(), highest = -infinity(), finite = 0;
    Range range;
    double energy = 0;
    // First all octets for the range, then all octets for the codes: one loop, so that the reading code is there
    // once.
#pragma unroll 1
    for (int round = 0; round < 2 * rounds; ++round) {
        const bool again = round >= rounds;
        const int octet = (again ? round - rounds : round) * kLanes + threadIdx.x % kLanes;
        const int here = octet_count(octet, count);
        if (!again || rounds > 1) load(octet, here, x, again);
        if (!again) {
            if (here) {
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    lowest = fminf(lowest, x[j]);
                    highest = fmaxf(highest, x[j]);
                    finite = fmaf(x[j], 0.0f, finite);
                }
            }
            if (round + 1 < rounds) continue;
            range = group_range(lowest, highest, finite, kBits ? kBits : bits, coded.wide);
            if (threadIdx.x % kLanes == 0) coded.store_range(group, range);
        } else if (here) {
            float variance = 0;
            // The minimum has code 0 and no noise: it pads short octets.
#pragma unroll
            for (int j = 1; j < 8; ++j) x[j] = j < here ? x[j] : range.minimum;
            const Noise noise(keys, index + 8 * u64(octet));
            with_bits<kBits>(bits, CodedOctet{x, range, noise, coded.codes, first / 8 + octet, here, variance});
            energy += double(variance);
        }
    }
    const double step = range.step;
    return range.broken ? double(__uint_as_float(0x7fc00000u)) : step * step * energy;
}

__device__ __forceinline__ float read_minimum(const void* minima, bool wide, i64 group) {
    return wide ? static_cast<const float*>(minima)[group]
                : __uint_as_float(u32(static_cast<const u16*>(minima)[group]) << 16);
}

// Z + q*D of one value; a code below 2^23 becomes a float by its place under 2^23's last bit.
__device__ __forceinline__ float decode(u32 q, float minimum, float step) {
    return minimum + (__uint_as_float(0x4b000000u | q) - kTwo23) * step;
}
