#include "p9/p9_wire.h"

/* ---- Reading ------------------------------------------------------------------------------------------------ */

static void fail(P9Reader *reader, int code)
{
    if (!reader->error)
        reader->error = code;
}

static const uint8_t *take(P9Reader *reader, size_t bytes)
{
    static const uint8_t zeros[8];
    if (bytes > reader->left || reader->error) {
        fail(reader, EINVAL);
        return zeros;
    }
    const uint8_t *at = reader->data;
    reader->data += bytes;
    reader->left -= bytes;
    return at;
}

uint8_t p9_get8(P9Reader *reader) { return *take(reader, 1); }
uint16_t p9_get16(P9Reader *reader) { return load_le16(take(reader, 2)); }
uint32_t p9_get32(P9Reader *reader) { return load_le32(take(reader, 4)); }
uint64_t p9_get64(P9Reader *reader) { return load_le64(take(reader, 8)); }

void p9_get_string(P9Reader *reader, char *text, size_t size)
{
    size_t length = p9_get16(reader);
    text[0] = '\0';
    if (reader->error)
        return;
    if (length > reader->left) {
        fail(reader, EINVAL);
        return;
    }
    if (length >= size) {
        fail(reader, ENAMETOOLONG);
        return;
    }
    const uint8_t *from = take(reader, length);
    if (memchr(from, 0, length)) {
        fail(reader, EINVAL);
        return;
    }
    memcpy(text, from, length);
    text[length] = '\0';
}

void p9_get_name(P9Reader *reader, char name[P9_NAME_SIZE])
{
    p9_get_string(reader, name, P9_NAME_SIZE);
    if (!name[0] || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        fail(reader, EINVAL);
}

/* ---- Writing ------------------------------------------------------------------------------------------------ */

static uint8_t *reserve(P9Writer *writer, size_t bytes)
{
    uint8_t *at = writer->data + writer->size;
    writer->size += bytes;
    return at;
}

void p9_put8(P9Writer *writer, uint8_t value) { *reserve(writer, 1) = value; }
void p9_put16(P9Writer *writer, uint16_t value) { store_le16(reserve(writer, 2), value); }
void p9_put32(P9Writer *writer, uint32_t value) { store_le32(reserve(writer, 4), value); }
void p9_put64(P9Writer *writer, uint64_t value) { store_le64(reserve(writer, 8), value); }

void p9_put_string(P9Writer *writer, const char *text, size_t length)
{
    p9_put16(writer, (uint16_t)length);
    memcpy(reserve(writer, length), text, length);
}

/* ---- Segments ----------------------------------------------------------------------------------------------- */

uint64_t p9_iov_bytes(const struct iovec *iov, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

uint32_t p9_iov_slice(const struct iovec *iov, uint32_t count, uint64_t skip, uint64_t bytes, struct iovec *to,
                      uint32_t capacity)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < count && bytes && used < capacity; i++) {
        uint64_t length = iov[i].iov_len, from = MIN(skip, length), n = MIN(bytes, length - from);
        skip -= from;
        bytes -= n;
        if (n)
            to[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + from, n};
    }
    return used;
}

size_t p9_iov_gather(const struct iovec *iov, uint32_t count, void *to, size_t bytes)
{
    size_t done = 0;
    for (uint32_t i = 0; i < count && done < bytes; i++) {
        size_t n = MIN(bytes - done, iov[i].iov_len);
        memcpy((uint8_t *)to + done, iov[i].iov_base, n);
        done += n;
    }
    return done;
}

size_t p9_iov_scatter(const struct iovec *iov, uint32_t count, uint64_t skip, const void *from, size_t bytes)
{
    size_t done = 0;
    for (uint32_t i = 0; i < count && done < bytes; i++) {
        uint64_t length = iov[i].iov_len, at = MIN(skip, length);
        size_t n = (size_t)MIN(bytes - done, length - at);
        skip -= at;
        memcpy((uint8_t *)iov[i].iov_base + at, (const uint8_t *)from + done, n);
        done += n;
    }
    return done;
}
