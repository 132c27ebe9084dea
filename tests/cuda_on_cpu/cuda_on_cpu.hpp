// Runs CUDA C++ kernels on a CPU: every CUDA thread is a fibre, and a scheduler holds them to CUDA's rules.
//
// One block runs at a time. A fibre runs until it meets a block barrier or a warp operation and waits there until every
// thread that must arrive has arrived, so a kernel that reads what no barrier made ready reads poison: shared memory is
// filled with 0xAA before each block, and the order of the threads is drawn anew in every round. What would hang or be
// undefined on a GPU (threads at different barriers, lanes in different warp operations, a misaligned vector access,
// shuffling from a lane that does not take part) ends the launch with a message.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <math.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
// All shared variables of a file lie in one section, so that they can be poisoned between blocks.
#define __shared__ static __attribute__((section("cuda_shared")))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_on_cpu {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 64 * 1024;

enum class State { ready, at_block_barrier, in_warp_operation, finished };

// Which warp operation: any __syncwarp() meets any other, a shuffle only those of the same line.
struct Line {
    unsigned number;
    explicit Line(unsigned of_call) : number(of_call) {}
};

struct Fibre {
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    ucontext_t start;
    jmp_buf resume;
    State state;
    bool started;
    unsigned mask;           // the lanes that take part in the warp operation it waits in
    unsigned operation;
    uint64_t posted[2];      // what it offers to its warp; two, because a lane may be one operation ahead in reading
    unsigned operations;     // how many warp operations it has been through
};

struct Device {
    std::vector<Fibre> fibres;
    unsigned threads = 0, current = 0;
    jmp_buf scheduler;
    void (*kernel)(void*) = nullptr;
    void* arguments = nullptr;
    uint64_t random = 0;     // 0: threads run in order
    char failure[256] = "";

    unsigned draw(unsigned below) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        return unsigned(random >> 33) % below;
    }
};

inline Device device;

inline void fail(const char* what) {
    if (!device.failure[0])
        snprintf(device.failure, sizeof device.failure, "%s (block %u,%u,%u, thread %u)", what, blockIdx.x, blockIdx.y,
                 blockIdx.z, device.current);
}

// For a fibre that must not go on.
[[noreturn]] inline void fail_here(const char* what) {
    fail(what);
    device.fibres[device.current].state = State::finished;
    _longjmp(device.scheduler, 1);
}

[[gnu::noinline]] inline void wait(State state) {
    Fibre& fibre = device.fibres[device.current];
    fibre.state = state;
    if (!_setjmp(fibre.resume)) _longjmp(device.scheduler, 1);
}

[[gnu::noinline]] inline void run_fibre() {
    device.kernel(device.arguments);
    device.fibres[device.current].state = State::finished;
    _longjmp(device.scheduler, 1);
}

[[gnu::noinline]] inline void resume(unsigned thread) {
    Fibre& fibre = device.fibres[thread];
    device.current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
    if (_setjmp(device.scheduler)) return;
    if (fibre.started) _longjmp(fibre.resume, 1);
    fibre.started = true;
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack.get();
    fibre.start.uc_stack.ss_size = kStackBytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, run_fibre, 0);
    setcontext(&fibre.start);
}

// The lanes of a warp that go on together, or 0. Lanes with different masks are different operations.
inline unsigned complete_warp_operation(unsigned first) {
    unsigned waiting[kLanes] = {}, alive = 0;
    for (unsigned lane = 0; lane < kLanes && first + lane < device.threads; ++lane) {
        const Fibre& fibre = device.fibres[first + lane];
        if (fibre.state != State::finished) alive |= 1u << lane;
        if (fibre.state == State::in_warp_operation)
            for (unsigned other = 0; other <= lane; ++other)
                if (other == lane || (waiting[other] && device.fibres[first + other].mask == fibre.mask)) {
                    waiting[other] |= 1u << lane;
                    break;
                }
    }
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        if (!waiting[lane]) continue;
        const Fibre& fibre = device.fibres[first + lane];
        if (fibre.mask & ~alive) {
            device.current = first + lane;
            fail("a warp operation names lanes that have returned or do not exist");
        } else if (waiting[lane] == fibre.mask) {
            for (unsigned other = lane; other < kLanes; ++other)
                if (waiting[lane] >> other & 1 && device.fibres[first + other].operation != fibre.operation)
                    fail("lanes of one warp wait in different warp operations");
            return waiting[lane];
        }
    }
    return 0;
}

// Lets go on whoever has everybody he waits for. False: nobody.
inline bool release() {
    unsigned finished = 0, at_barrier = 0;
    bool released = false;
    for (unsigned thread = 0; thread < device.threads; ++thread) {
        finished += device.fibres[thread].state == State::finished;
        at_barrier += device.fibres[thread].state == State::at_block_barrier;
    }
    if (at_barrier == device.threads) {
        for (unsigned thread = 0; thread < device.threads; ++thread) device.fibres[thread].state = State::ready;
        return true;
    }
    if (at_barrier && at_barrier + finished == device.threads) {
        fail("__syncthreads() is not reached by threads that have returned");
        return true;
    }
    for (unsigned first = 0; first < device.threads; first += kLanes)
        if (const unsigned lanes = complete_warp_operation(first)) {
            for (unsigned lane = 0; lane < kLanes; ++lane)
                if (lanes >> lane & 1) device.fibres[first + lane].state = State::ready;
            released = true;
        }
    return released;
}

// Another order of the threads, and now and then another set of warps that sleep while the others run ahead.
inline void draw_order(std::vector<unsigned>& order, std::vector<char>& asleep) {
    for (unsigned last = device.threads - 1; last > 0; --last) std::swap(order[last], order[device.draw(last + 1)]);
    if (device.draw(8) == 0)
        for (char& sleeps : asleep) sleeps = char(device.draw(2));
}

inline void run_block() {
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xAA, size_t(__stop_cuda_shared - __start_cuda_shared));
    std::vector<unsigned> order(device.threads);
    for (unsigned thread = 0; thread < device.threads; ++thread) {
        order[thread] = thread;
        Fibre& fibre = device.fibres[thread];
        fibre.state = State::ready;
        fibre.started = false;
        fibre.operations = 0;
    }
    const unsigned warps = (device.threads + kLanes - 1) / kLanes;
    std::vector<char> asleep(warps, 0);
    for (unsigned finished = 0; finished < device.threads && !device.failure[0];) {
        if (device.random) draw_order(order, asleep);
        bool ran = false;
        for (const unsigned thread : order)
            if (device.fibres[thread].state == State::ready && !asleep[thread / kLanes] && !device.failure[0]) {
                resume(thread);
                ran = true;
            }
        finished = 0;
        for (unsigned thread = 0; thread < device.threads; ++thread)
            finished += device.fibres[thread].state == State::finished;
        if (finished == device.threads || device.failure[0] || release() || ran) continue;
        const bool sleepers = std::find(asleep.begin(), asleep.end(), 1) != asleep.end();
        if (!sleepers) fail("deadlock: threads wait at different barriers");
        std::fill(asleep.begin(), asleep.end(), 0);
    }
}

// Offers `value` to the lanes in `mask`; returns the fibre's turn, which says where the others' offers lie.
template <class Value>
unsigned post(unsigned mask, Value value, unsigned operation) {
    static_assert(sizeof(Value) <= 8, "a shuffle moves at most 8 bytes");
    Fibre& fibre = device.fibres[device.current];
    const unsigned turn = fibre.operations++ & 1;
    memcpy(&fibre.posted[turn], &value, sizeof value);
    fibre.mask = mask;
    fibre.operation = operation;
    if (!(mask >> (device.current % kLanes) & 1)) fail_here("a lane calls a warp operation whose mask leaves it out");
    wait(State::in_warp_operation);
    return turn;
}

template <class Value>
Value read_lane(unsigned mask, unsigned lane, unsigned turn) {
    Value value;
    if (!(mask >> lane & 1)) fail_here("a shuffle reads a lane that does not take part");
    const unsigned thread = device.current / kLanes * kLanes + lane;
    memcpy(&value, &device.fibres[thread < device.threads ? thread : device.current].posted[turn], sizeof value);
    return value;
}

// Calls kernel(arguments[0], arguments[1], ...) where arguments[i] points to the i-th value, as cuLaunchKernel does.
template <class... Parameters>
struct Call {
    template <void (*kernel)(Parameters...), size_t... index>
    static void unpack(void** arguments, std::index_sequence<index...>) {
        kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[index])...);
    }
    template <void (*kernel)(Parameters...)>
    static void call(void* arguments) {
        unpack<kernel>(static_cast<void**>(arguments), std::index_sequence_for<Parameters...>{});
    }
};

// What the host must pass for a parameter: p(ointer), f(loat), i(nteger) or u(nsigned), and its bytes.
template <class Parameter>
void describe(char*& to) {
    *to++ = std::is_pointer_v<Parameter>          ? 'p'
            : std::is_floating_point_v<Parameter> ? 'f'
            : std::is_signed_v<Parameter>         ? 'i'
                                                  : 'u';
    *to++ = char('0' + sizeof(Parameter));
}

struct Kernel {
    const char* name;
    void (*call)(void*);
    char parameters[128];
};

template <auto kernel>
struct Entry;
template <class... Parameters, void (*kernel)(Parameters...)>
struct Entry<kernel> {
    static void call(void* arguments) { Call<Parameters...>::template call<kernel>(arguments); }
    static Kernel as(const char* name) {
        Kernel entry{name, call, ""};
        char* to = entry.parameters;
        (describe<Parameters>(to), ...);
        return entry;
    }
};

// Runs blocks [first, first + count) of a grid (x only), so that a test can look at the far end of a huge one.
inline const char* launch(void (*kernel)(void*), void** arguments, unsigned grid, unsigned first, unsigned count,
                          dim3 block, uint64_t seed) {
    device.kernel = kernel;
    device.arguments = arguments;
    device.failure[0] = 0;
    device.random = seed;
    gridDim = {grid, 1, 1};
    blockDim = block;
    device.threads = block.x * block.y * block.z;
    while (device.fibres.size() < device.threads) device.fibres.emplace_back();
    for (blockIdx = {first, 0, 0}; blockIdx.x < first + count && !device.failure[0]; ++blockIdx.x) run_block();
    return device.failure;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::State::at_block_barrier); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_on_cpu::post(mask, 0, 0); }

#define CALL_LINE cuda_on_cpu::Line line = cuda_on_cpu::Line(__builtin_LINE())
template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lane_mask, CALL_LINE) {
    const unsigned turn = cuda_on_cpu::post(mask, value, line.number);
    return cuda_on_cpu::read_lane<Value>(mask, (cuda_on_cpu::device.current ^ unsigned(lane_mask)) % 32, turn);
}
template <class Value>
Value __shfl_sync(unsigned mask, Value value, int lane, CALL_LINE) {
    const unsigned turn = cuda_on_cpu::post(mask, value, line.number);
    return cuda_on_cpu::read_lane<Value>(mask, unsigned(lane) % 32, turn);
}
template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, CALL_LINE) {
    const unsigned turn = cuda_on_cpu::post(mask, value, line.number);
    const unsigned lane = cuda_on_cpu::device.current % 32;
    return cuda_on_cpu::read_lane<Value>(mask, lane < delta ? lane : lane - delta, turn);
}
#undef CALL_LINE

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// The sum rounded down: the rounding error of a sum is itself a float (Knuth's two-sum).
inline float __fadd_rd(float a, float b) {
    const float sum = a + b, rest = sum - a, error = (a - (sum - rest)) + (b - rest);
    return error < 0 ? nextafterf(sum, -INFINITY) : sum;
}

// The compiler calls these where -fsanitize finds something; `where` begins with the file's name and the line.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
[[noreturn]] inline void found(const char* what, const void* where) {
    char text[160];
    snprintf(text, sizeof text, "%s in line %u", what, static_cast<const SourceLocation*>(where)->line);
    cuda_on_cpu::fail_here(text);
}
extern "C" {
void __ubsan_handle_type_mismatch_v1(void* where, uintptr_t) { found("a vector access is not aligned", where); }
void __ubsan_handle_add_overflow(void* where, uintptr_t, uintptr_t) { found("an addition overflows", where); }
void __ubsan_handle_sub_overflow(void* where, uintptr_t, uintptr_t) { found("a subtraction overflows", where); }
void __ubsan_handle_mul_overflow(void* where, uintptr_t, uintptr_t) { found("a product overflows", where); }
void __ubsan_handle_divrem_overflow(void* where, uintptr_t, uintptr_t) { found("a division overflows", where); }
void __ubsan_handle_negate_overflow(void* where, uintptr_t) { found("a negation overflows", where); }
void __ubsan_handle_shift_out_of_bounds(void* where, uintptr_t, uintptr_t) { found("a shift is too far", where); }
void __ubsan_handle_out_of_bounds(void* where, uintptr_t) { found("an index is outside its array", where); }
}
