/* A Cortex-M with a debugger or an emulator behind it: start-up, and semihosting in place of a camera, a card
 * reader and a console. Nothing here is kept in RAM; images are read from train.bin and test.bin on the host.
 *
 * For a product, replace the port_ functions. port_program and port_erase write the store as memory that takes
 * plain stores, which is right for the emulator, FRAM and MRAM; flash needs the vendor's routine there: unlock,
 * write one unit of MD_UNIT bytes, wait. */
#include "medyate.h"
#include <string.h>

extern uint32_t md_stack_begin[], md_stack_end[];
extern uint8_t md_store_begin[];
uint8_t *const port_store = md_store_begin;

/* --- semihosting: the host's files and console */

enum {
    SYS_OPEN = 0x01,
    SYS_CLOSE = 0x02,
    SYS_WRITE0 = 0x04,
    SYS_READ = 0x06,
    SYS_SEEK = 0x0A,
    SYS_GET_CMDLINE = 0x15,
    SYS_EXIT = 0x20
};

static uint32_t host(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void port_print(const char *text) { host(SYS_WRITE0, text); }

static void leave(int status)
{
    uint32_t block[2] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    host(SYS_EXIT, block);
    for (;;) {}
}

/* Reads `bytes` at `offset` of train.bin or test.bin; 0 where that cannot be. */
static int read_at(int test, uint32_t offset, void *data, uint32_t bytes)
{
    const char *name = test ? "test.bin" : "train.bin";
    const uint32_t open[3] = {(uint32_t)name, 1, test ? 8u : 9u};
    uint32_t file = host(SYS_OPEN, open);
    if (file == 0xFFFFFFFF) return 0;
    const uint32_t seek[2] = {file, offset}, read[3] = {file, (uint32_t)data, bytes};
    int done = host(SYS_SEEK, seek) == 0 && host(SYS_READ, read) == 0;
    host(SYS_CLOSE, &file);
    return done;
}

uint32_t port_images(int test)
{
    uint32_t head[3];
    return read_at(test, 0, head, sizeof head) && head[0] == MD_IMAGES_MAGIC && head[2] == MD_IMAGE_BYTES ? head[1]
                                                                                                          : 0;
}

uint32_t port_image(int test, uint32_t index, uint8_t *image)
{
    uint32_t label, offset = 12 + index * (4 + MD_IMAGE_BYTES);
    if (!read_at(test, offset, &label, sizeof label) || !read_at(test, offset + 4, image, MD_IMAGE_BYTES)) {
        port_print("an image cannot be read\n");
        leave(2);
    }
    return label;
}

/* --- the store */

void port_erase(uint32_t bank) { memset(port_store + bank * MD_BANK_BYTES, 0xFF, MD_BANK_BYTES); }

void port_program(uint32_t offset, const void *data, uint32_t bytes) { memcpy(port_store + offset, data, bytes); }

/* --- start-up */

static void say_stack(void)
{
    char line[] = "most stack in use: 00000 bytes\n";
    uint32_t *p = md_stack_begin, used;
    while (p < md_stack_end && *p == 0xA5A5A5A5) p++;
    used = (uint32_t)(md_stack_end - p) * 4;
    for (int digit = 23; digit >= 19; digit--, used /= 10) line[digit] = (char)('0' + used % 10);
    port_print(line);
}

static void begin(void)
{
    char arguments[256] = "";
    const uint32_t block[2] = {(uint32_t)arguments, sizeof arguments};
    host(SYS_GET_CMDLINE, block);
    int status = md_main(arguments);
    say_stack();
    leave(status);
}

void md_reset(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the FPU */
    __asm__ volatile("dsb\n isb");
    uint32_t *here = __builtin_frame_address(0);
    for (uint32_t *p = md_stack_begin; p < here - 16; p++) *p = 0xA5A5A5A5;
    begin();
}

static void md_fault(void)
{
    port_print("the processor reports a fault\n");
    leave(3);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    md_stack_end, md_reset, md_fault, md_fault, md_fault, md_fault, md_fault,
};
