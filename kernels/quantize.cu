// The group quantiser: noise, quantise, dequantise.
//
// A warp owns a group; each lane owns an octet of it (8 consecutive values), read once into registers. A block of 8
// warps takes `groups_per_block` consecutive groups of one sample, warp w those numbered w, w + 8, ... among them; so
// every index is a sum of 64-bit products, and what a block does depends on nothing outside it. The last group of a
// sample may be short: lanes past its end take part in the shuffles only.
#include "quantizer.cuh"

// Samples lie one after the other, each a run of its own. kBits = 0: widths differ by sample, in `widths`.
struct Samples {
    i64 length, groups, blocks;  // of one sample: values, groups, thread blocks
    int group, groups_per_block;
    // The block's first value, counted over all samples.
    __device__ __forceinline__ i64 first() const {
        const i64 sample = blockIdx.x / blocks;
        return sample * length + (blockIdx.x - sample * blocks) * groups_per_block * group;
    }
    // Calls visit(sample, group of the sample) for each group of this warp.
    template <class Visit>
    __device__ __forceinline__ void for_each_group(Visit visit) const {
        const i64 sample = blockIdx.x / blocks;
        const i64 from = (blockIdx.x - sample * blocks) * groups_per_block;
        const i64 to = from + groups_per_block < groups ? from + groups_per_block : groups;
        for (i64 number = from + threadIdx.x / kLanes; number < to; number += kWarps) visit(sample, number);
    }
    __device__ __forceinline__ int count(i64 number) const {
        const i64 left = length - number * group;
        return left < group ? int(left) : group;
    }
};

template <class T, int kBits>
__global__ void __launch_bounds__(kThreads, 4)
    quantize(const T* __restrict__ values, u8* __restrict__ codes, void* __restrict__ minima, u16* __restrict__ steps,
             double* __restrict__ energies, const u8* __restrict__ widths, const i64* __restrict__ offsets, i64 length,
             i64 groups, i64 blocks, int group, int groups_per_block, int wide, u64 seed, u64 start) {
    const Samples samples{length, groups, blocks, group, groups_per_block};
    const Keys keys(seed, start + u64(samples.first()));
    double energy = 0;
    samples.for_each_group([&](i64 sample, i64 number) {
        const Coded coded{kBits ? codes : codes + offsets[sample], minima, steps, wide != 0};
        const i64 first = number * group, flat = sample * length + first;
        const auto load = [&](int octet, int here, float(&x)[8], bool) {
            if (here == 0) return;
            T raw[8];
            load_octet(values + flat + 8 * octet, here, raw);
#pragma unroll
            for (int j = 0; j < 8; ++j) x[j] = to_float(raw[j]);
        };
        energy += quantize_group<kBits>(load, kBits ? kBits : widths[sample], sample * groups + number, first,
                                        samples.count(number), keys, start + u64(flat), coded);
    });
    energy = block_sum(energy);
    if (threadIdx.x == 0) energies[blockIdx.x] = energy;
}

// One block a sample adds what its blocks found.
__global__ void __launch_bounds__(kThreads)
    sum_energies(const double* __restrict__ energies, float* __restrict__ sums, i64 blocks) {
    double sum = 0;
    for (i64 block = threadIdx.x; block < blocks; block += kThreads) sum += energies[blockIdx.x * blocks + block];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = float(sum);
}

template <class T>
struct Dequantise {
    const u8* codes;  // of this sample
    const void* minima;
    const u16* steps;
    bool wide;
    T* out;
    const Samples& samples;
    i64 sample, number;
    // A lane writes 16 bytes at a time, so that a warp's stores fill whole sectors of memory.
    template <int kBits>
    __device__ __forceinline__ void run() const {
        constexpr int unit = Pack<T>::size;
        const i64 group = sample * samples.groups + number, first = number * samples.group;
        const float minimum = read_minimum(minima, wide, group);
        const float step = __uint_as_float(u32(steps[group]) << 16);
        const int count = samples.count(number);
        T* const to = out + sample * samples.length + first;
        for (int at = unit * (threadIdx.x % kLanes); at < count; at += unit * kLanes) {
            const int here = count - at < unit ? count - at : unit;
            const u64 bits = read_unit<kBits, unit>(codes + first / 8 * kBits, at, here);
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < unit; ++j)
                pack.values[j] =
                    saturate<T>(decode(u32(bits >> j * kBits) & ((1u << kBits) - 1), minimum, step));
            if (here == unit && aligned(to + at, 16)) {
                *reinterpret_cast<Pack<T>*>(to + at) = pack;
            } else {
#pragma unroll
                for (int j = 0; j < unit; ++j)
                    if (j < here) to[at + j] = pack.values[j];
            }
        }
    }
    // The codes of `unit` values from place `at` of a group on; fewer bits than a byte begin inside one.
    template <int kBits, int unit>
    __device__ __forceinline__ static u64 read_unit(const u8* from, int at, int here) {
        constexpr int bytes = unit * kBits / 8;
        from += i64(at) * kBits / 8;
        if constexpr (bytes == 0) {
            return *from >> at * kBits % 8;
        } else {
            return load_bytes<bytes>(from, code_bytes(here, kBits));
        }
    }
};

template <class T, int kBits>
__global__ void __launch_bounds__(kThreads)
    dequantize(const u8* __restrict__ codes, const void* __restrict__ minima, const u16* __restrict__ steps,
               T* __restrict__ out, const u8* __restrict__ widths, const i64* __restrict__ offsets, i64 length,
               i64 groups, i64 blocks, int group, int groups_per_block, int wide) {
    const Samples samples{length, groups, blocks, group, groups_per_block};
    samples.for_each_group([&](i64 sample, i64 number) {
        with_bits<kBits>(kBits ? kBits : widths[sample],
                         Dequantise<T>{kBits ? codes : codes + offsets[sample], minima, steps, wide != 0, out, samples,
                                       sample, number});
    });
}

__global__ void __launch_bounds__(kThreads) noise(float* __restrict__ out, i64 count, u64 seed, u64 start) {
    const i64 i = i64(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const u64 index = start + u64(i);
    const Keys keys(seed, start + u64(blockIdx.x) * kThreads);
    out[i] = float(Noise(keys, index).bits(0)) * 5.9604644775390625e-08f;
}
