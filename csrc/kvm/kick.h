/* ioctl(2) on KVM's file descriptors, and the signal that calls a thread out of KVM_RUN. */
#ifndef PYVMM_KVM_KICK_H
#define PYVMM_KVM_KICK_H

#include "common/common.h"

/* ioctl(2) as -errno or the result; `argument` is a pointer or a number. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

/* One KVM_RUN: 0 or -errno. */
int kvm_run(int vcpu_fd);

/* The signal with which a vCPU's thread is called out of KVM_RUN, with its handler in place. Negative: -errno. */
int kvm_kick_signal(Error *error);
/* The calling thread's number (gettid); when it is not `known` the signal is let through to it. */
int kvm_kick_accept(int known);
/* Send it to one thread of this process. */
int kvm_kick_thread(int thread_id);

#endif
