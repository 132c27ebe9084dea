// Integers of 1 to 16 bits in a dense stream: fixed point, and plain unsigned integers.
//
// A thread owns an octet, whose codes are as many whole bytes as a code has bits. A warp's 32 octets are laid out in
// shared memory and leave it in 4-byte words, so that memory is written in whole sectors at any width.
#include "quantizer.cuh"

constexpr float kSmallestStep = 1.17549435082228750797e-38f;  // 2^-126: a smaller one has no reciprocal

// Code j of an octet lies at bits [j * bits, (j + 1) * bits) of 128.
struct Codes {
    u64 low, high;
    __device__ __forceinline__ void put(int j, int bits, u32 code) {
        const int at = j * bits;
        if (at < 64) low |= u64(code) << at;
        if (at < 64 && at + bits > 64) high |= u64(code) >> (64 - at);
        if (at >= 64) high |= u64(code) << (at - 64);
    }
    __device__ __forceinline__ u32 get(int j, int bits) const {
        const int at = j * bits;
        u64 code = at < 64 ? low >> at : high >> (at - 64);
        if (at < 64 && at + bits > 64) code |= high << (64 - at);
        return u32(code) & ((1u << bits) - 1);
    }
};

__device__ u32* warp_bytes() {
    constexpr int words = kLanes * 16 / 4;
    __shared__ u32 staged[kWarps * words];
    return staged + threadIdx.x / kLanes * words;
}

// All threads of a block store their octets, octet `octet` with its first `count` codes.
__device__ __forceinline__ void store_stream(u8* stream, i64 octet, int count, int bits, const Codes& codes) {
    u32* const words = warp_bytes();
    u8* const bytes = reinterpret_cast<u8*>(words);
    const int lane = threadIdx.x % kLanes;
    u8* const to = stream + (octet - lane) * bits;
    const bool whole = __shfl_sync(kAllLanes, count, kLanes - 1) == 8 && aligned(to, 4);
    for (int k = 0; k < bits; ++k)
        bytes[lane * bits + k] = u8((k < 8 ? codes.low >> 8 * k : codes.high >> (8 * k - 64)) & 0xff);
    __syncwarp();
    if (whole) {
        for (int word = lane; word < 8 * bits; word += kLanes) reinterpret_cast<u32*>(to)[word] = words[word];
    } else {
        for (int k = 0; k < code_bytes(count, bits); ++k) to[lane * bits + k] = bytes[lane * bits + k];
    }
}

__device__ __forceinline__ Codes load_stream(const u8* stream, i64 octet, int count, int bits) {
    Codes codes{0, 0};
    const u8* const from = stream + octet * bits;
    for (int k = 0; k < code_bytes(count, bits); ++k) {
        if (k < 8) codes.low |= u64(from[k]) << 8 * k;
        if (k >= 8) codes.high |= u64(from[k]) << (8 * k - 64);
    }
    return codes;
}

// The step of each value: `single` without an array, else value i belongs to channel (i / inner) % channels.
struct Steps {
    const float* steps;
    float single;
    i64 channels, inner, channel, place;
    __device__ __forceinline__ Steps(const float* of, float one, i64 count, i64 run, i64 index)
        : steps(of), single(one), channels(count), inner(run), channel(0), place(0) {
        if (steps != nullptr) divide(divide(index, inner, place), channels, channel);
    }
    __device__ __forceinline__ float step() const { return steps == nullptr ? single : steps[channel]; }
    __device__ __forceinline__ void next() {
        if (steps == nullptr || ++place < inner) return;
        place = 0;
        if (++channel == channels) channel = 0;
    }
};

// Codes are round(x / step), cut off at the ends of the range; `stochastic` or to nearest even.
template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_fixed(const T* __restrict__ values, u8* __restrict__ codes, const float* __restrict__ steps, float step,
                   i64 count, i64 channels, i64 inner, int bits, int is_signed, int stochastic, u64 seed, u64 start) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    const float lowest = is_signed ? -float(1 << (bits - 1)) : 0.0f;
    const float highest = float((1 << (bits - is_signed)) - 1);
    Codes packed{0, 0};
    if (here) {
        T x[8];
        load_octet(values + 8 * octet, here, x);
        Steps channel(steps, step, channels, inner, 8 * octet);
        const Keys keys(seed, start + 8 * kThreads * u64(blockIdx.x));
        const Noise noise(keys, start + 8 * u64(octet));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float size = channel.step();
            float t = to_float(x[j]) * (size >= kSmallestStep ? __frcp_rn(size) : 0.0f);
            t = t == t ? fminf(fmaxf(t, lowest), highest) : 0.0f;
            float q = rintf(t);
            if (stochastic) {
                q = floorf(t);
                q += float(noise.bits(j)) < (t - q) * 16777216.0f;
            }
            if (j < here) packed.put(j, bits, u32(int(q)) & ((1u << bits) - 1));
            channel.next();
        }
    }
    store_stream(codes, octet, here, bits, packed);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_fixed(const u8* __restrict__ codes, const float* __restrict__ steps, float step, T* __restrict__ out,
                     i64 count, i64 channels, i64 inner, int bits, int is_signed) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    const Codes packed = load_stream(codes, octet, here, bits);
    Steps channel(steps, step, channels, inner, 8 * octet);
    T values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        int q = int(packed.get(j, bits));
        if (is_signed && q >> (bits - 1)) q -= 1 << bits;
        values[j] = saturate<T>(float(q) * channel.step());
        channel.next();
    }
    store_octets(out + 8 * octet, here, values);
}

// Bits above the width are cut off.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_integers(const T* __restrict__ values, u8* __restrict__ codes, i64 count, int bits) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    Codes packed{0, 0};
    if (here) {
        T x[8];
        load_octet(values + 8 * octet, here, x);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < here) packed.put(j, bits, x[j] & ((1u << bits) - 1));
    }
    store_stream(codes, octet, here, bits, packed);
}

__global__ void __launch_bounds__(kThreads)
    unpack_integers(const u8* __restrict__ codes, u16* __restrict__ out, i64 count, int bits) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    const Codes packed = load_stream(codes, octet, here, bits);
    u16 values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = u16(packed.get(j, bits));
    store_octet(out + 8 * octet, here, values);
}
