/* Training of a chosen subnetwork on a microcontroller: Algorithm 1 of the MeDyate paper in C99.
 *
 * A network is a row of stages between an image of bytes and a linear classifier. A stage is up to
 * three convolutions with frozen batch norm:
 *
 *     expand (any kernel, in most networks 1x1)  ->  depthwise  ->  project (1x1)  (+ the stage's input)
 *
 * Its wide middle tensor never exists: MD_GROUP middle channels at a time are computed row by row,
 * passed through the depthwise convolution and added into the output, forward and backward.
 *
 * Fixed code, generated tables: network.h and network.c describe one network under one plan. There
 * is no heap. All memory is `md_state` (what lives as long as the training) and `md_arena`, which
 * holds from its bottom, in the order in which the forward pass needs it and the backward pass gives
 * it back, the copies of the chosen weights, their gradients, masks and kept inputs; from its top
 * the tensors in passing. The planner has proved for every selection within the budget that the two
 * do not meet; see md_assert.
 *
 * Weights of one *input* channel lie together, [channel][output][k * k] (depthwise: [channel][k * k]):
 * the input channel is the unit that the method selects, copies and stores. */
#ifndef MEDYATE_H
#define MEDYATE_H

#include <stddef.h>
#include <stdint.h>

enum { MD_NONE, MD_RELU, MD_RELU6 }; /* activations */
#define MD_FIXED 0                   /* strategies, for the preprocessor: from a table, */
#define MD_UNIFORM 1                 /* uniform, anew each epoch, */
#define MD_MEDYATE 2                 /* Algorithm 1 */
enum { MD_FROZEN = 0xFFFF };         /* md_layer.searched of a layer outside the search space */
enum { MD_GROUP = 4 };               /* middle channels that are computed together */

/* One convolution with folded batch norm: y = activation(scale * (w x) + bias). */
typedef struct {
    uint32_t weight; /* its first weight, in floats from md_weights */
    uint32_t scale;  /* [outputs] scales, then [outputs] biases, in floats from md_weights */
    uint16_t channels, outputs;
    uint16_t height, width; /* of the input */
    uint16_t out_height, out_width;
    uint8_t kernel, stride, pad_top, pad_left;
    uint8_t depthwise, activation;
    uint16_t searched; /* its place among the searched layers, or MD_FROZEN */
} md_layer;

/* Numbers of layers, or -1; one of: expand alone, depthwise and project, all three. */
typedef struct {
    int16_t expand, depthwise, project;
    uint16_t residual; /* 1: the stage's input is added to its output */
    uint32_t scratch;  /* floats of working memory */
} md_stage;

#include "network.h"

extern const md_layer md_layers[MD_LAYERS];
extern const md_stage md_stages[MD_STAGES];
extern const uint16_t md_searched[];     /* searched layers in order of execution: layer numbers */
extern const uint16_t md_search_start[]; /* first channel of each in the search space, and the end */
extern const uint16_t md_fixed[];        /* MD_FIXED: the chosen channels, numbers in the search space */
extern const float md_weights[];         /* weights, scales and biases; in flash */

#define MD_CLASSIFIER_FLOATS (MD_FEATURES * MD_CLASSES + MD_CLASSES) /* [class][feature], then [class] biases */
#define MD_AT_LEAST_ONE(n) ((n) > 0 ? (n) : 1)

/* What lives as long as the training. Only members of fixed width, widest first: the planner computes
 * the same size. Offsets are in floats from the arena's bottom. */
typedef struct {
    uint64_t random; /* state of the generator */
    float classifier[MD_CLASSIFIER_FLOATS];
#if MD_ACCUMULATE
    float classifier_gradient[MD_CLASSIFIER_FLOATS];
#endif
    float norms[MD_AT_LEAST_ONE(MD_NORMS)];        /* N of Algorithm 1, a float a channel of the search space */
    float rate;                                    /* learning rate of this step */
    float loss;                                    /* summed over the images of this batch */
    uint32_t copies[MD_AT_LEAST_ONE(MD_SEARCHED)]; /* where a layer's copies of chosen weights begin */
    uint32_t kept[MD_AT_LEAST_ONE(MD_SEARCHED)];   /* where a layer's kept inputs begin */
    uint32_t masks[MD_LAYERS];                     /* where a layer's one-bit masks begin */
    uint32_t copy_floats;                          /* size of all copies, and of all gradients */
    uint32_t low;                                  /* end of what the bottom of the arena holds */
    uint32_t peak;           /* largest `low` plus tensors in passing, floats; for the tests */
    uint32_t store_used;     /* units of the store's bank in use */
    uint32_t store_sequence; /* number of the bank in use */
    uint16_t epoch;          /* epochs that are complete */
    uint16_t first;          /* first chosen layer; MD_LAYERS: none */
    uint16_t last_step;      /* 1: this step's gradients give the norms */
    uint16_t store_broken;   /* 1: the bank's tail is torn; the next write moves to the other bank */
    /* a searched layer's chosen channels, in order: chosen[start[i]] .. chosen[start[i + 1] - 1] */
    uint16_t start[MD_AT_LEAST_ONE(MD_SEARCHED) + 1];
    uint16_t chosen[MD_AT_LEAST_ONE(MD_MAX_CHOSEN)];
    /* unit of a channel's newest weights in the store; 0: as shipped */
    uint16_t stored[MD_AT_LEAST_ONE(MD_STORED)];
} md_state_t;

extern md_state_t md_state;
extern float md_arena[MD_ARENA_FLOATS];

/* Fails where the plan and the program disagree. Compiled into native builds only. */
#ifdef MD_ASSERT
void md_failed(const char *what, const char *file, int line);
#define md_assert(condition) ((condition) ? (void)0 : md_failed(#condition, __FILE__, __LINE__))
#else
#define md_assert(condition) ((void)0)
#endif

/* maths.c: the same bits on every machine */
float md_exp(float x); /* x <= 0 */
float md_log(float x); /* x > 0, normal */
float md_cos(float x); /* 0 <= x <= pi */
float md_sqrt(float x);

/* kernels.c: see there */
void md_dot(
    const float *in, uint32_t plane, uint32_t channels, const float *pack, uint32_t n, float *out, uint32_t row
);
void md_add(
    const float *v, uint32_t row, uint32_t channels, const float *pack, uint32_t n, float *out, uint32_t plane
);
float md_inner(const float *a, const float *b, uint32_t n);
void md_depthwise_row(
    const float *const *rows, const float *w, uint32_t kernel, uint32_t stride, uint32_t n, float *out
);
void md_depthwise_back(const float *g, const float *w, uint32_t kernel, uint32_t stride, uint32_t n, float *out);
void md_activate(float *row, uint32_t n, float scale, float bias, int activation, uint8_t *mask, uint32_t bit);
void md_masked(float *row, uint32_t n, float scale, const uint8_t *mask, uint32_t bit);

/* stage.c: one stage forward and backward */
void md_stage_forward(const md_stage *stage, const float *in, const uint8_t *image, float *out, int keep);
void md_stage_backward(const md_stage *stage, float *dz, float *dx);
size_t
md_stage_in(const md_stage *stage); /* floats of the stage's input; of the first stage, of an image of bytes */
size_t md_stage_out(const md_stage *stage);
const md_layer *md_stage_first(const md_stage *stage);

/* step.c: images to gradients */
uint8_t *md_image(void);   /* where the next image's MD_IMAGE_BYTES are put, [3][height][width] */
void md_forward(int keep); /* image to logits */
const float *md_logits(void);
uint32_t md_best_class(void);
void md_backward(uint32_t label, float share); /* share: 1 / images in the batch */
void md_begin_batch(void);
void md_update(void); /* at a batch's end; accumulate only */
void md_give(const md_layer *layer, uint32_t rank, uint32_t offset, const float *gradient, uint32_t n);

/* select.c: which channels */
uint32_t md_random(void);
float md_random_unit(void);
uint32_t
md_sample(const float *weights, const uint32_t *costs, uint32_t n, uint32_t budget, float *keys, uint16_t *order);
uint32_t md_channel_cost(const md_layer *layer);
uint32_t md_channel_floats(const md_layer *layer);
void md_choose(void); /* the next epoch's channels, and their weights into the arena */
void md_set_chosen(const uint16_t *channels, uint32_t n); /* by their numbers in the search space, in order */
void md_norms_seen(void);                                 /* lines 6 to 10 of Algorithm 1 */
int md_is_chosen(const md_layer *layer, uint32_t channel, uint32_t *rank);
const float *md_channel_weights(const md_layer *layer, uint32_t channel);

/* store.c: trained weights through epochs and power cuts */
int md_store_open(void);   /* 1: an earlier training's state was found and loaded */
void md_store_write(void); /* the epoch's end: chosen weights, classifier, norms, generator */
const float *md_store_at(uint32_t unit);
uint32_t md_crc(uint32_t crc, const void *data, uint32_t bytes);
uint32_t md_checksum(void); /* of every weight as it is now: searched layers and classifier */

/* train.c */
typedef struct {
    uint32_t epochs, warmup, batch, seed, train_images, test_images;
    float rate;
    uint32_t resume;
} md_options;
void md_start(const md_options *options);
float md_rate(uint32_t step, uint32_t steps, const md_options *options);
void md_train(const md_options *options);
int md_main(const char *arguments);

/* What a machine supplies; port_native.c and port_cortexm.c. */
void port_print(const char *text);
uint32_t port_images(int test);                                /* how many images there are */
uint32_t port_image(int test, uint32_t index, uint8_t *image); /* reads one; returns its label */
extern uint8_t *const port_store;                              /* two banks of MD_BANK_BYTES, readable as memory */
void port_erase(uint32_t bank);                                /* every byte of the bank to 0xFF */
void port_program(uint32_t offset, const void *data, uint32_t bytes); /* whole erased units of MD_UNIT bytes */

#endif
