/* The network's numbers, as read-only data. */
#if defined(__APPLE__)
        .section __TEXT,__const
        .globl  _md_weights
        .balign 32
_md_weights:
#else
        .section .weights, "a"
        .globl  md_weights
        .balign 32
md_weights:
#endif
        .incbin "weights.bin"
#if defined(__linux__)
        .section .note.GNU-stack, "", %progbits
#endif
