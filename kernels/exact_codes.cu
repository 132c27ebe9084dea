// Exact codes: 1-bit masks, 2-bit regions, zero-value compression. A thread owns an octet, a block 256 of them.
#include "octets.cuh"

// One bit a flag: not zero.
__global__ void __launch_bounds__(kThreads) pack_bits(const u8* __restrict__ flags, u8* __restrict__ codes, i64 count) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    if (here == 0) return;
    u8 x[8];
    u32 bits = 0;
    load_octet(flags + 8 * octet, here, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) bits |= u32(j < here && x[j] != 0) << j;
    codes[octet] = u8(bits);
}

// The flags or regions of `width` (1 or 2) bits each.
__global__ void __launch_bounds__(kThreads)
    unpack_bits(const u8* __restrict__ codes, u8* __restrict__ out, i64 count, int width) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    if (here == 0) return;
    const u32 bits = width == 2 ? u32(load_bytes<2>(codes + 2 * octet, code_bytes(here, 2))) : codes[octet];
    u8 x[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = u8(bits >> j * width & (width == 2 ? 3u : 1u));
    store_octet(out + 8 * octet, here, x);
}

// One bit a value: above zero, in the values' own type.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_positive(const T* __restrict__ values, u8* __restrict__ codes, i64 count) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    if (here == 0) return;
    T x[8];
    u32 bits = 0;
    load_octet(values + 8 * octet, here, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) bits |= u32(j < here && widen(x[j]) > 0) << j;
    codes[octet] = u8(bits);
}

// Two bits a value: 0 (v <= low), 2 (v >= high), else 1.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_regions(const T* __restrict__ values, u8* __restrict__ codes, i64 count, double low, double high) {
    typedef typename Wide<T>::type A;
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    if (here == 0) return;
    T x[8];
    u32 bits = 0;
    load_octet(values + 8 * octet, here, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const A v = widen(x[j]);
        if (j < here) bits |= (v <= A(low) ? 0u : v >= A(high) ? 2u : 1u) << 2 * j;
    }
    store_bytes<2>(codes + 2 * octet, code_bytes(here, 2), bits);
}

// Zero-value compression, first pass: the mask, and how many values each block keeps.
template <class T>
__global__ void __launch_bounds__(kThreads)
    mark_nonzeros(const T* __restrict__ values, u8* __restrict__ mask, i64* __restrict__ kept, i64 count) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    u32 bits = 0;
    if (here) {
        T x[8];
        load_octet(values + 8 * octet, here, x);
#pragma unroll
        for (int j = 0; j < 8; ++j) bits |= u32(j < here && widen(x[j]) != 0) << j;
        mask[octet] = u8(bits);
    }
    const double sum = block_sum(double(__popc(bits)));
    if (threadIdx.x == 0) kept[blockIdx.x] = i64(sum);
}

// Expansion, first pass: how many values each block takes.
__global__ void __launch_bounds__(kThreads)
    count_ones(const u8* __restrict__ mask, i64* __restrict__ kept, i64 count) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    const u32 bits = here ? mask[octet] & ((1u << here) - 1) : 0u;
    const double sum = block_sum(double(__popc(bits)));
    if (threadIdx.x == 0) kept[blockIdx.x] = i64(sum);
}

__device__ i64* scan_scratch() {
    __shared__ i64 scratch[kWarps];
    return scratch;
}

// Sum of `value` over the threads before this one, and over all.
__device__ __forceinline__ i64 block_scan(i64 value, i64& total) {
    i64* const scratch = scan_scratch();
    const int lane = threadIdx.x % kLanes;
    i64 sum = value;
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) {
        const i64 before = __shfl_up_sync(kAllLanes, sum, lanes);
        if (lane >= lanes) sum += before;
    }
    if (lane == kLanes - 1) scratch[threadIdx.x / kLanes] = sum;
    __syncthreads();
    i64 before = 0;
    total = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
        if (warp < threadIdx.x / kLanes) before += scratch[warp];
        total += scratch[warp];
    }
    __syncthreads();
    return before + sum - value;
}

// Second pass, one block: counts become the places where the blocks begin; the number of all values is put behind
// them.
__global__ void __launch_bounds__(kThreads) begin_blocks(i64* __restrict__ kept, i64 blocks) {
    constexpr int each = 8;
    i64 begin = 0;
    for (i64 first = 0; first < blocks; first += each * kThreads) {
        const i64 own = first + each * threadIdx.x;
        i64 sum = 0, total;
        for (int k = 0; k < each; ++k)
            if (own + k < blocks) sum += kept[own + k];
        i64 at = begin + block_scan(sum, total);
        for (int k = 0; k < each; ++k)
            if (own + k < blocks) {
                const i64 here = kept[own + k];
                kept[own + k] = at;
                at += here;
            }
        begin += total;
    }
    if (threadIdx.x == 0) kept[blocks] = begin;
}

// Third pass: values go to their places among those kept (`expand` false), or come back from there among zeros.
template <class Bits, bool expand>
__global__ void __launch_bounds__(kThreads)
    move_nonzeros(const Bits* __restrict__ from, const u8* __restrict__ mask, const i64* __restrict__ begins,
                  Bits* __restrict__ to, i64 count) {
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    const u32 bits = here ? mask[octet] & ((1u << here) - 1) : 0u;
    i64 total;
    i64 at = begins[blockIdx.x] + block_scan(__popc(bits), total);
    if (here == 0) return;
    Bits x[8];
    if (!expand) load_octet(from + 8 * octet, here, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const bool set = bits >> j & 1;
        if (expand) {
            x[j] = set ? from[at] : Bits(0);
        } else if (set) {
            to[at] = x[j];
        }
        at += set;
    }
    if (expand) store_octet(to + 8 * octet, here, x);
}
