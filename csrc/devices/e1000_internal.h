/* What the parts of the 82540EM share: e1000.c (registers, interrupts), e1000_nvm.c (EEPROM and PHY), e1000_tx.c
 * and e1000_rx.c. All functions but the operations of the NIC: lock held. */
#ifndef PYVMM_DEVICES_E1000_INTERNAL_H
#define PYVMM_DEVICES_E1000_INTERNAL_H

#include "devices/e1000.h"

#define E1000_HEADERS    512u /* of a frame that are copied where the device changes them */
#define E1000_DESCRIPTOR 16u

/* Statistics by index in registers.statistics, 8254x §13.7. */
enum E1000Statistic {
    E1000_MPC = 4,
    E1000_PRC64 = 23, /* to PRC1522 */
    E1000_GPRC = 29,
    E1000_BPRC = 30,
    E1000_MPRC = 31,
    E1000_GPTC = 32,
    E1000_GORC = 34,
    E1000_GOTC = 36,
    E1000_RNBC = 40,
    E1000_ROC = 43,
    E1000_TOR = 48,
    E1000_TOT = 50,
    E1000_TPR = 52,
    E1000_TPT = 53,
    E1000_PTC64 = 54, /* to PTC1522 */
    E1000_MPTC = 60,
    E1000_BPTC = 61,
    E1000_TSCTC = 62,
};

typedef struct E1000 {
    Device device;
    PciFunction function;
    NetBackend *backend;
    bool connected;
    uint8_t mac[6];
    E1000Registers registers;
    E1000Context checksum, segmentation;
    uint32_t io_address;
    uint32_t eeprom_in, eeprom_count;
    bool link;
    E1000Counters counters;
    /* Interrupts */
    Timer *throttle;
    uint64_t irq_allowed;
    uint32_t rx_causes; /* of a batch that is not over */
    /* The transmitter */
    IoNotifier *notifier;
    uintptr_t kicker;  /* thread that gives a kick with the lock held */
    bool lock_kept;    /* it runs inside that kick */
    bool sending;      /* the lock is given up */
    uint32_t draining; /* how many wait for that to end */
    bool tx_blocked;   /* the backend has no room */
    pthread_cond_t idle;
    uint8_t headers[E1000_HEADERS + 64];
    struct iovec iov[NET_MAX_SEGMENTS + 2];
    uint8_t frame[NET_FRAME_MAX]; /* being received */
} E1000;

static inline E1000 *e1000_of(Device *device) { return (E1000 *)device; }

/* e1000.c */
void e1000_raise(E1000 *nic, uint32_t causes);
void e1000_count_frame(E1000 *nic, bool sent, const uint8_t *start, size_t length);
bool e1000_may_dma(const E1000 *nic);

/* e1000_nvm.c */
uint16_t e1000_eeprom_word(const E1000 *nic, uint32_t address);
void e1000_write_eecd(E1000 *nic, uint32_t value);
uint32_t e1000_read_eecd(const E1000 *nic);
void e1000_write_eerd(E1000 *nic, uint32_t value);
void e1000_write_mdic(E1000 *nic, uint32_t value);
void e1000_reset_phy(E1000 *nic);
void e1000_update_link(E1000 *nic); /* from the backend: PHY and cause */

/* e1000_tx.c */
void e1000_kick(E1000 *nic);
void e1000_drain(E1000 *nic); /* wait until no frame is being sent */
void e1000_run(void *opaque); /* the notifier's */
void e1000_writable(void *opaque);

/* e1000_rx.c */
int e1000_receive(void *opaque, const struct iovec *iov, uint32_t count, const NetHeader *header);
void e1000_received(void *opaque);

#endif
