/* EEPROM (8254x §5: Microwire by EECD, or EERD) and PHY (MDIC, §13.4.8; registers of the M88E1011). */
#include "devices/e1000_internal.h"

#define MICROWIRE_COMMAND 9u /* start bit, two of opcode, six of address */
#define MICROWIRE_READ    6u /* start bit and opcode */
#define CHECKSUM          0xbaba
#define PHY_ADDRESS       1u

enum EepromWord { /* §5.6 */
                  EEPROM_INIT_1 = 0x0a,
                  EEPROM_SUBSYSTEM = 0x0b,
                  EEPROM_SUBSYSTEM_VENDOR = 0x0c,
                  EEPROM_DEVICE = 0x0d,
                  EEPROM_VENDOR = 0x0e,
                  EEPROM_INIT_2 = 0x0f,
                  EEPROM_CHECKSUM = 0x3f,
};

static uint16_t fixed_word(const E1000 *nic, uint32_t address)
{
    const uint8_t *config = nic->function.config;
    switch (address) {
    case 0:
    case 1:
    case 2:
        return load_le16(nic->mac + 2 * address);
    case EEPROM_INIT_1:
        return 0x6403; /* signature 01b in the high bits, IDs are loaded */
    case EEPROM_SUBSYSTEM:
        return load_le16(config + PCI_SUBSYSTEM_ID);
    case EEPROM_SUBSYSTEM_VENDOR:
        return load_le16(config + PCI_SUBSYSTEM_VENDOR_ID);
    case EEPROM_DEVICE:
        return load_le16(config + PCI_DEVICE_ID);
    case EEPROM_VENDOR:
        return load_le16(config + PCI_VENDOR_ID);
    case EEPROM_INIT_2:
        return 0x3000; /* pause in both directions */
    default:
        return address < EEPROM_CHECKSUM ? 0xffff : 0;
    }
}

/* §5.6.35: the words 0 to 3Fh add up to BABAh. */
uint16_t e1000_eeprom_word(const E1000 *nic, uint32_t address)
{
    if (address != EEPROM_CHECKSUM)
        return fixed_word(nic, address);
    uint16_t sum = 0;
    for (uint32_t i = 0; i < EEPROM_CHECKSUM; i++)
        sum = (uint16_t)(sum + fixed_word(nic, i));
    return (uint16_t)(CHECKSUM - sum);
}

/* One rising edge of the clock while the EEPROM is selected. */
static void microwire_clock(E1000 *nic, bool data_in)
{
    if (nic->eeprom_count == 0 && !data_in)
        return; /* before the start bit */
    if (nic->eeprom_count < MICROWIRE_COMMAND)
        nic->eeprom_in = nic->eeprom_in << 1 | data_in;
    if (nic->eeprom_count < MICROWIRE_COMMAND + 16u * E1000_EEPROM_WORDS)
        nic->eeprom_count++;
}

void e1000_write_eecd(E1000 *nic, uint32_t value)
{
    uint32_t before = nic->registers.eecd;
    nic->registers.eecd = value & (E1000_EECD_SK | E1000_EECD_CS | E1000_EECD_DI | E1000_EECD_REQ | 0x30);
    if (!(value & E1000_EECD_CS))
        nic->eeprom_in = nic->eeprom_count = 0;
    else if (value & E1000_EECD_SK && !(before & E1000_EECD_SK))
        microwire_clock(nic, value & E1000_EECD_DI);
}

/* What the EEPROM drives: after the address comes a 0, then the word from its highest bit on, then the next. */
static bool data_out(const E1000 *nic)
{
    if (nic->eeprom_count < MICROWIRE_COMMAND || nic->eeprom_in >> 6 != MICROWIRE_READ)
        return nic->eeprom_count == 0; /* pulled up */
    uint32_t bit = nic->eeprom_count - MICROWIRE_COMMAND;
    if (bit == 0)
        return false;
    uint32_t address = ((nic->eeprom_in & 0x3f) + (bit - 1) / 16) % E1000_EEPROM_WORDS;
    return e1000_eeprom_word(nic, address) >> (15 - (bit - 1) % 16) & 1;
}

uint32_t e1000_read_eecd(const E1000 *nic)
{
    uint32_t value = nic->registers.eecd | E1000_EECD_PRES;
    if (value & E1000_EECD_REQ)
        value |= E1000_EECD_GNT;
    return value | (data_out(nic) ? E1000_EECD_DO : 0);
}

void e1000_write_eerd(E1000 *nic, uint32_t value)
{
    nic->registers.eerd = value & 0xff00;
    if (value & E1000_EERD_START)
        nic->registers.eerd |=
            E1000_EERD_DONE | (uint32_t)e1000_eeprom_word(nic, value >> 8 & (E1000_EEPROM_WORDS - 1)) << 16;
}

/* ---- PHY ---------------------------------------------------------------------------------------------------- */

enum Phy { /* IEEE 802.3 clause 22, and the M88's own */
           PHY_CONTROL = 0,
           PHY_STATUS = 1,
           PHY_ID1 = 2,
           PHY_ID2 = 3,
           PHY_ADVERTISE = 4,
           PHY_PARTNER = 5,
           PHY_EXPANSION = 6,
           PHY_1000T_CONTROL = 9,
           PHY_1000T_STATUS = 10,
           PHY_EXTENDED_STATUS = 15,
           PHY_SPECIFIC_CONTROL = 16,
           PHY_SPECIFIC_STATUS = 17,
           PHY_INTERRUPT_ENABLE = 18,
           PHY_EXTENDED_CONTROL = 20,
};

enum {
    PHY_CONTROL_RESET = 1 << 15,
    PHY_CONTROL_AUTONEG = 1 << 12,
    PHY_CONTROL_RESTART = 1 << 9,
    PHY_STATUS_DONE = 1 << 5,
    PHY_STATUS_LINK = 1 << 2,
    PHY_SPECIFIC_LINK = 1 << 10,
};

void e1000_reset_phy(E1000 *nic)
{
    static const uint16_t values[E1000_PHY_REGISTERS] = {
        [PHY_CONTROL] = 0x1140,       /* autonegotiation, full duplex, 1000 Mb/s */
        [PHY_STATUS] = 0x7949,        /* 10 and 100 Mb/s both ways, extended status, autonegotiation */
        [PHY_ID1] = 0x0141,           /* Marvell */
        [PHY_ID2] = 0x0c20,           /* M88E1011 */
        [PHY_ADVERTISE] = 0x0de1,     /* all, pause both ways */
        [PHY_PARTNER] = 0xcde1,       /* and so does the other end */
        [PHY_EXPANSION] = 0x0001,     /* which can negotiate */
        [PHY_1000T_CONTROL] = 0x0e00, /* 1000BASE-T full and half duplex */
        [PHY_1000T_STATUS] = 0x3c00,  /* both receivers good, the other end too */
        [PHY_EXTENDED_STATUS] = 0x3000,
        [PHY_SPECIFIC_CONTROL] = 0x0360,
        [PHY_SPECIFIC_STATUS] = 0xa800, /* 1000 Mb/s, full duplex, resolved */
        [PHY_EXTENDED_CONTROL] = 0x0d60,
    };
    memcpy(nic->registers.phy, values, sizeof values);
    if (nic->link) {
        nic->registers.phy[PHY_STATUS] |= PHY_STATUS_LINK | PHY_STATUS_DONE;
        nic->registers.phy[PHY_SPECIFIC_STATUS] |= PHY_SPECIFIC_LINK;
    }
}

void e1000_update_link(E1000 *nic)
{
    bool link = net_backend_link(nic->backend);
    uint16_t *phy = nic->registers.phy;
    bool changed = link != nic->link;
    nic->link = link;
    if (link) {
        phy[PHY_STATUS] |= PHY_STATUS_LINK | PHY_STATUS_DONE;
        phy[PHY_SPECIFIC_STATUS] |= PHY_SPECIFIC_LINK;
    } else {
        phy[PHY_STATUS] &= (uint16_t) ~(PHY_STATUS_LINK | PHY_STATUS_DONE);
        phy[PHY_SPECIFIC_STATUS] &= (uint16_t)~PHY_SPECIFIC_LINK;
    }
    if (changed)
        e1000_raise(nic, E1000_ICR_LSC);
}

/* Autonegotiation is over at once. */
static void write_control(E1000 *nic, uint16_t value)
{
    if (value & PHY_CONTROL_RESET) {
        e1000_reset_phy(nic);
        return;
    }
    nic->registers.phy[PHY_CONTROL] = value & (uint16_t)~PHY_CONTROL_RESTART;
    if (nic->link && value & PHY_CONTROL_AUTONEG && value & PHY_CONTROL_RESTART)
        e1000_raise(nic, E1000_ICR_LSC);
}

static void write_phy(E1000 *nic, uint32_t number, uint16_t value)
{
    switch (number) {
    case PHY_CONTROL:
        write_control(nic, value);
        break;
    case PHY_STATUS:
    case PHY_ID1:
    case PHY_ID2:
    case PHY_PARTNER:
    case PHY_EXPANSION:
    case PHY_1000T_STATUS:
    case PHY_EXTENDED_STATUS:
    case PHY_SPECIFIC_STATUS:
        break; /* read only */
    default:
        nic->registers.phy[number] = value;
    }
}

void e1000_write_mdic(E1000 *nic, uint32_t value)
{
    uint32_t number = value >> 16 & 0x1f, operation = value & E1000_MDIC_OP;
    value &= ~(uint32_t)(E1000_MDIC_READY | E1000_MDIC_ERROR);
    if ((value >> 21 & 0x1f) != PHY_ADDRESS)
        value |= E1000_MDIC_ERROR;
    else if (operation == E1000_MDIC_WRITE)
        write_phy(nic, number, (uint16_t)value);
    else if (operation == E1000_MDIC_READ)
        value = (value & 0xffff0000) | nic->registers.phy[number];
    nic->registers.mdic = value | E1000_MDIC_READY;
    if (value & E1000_MDIC_INTERRUPT)
        e1000_raise(nic, E1000_ICR_MDAC);
}
