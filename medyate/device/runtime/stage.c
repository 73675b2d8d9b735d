/* One stage forward and backward, MD_GROUP middle channels at a time.
 *
 * Working memory comes from the stage's scratch, which lies below the tensors in passing; the planner
 * computes its size (planning.scratch_floats) from the same list of pieces. */
#include "medyate.h"
#include <string.h>

typedef struct {
    float *at, *end;
} scratch_t;

static float *take(scratch_t *scratch, uint32_t floats)
{
    float *piece = scratch->at;
    scratch->at += floats;
    md_assert(scratch->at <= scratch->end);
    return piece;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t plane_in(const md_layer *l) { return (uint32_t)l->height * l->width; }
static uint32_t plane_out(const md_layer *l) { return (uint32_t)l->out_height * l->out_width; }
static uint32_t taps(const md_layer *l) { return (uint32_t)l->kernel * l->kernel; }
static const md_layer *layer_of(int16_t number) { return number < 0 ? 0 : &md_layers[number]; }
static uint32_t number_of(const md_layer *l) { return (uint32_t)(l - md_layers); }

/* Whether a convolution's input rows are themselves the columns that md_dot needs. */
static int is_plain(const md_layer *l) { return l->kernel == 1 && l->stride == 1; }

const md_layer *md_stage_first(const md_stage *stage)
{
    return layer_of(stage->expand >= 0 ? stage->expand : stage->depthwise);
}

static const md_layer *stage_last(const md_stage *stage)
{
    return layer_of(stage->project >= 0 ? stage->project : stage->expand);
}

size_t md_stage_in(const md_stage *stage)
{
    const md_layer *l = md_stage_first(stage);
    return stage == md_stages ? (MD_IMAGE_BYTES + 3) / 4 : (size_t)l->channels * plane_in(l);
}

size_t md_stage_out(const md_stage *stage)
{
    const md_layer *l = stage_last(stage);
    return (size_t)l->outputs * plane_out(l);
}

/* --- what is kept for the backward pass */

static uint32_t chosen_count(const md_layer *l)
{
    return l->searched == MD_FROZEN ? 0 : (uint32_t)(md_state.start[l->searched + 1] - md_state.start[l->searched]);
}

static uint32_t chosen_at(const md_layer *l, uint32_t rank)
{
    return md_state.chosen[md_state.start[l->searched] + rank];
}

static float *kept_plane(const md_layer *l, uint32_t rank)
{
    return md_arena + md_state.kept[l->searched] + rank * plane_in(l);
}

/* The layer's masks where the backward pass comes by them: behind the first chosen layer. */
static uint8_t *masks_of(const md_layer *l)
{
    if (l->activation == MD_NONE || number_of(l) < md_state.first) return 0;
    return (uint8_t *)(md_arena + md_state.masks[number_of(l)]);
}

static void make_room(const md_layer *l)
{
    md_state.masks[number_of(l)] = md_state.low;
    if (masks_of(l)) {
        uint32_t floats = (l->outputs * plane_out(l) + 31) / 32;
        memset(md_arena + md_state.low, 0, floats * sizeof(float));
        md_state.low += floats;
    }
    if (l->searched != MD_FROZEN) {
        md_state.kept[l->searched] = md_state.low;
        md_state.low += chosen_count(l) * plane_in(l);
    }
}

/* --- weights of a group, side by side */

/* pack[c * taps + t][g]: tap t from input channel c to output first + g; 0 beyond the layer's outputs. */
static void pack_outputs(const md_layer *l, uint32_t first, float *pack)
{
    uint32_t n = taps(l), count = least(MD_GROUP, (uint32_t)l->outputs - first);
    for (uint32_t c = 0; c < l->channels; c++) {
        const float *w = md_channel_weights(l, c) + first * n;
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t g = 0; g < MD_GROUP; g++) *pack++ = g < count ? w[g * n + t] : 0.0f;
    }
}

/* pack[o][g]: from input channel first + g of a 1x1 convolution to output o; 0 beyond its channels. */
static void pack_channels(const md_layer *l, uint32_t first, float *pack)
{
    for (uint32_t g = 0; g < MD_GROUP; g++) {
        const float *w = first + g < l->channels ? md_channel_weights(l, first + g) : 0;
        for (uint32_t o = 0; o < l->outputs; o++) pack[o * MD_GROUP + g] = w ? w[o] : 0.0f;
    }
}

/* --- rows */

/* Pixels of an image are bytes; a network sees them in [-1, 1]. */
static float pixel(uint8_t value) { return (float)value * (1.0f / 127.5f) - 1.0f; }

static void image_row(const uint8_t *bytes, uint32_t n, float *out)
{
    for (uint32_t x = 0; x < n; x++) out[x] = pixel(bytes[x]);
}

/* Where tap j of a row of outputs meets the input: outputs *first to *end - 1, at in[x stride + j - pad]. */
static void inside(const md_layer *l, int j, int *first, int *end)
{
    int offset = j - l->pad_left, last = l->width - 1 - offset;
    *first = offset < 0 ? (-offset + l->stride - 1) / l->stride : 0;
    *end = last < 0 ? 0 : last / l->stride + 1;
    if (*end > l->out_width) *end = l->out_width;
    if (*first > *end) *first = *end;
}

/* The columns of one output row: cols[t][x] = in[y stride + i - pad][x stride + j - pad], t = i k + j. */
static void columns(const md_layer *l, const float *in, const uint8_t *image, uint32_t y, float *cols)
{
    for (int i = 0; i < l->kernel; i++)
        for (int j = 0; j < l->kernel; j++, cols += l->out_width) {
            int iy = (int)y * l->stride + i - l->pad_top, stride = l->stride, first, end;
            memset(cols, 0, l->out_width * sizeof(float));
            if (iy < 0 || iy >= l->height) continue;
            inside(l, j, &first, &end);
            int ix = iy * l->width + first * stride + j - l->pad_left;
            if (image)
                for (int x = first; x < end; x++, ix += stride) cols[x] = pixel(image[ix]);
            else
                for (int x = first; x < end; x++, ix += stride) cols[x] = in[ix];
        }
}

/* The transpose of `columns`: adds cols into one channel's plane. */
static void columns_back(const md_layer *l, const float *cols, uint32_t y, float *plane)
{
    for (int i = 0; i < l->kernel; i++)
        for (int j = 0; j < l->kernel; j++, cols += l->out_width) {
            int iy = (int)y * l->stride + i - l->pad_top, first, end;
            if (iy < 0 || iy >= l->height) continue;
            inside(l, j, &first, &end);
            int ix = iy * l->width + first * l->stride + j - l->pad_left;
            for (int x = first; x < end; x++, ix += l->stride) plane[ix] += cols[x];
        }
}

/* Row y of MD_GROUP outputs of the expanding convolution, before scale and activation. */
static void expand_row(
    const md_layer *l, const float *in, const uint8_t *image, const float *pack, uint32_t y, float *cols,
    float *out, uint32_t row
)
{
    for (uint32_t g = 0; g < MD_GROUP; g++) memset(out + g * row, 0, l->out_width * sizeof(float));
    if (is_plain(l) && !image) {
        md_dot(in + y * l->width, plane_in(l), l->channels, pack, l->out_width, out, row);
        return;
    }
    for (uint32_t c = 0; c < l->channels; c++) {
        uint32_t start = c * plane_in(l);
        columns(l, in ? in + start : 0, image ? image + start : 0, y, cols);
        md_dot(cols, l->out_width, taps(l), pack + c * taps(l) * MD_GROUP, l->out_width, out, row);
    }
}

/* Scale, bias, activation and mask of row y of the outputs first .. of a layer. */
static void
activate_rows(const md_layer *l, uint32_t first, uint32_t count, uint32_t y, int keep, float *rows, uint32_t row)
{
    const float *scale = md_weights + l->scale + first, *bias = scale + l->outputs;
    uint8_t *mask = keep ? masks_of(l) : 0;
    for (uint32_t g = 0; g < count; g++)
        md_activate(
            rows + g * row, l->out_width, scale[g], bias[g], l->activation, mask,
            (first + g) * plane_out(l) + y * l->out_width
        );
}

/* --- forward */

/* Keeps row y of those of a group's rows whose channel of `l` is chosen. `ranks` come from find_ranks. */
static void keep_rows(const md_layer *l, const uint32_t *ranks, uint32_t y, const float *rows, uint32_t row)
{
    for (uint32_t g = 0; g < MD_GROUP; g++)
        if (ranks[g] != UINT32_MAX)
            memcpy(kept_plane(l, ranks[g]) + y * l->width, rows + g * row, l->width * sizeof(float));
}

static void find_ranks(const md_layer *l, uint32_t first, int keep, uint32_t *ranks)
{
    for (uint32_t g = 0; g < MD_GROUP; g++)
        if (!keep || first + g >= l->channels || !md_is_chosen(l, first + g, &ranks[g])) ranks[g] = UINT32_MAX;
}

static void keep_input(const md_layer *l, const float *in, const uint8_t *image)
{
    for (uint32_t rank = 0; rank < chosen_count(l); rank++) {
        uint32_t start = chosen_at(l, rank) * plane_in(l);
        if (image)
            image_row(image + start, plane_in(l), kept_plane(l, rank));
        else
            memcpy(kept_plane(l, rank), in + start, plane_in(l) * sizeof(float));
    }
}

static void
forward_alone(const md_layer *l, const float *in, const uint8_t *image, float *out, int keep, scratch_t scratch)
{
    float *pack = take(&scratch, l->channels * taps(l) * MD_GROUP), *cols = take(&scratch, taps(l) * l->out_width);
    float *rows = take(&scratch, MD_GROUP * l->out_width);
    for (uint32_t m = 0; m < l->outputs; m += MD_GROUP) {
        uint32_t count = least(MD_GROUP, l->outputs - m);
        pack_outputs(l, m, pack);
        for (uint32_t y = 0; y < l->out_height; y++) {
            expand_row(l, in, image, pack, y, cols, rows, l->out_width);
            activate_rows(l, m, count, y, keep, rows, l->out_width);
            for (uint32_t g = 0; g < count; g++)
                memcpy(
                    out + (m + g) * plane_out(l) + y * l->out_width, rows + g * l->out_width,
                    l->out_width * sizeof(float)
                );
        }
    }
}

static void forward_fused(
    const md_layer *e, const md_layer *d, const md_layer *p, const float *in, const uint8_t *image, float *out,
    int keep, scratch_t scratch
)
{
    uint32_t row = (uint32_t)d->width + d->kernel; /* a padded row of the depthwise convolution's input */
    float *expand_pack = take(&scratch, e ? e->channels * taps(e) * MD_GROUP : 0);
    float *cols = take(&scratch, e ? taps(e) * e->out_width : 0);
    float *project_pack = take(&scratch, p->outputs * MD_GROUP);
    float *w = take(&scratch, MD_GROUP * taps(d));
    float *ring = take(&scratch, d->kernel * MD_GROUP * row); /* [input row modulo kernel][group][row] */
    float *zeros = take(&scratch, row);
    float *v = take(&scratch, MD_GROUP * d->out_width);
    uint32_t slot = MD_GROUP * row, ranks[MD_GROUP], project_ranks[MD_GROUP];

    memset(ring, 0, (d->kernel * slot + row) * sizeof(float)); /* the padding stays 0; `zeros` follows */
    memset(out, 0, p->outputs * plane_out(p) * sizeof(float));
    for (uint32_t m = 0; m < d->channels; m += MD_GROUP) {
        uint32_t count = least(MD_GROUP, d->channels - m);
        int made = 0; /* input rows that are in the ring */
        if (e) pack_outputs(e, m, expand_pack);
        pack_channels(p, m, project_pack);
        for (uint32_t g = 0; g < count; g++)
            memcpy(w + g * taps(d), md_channel_weights(d, m + g), taps(d) * sizeof(float));
        find_ranks(d, m, keep, ranks);
        find_ranks(p, m, keep, project_ranks);
        for (int y = 0; y < d->out_height; y++) {
            int top = y * d->stride - d->pad_top;
            for (; made < top + d->kernel && made < d->height; made++) {
                float *rows = ring + (uint32_t)(made % d->kernel) * slot + d->pad_left;
                if (e) {
                    expand_row(e, in, image, expand_pack, (uint32_t)made, cols, rows, row);
                    activate_rows(e, m, count, (uint32_t)made, keep, rows, row);
                } else {
                    for (uint32_t g = 0; g < count; g++) {
                        uint32_t start = (m + g) * plane_in(d) + (uint32_t)made * d->width;
                        if (image)
                            image_row(image + start, d->width, rows + g * row);
                        else
                            memcpy(rows + g * row, in + start, d->width * sizeof(float));
                    }
                }
                keep_rows(d, ranks, (uint32_t)made, rows, row);
            }
            for (uint32_t g = 0; g < MD_GROUP; g++) {
                const float *lines[MD_MAX_KERNEL];
                for (int i = 0; i < d->kernel; i++)
                    lines[i] = top + i < 0 || top + i >= d->height
                                   ? zeros
                                   : ring + (uint32_t)((top + i) % d->kernel) * slot + g * row;
                if (g < count)
                    md_depthwise_row(
                        lines, w + g * taps(d), d->kernel, d->stride, d->out_width, v + g * d->out_width
                    );
                else
                    memset(v + g * d->out_width, 0, d->out_width * sizeof(float));
            }
            activate_rows(d, m, count, (uint32_t)y, keep, v, d->out_width);
            keep_rows(p, project_ranks, (uint32_t)y, v, d->out_width);
            md_add(
                v, d->out_width, p->outputs, project_pack, d->out_width, out + (uint32_t)y * d->out_width,
                plane_out(p)
            );
        }
    }
    for (uint32_t o = 0; o < p->outputs; o++)
        for (uint32_t y = 0; y < p->out_height; y++)
            activate_rows(p, o, 1, y, keep, out + o * plane_out(p) + y * p->out_width, 0);
}

/* `in` is a tensor of floats or, of the first stage, `image` one of bytes. The scratch lies below `out`. */
void md_stage_forward(const md_stage *stage, const float *in, const uint8_t *image, float *out, int keep)
{
    const md_layer *e = layer_of(stage->expand), *d = layer_of(stage->depthwise), *p = layer_of(stage->project);
    scratch_t scratch = {out - stage->scratch, out};
    if (keep) {
        if (e) make_room(e);
        if (d) make_room(d);
        if (p) make_room(p);
        keep_input(md_stage_first(stage), in, image);
    }
    md_assert(MD_SPLIT || md_arena + md_state.low <= scratch.at);
    if (!d)
        forward_alone(e, in, image, out, keep, scratch);
    else
        forward_fused(e, d, p, in, image, out, keep, scratch);
    if (stage->residual)
        for (size_t i = 0; i < md_stage_out(stage); i++) out[i] += in[i];
}

/* --- backward */

/* The gradient behind a layer's activation -> before its scale, in place: what its products are given. */
static void through_activation(const md_layer *l, float *dz)
{
    for (uint32_t o = 0; o < l->outputs; o++)
        md_masked(dz + o * plane_out(l), plane_out(l), md_weights[l->scale + o], masks_of(l), o * plane_out(l));
}

/* A group's row y of the gradient before the expanding convolution's scale: weight gradients of the chosen
 * channels into sums[rank][tap][g], and the gradient of its input added into dx. */
static void expand_back(
    const md_layer *l, const float *rows, uint32_t row, uint32_t y, const float *pack, float *cols, float *sums,
    float *dx
)
{
    uint32_t n = taps(l);
    for (uint32_t rank = 0; rank < chosen_count(l); rank++, sums += n * MD_GROUP) {
        const float *c = kept_plane(l, rank) + y * l->width;
        if (!is_plain(l)) {
            columns(l, kept_plane(l, rank), 0, y, cols);
            c = cols;
        }
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t g = 0; g < MD_GROUP; g++)
                sums[t * MD_GROUP + g] += md_inner(rows + g * row, c + t * l->out_width, l->out_width);
    }
    if (!dx) return;
    if (is_plain(l)) {
        md_add(rows, row, l->channels, pack, l->out_width, dx + y * l->width, plane_in(l));
        return;
    }
    for (uint32_t c = 0; c < l->channels; c++) {
        memset(cols, 0, n * l->out_width * sizeof(float));
        md_add(rows, row, n, pack + c * n * MD_GROUP, l->out_width, cols, l->out_width);
        columns_back(l, cols, y, dx + c * plane_in(l));
    }
}

/* A group's finished sums: each chosen channel's gradient for the outputs first .. of the layer. */
static void give_expand(const md_layer *l, uint32_t first, uint32_t count, const float *sums)
{
    uint32_t n = taps(l);
    for (uint32_t rank = 0; rank < chosen_count(l); rank++, sums += n * MD_GROUP)
        for (uint32_t g = 0; g < count; g++)
            for (uint32_t t = 0; t < n; t++) md_give(l, rank, (first + g) * n + t, &sums[t * MD_GROUP + g], 1);
}

static void backward_alone(const md_layer *l, float *dz, float *dx, scratch_t scratch)
{
    float *pack = take(&scratch, l->channels * taps(l) * MD_GROUP), *cols = take(&scratch, taps(l) * l->out_width);
    float *rows = take(&scratch, MD_GROUP * l->out_width);
    uint32_t sum_floats = chosen_count(l) * taps(l) * MD_GROUP;
    float *sums = take(&scratch, sum_floats);
    through_activation(l, dz);
    for (uint32_t m = 0; m < l->outputs; m += MD_GROUP) {
        uint32_t count = least(MD_GROUP, l->outputs - m);
        if (dx) pack_outputs(l, m, pack);
        memset(sums, 0, sum_floats * sizeof(float));
        memset(rows, 0, MD_GROUP * l->out_width * sizeof(float));
        for (uint32_t y = 0; y < l->out_height; y++) {
            for (uint32_t g = 0; g < count; g++)
                memcpy(
                    rows + g * l->out_width, dz + (m + g) * plane_out(l) + y * l->out_width,
                    l->out_width * sizeof(float)
                );
            expand_back(l, rows, l->out_width, y, pack, cols, sums, dx);
        }
        give_expand(l, m, count, sums);
    }
}

/* Weight gradients of the chosen ones of a group's channels of the projecting convolution. */
static void project_gradients(const md_layer *p, uint32_t first, uint32_t count, const float *dz, float *gradient)
{
    for (uint32_t g = 0; g < count; g++) {
        uint32_t rank;
        if (!md_is_chosen(p, first + g, &rank)) continue;
        for (uint32_t o = 0; o < p->outputs; o++)
            gradient[o] = md_inner(dz + o * plane_out(p), kept_plane(p, rank), plane_out(p));
        md_give(p, rank, 0, gradient, p->outputs);
    }
}

/* Adds output row y's share to a depthwise channel's weight gradient; `g` is that row's gradient. */
static void depthwise_gradient(const md_layer *d, uint32_t rank, uint32_t y, const float *g, float *gradient)
{
    for (int i = 0; i < d->kernel; i++) {
        int iy = (int)y * d->stride + i - d->pad_top;
        if (iy < 0 || iy >= d->height) continue;
        for (int j = 0; j < d->kernel; j++) {
            int first, end;
            float sum = 0.0f;
            inside(d, j, &first, &end);
            const float *in = kept_plane(d, rank) + iy * d->width + first * d->stride + j - d->pad_left;
            for (int x = first; x < end; x++, in += d->stride) sum += g[x] * *in;
            gradient[i * d->kernel + j] += sum;
        }
    }
}

static void backward_fused(
    const md_layer *e, const md_layer *d, const md_layer *p, float *dz, float *dx, int through_depthwise,
    int through_expand, scratch_t scratch
)
{
    uint32_t row = (uint32_t)d->width + 2u * d->kernel; /* a padded row of the depthwise convolution's input */
    float *expand_pack = take(&scratch, e ? e->channels * taps(e) * MD_GROUP : 0);
    float *cols = take(&scratch, e ? taps(e) * e->out_width : 0);
    float *project_pack = take(&scratch, p->outputs * MD_GROUP);
    float *w = take(&scratch, MD_GROUP * taps(d));
    float *ring = take(&scratch, d->kernel * MD_GROUP * d->out_width); /* [output row modulo kernel][group][row] */
    float *rows = take(&scratch, MD_GROUP * row);
    float *gradient = take(&scratch, p->outputs);
    float *depthwise_sums = take(&scratch, MD_GROUP * taps(d));
    uint32_t sum_floats = e ? chosen_count(e) * taps(e) * MD_GROUP : 0;
    float *sums = take(&scratch, sum_floats);
    uint32_t slot = MD_GROUP * d->out_width, ranks[MD_GROUP];

    through_activation(p, dz);
    for (uint32_t m = 0; m < d->channels; m += MD_GROUP) {
        uint32_t count = least(MD_GROUP, d->channels - m);
        int made = 0;                      /* output rows whose gradient is in the ring */
        pack_channels(p, m, project_pack); /* before the gradients are given: in place, they change the weights */
        project_gradients(p, m, count, dz, gradient);
        if (!through_depthwise) continue;
        if (e && through_expand) pack_outputs(e, m, expand_pack);
        for (uint32_t g = 0; g < count; g++)
            memcpy(w + g * taps(d), md_channel_weights(d, m + g), taps(d) * sizeof(float));
        find_ranks(d, m, 1, ranks);
        memset(depthwise_sums, 0, MD_GROUP * taps(d) * sizeof(float));
        memset(sums, 0, sum_floats * sizeof(float));
        for (int y = 0; y < d->height; y++) {
            for (; made * d->stride <= y + d->pad_top && made < d->out_height; made++) {
                float *g = ring + (uint32_t)(made % d->kernel) * slot;
                memset(g, 0, slot * sizeof(float));
                md_dot(
                    dz + (uint32_t)made * p->width, plane_out(p), p->outputs, project_pack, p->width, g, p->width
                );
                for (uint32_t i = 0; i < count; i++) {
                    md_masked(
                        g + i * d->out_width, d->out_width, md_weights[d->scale + m + i], masks_of(d),
                        (m + i) * plane_out(d) + (uint32_t)made * d->out_width
                    );
                    if (ranks[i] != UINT32_MAX)
                        depthwise_gradient(
                            d, ranks[i], (uint32_t)made, g + i * d->out_width, depthwise_sums + i * taps(d)
                        );
                }
            }
            if (!through_expand) continue;
            memset(rows, 0, MD_GROUP * row * sizeof(float));
            for (int i = 0; i < d->kernel; i++) {
                int t = y + d->pad_top - i;
                if (t < 0 || t % d->stride || t / d->stride >= d->out_height) continue;
                const float *g = ring + (uint32_t)(t / d->stride % d->kernel) * slot;
                for (uint32_t c = 0; c < count; c++)
                    md_depthwise_back(
                        g + c * d->out_width, w + c * taps(d) + (uint32_t)i * d->kernel, d->kernel, d->stride,
                        d->out_width, rows + c * row
                    );
            }
            for (uint32_t c = 0; c < count; c++) {
                float *g = rows + c * row + d->pad_left;
                if (e)
                    md_masked(
                        g, d->width, md_weights[e->scale + m + c], masks_of(e),
                        (m + c) * plane_out(e) + (uint32_t)y * d->width
                    );
                else
                    for (uint32_t x = 0; x < d->width; x++)
                        dx[(m + c) * plane_in(d) + (uint32_t)y * d->width + x] += g[x];
            }
            if (e) expand_back(e, rows + d->pad_left, row, (uint32_t)y, expand_pack, cols, sums, dx);
        }
        for (uint32_t g = 0; g < count; g++)
            if (ranks[g] != UINT32_MAX) md_give(d, ranks[g], 0, depthwise_sums + g * taps(d), taps(d));
        if (e && through_expand) give_expand(e, m, count, sums);
    }
}

/* From the gradient `dz` of the stage's output, which is used up, to that of its input; `dx` is null where no
 * layer before the stage is chosen. The scratch lies below `dx`, or below `dz`. */
void md_stage_backward(const md_stage *stage, float *dz, float *dx)
{
    const md_layer *e = layer_of(stage->expand), *d = layer_of(stage->depthwise), *p = layer_of(stage->project);
    float *end = dx ? dx : dz;
    scratch_t scratch = {end - stage->scratch, end};
    md_assert(MD_SPLIT || md_arena + md_state.low <= scratch.at);
    if (dx) {
        size_t n = md_stage_in(stage);
        if (stage->residual)
            memcpy(dx, dz, n * sizeof(float));
        else
            memset(dx, 0, n * sizeof(float));
    }
    if (!d) {
        backward_alone(e, dz, dx, scratch);
        return;
    }
    int through_depthwise = md_state.first <= number_of(d),
        through_expand = dx || (e && md_state.first <= number_of(e));
    backward_fused(e, d, p, dz, dx, through_depthwise, through_expand, scratch);
}
