#include "devices/pci_msi.h"

enum { /* offsets in both capabilities: §6.8.1, §6.8.2 */
       MESSAGE_CONTROL = 2,
       MSI_ADDRESS = 4,
       MSI_DATA = 12,
       MSI_LENGTH = 14,
       MSI_ENABLE = 1 << 0,
       MSI_WANTED_SHIFT = 1,
       MSI_GRANTED_SHIFT = 4,
       MSI_64BIT = 1 << 7,
       MSIX_TABLE = 4,
       MSIX_PBA = 8,
       MSIX_LENGTH = 12,
       MSIX_FUNCTION_MASK = 1 << 14,
       MSIX_ENABLE = 1 << 15,
       /* in an entry of the table, §6.8.2.6 to §6.8.2.9 */
       ENTRY_DATA = 8,
       ENTRY_CONTROL = 12,
       ENTRY_MASKED = 1 << 0,
};

/* ---- MSI-X -------------------------------------------------------------------------------------------------- */

int pci_msix_init(PciMsix *msix, PciFunction *function, uint32_t count, uint32_t bar, uint32_t table_offset,
                  uint32_t pba_offset)
{
    uint64_t table_end = table_offset + (uint64_t)count * PCI_MSIX_ENTRY_SIZE, pba_end = pba_offset + 8ull;
    if (count == 0 || count > PCI_MSIX_VECTORS || bar >= PCI_ROM_BAR || (table_offset | pba_offset) & 7)
        return -EINVAL;
    if (table_end > function->bars[bar].size || pba_end > function->bars[bar].size ||
        (pba_offset < table_end && table_offset < pba_end))
        return -EINVAL;
    int at = pci_function_add_capability(function, PCI_CAP_MSIX, MSIX_LENGTH);
    if (at < 0)
        return at;
    *msix = (PciMsix){.function = function,
                      .capability = (uint32_t)at,
                      .count = count,
                      .table_offset = table_offset,
                      .pba_offset = pba_offset};
    uint8_t *capability = function->config + at;
    store_le16(capability + MESSAGE_CONTROL, (uint16_t)(count - 1));
    store_le32(capability + MSIX_TABLE, table_offset | bar);
    store_le32(capability + MSIX_PBA, pba_offset | bar);
    store_le16(function->write_mask + at + MESSAGE_CONTROL, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    pci_msix_reset(msix);
    return 0;
}

static uint16_t msix_control(const PciMsix *msix)
{
    return load_le16(msix->function->config + msix->capability + MESSAGE_CONTROL);
}

bool pci_msix_is_enabled(const PciMsix *msix) { return msix->capability && msix_control(msix) & MSIX_ENABLE; }

static uint8_t *entry_of(PciMsix *msix, uint32_t vector) { return msix->table + vector * PCI_MSIX_ENTRY_SIZE; }

/* No vector is in use: the engine's routes go back. */
static void release_irqfds(PciMsix *msix)
{
    for (uint32_t vector = 0; vector < msix->count; vector++)
        if (msix->irqfds[vector])
            irqfd_release(msix->irqfds[vector]);
}

void pci_msix_fini(PciMsix *msix)
{
    for (uint32_t vector = 0; vector < msix->count; vector++) {
        irqfd_free(msix->irqfds[vector]);
        msix->irqfds[vector] = NULL;
    }
}

void pci_msix_reset(PciMsix *msix)
{
    release_irqfds(msix);
    memset(msix->table, 0, sizeof msix->table);
    msix->pending = 0;
    for (uint32_t vector = 0; vector < msix->count; vector++)
        store_le32(entry_of(msix, vector) + ENTRY_CONTROL, ENTRY_MASKED);
}

static bool send_by_irqfd(PciMsix *msix, uint32_t vector, const MsiMessage *message)
{
    IrqFds *list = msix->function->device->board->irqfds;
    if (!msix->use_irqfd || !irqfds_usable(list) || (message->address & ~0xfffffull) != MSI_ADDRESS_BASE)
        return false;
    if (!msix->irqfds[vector])
        msix->irqfds[vector] = irqfd_new(list);
    bool sent = msix->irqfds[vector] && irqfd_send(msix->irqfds[vector], message);
    msix->irqfd_sent += sent;
    return sent;
}

/* Send what is pending and not masked any more. */
static void send_pending(PciMsix *msix)
{
    uint16_t control = msix_control(msix);
    if (!(control & MSIX_ENABLE) || control & MSIX_FUNCTION_MASK || !pci_function_is_master(msix->function))
        return;
    for (uint32_t vector = 0; vector < msix->count && msix->pending; vector++) {
        const uint8_t *entry = entry_of(msix, vector);
        if (!(msix->pending >> vector & 1) || load_le32(entry + ENTRY_CONTROL) & ENTRY_MASKED)
            continue;
        msix->pending &= ~(1ull << vector);
        MsiMessage message = {load_le64(entry), load_le32(entry + ENTRY_DATA)};
        if (!send_by_irqfd(msix, vector, &message))
            board_msi(msix->function->device->board, message.address, message.data);
    }
}

void pci_msix_notify(PciMsix *msix, uint32_t vector)
{
    if (vector >= msix->count || !pci_msix_is_enabled(msix))
        return;
    msix->pending |= 1ull << vector;
    send_pending(msix);
}

bool pci_msix_config_written(PciMsix *msix, uint32_t offset, uint32_t size)
{
    uint32_t control = msix->capability + MESSAGE_CONTROL;
    bool touched = msix->capability && offset < control + 2 && control < offset + size;
    if (touched && !pci_msix_is_enabled(msix))
        release_irqfds(msix);
    if (msix->capability && (touched || offset == PCI_COMMAND))
        send_pending(msix);
    return touched;
}

static bool in_table(const PciMsix *msix, uint64_t offset)
{
    return offset >= msix->table_offset && offset - msix->table_offset < msix->count * PCI_MSIX_ENTRY_SIZE;
}

bool pci_msix_covers(const PciMsix *msix, uint64_t offset)
{
    return msix->capability &&
           (in_table(msix, offset) || (offset >= msix->pba_offset && offset - msix->pba_offset < 8));
}

/* §6.8.2: 4 or 8 bytes, naturally aligned; the rest is undefined, and reads what is there. */
uint64_t pci_msix_read(const PciMsix *msix, uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    if (in_table(msix, offset)) {
        uint64_t at = offset - msix->table_offset;
        memcpy(&value, msix->table + at, MIN((uint64_t)size, sizeof msix->table - at));
    } else if (pci_msix_covers(msix, offset)) {
        value = msix->pending >> (8 * (offset - msix->pba_offset));
    }
    return value;
}

static void write_entry_word(PciMsix *msix, uint64_t at, uint32_t value)
{
    switch (at % PCI_MSIX_ENTRY_SIZE) {
    case 0: /* §6.8.2.6: double words */
        value &= ~3u;
        break;
    case ENTRY_CONTROL:
        value &= ENTRY_MASKED;
        break;
    }
    store_le32(msix->table + at, value);
}

void pci_msix_write(PciMsix *msix, uint64_t offset, uint32_t size, uint64_t value)
{
    if (!in_table(msix, offset) || (size != 4 && size != 8) || offset % size)
        return;
    uint64_t at = offset - msix->table_offset;
    write_entry_word(msix, at, (uint32_t)value);
    if (size == 8)
        write_entry_word(msix, at + 4, (uint32_t)(value >> 32));
    send_pending(msix);
}

void pci_msix_save(const PciMsix *msix, PciMsixState *state)
{
    memcpy(state->table, msix->table, sizeof state->table);
    state->pending = msix->pending;
}

int pci_msix_restore(PciMsix *msix, const PciMsixState *state)
{
    if (msix->count < PCI_MSIX_VECTORS && state->pending >> msix->count)
        return -EINVAL;
    for (uint32_t at = 0; at < sizeof state->table; at += PCI_MSIX_ENTRY_SIZE) {
        const uint8_t *entry = state->table + at;
        bool used = at < msix->count * PCI_MSIX_ENTRY_SIZE;
        if (used ? load_le32(entry) & 3 || load_le32(entry + ENTRY_CONTROL) & ~(uint32_t)ENTRY_MASKED
                 : load_le64(entry) || load_le64(entry + 8))
            return -EINVAL;
    }
    release_irqfds(msix);
    memcpy(msix->table, state->table, sizeof msix->table);
    msix->pending = state->pending;
    return 0;
}

/* ---- MSI ---------------------------------------------------------------------------------------------------- */

int pci_msi_init(PciFunction *function, uint32_t count)
{
    if (count == 0 || count > PCI_MSI_VECTORS || count & (count - 1))
        return -EINVAL;
    int at = pci_function_add_capability(function, PCI_CAP_MSI, MSI_LENGTH);
    if (at < 0)
        return at;
    uint32_t wanted = (uint32_t)__builtin_ctz(count);
    store_le16(function->config + at + MESSAGE_CONTROL, (uint16_t)(MSI_64BIT | wanted << MSI_WANTED_SHIFT));
    uint8_t *mask = function->write_mask + at;
    store_le16(mask + MESSAGE_CONTROL, MSI_ENABLE | 7 << MSI_GRANTED_SHIFT);
    store_le64(mask + MSI_ADDRESS, ~3ull);
    store_le16(mask + MSI_DATA, 0xffff);
    return at;
}

bool pci_msi_is_enabled(const PciFunction *function, uint32_t capability)
{
    return capability && function->config[capability + MESSAGE_CONTROL] & MSI_ENABLE;
}

uint32_t pci_msi_granted(const PciFunction *function, uint32_t capability)
{
    uint16_t control = load_le16(function->config + capability + MESSAGE_CONTROL);
    return 1u << MIN(control >> MSI_GRANTED_SHIFT & 7, control >> MSI_WANTED_SHIFT & 7);
}

/* §6.8.1.3: the low bits of the data tell the vectors apart. */
void pci_msi_notify(PciFunction *function, uint32_t capability, uint32_t vector)
{
    if (!pci_msi_is_enabled(function, capability) || !pci_function_is_master(function))
        return;
    const uint8_t *at = function->config + capability;
    uint32_t granted = pci_msi_granted(function, capability), data = load_le16(at + MSI_DATA);
    board_msi(function->device->board, load_le64(at + MSI_ADDRESS),
              (data & ~(granted - 1)) | (vector & (granted - 1)));
}
