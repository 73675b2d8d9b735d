/* A plugin for QEMU's system emulation: how often each address of the guest was executed, written as lines
 * "ADDRESS COUNT" when the guest ends. benchmarks/device.py builds it, and sums the addresses by function.
 *
 * Distributions do not package QEMU's header; the few declarations of its plugin interface (version 1) that are
 * needed stand here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(
    struct qemu_plugin_insn *, enum qemu_plugin_op, void *, uint64_t
);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* A counter for each halfword of the first SPAN bytes, where code lies; one more for all that lies elsewhere. */
enum { SPAN = 4 << 20 };
static uint64_t *counts;
static FILE *output;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(block); i < n; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        uint64_t at = qemu_plugin_insn_vaddr(instruction);
        uint64_t *counter = &counts[at < SPAN ? at / 2 : SPAN / 2];
        qemu_plugin_register_vcpu_insn_exec_inline(instruction, QEMU_PLUGIN_INLINE_ADD_U64, counter, 1);
    }
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    for (size_t i = 0; i <= SPAN / 2; i++)
        if (counts[i]) fprintf(output, "%zu %" PRIu64 "\n", i * 2, counts[i]);
    fclose(output);
}

__attribute__((visibility("default"))) int
qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    counts = calloc(SPAN / 2 + 1, sizeof *counts);
    output = argc == 1 && !strncmp(argv[0], "to=", 3) ? fopen(argv[0] + 3, "w") : NULL;
    if (!counts || !output) {
        fprintf(stderr, "usage: -plugin instructions.so,to=FILE\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
