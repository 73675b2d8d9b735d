/* Elementary functions from additions and multiplications alone, which IEEE 754 rounds alike everywhere.
 * Compiled without contraction and without fast-math, they give the same bits on every machine.
 * Errors are within 2 units in the last place of float over the ranges that are used. */
#include "medyate.h"

static uint32_t bits_of(float x)
{
    union {
        float f;
        uint32_t u;
    } both;
    both.f = x;
    return both.u;
}

static float of_bits(uint32_t u)
{
    union {
        float f;
        uint32_t u;
    } both;
    both.u = u;
    return both.f;
}

/* exp(x) = 2^k exp(r), |r| <= ln 2 / 2; Taylor to r^7. Below -87 the result is 0. */
float md_exp(float x)
{
    if (x < -87.0f) return 0.0f;
    int32_t k = (int32_t)(x * 1.44269504f - 0.5f);
    float r = (x - (float)k * 0.693359375f) + (float)k * 2.12194440e-4f;
    float y = 1.0f / 5040.0f;
    y = y * r + 1.0f / 720.0f;
    y = y * r + 1.0f / 120.0f;
    y = y * r + 1.0f / 24.0f;
    y = y * r + 1.0f / 6.0f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return y * of_bits((uint32_t)(k + 127) << 23);
}

/* log(2^k m) = k ln 2 + 2 artanh((m - 1) / (m + 1)), m within [sqrt(1/2), sqrt(2)]. */
float md_log(float x)
{
    uint32_t u = bits_of(x);
    int32_t k = (int32_t)(u >> 23) - 127;
    float m = of_bits((u & 0x7FFFFFu) | 0x3F800000u);
    if (m > 1.41421356f) {
        m *= 0.5f;
        k += 1;
    }
    float s = (m - 1.0f) / (m + 1.0f), q = s * s;
    float y = 1.0f / 9.0f;
    y = y * q + 1.0f / 7.0f;
    y = y * q + 1.0f / 5.0f;
    y = y * q + 1.0f / 3.0f;
    y = y * q + 1.0f;
    return (float)k * 0.693147181f + 2.0f * s * y;
}

/* cos(x) = -sin(x - pi/2), Taylor to the eleventh power. */
float md_cos(float x)
{
    float t = x - 1.57079633f, q = t * t;
    float y = -1.0f / 39916800.0f;
    y = y * q + 1.0f / 362880.0f;
    y = y * q - 1.0f / 5040.0f;
    y = y * q + 1.0f / 120.0f;
    y = y * q - 1.0f / 6.0f;
    y = y * q + 1.0f;
    return -t * y;
}

/* The instruction, which IEEE 754 rounds correctly; needs -fno-math-errno to become one. */
float md_sqrt(float x) { return __builtin_sqrtf(x); }
