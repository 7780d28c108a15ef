/* Exponentials and logarithms that a compiler can vectorise.
 *
 * libm's are calls, and which of them have vector versions differs between platforms, so the few that are
 * needed here are written as straight-line arithmetic. The polynomials interpolate at Chebyshev nodes.
 */
#ifndef RILL_VECTOR_MATH_H
#define RILL_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* One clone of a function for each generation of x86; the loader picks one when the library is opened. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define VECTOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTOR
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Adding this to a float leaves its nearest integer in the low mantissa bits. */
#define ROUND_FLOAT 12582912.0f
#define ROUND_DOUBLE 6755399441055744.0

/* exp(x), relative error below 2e-7; x is held within [-87, 88], where the result is a normal number. */
INLINE float exp_float(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + ROUND_FLOAT;
    float n = shifted - ROUND_FLOAT;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.98909908e-4f;
    p = p * r + 1.393364999e-3f;
    p = p * r + 8.333310925e-3f;
    p = p * r + 4.166646446e-2f;
    p = p * r + 1.666666668e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits, exponent;
    memcpy(&bits, &p, 4);
    memcpy(&exponent, &shifted, 4);
    bits += (int32_t)((uint32_t)exponent << 23);
    memcpy(&p, &bits, 4);
    return p;
}

/* log(1 + u) for u in [0, 1], relative error below 2e-7. */
INLINE float log1p_float(float u) {
    float p = 5.126102141e-3f;
    p = p * u - 2.907406468e-2f;
    p = p * u + 7.751608674e-2f;
    p = p * u - 1.360224762e-1f;
    p = p * u + 1.907688074e-1f;
    p = p * u - 2.483539899e-1f;
    p = p * u + 3.331812171e-1f;
    p = p * u - 4.999944498e-1f;
    p = p * u + 9.999999659e-1f;
    return p * u;
}

/* exp(x) for x <= 0, relative error below 1e-13; x below -80 counts as -80, whose result still is a normal
 * float: denormal numbers are a hundred times slower in every operation that meets them. */
INLINE double exp_double(double x) {
    x = x < -80.0 ? -80.0 : x;
    double shifted = x * 1.4426950408889634 + ROUND_DOUBLE;
    double n = shifted - ROUND_DOUBLE;
    double r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10;
    double p = 2.761757684835413e-06;
    p = p * r + 2.4867883453521802e-05;
    p = p * r + 0.00019841224581544105;
    p = p * r + 0.001388883909064138;
    p = p * r + 0.008333333344209506;
    p = p * r + 0.041666666786337556;
    p = p * r + 0.16666666666662583;
    p = p * r + 0.4999999999995507;
    p = p * (r * r) + r + 1.0;
    int64_t bits, exponent;
    memcpy(&bits, &p, 8);
    memcpy(&exponent, &shifted, 8);
    bits += (int64_t)((uint64_t)exponent << 52);
    memcpy(&p, &bits, 8);
    return p;
}

/* log(1 + u) for u in [0, 1], relative error below 3e-11. */
INLINE double log1p_double(double u) {
    double p = 0.0007950132275741071;
    p = p * u - 0.0060543815118333415;
    p = p * u + 0.02162277662889297;
    p = p * u - 0.049102420489767325;
    p = p * u + 0.08212817261992637;
    p = p * u - 0.11270121772120155;
    p = p * u + 0.13909859913312295;
    p = p * u - 0.16587094998578766;
    p = p * u + 0.19988934638908445;
    p = p * u - 0.24999068541803812;
    p = p * u + 0.3333329204467681;
    p = p * u - 0.499999992726098;
    p = p * u + 0.9999999999785376;
    return p * u;
}

#endif
