/*
 * KVM's own counters of a vCPU and of its VM: the binary statistics (Linux Documentation/virt/kvm/api.rst 4.133,
 * KVM_GET_STATS_FD). Names are the kernel's; those of the VM begin with "vm.". Left out: histograms.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <unistd.h>

#include "kvm/kick.h"
#include "kvm/vm.h"

enum { NAME_MAX_SIZE = 256, DESCRIPTORS_MAX = 4096 };

static bool read_all(int fd, void *data, size_t size, uint64_t offset)
{
    return pread(fd, data, size, (off_t)offset) == (ssize_t)size;
}

/* One file's counters. Returns how many there are now, of which `capacity` at most are stored. */
static uint32_t read_counters(int fd, const char *prefix, EngineStatistic *out, uint32_t count, uint32_t capacity)
{
    struct kvm_stats_header header;
    struct kvm_stats_desc one;
    char raw[sizeof one + NAME_MAX_SIZE + 1]; /* a descriptor, and its name */
    if (!read_all(fd, &header, sizeof header, 0) || header.name_size > NAME_MAX_SIZE ||
        header.num_desc > DESCRIPTORS_MAX)
        return count;
    size_t size = sizeof one + header.name_size;
    for (uint32_t i = 0; i < header.num_desc; i++) {
        uint64_t value;
        memset(raw, 0, sizeof raw);
        if (!read_all(fd, raw, size, header.desc_offset + (uint64_t)i * size))
            break;
        memcpy(&one, raw, sizeof one);
        if (one.size != 1 || !read_all(fd, &value, sizeof value, (uint64_t)header.data_offset + one.offset))
            continue;
        if (count < capacity) {
            snprintf(out[count].name, sizeof out->name, "%s%.40s", prefix, raw + sizeof one);
            out[count].value = value;
        }
        count++;
    }
    return count;
}

int kvm_statistics(Vcpu *base, EngineStatistic *out, uint32_t capacity)
{
    const KvmVcpu *vcpu = container_of(base, KvmVcpu, base);
    const struct {
        int fd;
        const char *prefix;
    } owners[] = {{vcpu->fd, ""}, {vcpu->vm->fd, "vm."}};
    uint32_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(owners); i++) {
        int fd = kvm_ioctl(owners[i].fd, KVM_GET_STATS_FD, NULL);
        if (fd < 0)
            return fd;
        count = read_counters(fd, owners[i].prefix, out, count, capacity);
        close(fd);
    }
    return (int)count;
}
