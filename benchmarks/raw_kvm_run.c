/*
 * The peer of benchmarks/exits.py under KVM: the shortest loop of KVM_RUN there is (api.rst 4.10, 4.35). A VM of
 * its own, a ROM image at F0000 and below 4 GiB; exits are answered by nobody, until the guest halts or writes port
 * 0x501.
 *
 * raw_kvm_run ROM: prints the exits, and CPU nanoseconds of the thread from the first KVM_RUN to the last.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

enum { ROM_SIZE = 65536, TSS_GPA = 0xfeffd000, END_PORT = 0x501 };

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static unsigned long long thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

int main(int argc, char **argv)
{
    int rom = open(argc == 2 ? argv[1] : "", O_RDONLY);
    void *code = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, rom, 0);
    if (code == MAP_FAILED)
        return fail("raw_kvm_run ROM");
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0ul);
    if (vm < 0 || ioctl(vm, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA) < 0)
        return fail("/dev/kvm");
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_userspace_memory_region slot = {.slot = i,
                                                   .guest_phys_addr = i ? 0xffff0000 : 0xf0000,
                                                   .memory_size = ROM_SIZE,
                                                   .userspace_addr = (unsigned long)code};
        if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
            return fail("KVM_SET_USER_MEMORY_REGION");
    }
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0ul);
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0ul);
    struct kvm_run *run =
        vcpu < 0 ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        return fail("KVM_CREATE_VCPU");
    unsigned long long exits = 0, begun = thread_ns();
    for (;; exits++) {
        if (ioctl(vcpu, KVM_RUN, 0ul) < 0)
            return fail("KVM_RUN");
        if ((run->exit_reason != KVM_EXIT_IO || run->io.port == END_PORT) && run->exit_reason != KVM_EXIT_MMIO)
            break;
    }
    printf("%llu %llu\n", exits, thread_ns() - begun);
    return run->exit_reason == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_HLT ? 0 : 1;
}
