/* The inner loops. Every sum has one order, whatever the compiler makes of it: products are added one
 * after another, channel by channel and tap by tap; only md_inner has four partial sums. */
#include "medyate.h"
#include <math.h>

enum { COLUMNS = 4 }; /* with MD_GROUP rows: 16 sums, which the FPU of a Cortex-M7 holds in registers */

/* out[g][x] += sum over c of pack[c][g] in[c][x], for x < n and the rows g of a group.
 * A channel of `in` begins `plane` floats after the one before, a row of `out` `row` floats. */
void md_dot(
    const float *in, uint32_t plane, uint32_t channels, const float *pack, uint32_t n, float *out, uint32_t row
)
{
    uint32_t x = 0;
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
    for (uint32_t x = 0; x < n; x++) out[x] = 0.0f;
    for (uint32_t i = 0; i < kernel; i++)
        for (uint32_t j = 0; j < kernel; j++) {
            const float tap = w[i * kernel + j], *in = rows[i] + j;
            if (stride == 1)
                for (uint32_t x = 0; x < n; x++) out[x] += tap * in[x];
            else
                for (uint32_t x = 0; x < n; x++) out[x] += tap * in[x * stride];
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
    for (uint32_t x = 0; mask && x < n; x++, bit++)
        mask[bit >> 3] |= (uint8_t)((uint32_t)(row[x] > 0.0f && row[x] < most) << (bit & 7));
}

/* row *= scale, and 0 where the mask's bit is 0; a missing mask passes everything. */
void md_masked(float *row, uint32_t n, float scale, const uint8_t *mask, uint32_t bit)
{
    for (uint32_t x = 0; x < n; x++, bit++)
        row[x] = !mask || (mask[bit >> 3] >> (bit & 7)) & 1 ? row[x] * scale : 0.0f;
}
