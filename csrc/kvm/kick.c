/*
 * ioctl(2) as the rest of this folder uses it, and the signal that calls a thread out of KVM_RUN (api.rst 4.10,
 * EINTR).
 *
 * The handler does nothing: a pending signal is enough. It is installed with SA_RESTART, because KVM_RUN returns
 * EINTR in spite of it, and a kick that comes late does not disturb another system call of the thread.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "kvm/kick.h"

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

int kvm_run(int vcpu_fd) { return kvm_ioctl(vcpu_fd, KVM_RUN, NULL); }

static void on_kick(int number) {}

int kvm_kick_signal(Error *error)
{
    int number = SIGRTMIN + 4;
    struct sigaction old, wanted = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
    if (sigaction(number, NULL, &old) < 0)
        return error_set(error, errno, "sigaction: %s", strerror(errno));
    if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN && old.sa_handler != on_kick)
        return error_set(error, EBUSY, "signal SIGRTMIN+4 has a handler; the KVM engine needs it to kick vCPUs");
    if (old.sa_handler != on_kick && sigaction(number, &wanted, NULL) < 0)
        return error_set(error, errno, "sigaction: %s", strerror(errno));
    return number;
}

int kvm_kick_accept(int known)
{
    int thread_id = (int)syscall(SYS_gettid);
    if (thread_id == known)
        return known;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 4);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return thread_id;
}

int kvm_kick_thread(int thread_id)
{
    return syscall(SYS_tgkill, getpid(), thread_id, SIGRTMIN + 4) < 0 ? -errno : 0;
}
