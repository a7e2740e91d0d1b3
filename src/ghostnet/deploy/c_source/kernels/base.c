/* Kernels of a network in C: one image, maps as (height, width, channels), vectors of eight floats, of which a register
 * holds a part or all.
 *
 * Only what GCC and Clang share is used (vector extensions), so that the same text runs on AVX2, AVX-512, NEON and
 * whatever else they compile for. A kernel computes the part [from, to) of its layer, in the layer's own unit: rows,
 * pixels or panels of outputs. Loads may read up to seven floats behind a map, stores never write there.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined __AVX__
#include <immintrin.h>
#elif defined __aarch64__
#include <arm_neon.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined __GNUC__ && !defined __clang__
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors of eight floats go between static functions only */
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define ROLLED _Pragma("GCC unroll 1")
#endif
#define KERNEL static __attribute__((unused)) void
#define LANES 8

typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef float half_vector __attribute__((vector_size(16), aligned(4), may_alias));
typedef float pair __attribute__((vector_size(8), aligned(4), may_alias));

struct memory {
    const float *weights;
    float *work;
    const float *images;
    float *outputs;
};

/* the network is a list of these */
struct call {
    void (*run)(const void *layer, const struct memory *memory, int from, int to);
    const void *layer;
    int count; /* units of work */
};

/* What a register holds: where that is half a vector, GCC keeps whole ones in memory, and sums must not lie there. */
#if defined __AVX__
#define PART 8
typedef vector part;
#else
#define PART 4
typedef half_vector part;
#endif
enum { PARTS = LANES / PART };
typedef int32_t part_bits __attribute__((vector_size(4 * PART), aligned(4), may_alias));

INLINE part all_part(float x) { return x - (part){}; }
INLINE part part_at(const float *from) { return *(const part *)from; }
INLINE vector joined(const part *parts)
{
#if PART == LANES
    return parts[0];
#else
    const union { half_vector parts[2]; vector whole; } both = {{parts[0], parts[1]}};
    return both.whole;
#endif
}

INLINE part part_of(vector x, int which)
{
#if PART == LANES
    (void)which;
    return x;
#else
    const union { vector whole; half_vector parts[2]; } both = {x};
    return both.parts[which];
#endif
}

/* Keeps a value that is used several times in a register: GCC would rather read it again each time, and loads are what
 * is scarce. */
#if defined __x86_64__
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#elif defined __aarch64__
#define IN_REGISTER(x) __asm__("" : "+w"(x))
#else
#define IN_REGISTER(x) ((void)0)
#endif

INLINE vector load(const float *from) { return *(const vector *)from; }
INLINE vector all(float x) { return (vector){x, x, x, x, x, x, x, x}; }
INLINE vector pick(lanes where, vector yes, vector no)
{
    return (vector)((where & (lanes)yes) | (~where & (lanes)no));
}
INLINE vector largest(vector a, vector b) { return pick(a > b, a, b); }
INLINE vector smallest(vector a, vector b) { return pick(a < b, a, b); }

/* The lanes of x that `which` names. */
INLINE vector lanes_of(vector x, lanes which)
{
#if defined __AVX2__
    return (vector)_mm256_permutevar8x32_ps((__m256)x, (__m256i)which);
#else
    return (vector){x[which[0]], x[which[1]], x[which[2]], x[which[3]],
                    x[which[4]], x[which[5]], x[which[6]], x[which[7]]};
#endif
}

/* Weights of products may be in half precision: they are what memory is asked for most. */
#ifndef HALF_WEIGHTS
#define HALF_WEIGHTS 0
#endif
enum { WEIGHT = HALF_WEIGHTS ? 2 : 4, LINE = 64 }; /* bytes of a weight and of a line of the cache */

INLINE part load_half(const uint16_t *from)
{
#if defined __F16C__
    return (part)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif defined __aarch64__
    return (part)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else /* the bits where a float has them, with its exponent's offset; below the least exponent, steps of 2^-24 */
    part_bits bits;
    UNROLL for (int lane = 0; lane < PART; lane++) bits[lane] = from[lane];
    const part_bits size = (bits & 0x7fff) << 13, is_least = size < 1 << 23;
    const part least = (part)(size + (113 << 23)) - all_part(0x1p-14f);
    return (part)((is_least & (part_bits)least) | (~is_least & (size + (112 << 23))) | (bits & 0x8000) << 16);
#endif
}
INLINE part load_part(const int half, const void *weights, ptrdiff_t at)
{
    return half ? load_half((const uint16_t *)weights + at) : part_at((const float *)weights + at);
}

INLINE void store_half(float *to, half_vector x, int count)
{
    if (count >= 4) {
        *(half_vector *)to = x;
        return;
    }
    if (count & 2) {
        *(pair *)to = (pair){x[0], x[1]};
        x[0] = x[2];
        to += 2;
    }
    if (count & 1) *to = x[0];
}
INLINE void store(float *to, vector x, int count)
{
    if (count >= LANES) {
        *(vector *)to = x;
        return;
    }
    half_vector rest = {x[0], x[1], x[2], x[3]};
    if (count & 4) {
        *(half_vector *)to = rest;
        rest = (half_vector){x[4], x[5], x[6], x[7]};
        to += 4;
    }
    store_half(to, rest, count & 3);
}
#if PART == LANES
#define store_part store
#else
#define store_part store_half
#endif
