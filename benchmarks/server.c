/* The server that the benchmarks measure clients against: fast enough never to be what is measured.
 *
 *     server RINGS CERTIFICATE SECONDS
 *
 * Listens on the loopback interface only, on two ports that it prints: plain, and TLS. One thread,
 * one epoll. It ends with its standard input, and after SECONDS in any case.
 *
 * The path of a connection says what the server does with its messages:
 *
 *   /echo          sends each back.
 *   /sink          counts them. To a message of one byte it answers "MESSAGES BYTES CHECKSUM", about
 *                  those since the last answer. Compressed ones are inflated.
 *   /flood/RING    a message is a number: sends so many of the ring's frames. With /flood1/, each
 *                  is a TLS record of its own; else as many as fit.
 *
 * RING is the name of a file in the folder RINGS: frames as they go over the wire, to be sent in
 * turn, for ever; those in RING.first, if there is such a file, once before (a compressor's context
 * must be what it was a turn ago). Where a connection stands in its ring is kept between floods.
 *
 * It polls for SPIN nanoseconds before it sleeps: waking it up would cost a client more than all else
 * that its system calls do. The time it has worked is in the file RINGS/busy: nanoseconds, 8 bytes.
 *
 * It expects well-behaved clients on the same machine, and ends the connection of any other.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define MAX_CONNECTIONS 4096
#define MAX_FRAME (80u << 20)
#define READ_SIZE (256 << 10)
#define TURN (1 << 20) /* bytes written to one connection before the others have theirs */
#define RECORD 16384
#define SPIN 200000

typedef struct { unsigned char *data; size_t size; size_t *ends; size_t count; } Frames;
typedef struct Ring { char name[64]; Frames first, cycle; struct Ring *next; } Ring;
typedef struct { unsigned char *data; size_t at, end, room; } Buffer;
typedef struct {
    int fd, open, events, hang_up, one_record;
    SSL *tls;
    enum { ECHO, SINK, FLOOD } what;
    Buffer in, out;
    Ring *ring;
    int in_cycle;
    size_t frame, offset, left; /* in the ring: the frame, a byte in it, frames to send yet */
    uint64_t messages, bytes, checksum, sum, sums, got;
    z_stream *inflater;
} Connection;

static Ring *rings;
static SSL_CTX *tls_context;
static int epoll;
static const char *folder;
static unsigned char scratch[READ_SIZE];

static void die(const char *what) { perror(what); exit(1); }

/* -- rings -- */

static void load(Frames *frames, const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status)) return;
    frames->size = status.st_size;
    frames->data = mmap(NULL, frames->size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (frames->data == MAP_FAILED) die("mmap");
    for (size_t at = 0; at < frames->size;) {
        uint64_t n = frames->data[at + 1];
        int extended = n == 126 ? 2 : n == 127 ? 8 : 0;
        if (extended) n = 0;
        for (int i = 0; i < extended; i++) n = n << 8 | frames->data[at + 2 + i];
        at += 2 + extended + n;
        frames->ends = realloc(frames->ends, (frames->count + 1) * sizeof(size_t));
        frames->ends[frames->count++] = at;
    }
}

static Ring *find_ring(const char *name) {
    char path[512];
    Ring *ring;
    for (ring = rings; ring; ring = ring->next)
        if (!strcmp(ring->name, name)) return ring;
    if (strchr(name, '/') || strlen(name) >= sizeof ring->name) return NULL;
    ring = calloc(1, sizeof *ring);
    strcpy(ring->name, name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    load(&ring->cycle, path);
    strncat(path, ".first", sizeof path - strlen(path) - 1);
    load(&ring->first, path);
    if (!ring->cycle.count) { free(ring); return NULL; }
    ring->next = rings;
    return rings = ring;
}

/* -- buffers -- */

static void make_room(Buffer *buffer, size_t n) {
    if (buffer->at == buffer->end) buffer->at = buffer->end = 0;
    if (buffer->room - buffer->end >= n) return;
    memmove(buffer->data, buffer->data + buffer->at, buffer->end - buffer->at);
    buffer->end -= buffer->at;
    buffer->at = 0;
    if (buffer->room - buffer->end >= n) return;
    buffer->room = buffer->end + n;
    if (!(buffer->data = realloc(buffer->data, buffer->room))) die("realloc");
}

static void append(Buffer *buffer, const void *data, size_t n) {
    make_room(buffer, n);
    memcpy(buffer->data + buffer->end, data, n);
    buffer->end += n;
}

/* -- writing -- */

static void take_ciphertext(Connection *c) {
    BIO *bio = SSL_get_wbio(c->tls);
    size_t n;
    while ((n = BIO_ctrl_pending(bio))) {
        make_room(&c->out, n);
        c->out.end += BIO_read(bio, c->out.data + c->out.end, n);
    }
}

static void put(Connection *c, const void *data, size_t n) {
    if (!c->tls) { append(&c->out, data, n); return; }
    if (n && SSL_write(c->tls, data, n) <= 0) c->hang_up = 1;
    take_ciphertext(c);
}

static void put_frame(Connection *c, int head, const void *data, size_t n) {
    unsigned char header[10] = {head};
    int size = n < 126 ? 2 : n < 65536 ? 4 : 10;
    header[1] = n < 126 ? n : n < 65536 ? 126 : 127;
    for (int i = 2; i < size; i++) header[i] = n >> 8 * (size - 1 - i);
    if (c->tls && n < RECORD - 10) { /* header and payload in one record */
        unsigned char whole[RECORD];
        memcpy(whole, header, size);
        memcpy(whole + size, data, n);
        put(c, whole, size + n);
        return;
    }
    put(c, header, size);
    put(c, data, n);
}

/* Some of the ring to send now: at least a byte, whole frames where that matters. */
static size_t next_part(Connection *c, unsigned char **data, size_t most) {
    Frames *frames = c->in_cycle ? &c->ring->cycle : &c->ring->first;
    if (c->frame == frames->count) {
        c->in_cycle = 1;
        c->frame = c->offset = 0;
        frames = &c->ring->cycle;
    }
    size_t last = c->frame + (c->one_record ? 1 : c->left);
    if (last > frames->count) last = frames->count;
    size_t n = frames->ends[last - 1] - c->offset;
    *data = frames->data + c->offset;
    return n < most ? n : most;
}

static void advance(Connection *c, size_t n) {
    Frames *frames = c->in_cycle ? &c->ring->cycle : &c->ring->first;
    c->offset += n;
    while (c->left && c->frame < frames->count && frames->ends[c->frame] <= c->offset)
        c->frame++, c->left--;
}

/* Write what there is to write; 0 if there is more, -1 if the connection is gone. */
static int flush(Connection *c) {
    size_t written = 0, n;
    ssize_t sent;
    unsigned char *data;
    while (written < TURN) {
        if (c->tls)
            while (c->left && c->out.end - c->out.at < TURN / 4) {
                n = next_part(c, &data, RECORD);
                put(c, data, n);
                advance(c, n);
            }
        n = c->out.end - c->out.at;
        if (n) {
            sent = send(c->fd, c->out.data + c->out.at, n, MSG_NOSIGNAL);
            if (sent > 0) c->out.at += sent;
        } else if (c->left) {
            n = next_part(c, &data, TURN);
            sent = send(c->fd, data, n, MSG_NOSIGNAL);
            if (sent > 0) advance(c, sent);
        } else {
            return c->hang_up ? -1 : 1;
        }
        if (sent < 0) return errno == EAGAIN ? 0 : -1;
        written += sent;
    }
    return 0;
}

/* -- messages -- */

static void unmask(unsigned char *data, size_t n, const unsigned char *key) {
    uint64_t mask, word;
    size_t i = 0;
    memcpy(&mask, key, 4);
    mask |= mask << 32;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, data + i, 8);
        word ^= mask;
        memcpy(data + i, &word, 8);
    }
    for (; i < n; i++) data[i] ^= key[i & 3];
}

/* Sums over the 64-bit words of a message; all parts but the last are multiples of 8 bytes. */
static void add_up(Connection *c, const unsigned char *data, size_t n) {
    uint64_t sum = c->sum, sums = c->sums, word;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, data + i, 8);
        sum += word;
        sums += sum;
    }
    if (i < n) {
        word = 0;
        memcpy(&word, data + i, n - i);
        sum += word;
        sums += sum;
    }
    c->sum = sum;
    c->sums = sums;
    c->bytes += n;
}

static void message_ends(Connection *c) {
    c->checksum = c->checksum * 31 + c->sum + 7 * c->sums;
    c->messages++;
    c->sum = c->sums = 0;
}

/* What a compressed message says, of at most READ_SIZE bytes; NULL if it is wrong. */
static unsigned char *inflated(Connection *c, unsigned char *data, size_t *n) {
    static unsigned char out[READ_SIZE];
    unsigned char tail[4] = {0, 0, 255, 255};
    z_stream *stream = c->inflater;
    if (!stream) {
        stream = c->inflater = calloc(1, sizeof *stream);
        if (inflateInit2(stream, -15) != Z_OK) die("zlib");
    }
    stream->next_out = out;
    stream->avail_out = sizeof out;
    for (int part = 0; part < 2; part++) {
        stream->next_in = part ? tail : data;
        stream->avail_in = part ? 4 : *n;
        int status = inflate(stream, Z_SYNC_FLUSH);
        if ((status != Z_OK && status != Z_BUF_ERROR) || !stream->avail_out) return NULL;
    }
    *n = sizeof out - stream->avail_out;
    return out;
}

static void receive(Connection *c, int head, unsigned char *data, size_t n) {
    char text[100];
    int opcode = head & 15;
    if (head & 0x40 && c->what != ECHO && !(data = inflated(c, data, &n))) {
        c->hang_up = 1;
    } else if (opcode == 8) {
        put_frame(c, 0x88, data, n < 2 ? n : 2);
        c->hang_up = 1;
    } else if (opcode == 9) {
        put_frame(c, 0x8a, data, n);
    } else if (opcode == 10) {
    } else if (c->what == ECHO) {
        put_frame(c, head, data, n);
    } else if (c->what == FLOOD) {
        snprintf(text, sizeof text, "%.*s", (int)(n < 20 ? n : 20), data);
        c->left += strtoull(text, NULL, 10);
    } else if (n == 1) {
        int size = snprintf(text, sizeof text, "%llu %llu %llu", (unsigned long long)c->messages,
                            (unsigned long long)c->bytes, (unsigned long long)c->checksum);
        put_frame(c, 0x81, text, size);
        c->messages = c->bytes = c->checksum = 0;
    } else {
        add_up(c, data, n);
        if (head & 0x80) message_ends(c);
    }
}

/* Parse frames out of c->in; -1 if they are wrong. */
static int parse(Connection *c) {
    Buffer *in = &c->in;
    while (!c->hang_up && in->end - in->at >= 2) {
        unsigned char *p = in->data + in->at;
        size_t have = in->end - in->at, n = p[1] & 127, begin = 2;
        if (n > 125) begin = n == 126 ? 4 : 10;
        if (have < begin + 4) return 0;
        if (begin > 2) {
            n = 0;
            for (size_t i = 2; i < begin; i++) n = n << 8 | p[i];
        }
        if (n > MAX_FRAME || !(p[1] & 128)) return -1;
        begin += 4;
        int in_parts = c->what == SINK && !(p[0] & 0x48) && n > READ_SIZE;
        if (have - begin < n && !in_parts) {
            make_room(in, n + begin);
            return 0;
        }
        if (in_parts) { /* while it is in the cache; the header stays before the rest */
            size_t part = have - begin < n - c->got ? (have - begin) & ~7ul : n - c->got;
            unmask(p + begin, part, p + begin - 4);
            add_up(c, p + begin, part);
            c->got += part;
            memmove(p + part, p, begin);
            in->at += part;
            if (c->got < n) return 0;
            in->at += begin;
            c->got = 0;
            if (p[0] & 0x80) message_ends(c);
            continue;
        }
        unmask(p + begin, n, p + begin - 4);
        in->at += begin + n;
        receive(c, p[0], p + begin, n);
    }
    return 0;
}

static const char *header_value(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) + strspn(found + strlen(name), ": \t") : NULL;
}

/* Answer the opening handshake, if all of it is there; -1 if it is wrong. */
static int answer(Connection *c) {
    append(&c->in, "", 1); /* so that it is a string */
    c->in.end--;
    char *head = (char *)c->in.data + c->in.at, *end = strstr(head, "\r\n\r\n");
    if (!end) return c->in.end - c->in.at > 16384 ? -1 : 0;
    *end = 0;
    const char *key = header_value(head, "\r\nSec-WebSocket-Key");
    char path[256], text[128], response[512], accept[64];
    unsigned char digest[20];
    if (!key || sscanf(head, "GET %255s", path) != 1) return -1;
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    SHA1((unsigned char *)text, strlen(text), digest);
    EVP_EncodeBlock((unsigned char *)accept, digest, 20);
    char *query = strchr(path, '?');
    if (query) *query = 0;
    if (!strcmp(path, "/sink")) c->what = SINK;
    else if (!strncmp(path, "/flood/", 7) || !strncmp(path, "/flood1/", 8)) {
        c->what = FLOOD;
        c->one_record = path[6] == '1';
        if (!(c->ring = find_ring(path + 7 + c->one_record))) return -1;
    }
    const char *extensions = "";
    if (strcasestr(head, "permessage-deflate"))
        extensions = strcasestr(head, "server_max_window_bits")
            ? "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n"
            : "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    int n = snprintf(response, sizeof response,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n", accept, extensions);
    put(c, response, n);
    c->in.at = (unsigned char *)end + 4 - c->in.data;
    c->open = 1;
    return 0;
}

/* -- connections -- */

static int read_some(Connection *c) {
    ssize_t n;
    if (!c->tls) {
        make_room(&c->in, READ_SIZE);
        n = recv(c->fd, c->in.data + c->in.end, c->in.room - c->in.end, 0);
        if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
        c->in.end += n;
        return 1;
    }
    n = recv(c->fd, scratch, sizeof scratch, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
    BIO_write(SSL_get_rbio(c->tls), scratch, n);
    if (!SSL_is_init_finished(c->tls)) {
        int status = SSL_do_handshake(c->tls);
        take_ciphertext(c);
        if (status <= 0) return SSL_get_error(c->tls, status) == SSL_ERROR_WANT_READ ? 1 : -1;
    }
    do {
        make_room(&c->in, RECORD);
        n = SSL_read(c->tls, c->in.data + c->in.end, RECORD);
        if (n > 0) c->in.end += n;
    } while (n > 0);
    int error = SSL_get_error(c->tls, n);
    take_ciphertext(c);
    return error == SSL_ERROR_WANT_READ ? 1 : -1;
}

static void end(Connection *c) {
    close(c->fd);
    if (c->tls) SSL_free(c->tls);
    if (c->inflater) inflateEnd(c->inflater);
    free(c->inflater);
    free(c->in.data);
    free(c->out.data);
    free(c);
}

static void serve(Connection *c, int events) {
    if (events & ~EPOLLOUT) {
        int status = read_some(c);
        if (status >= 0 && !c->open) status = answer(c);
        if (status >= 0 && c->open) status = parse(c);
        if (status < 0) { end(c); return; }
        if (c->in.at == c->in.end && c->in.room > 8 * READ_SIZE) {
            free(c->in.data); /* thousands of idle connections must not fill the memory */
            memset(&c->in, 0, sizeof c->in);
        }
    }
    int status = flush(c);
    if (status < 0) { end(c); return; }
    int wanted = EPOLLIN | (status ? 0 : EPOLLOUT);
    if (wanted != c->events) {
        struct epoll_event event = {.events = c->events = wanted, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
}

static void accept_all(int listener, int tls) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_CONNECTIONS) { close(fd); continue; }
        Connection *c = calloc(1, sizeof *c);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->fd = fd;
        if (tls) {
            c->tls = SSL_new(tls_context);
            SSL_set_bio(c->tls, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
            SSL_set_accept_state(c->tls);
        }
        struct epoll_event event = {.events = c->events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on_loopback(void *id) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%d ", ntohs(address.sin_port));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = id};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t *share_busy(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/busy", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 8)) die(path);
    void *shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) die("mmap");
    close(fd);
    return shared;
}

int main(int argc, char **argv) {
    static int plain_id, tls_id, input_id;
    struct epoll_event events[256], input = {.events = EPOLLIN | EPOLLHUP, .data.ptr = &input_id};
    if (argc != 4) { fprintf(stderr, "usage: server RINGS CERTIFICATE SECONDS\n"); return 2; }
    folder = argv[1];
    alarm(atoi(argv[3]));
    tls_context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(tls_context, argv[2]) != 1
        || SSL_CTX_use_PrivateKey_file(tls_context, argv[2], SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "the certificate can't be used: %s\n", argv[2]);
        return 1;
    }
    SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int plain = listen_on_loopback(&plain_id), tls = listen_on_loopback(&tls_id);
    printf("\n");
    fflush(stdout);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input)) die("standard input must be a pipe");
    uint64_t *busy = share_busy(), begin, last = now();
    for (;;) {
        int n = epoll_wait(epoll, events, 256, 0);
        begin = now();
        if (!n && begin - last < SPIN) continue;
        if (!n) n = epoll_wait(epoll, events, 256, -1), begin = now();
        for (int i = 0; i < n; i++) {
            void *id = events[i].data.ptr;
            if (id == &input_id) return 0;
            if (id == &plain_id) accept_all(plain, 0);
            else if (id == &tls_id) accept_all(tls, 1);
            else serve(id, events[i].events);
        }
        last = now();
        *busy += last - begin;
    }
}
