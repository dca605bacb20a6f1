#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "net/net_capture.h"

#define PCAP_MAGIC_NS  0xa1b23c4du
#define PCAP_ETHERNET  1u
#define PCAP_FILE_HEAD 24u
#define PCAP_HEAD      16u
#define BUFFER         (256u << 10)

struct NetCapture {
    FILE *file;
    char *path;
    uint32_t snaplen;
    uint64_t frames;
    int failed; /* errno of the first write that failed */
};

static void put(NetCapture *capture, const void *data, size_t length)
{
    if (!capture->failed && fwrite(data, 1, length, capture->file) != length)
        capture->failed = errno;
}

NetCapture *net_capture_open(const char *path, uint32_t snaplen, Error *error)
{
    snaplen = snaplen ? snaplen : NET_SNAPLEN_DEFAULT;
    if (snaplen < 14 || snaplen > NET_SNAPLEN_DEFAULT) {
        error_set(error, EINVAL, "%s: a snaplen of %u is not one of 14 to %u bytes", path, snaplen,
                  NET_SNAPLEN_DEFAULT);
        return NULL;
    }
    NetCapture *capture = calloc(1, sizeof *capture);
    if (!capture || !(capture->path = strdup(path))) {
        error_set(error, ENOMEM, "no host memory for the capture %s", path);
        free(capture);
        return NULL;
    }
    capture->file = fopen(path, "wbe");
    if (!capture->file) {
        error_set(error, errno, "%s: cannot write a capture: %s", path, strerror(errno));
        free(capture->path);
        free(capture);
        return NULL;
    }
    setvbuf(capture->file, NULL, _IOFBF, BUFFER);
    capture->snaplen = snaplen;
    uint8_t head[PCAP_FILE_HEAD] = {0};
    store_le32(head, PCAP_MAGIC_NS);
    store_le16(head + 4, 2); /* version 2.4 */
    store_le16(head + 6, 4);
    store_le32(head + 16, snaplen);
    store_le32(head + 20, PCAP_ETHERNET);
    put(capture, head, sizeof head);
    return capture;
}

void net_capture_frame(NetCapture *capture, const struct iovec *iov, uint32_t count)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t length = 0;
    for (uint32_t i = 0; i < count; i++)
        length += iov[i].iov_len;
    size_t left = MIN(length, capture->snaplen);
    uint8_t head[PCAP_HEAD];
    store_le32(head, (uint32_t)now.tv_sec);
    store_le32(head + 4, (uint32_t)now.tv_nsec);
    store_le32(head + 8, (uint32_t)left);
    store_le32(head + 12, (uint32_t)length);
    put(capture, head, sizeof head);
    for (uint32_t i = 0; i < count && left; i++) {
        size_t piece = MIN(left, iov[i].iov_len);
        put(capture, iov[i].iov_base, piece);
        left -= piece;
    }
    capture->frames += !capture->failed;
}

uint64_t net_capture_frames(const NetCapture *capture) { return capture->frames; }

int net_capture_close(NetCapture *capture, Error *error)
{
    if (!capture)
        return 0;
    if (fclose(capture->file) && !capture->failed)
        capture->failed = errno;
    int failed = capture->failed;
    if (failed)
        error_set(error, failed, "%s: the capture ends after %llu frames: %s", capture->path,
                  (unsigned long long)capture->frames, strerror(failed));
    free(capture->path);
    free(capture);
    return -failed;
}
