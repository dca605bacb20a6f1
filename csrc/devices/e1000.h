/*
 * Intel 82540EM Gigabit Ethernet controller ("e1000") on a NetBackend: for systems without virtio drivers.
 *
 * Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual 317453 (`8254x
 * §n`): §3 receive and transmit, §5 EEPROM, §13 registers; PHY registers as in §13 (M88E1011). Both descriptor
 * formats of the transmitter (legacy, extended: checksum and TCP segmentation contexts), receive filters (16
 * addresses, hash table, VLAN), VLAN insertion and stripping, checksum offload both ways, interrupt throttling
 * (ITR), statistics.
 *
 * Left out: the packet buffer memory (a frame is in a descriptor or with the backend), flow control frames,
 * wake-up, power management, MSI, writing the EEPROM, the flash, TBI, jumbo frames above 16384 bytes. The receive
 * and transmit delay timers (RDTR, RADV, TIDV, TADV) are kept and read back; an interrupt comes at the end of what
 * is there to be done, which is what they are for. A frame whose descriptors are not all there yet (TDT amid it) is
 * not begun. The FCS that a receive buffer gets without RCTL.SECRC is zero.
 *
 * Frames are sent on the backend's I/O thread from guest memory (headers that the device changes are copied), with
 * the lock given up.
 */
#ifndef PYVMM_DEVICES_E1000_H
#define PYVMM_DEVICES_E1000_H

#include "devices/pci.h"
#include "net/net.h"

enum E1000Region { E1000_REGION_MMIO = 0, E1000_REGION_IO = 1 };
enum { E1000_MMIO_SIZE = 0x20000, E1000_IO_SIZE = 64, E1000_IOADDR = 0, E1000_IODATA = 4 };

enum E1000Register { /* 8254x §13.4 */
                     E1000_CTRL = 0x0000,
                     E1000_STATUS = 0x0008,
                     E1000_EECD = 0x0010,
                     E1000_EERD = 0x0014,
                     E1000_CTRL_EXT = 0x0018,
                     E1000_MDIC = 0x0020,
                     E1000_FCAL = 0x0028,
                     E1000_FCAH = 0x002c,
                     E1000_FCT = 0x0030,
                     E1000_VET = 0x0038,
                     E1000_ICR = 0x00c0,
                     E1000_ITR = 0x00c4,
                     E1000_ICS = 0x00c8,
                     E1000_IMS = 0x00d0,
                     E1000_IMC = 0x00d8,
                     E1000_RCTL = 0x0100,
                     E1000_FCTTV = 0x0170,
                     E1000_TXCW = 0x0178,
                     E1000_TCTL = 0x0400,
                     E1000_TIPG = 0x0410,
                     E1000_AIT = 0x0458,
                     E1000_LEDCTL = 0x0e00,
                     E1000_PBA = 0x1000,
                     E1000_FCRTL = 0x2160,
                     E1000_FCRTH = 0x2168,
                     E1000_RDBAL = 0x2800,
                     E1000_RDBAH = 0x2804,
                     E1000_RDLEN = 0x2808,
                     E1000_RDH = 0x2810,
                     E1000_RDT = 0x2818,
                     E1000_RDTR = 0x2820,
                     E1000_RXDCTL = 0x2828,
                     E1000_RADV = 0x282c,
                     E1000_RSRPD = 0x2c00,
                     E1000_TDBAL = 0x3800,
                     E1000_TDBAH = 0x3804,
                     E1000_TDLEN = 0x3808,
                     E1000_TDH = 0x3810,
                     E1000_TDT = 0x3818,
                     E1000_TIDV = 0x3820,
                     E1000_TXDCTL = 0x3828,
                     E1000_TADV = 0x382c,
                     E1000_TSPMT = 0x3830,
                     E1000_STATISTICS = 0x4000, /* to 0x40fc, §13.7 */
                     E1000_RXCSUM = 0x5000,
                     E1000_MTA = 0x5200,
                     E1000_RA = 0x5400,
                     E1000_VFTA = 0x5600,
                     E1000_WUC = 0x5800,
                     E1000_WUFC = 0x5808,
                     E1000_MANC = 0x5820,
};

enum E1000Ctrl {
    E1000_CTRL_FD = 1 << 0,
    E1000_CTRL_SLU = 1 << 6,
    E1000_CTRL_SPEED_1000 = 2 << 8,
    E1000_CTRL_RST = 1 << 26,
    E1000_CTRL_VME = 1 << 30,
};
#define E1000_CTRL_PHY_RST (1u << 31)

enum E1000Status { E1000_STATUS_FD = 1 << 0, E1000_STATUS_LU = 1 << 1, E1000_STATUS_SPEED_1000 = 2 << 6 };

enum E1000Eecd {
    E1000_EECD_SK = 1 << 0,
    E1000_EECD_CS = 1 << 1,
    E1000_EECD_DI = 1 << 2,
    E1000_EECD_DO = 1 << 3,
    E1000_EECD_REQ = 1 << 6,
    E1000_EECD_GNT = 1 << 7,
    E1000_EECD_PRES = 1 << 8,
};
enum E1000Eerd { E1000_EERD_START = 1 << 0, E1000_EERD_DONE = 1 << 4 };

enum E1000Mdic {
    E1000_MDIC_WRITE = 1 << 26,
    E1000_MDIC_READ = 2 << 26,
    E1000_MDIC_OP = 3 << 26,
    E1000_MDIC_READY = 1 << 28,
    E1000_MDIC_INTERRUPT = 1 << 29,
    E1000_MDIC_ERROR = 1 << 30,
};

enum E1000Cause { /* ICR, ICS, IMS, IMC */
                  E1000_ICR_TXDW = 1 << 0,
                  E1000_ICR_TXQE = 1 << 1,
                  E1000_ICR_LSC = 1 << 2,
                  E1000_ICR_RXDMT0 = 1 << 4,
                  E1000_ICR_RXO = 1 << 6,
                  E1000_ICR_RXT0 = 1 << 7,
                  E1000_ICR_MDAC = 1 << 9,
};

enum E1000Rctl {
    E1000_RCTL_EN = 1 << 1,
    E1000_RCTL_UPE = 1 << 3,
    E1000_RCTL_MPE = 1 << 4,
    E1000_RCTL_LPE = 1 << 5,
    E1000_RCTL_BAM = 1 << 15,
    E1000_RCTL_VFE = 1 << 18,
    E1000_RCTL_BSEX = 1 << 25,
    E1000_RCTL_SECRC = 1 << 26,
};
enum E1000Tctl { E1000_TCTL_EN = 1 << 1, E1000_TCTL_PSP = 1 << 3 };
enum E1000Rxcsum { E1000_RXCSUM_IPOFL = 1 << 8, E1000_RXCSUM_TUOFL = 1 << 9 };
#define E1000_RAH_AV (1u << 31)

enum E1000TxCommand { /* CMD, DCMD and TUCMD, §3.3.3 to §3.3.7 */
                      E1000_TXD_EOP = 1 << 0,
                      E1000_TXD_IC = 1 << 2, /* legacy: insert checksum */
                      E1000_TXD_RS = 1 << 3,
                      E1000_TXD_DEXT = 1 << 5,
                      E1000_TXD_VLE = 1 << 6,
                      E1000_TXD_IDE = 1 << 7,
                      E1000_TUCMD_TCP = 1 << 0,
                      E1000_TUCMD_IP = 1 << 1,
                      E1000_TUCMD_TSE = 1 << 2,
};
enum { E1000_TXD_DD = 1, E1000_POPTS_IXSM = 1, E1000_POPTS_TXSM = 2 };

enum E1000RxStatus { /* §3.2.3.1 */
                     E1000_RXD_DD = 1 << 0,
                     E1000_RXD_EOP = 1 << 1,
                     E1000_RXD_IXSM = 1 << 2,
                     E1000_RXD_VP = 1 << 3,
                     E1000_RXD_TCPCS = 1 << 5,
                     E1000_RXD_IPCS = 1 << 6,
                     E1000_RXD_IPE = 1 << 6, /* in the errors */
};

#define E1000_STATISTICS_COUNT 64
#define E1000_EEPROM_WORDS     64
#define E1000_PHY_REGISTERS    32

typedef struct E1000Context { /* §3.3.6; one for checksums, one for segmentation */
    uint8_t ipcss, ipcso;
    uint16_t ipcse;
    uint8_t tucss, tucso;
    uint16_t tucse;
    uint32_t paylen;
    uint8_t tucmd, hdrlen;
    uint16_t mss;
} E1000Context;

typedef struct E1000Registers {
    uint32_t ctrl, ctrl_ext, eecd, eerd, mdic, fcal, fcah, fct, vet;
    uint32_t icr, itr, ims, ait;
    uint32_t rctl, fcttv, txcw, tctl, tipg, ledctl, pba, fcrtl, fcrth;
    uint32_t rdbal, rdbah, rdlen, rdh, rdt, rdtr, rxdctl, radv, rsrpd;
    uint32_t tdbal, tdbah, tdlen, tdh, tdt, tidv, txdctl, tadv, tspmt;
    uint32_t rxcsum, wuc, wufc, manc;
    uint32_t ra[32]; /* RAL and RAH in turn */
    uint32_t mta[128];
    uint32_t vfta[128];
    uint32_t statistics[E1000_STATISTICS_COUNT];
    uint16_t phy[E1000_PHY_REGISTERS];
} E1000Registers;

typedef struct E1000State {
    PciFunctionState pci;
    E1000Registers registers;
    E1000Context checksum, segmentation;
    uint32_t io_address;   /* IOADDR */
    uint64_t irq_allowed;  /* when ITR lets the next interrupt through, of the machine's clock */
    uint32_t eeprom_in;    /* what was shifted in */
    uint32_t eeprom_count; /* bits of it; then bits shifted out */
    uint8_t link;          /* what the driver was told */
} E1000State;

typedef struct E1000Counters {
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t tx_segmented; /* frames with a TCP segmentation context */
    uint64_t tx_drops;
    uint64_t tx_waits;
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_filtered;
    uint64_t rx_drops;
    uint64_t rx_waits;
    uint64_t interrupts;
    uint64_t faults; /* descriptors and buffers that are not in RAM */
} E1000Counters;

/* The backend stays the caller's and must outlive the device. */
Device *e1000_new(Board *board, PciBus *bus, uint32_t devfn, NetBackend *backend, const uint8_t mac[6],
                  Error *error);
/* Before device_free() where I/O threads may be running; not with the device's lock held. May be called twice. */
void e1000_unplug(Device *device);
void e1000_counters(Device *device, E1000Counters *counters);

#endif
