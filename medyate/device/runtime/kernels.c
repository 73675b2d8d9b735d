/* The inner loops. Every sum has one order, whatever the compiler makes of it: products are added one
 * after another, channel by channel and tap by tap; only md_inner has four partial sums. Where the compiler
 * may use AVX2, wider loops go first; what they compute is the same to the bit. */
#include "medyate.h"
#include <math.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

enum { COLUMNS = 4 }; /* with MD_GROUP rows: 16 sums, which the FPU of a Cortex-M7 holds in registers */

#ifdef __AVX2__
/* md_dot and md_add for WIDTH columns at once. */
#define WIDE(NAME, WIDTH) \
    typedef float NAME __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias)); \
    static void dot_##NAME( \
        const float *in, uint32_t plane, uint32_t channels, const float *pack, float *out, uint32_t row \
    ) \
    { \
        NAME *const o0 = (NAME *)out, *const o1 = (NAME *)(out + row); \
        NAME *const o2 = (NAME *)(out + 2 * row), *const o3 = (NAME *)(out + 3 * row); \
        NAME a0 = *o0, a1 = *o1, a2 = *o2, a3 = *o3; \
        for (uint32_t c = 0; c < channels; c++, in += plane, pack += MD_GROUP) { \
            const NAME p = *(const NAME *)in; \
            a0 += pack[0] * p, a1 += pack[1] * p, a2 += pack[2] * p, a3 += pack[3] * p; \
        } \
        *o0 = a0, *o1 = a1, *o2 = a2, *o3 = a3; \
    } \
    static void add_##NAME( \
        const float *v, uint32_t row, uint32_t channels, const float *pack, float *out, uint32_t plane \
    ) \
    { \
        const NAME a0 = *(const NAME *)v, a1 = *(const NAME *)(v + row); \
        const NAME a2 = *(const NAME *)(v + 2 * row), a3 = *(const NAME *)(v + 3 * row); \
        for (uint32_t c = 0; c < channels; c++, out += plane, pack += MD_GROUP) \
            *(NAME *)out = *(NAME *)out + pack[0] * a0 + pack[1] * a1 + pack[2] * a2 + pack[3] * a3; \
    }
WIDE(eight, 8)
WIDE(sixteen, 16)
#endif

/* out[g][x] += sum over c of pack[c][g] in[c][x], for x < n and the rows g of a group.
 * A channel of `in` begins `plane` floats after the one before, a row of `out` `row` floats. */
void md_dot(
    const float *in, uint32_t plane, uint32_t channels, const float *pack, uint32_t n, float *out, uint32_t row
)
{
    uint32_t x = 0;
#ifdef __AVX2__
    for (; x + 16 <= n; x += 16) dot_sixteen(in + x, plane, channels, pack, out + x, row);
    for (; x + 8 <= n; x += 8) dot_eight(in + x, plane, channels, pack, out + x, row);
#endif
    for (; x + COLUMNS <= n; x += COLUMNS) {
        float a[MD_GROUP][COLUMNS];
        const float *p = in + x, *w = pack;
#pragma GCC unroll 4
        for (int g = 0; g < MD_GROUP; g++)
#pragma GCC unroll 4
            for (int i = 0; i < COLUMNS; i++) a[g][i] = out[(uint32_t)g * row + x + (uint32_t)i];
        for (uint32_t c = 0; c < channels; c++, p += plane, w += MD_GROUP)
#pragma GCC unroll 4
            for (int g = 0; g < MD_GROUP; g++)
#pragma GCC unroll 4
                for (int i = 0; i < COLUMNS; i++) a[g][i] += w[g] * p[i];
#pragma GCC unroll 4
        for (int g = 0; g < MD_GROUP; g++)
#pragma GCC unroll 4
            for (int i = 0; i < COLUMNS; i++) out[(uint32_t)g * row + x + (uint32_t)i] = a[g][i];
    }
    for (; x < n; x++)
        for (uint32_t g = 0; g < MD_GROUP; g++) {
            float a = out[g * row + x];
            for (uint32_t c = 0; c < channels; c++) a += pack[c * MD_GROUP + g] * in[c * plane + x];
            out[g * row + x] = a;
        }
}

/* out[c][x] += sum over the rows g of a group of pack[c][g] v[g][x]: the transpose of md_dot. */
void md_add(
    const float *v, uint32_t row, uint32_t channels, const float *pack, uint32_t n, float *out, uint32_t plane
)
{
    uint32_t x = 0;
#ifdef __AVX2__
    for (; x + 16 <= n; x += 16) add_sixteen(v + x, row, channels, pack, out + x, plane);
    for (; x + 8 <= n; x += 8) add_eight(v + x, row, channels, pack, out + x, plane);
#endif
    for (; x + COLUMNS <= n; x += COLUMNS) {
        float a[MD_GROUP][COLUMNS];
        float *p = out + x;
        const float *w = pack;
#pragma GCC unroll 4
        for (int g = 0; g < MD_GROUP; g++)
#pragma GCC unroll 4
            for (int i = 0; i < COLUMNS; i++) a[g][i] = v[(uint32_t)g * row + x + (uint32_t)i];
        for (uint32_t c = 0; c < channels; c++, p += plane, w += MD_GROUP)
#pragma GCC unroll 4
            for (int i = 0; i < COLUMNS; i++)
                p[i] = p[i] + w[0] * a[0][i] + w[1] * a[1][i] + w[2] * a[2][i] + w[3] * a[3][i];
    }
    for (; x < n; x++)
        for (uint32_t c = 0; c < channels; c++)
            for (uint32_t g = 0; g < MD_GROUP; g++) out[c * plane + x] += pack[c * MD_GROUP + g] * v[g * row + x];
}

/* sum of a[x] b[x], x < n. */
float md_inner(const float *a, const float *b, uint32_t n)
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    uint32_t x = 0;
#ifdef __AVX2__
    typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
    four sums = {0};
    for (; x + 4 <= n; x += 4) sums += *(const four *)(a + x) * *(const four *)(b + x);
    s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
#endif
    for (; x + 4 <= n; x += 4) {
        s0 += a[x] * b[x];
        s1 += a[x + 1] * b[x + 1];
        s2 += a[x + 2] * b[x + 2];
        s3 += a[x + 3] * b[x + 3];
    }
    for (; x < n; x++) s0 += a[x] * b[x];
    return (s0 + s1) + (s2 + s3);
}

/* One output row of a depthwise convolution from `kernel` padded input rows:
 * out[x] = sum over i, j of w[i][j] rows[i][x stride + j]. */
void md_depthwise_row(
    const float *const *rows, const float *w, uint32_t kernel, uint32_t stride, uint32_t n, float *out
)
{
    uint32_t x = 0;
#ifdef __AVX2__
    for (; stride == 1 && x + 8 <= n; x += 8) {
        eight a = {0};
        for (uint32_t i = 0; i < kernel; i++)
            for (uint32_t j = 0; j < kernel; j++) a += w[i * kernel + j] * *(const eight *)(rows[i] + x + j);
        *(eight *)(out + x) = a;
    }
#endif
    for (; x + COLUMNS <= n; x += COLUMNS) {
        float a[COLUMNS] = {0};
        for (uint32_t i = 0; i < kernel; i++) {
            const float *in = rows[i] + x * stride;
            for (uint32_t j = 0; j < kernel; j++, in++) {
                const float tap = w[i * kernel + j];
#pragma GCC unroll 4
                for (uint32_t c = 0; c < COLUMNS; c++) a[c] += tap * in[c * stride];
            }
        }
#pragma GCC unroll 4
        for (uint32_t c = 0; c < COLUMNS; c++) out[x + c] = a[c];
    }
    for (; x < n; x++) {
        float a = 0.0f;
        for (uint32_t i = 0; i < kernel; i++)
            for (uint32_t j = 0; j < kernel; j++) a += w[i * kernel + j] * rows[i][x * stride + j];
        out[x] = a;
    }
}

/* One gradient row back into one padded input row: out[x stride + j] += w[j] g[x]; `w` is one row of taps. */
void md_depthwise_back(const float *g, const float *w, uint32_t kernel, uint32_t stride, uint32_t n, float *out)
{
    for (uint32_t j = 0; j < kernel; j++) {
        const float tap = w[j];
        float *o = out + j;
        if (stride == 1)
            for (uint32_t x = 0; x < n; x++) o[x] += tap * g[x];
        else
            for (uint32_t x = 0; x < n; x++) o[x * stride] += tap * g[x];
    }
}

/* row = activation(scale row + bias); where `mask` is given, notes in its bits from `bit` on which elements
 * the gradient passes. The bits are 0 before. What is not a number goes through, and shows in the loss. */
void md_activate(float *row, uint32_t n, float scale, float bias, int activation, uint8_t *mask, uint32_t bit)
{
    const float most = activation == MD_RELU6 ? 6.0f : INFINITY;
    if (activation == MD_NONE) {
        for (uint32_t x = 0; x < n; x++) row[x] = scale * row[x] + bias;
        return;
    }
    for (uint32_t x = 0; x < n; x++) {
        float z = scale * row[x] + bias;
        z = z <= 0.0f ? 0.0f : z;
        row[x] = z >= most ? most : z;
    }
    for (uint32_t x = 0; mask && x < n;) {
        uint32_t bits = 0, some = 8 - (bit & 7); /* what is left of a byte of the mask */
#ifdef __AVX2__
        for (; some == 8 && x + 8 <= n; x += 8, bit += 8) {
            const __m256 z = _mm256_loadu_ps(row + x), below = _mm256_cmp_ps(z, _mm256_set1_ps(most), _CMP_LT_OQ);
            const __m256 passes = _mm256_and_ps(_mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GT_OQ), below);
            mask[bit >> 3] = (uint8_t)_mm256_movemask_ps(passes);
        }
#endif
        if (some > n - x) some = n - x;
        for (uint32_t i = 0; i < some; i++) bits |= (uint32_t)(row[x + i] > 0.0f && row[x + i] < most) << i;
        if (some) mask[bit >> 3] |= (uint8_t)(bits << (bit & 7));
        x += some, bit += some;
    }
}

/* row *= scale, and 0 where the mask's bit is 0; a missing mask passes everything. */
void md_masked(float *row, uint32_t n, float scale, const uint8_t *mask, uint32_t bit)
{
    uint32_t x = 0;
    if (!mask) {
        for (; x < n; x++) row[x] *= scale;
        return;
    }
    while (x < n) {
        uint32_t some = 8 - (bit & 7), bits;
#ifdef __AVX2__
        const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        for (; some == 8 && x + 8 <= n; x += 8, bit += 8) {
            const __m256i own = _mm256_and_si256(_mm256_set1_epi32(mask[bit >> 3]), lanes);
            const __m256 passes = _mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lanes));
            const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(row + x), _mm256_set1_ps(scale));
            _mm256_storeu_ps(row + x, _mm256_and_ps(scaled, passes));
        }
        if (x == n) return;
#endif
        if (some > n - x) some = n - x;
        bits = (uint32_t)mask[bit >> 3] >> (bit & 7);
        for (uint32_t i = 0; i < some; i++, bits >>= 1) row[x + i] = bits & 1 ? row[x + i] * scale : 0.0f;
        x += some, bit += some;
    }
}
