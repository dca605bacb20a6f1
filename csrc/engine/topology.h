/*
 * How a machine's vCPUs are arranged, and the APIC IDs that follow: a bit field each for thread, core and package,
 * so that software finds them again by CPUID's shift counts (Intel SDM 3A §9.9.3; AMD64 APM vol. 3 appendix E.5).
 */
#ifndef PYVMM_ENGINE_TOPOLOGY_H
#define PYVMM_ENGINE_TOPOLOGY_H

#include "common/common.h"

/* An xAPIC ID: 8 bits, of which all ones is the broadcast. */
#define APIC_ID_MAX 254u

typedef struct CpuTopology {
    uint32_t sockets, cores, threads; /* packages, cores in each, threads in each core; all at least 1 */
} CpuTopology;

static inline uint32_t cpu_topology_count(const CpuTopology *topology)
{
    return topology->sockets * topology->cores * topology->threads;
}

/* How many bits number `count` things. */
static inline uint32_t cpu_topology_bits(uint32_t count)
{
    return count > 1 ? 32 - (uint32_t)__builtin_clz(count - 1) : 0;
}

/* How far an APIC ID is shifted right to number cores, and packages. */
static inline uint32_t cpu_topology_core_shift(const CpuTopology *topology)
{
    return cpu_topology_bits(topology->threads);
}

static inline uint32_t cpu_topology_package_shift(const CpuTopology *topology)
{
    return cpu_topology_core_shift(topology) + cpu_topology_bits(topology->cores);
}

static inline uint32_t cpu_topology_apic_id(const CpuTopology *topology, uint32_t index)
{
    uint32_t thread = index % topology->threads, core = index / topology->threads % topology->cores;
    uint32_t package = index / topology->threads / topology->cores;
    return package << cpu_topology_package_shift(topology) | core << cpu_topology_core_shift(topology) | thread;
}

#endif
