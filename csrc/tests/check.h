/* The few lines that csrc's own tests need: each test is a program, each check prints its place when it fails. */
#ifndef PYVMM_TESTS_CHECK_H
#define PYVMM_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                           \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__, #condition);            \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

#define CHECK_EQ(actual, expected)                                                                                 \
    do {                                                                                                           \
        long long a_ = (long long)(actual), e_ = (long long)(expected);                                            \
        if (a_ != e_) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s is %lld (%#llx), not %lld (%#llx)\n", __FILE__, __LINE__, __func__,     \
                    #actual, a_, a_, e_, e_);                                                                      \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

#define RUN(test)                                                                                                  \
    do {                                                                                                           \
        test();                                                                                                    \
        printf("ok %s\n", #test);                                                                                  \
    } while (0)

#endif
