// What all kernels share: number types, rounding, and octets (8 consecutive values), the unit a thread reads and
// writes.
//
// Sources are compiled with contraction off (--fmad=false; g++ -ffp-contract=off): a product and a sum are rounded
// one by one, but where multiply_add says otherwise, so integers agree exactly with kernels/reference.py. No CUDA header
// is needed: float16 and bfloat16 come as their bits.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct float16 {
    u16 bits;
};
struct bfloat16 {
    u16 bits;
};

constexpr int kLanes = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr u32 kAllLanes = 0xffffffffu;
constexpr u32 kInfinityBits = 0x7f800000u;
constexpr float kLargest = 3.402823466e38f;

// The type the norm passes compute in: float, and double for double.
template <class T>
struct Wide {
    typedef float type;
};
template <>
struct Wide<double> {
    typedef double type;
};

__device__ __forceinline__ float infinity() { return __uint_as_float(kInfinityBits); }

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float widen(float16 x) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    const u32 magnitude = x.bits & 0x7fffu, sign = u32(x.bits & 0x8000u) << 16;
    // The exponent is off by 127 - 15; the product puts it right, for subnormal numbers too.
    float wide = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;
    if (magnitude >= 0x7c00u) wide = __uint_as_float(magnitude << 13 | kInfinityBits);
    return __uint_as_float(__float_as_uint(wide) | sign);
#endif
}
template <class T>
__device__ __forceinline__ float to_float(T x) {
    return float(widen(x));
}

// a * b + c as in kernels/reference.py: float rounded once, double twice.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return a * b + c; }

// Casts, to nearest even.
__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(float x, double& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(float x, bfloat16& to) {
    const u32 bits = __float_as_uint(x);
    const bool nan = (bits & 0x7fffffffu) > kInfinityBits;
    to.bits = u16(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
__device__ __forceinline__ void narrow(float x, float16& to) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    const u32 bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
    u32 half;
    if (magnitude > kInfinityBits) {
        half = 0x7e00u;
    } else if (magnitude >= 0x47800000u) {  // 2^16 and above
        half = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {  // normal numbers; a carry may make an infinity, rightly
        half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else {  // 0.5 has the last place of the subnormal numbers
        half = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
    }
    to.bits = u16(half | (bits >> 16 & 0x8000u));
#endif
}

// What a decoder of codes stores: a finite value stays finite.
template <class T>
__device__ __forceinline__ float largest() {
    return kLargest;
}
template <>
__device__ __forceinline__ float largest<float16>() {
    return 65504.0f;
}
template <>
__device__ __forceinline__ float largest<bfloat16>() {
    return __uint_as_float(0x7f7f0000u);
}
template <class T>
__device__ __forceinline__ T saturate(float x) {
    if (fabsf(x) <= kLargest) x = fminf(fmaxf(x, -largest<T>()), largest<T>());
    T to;
    narrow(x, to);
    return to;
}

// Values moved by one instruction: 16 bytes of them, but at most an octet.
template <class T>
struct alignas(sizeof(T) == 1 ? 8 : 16) Pack {
    static constexpr int size = sizeof(T) == 1 ? 8 : 16 / sizeof(T);
    T values[size];
};

__device__ __forceinline__ bool aligned(const void* pointer, int bytes) { return u64(pointer) % bytes == 0; }

// Reads `count` (1 to 8) values; the places after them repeat the first.
template <class T>
__device__ __forceinline__ void load_octet(const T* from, int count, T (&values)[8]) {
    if (count == 8 && aligned(from, sizeof(Pack<T>))) {
#pragma unroll
        for (int k = 0; k < 8; k += Pack<T>::size) {
            const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from + k);
#pragma unroll
            for (int j = 0; j < Pack<T>::size; ++j) values[k + j] = pack.values[j];
        }
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = from[j < count ? j : 0];
    }
}

// Reads values `first` to `first` + 3 of `count`; the places after them repeat the very first.
template <class T>
__device__ __forceinline__ void load_four(const T* from, int first, int count, T (&values)[4]) {
    if (count == 8 && aligned(from + first, sizeof(Pack<T>))) {
#pragma unroll
        for (int k = 0; k < 4; k += Pack<T>::size) {
            const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from + first + k);
#pragma unroll
            for (int j = 0; j < Pack<T>::size; ++j) values[k + j] = pack.values[j];
        }
    } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) values[j] = from[first + j < count ? first + j : 0];
    }
}

template <class T>
__device__ __forceinline__ void store_octet(T* to, int count, const T (&values)[8]) {
    if (count == 8 && aligned(to, sizeof(Pack<T>))) {
#pragma unroll
        for (int k = 0; k < 8; k += Pack<T>::size) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < Pack<T>::size; ++j) pack.values[j] = values[k + j];
            *reinterpret_cast<Pack<T>*>(to + k) = pack;
        }
    } else {
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < count) to[j] = values[j];
    }
}

// As store_octet, called by all lanes of a warp: two lanes share each other's halves, so that one instruction writes
// whole sectors of memory (32 bytes) and not every second half. `count` may be 0.
template <class T>
__device__ __forceinline__ void store_octets(T* to, int count, const T (&values)[8]) {
    store_octet(to, count, values);
}
__device__ __forceinline__ void store_octets(float* to, int count, const float (&values)[8]) {
    const bool odd = threadIdx.x % 2, whole = count == 8 && aligned(to, 16);
    const bool partner_whole = __shfl_xor_sync(kAllLanes, int(whole), 1);
    float* const partner = reinterpret_cast<float*>(__shfl_xor_sync(kAllLanes, u64(to), 1));
    Pack<float> first, second;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float received = __shfl_xor_sync(kAllLanes, odd ? values[j] : values[4 + j], 1);
        first.values[j] = odd ? received : values[j];
        second.values[j] = odd ? values[4 + j] : received;
    }
    if (whole && partner_whole) {
        *reinterpret_cast<Pack<float>*>(odd ? partner + 4 : to) = first;
        *reinterpret_cast<Pack<float>*>(odd ? to + 4 : partner) = second;
    } else {
        store_octet(to, count, values);
    }
}

// A little-endian number of kBytes (1, 2, 4 or 8) bytes of which `valid` exist.
template <int kBytes>
__device__ __forceinline__ u64 load_bytes(const u8* from, int valid) {
    if (kBytes == 1) return *from;
    u64 number = 0;
    if (valid == kBytes && aligned(from, kBytes)) {
        if (kBytes == 2) number = *reinterpret_cast<const u16*>(from);
        if (kBytes == 4) number = *reinterpret_cast<const u32*>(from);
        if (kBytes == 8) number = *reinterpret_cast<const u64*>(from);
    } else {
#pragma unroll
        for (int k = 0; k < kBytes; ++k)
            if (k < valid) number |= u64(from[k]) << 8 * k;
    }
    return number;
}

template <int kBytes>
__device__ __forceinline__ void store_bytes(u8* to, int valid, u64 number) {
    if (kBytes == 1) {
        *to = u8(number);
    } else if (valid == kBytes && aligned(to, kBytes)) {
        if (kBytes == 2) *reinterpret_cast<u16*>(to) = u16(number);
        if (kBytes == 4) *reinterpret_cast<u32*>(to) = u32(number);
        if (kBytes == 8) *reinterpret_cast<u64*>(to) = number;
    } else {
#pragma unroll
        for (int k = 0; k < kBytes; ++k)
            if (k < valid) to[k] = u8(number >> 8 * k);
    }
}

// Bytes of `count` codes. The codes of an octet are as many whole bytes as a code has bits, so a packed stream is a
// run of octets.
__device__ __forceinline__ int code_bytes(int count, int bits) { return (count * bits + 7) / 8; }

// This thread's number in the grid: mostly the number of its octet.
__device__ __forceinline__ i64 thread_number() { return i64(blockIdx.x) * kThreads + threadIdx.x; }

// How many values of `total` the octet holds: 0 to 8.
__device__ __forceinline__ int octet_count(i64 octet, i64 total) {
    const i64 left = total - 8 * octet;
    return left >= 8 ? 8 : left > 0 ? int(left) : 0;
}

// Quotient and remainder of numbers >= 0; 64-bit division takes five times as long, so it is done only where needed.
__device__ __forceinline__ i64 divide(i64 number, i64 by, i64& remainder) {
    if ((u64(number) | u64(by)) >> 32) {
        const i64 quotient = number / by;
        remainder = number - quotient * by;
        return quotient;
    }
    const u32 quotient = u32(number) / u32(by);
    remainder = u32(number) - quotient * u32(by);
    return quotient;
}

// Sum over a block in a fixed order. A kernel calls it once: nothing keeps a second call off the scratch.
__device__ double* block_scratch() {
    __shared__ double scratch[kWarps];
    return scratch;
}
__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int lanes = kLanes / 2; lanes; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
    return value;
}
__device__ __forceinline__ double block_sum(double value) {
    double* const scratch = block_scratch();
    value = warp_sum(value);
    if (threadIdx.x % kLanes == 0) scratch[threadIdx.x / kLanes] = value;
    __syncthreads();
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += scratch[warp];
    return sum;
}
