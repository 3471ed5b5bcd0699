/* Which instruction sets this processor and its operating system can run. */
#include <cpuid.h>
#include <string.h>

#include "kernels.h"

enum { YMM_STATE = 0x6, ZMM_STATE = 0xe6 }; /* registers that the system saves, by XCR0's bits */

static unsigned long long saved_state(void) {
    unsigned eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE) || !(ecx & bit_FMA))
        return 0; /* no processor has AVX2 and not FMA, but the sets use both */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
}

static int runs(const edge_kernels *set) {
    unsigned eax, ebx = 0, ecx = 0, edx, eax1 = 0, unused;
    const unsigned long long saved = saved_state();
    if ((saved & YMM_STATE) != YMM_STATE || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        return 0;
    const unsigned leaves = eax;
    if (!(ebx & (1u << 5))) /* AVX2 */
        return 0;
    if (set == &edge_avx2)
        return 1;
    if (set == &edge_avxvnni) {
        if (leaves >= 1)
            __get_cpuid_count(7, 1, &eax1, &unused, &ecx, &edx);
        return (eax1 >> 4) & 1;
    }
    const unsigned f = 1u << 16, bw = 1u << 30, vl = 1u << 31, dq = 1u << 17, vnni = 1u << 11;
    return (saved & ZMM_STATE) == ZMM_STATE && (ebx & (f | bw | vl | dq)) == (f | bw | vl | dq) &&
           (ecx & vnni);
}

static const edge_kernels *const sets[] = {&edge_avx512vnni, &edge_avxvnni, &edge_avx2};

const edge_kernels *edge_best_kernels(void) {
    for (size_t i = 0; i < sizeof sets / sizeof *sets; ++i)
        if (runs(sets[i]))
            return sets[i];
    return NULL;
}

const edge_kernels *edge_kernels_named(const char *name) {
    for (size_t i = 0; i < sizeof sets / sizeof *sets; ++i)
        if (strcmp(sets[i]->name, name) == 0)
            return runs(sets[i]) ? sets[i] : NULL;
    return NULL;
}
