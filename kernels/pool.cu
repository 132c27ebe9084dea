// Max pooling that keeps the position of each maximum, and its gradient, gathered: no atomics, sums in a fixed order.
#include "octets.cuh"

struct Window {
    int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    i64 height, width, out_height, out_width;
};

// The first of equal values in row-major order wins, the last of NaNs, as in PyTorch.
template <class T, class A>
__device__ __forceinline__ T window_maximum(const T* __restrict__ plane, const Window& w, i64 row, i64 column,
                                            int& position) {
    A best = -infinity();
    position = -1;
    for (int i = 0; i < w.kernel_h; ++i) {
        const i64 y = row * w.stride_h - w.padding_h + i64(i) * w.dilation_h;
        if (y < 0 || y >= w.height) continue;
        for (int j = 0; j < w.kernel_w; ++j) {
            const i64 x = column * w.stride_w - w.padding_w + i64(j) * w.dilation_w;
            if (x < 0 || x >= w.width) continue;
            const A value = widen(plane[y * w.width + x]);
            if (value > best || value != value || position < 0) {
                best = value;
                position = i * w.kernel_w + j;
            }
        }
    }
    T maximum;
    narrow(best, maximum);
    return maximum;
}

// A thread owns an octet of outputs, whose codes are `bits` whole bytes.
template <class T>
__global__ void __launch_bounds__(kThreads)
    max_pool_positions(const T* __restrict__ values, T* __restrict__ pooled, u8* __restrict__ codes, i64 count,
                       int bits, i64 height, i64 width, i64 out_height, i64 out_width, int kernel_h, int kernel_w,
                       int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w) {
    typedef typename Wide<T>::type A;
    const Window window{kernel_h,  kernel_w,   stride_h,   stride_w, padding_h, padding_w,
                        dilation_h, dilation_w, height,     width,    out_height, out_width};
    const i64 octet = thread_number();
    const int here = octet_count(octet, count);
    if (here == 0) return;
    i64 row, column;
    i64 plane = divide(divide(8 * octet, out_width, column), out_height, row);
    u32 gathered = 0;  // bits that do not fill a byte yet
    int waiting = 0;
    u8* to = codes + octet * bits;
    for (int j = 0; j < here; ++j) {
        int position;
        pooled[8 * octet + j] = window_maximum<T, A>(values + plane * height * width, window, row, column, position);
        gathered |= (u32(position) & ((1u << bits) - 1)) << waiting;
        for (waiting += bits; waiting >= 8; waiting -= 8, gathered >>= 8) *to++ = u8(gathered);
        if (++column < out_width) continue;
        column = 0;
        if (++row < out_height) continue;
        row = 0;
        ++plane;
    }
    if (waiting) *to = u8(gathered);
}

// A thread owns a value of the input, and looks in all windows that cover it, in row-major order of the outputs.
template <class T>
__global__ void __launch_bounds__(kThreads)
    max_pool_gradient(const T* __restrict__ d_out, const u8* __restrict__ codes, T* __restrict__ out, i64 count,
                      int bits, i64 height, i64 width, i64 out_height, i64 out_width, int kernel_h, int kernel_w,
                      int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w) {
    const i64 number = thread_number();
    if (number >= count) return;
    i64 x, y;
    const i64 plane = divide(divide(number, width, x), height, y);
    typename Wide<T>::type sum = 0;
    for (int i = kernel_h - 1; i >= 0; --i) {
        const i64 top = y + padding_h - i64(i) * dilation_h;
        if (top < 0 || top % stride_h || top / stride_h >= out_height) continue;
        for (int j = kernel_w - 1; j >= 0; --j) {
            const i64 left = x + padding_w - i64(j) * dilation_w;
            if (left < 0 || left % stride_w || left / stride_w >= out_width) continue;
            const i64 output = (plane * out_height + top / stride_h) * out_width + left / stride_w;
            const i64 bit = output * bits;
            u32 code = codes[bit / 8];
            if (bit % 8 + bits > 8) code |= u32(codes[bit / 8 + 1]) << 8;
            if (bit % 8 + bits > 16) code |= u32(codes[bit / 8 + 2]) << 16;
            code = code >> bit % 8 & ((1u << bits) - 1);
            if (code == u32(i * kernel_w + j)) sum += widen(d_out[output]);
        }
    }
    narrow(sum, out[number]);
}
