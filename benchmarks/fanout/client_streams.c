/* Opens streams and reads them: per delivery little more than one recv(). */
#define _GNU_SOURCE
#include "client_streams.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define BUFFER (256 * 1024)
#define PER_SOURCE 16000 /* streams from one source address: an address has 28,000 ports */

struct conn *conns;
int made, live, failed, epoll_fd, trigger_fd = -1;
struct sockaddr_in server;
unsigned source;
char marker[64] = "\"seq\":", ready[64] = "\r\n\r\n", template[REQUEST];
int marker_size = 6, ready_size = 4, groups = 1, counting, tracks, polling;
long base, shots_span, delivered, repeated, gaps, bytes_in, refusals, polled, statuses[6];
double *fired_at, worked;
unsigned *histogram;
static char space[CARRY + BUFFER];

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

double used(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

void die(const char *why)
{
    fprintf(stderr, "client: %s: %s\n", why, strerror(errno));
    exit(1);
}

static void drop(struct conn *c)
{
    if (c->state == DEAD)
        return;
    if (c->state == LIVE)
        live--;
    else
        failed++;
    c->state = DEAD;
    close(c->fd);
}

/* The request of a stream: {G} is its group's number. */
static int fill(char *out, int group)
{
    char *to = out, *end = out + REQUEST - 16;
    for (const char *from = template; *from && to < end;) {
        if (!strncmp(from, "{G}", 3)) {
            to += sprintf(to, "%d", group);
            from += 3;
        } else {
            *to++ = *from++;
        }
    }
    return to - out;
}

void start(int number, int small)
{
    struct conn *c = &conns[number];
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct linger reset = {1, 0};
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    int on = 1, few = 4096;
    memset(c, 0, offsetof(struct conn, carry));
    c->number = number;
    c->last = base;
    c->small = small;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket");
    from.sin_addr.s_addr =
        htonl(0x7f000001u + (source << 16) + ((unsigned)(number / PER_SOURCE) << 8));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (small)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    if (bind(c->fd, (void *)&from, sizeof from) < 0)
        die("bind");
    if (connect(c->fd, (void *)&server, sizeof server) < 0 && errno != EINPROGRESS) {
        drop(c);
        return;
    }
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        die("epoll_ctl");
}

static void ask(struct conn *c)
{
    char text[REQUEST];
    int size = fill(text, c->number % groups);
    if (send(c->fd, text, size, MSG_NOSIGNAL) != size)
        drop(c);
}

static void took(struct conn *c, long seq, double at)
{
    if (seq <= c->last) {
        if (seq > base)
            repeated++;
        return;
    }
    if (seq != c->last + 1)
        gaps++;
    c->last = seq;
    delivered++;
    if (seq - base <= shots_span) {
        double late = (at - fired_at[seq - base - 1]) * 1e6;
        histogram[late < 0 ? 0 : late >= SPAN ? SPAN - 1 : (int)late]++;
    }
}

/* Count the sequence numbers of what has come; what may be half a marker is kept. */
static void scan(struct conn *c, char *text, char *end)
{
    double at = now();
    char *from = text, *hit;
    while ((hit = memmem(from, end - from, marker, marker_size))) {
        char *digit = hit + marker_size;
        long seq = 0;
        if (digit < end && *digit == ' ')
            digit++;
        while (digit < end && *digit >= '0' && *digit <= '9')
            seq = seq * 10 + (*digit++ - '0');
        if (digit == end) {
            from = hit;
            break;
        }
        took(c, seq, at);
        from = digit;
    }
    if (!hit && end - from >= marker_size)
        from = end - marker_size + 1;
    if (end > from && end[-1] == '\n' && !hit)
        from = end; /* an event or a chunk ends here: no marker does */
    c->kept = end - from > CARRY ? CARRY : end - from;
    memcpy(c->carry, end - c->kept, c->kept);
}

/* One response of a poll: its head, and as many bytes as Content-Length says. */
static void response(struct conn *c, char *text, long size)
{
    while (size > 0) {
        if (c->due > 0) {
            long part = c->due < size ? c->due : size;
            c->due -= part;
            text += part;
            size -= part;
            if (c->due)
                return;
        } else {
            char *body = memmem(text, size, "\r\n\r\n", 4), *length;
            if (!body) {
                c->kept = size > CARRY ? CARRY : size;
                memcpy(c->carry, text, c->kept);
                return;
            }
            int kind = text[9] - '0';
            statuses[kind >= 0 && kind < 6 ? kind : 0]++;
            *body = 0;
            length = strcasestr(text, "\ncontent-length:");
            c->due = length ? atol(length + 16) : 0;
            size -= body + 4 - text;
            text = body + 4;
            if (c->due && size <= 0)
                return;
            if (c->due)
                continue;
        }
        polled++;
        ask(c);
    }
}

static void come(struct conn *c)
{
    char *to = space + CARRY;
    ssize_t size = recv(c->fd, to, BUFFER, 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN)
            drop(c);
        return;
    }
    bytes_in += size;
    char *text = to - c->kept;
    memcpy(text, c->carry, c->kept);
    c->kept = 0;
    if (polling) {
        response(c, text, to + size - text);
        return;
    }
    if (c->state == ASKED) {
        if (to + size - text >= 12 && memcmp(text, "HTTP/1.1 200", 12) &&
            memcmp(text, "HTTP/1.0 200", 12) && !memcmp(text, "HTTP/1", 6)) {
            fprintf(stderr, "client: stream %d was answered %.12s\n", c->number, text);
            drop(c);
            return;
        }
        if (memmem(text, to + size - text, ready, ready_size)) {
            c->state = LIVE;
            live++;
        } else {
            c->kept = to + size - text > CARRY ? CARRY : to + size - text;
            memcpy(c->carry, to + size - c->kept, c->kept);
            if (!tracks)
                return;
            c->kept = 0;
        }
    }
    if (counting)
        scan(c, text, to + size);
}

static void told(void)
{
    ssize_t size;
    while ((size = recv(trigger_fd, space, BUFFER, 0)) > 0)
        for (char *at = space; (at = memmem(at, space + size - at, "HTTP/1.1 ", 9)); at += 9)
            if (at + 9 < space + size && at[9] != '2')
                refusals++;
}

void step(double wait)
{
    struct epoll_event events[1024];
    int got = epoll_wait(epoll_fd, events, 1024, wait <= 0 ? 0 : wait >= 1 ? 1000 : (int)(wait * 1000) + 1);
    double woke = got > 0 ? now() : 0;
    for (int i = 0; i < got; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) {
            told();
        } else if (c->state == CONNECTING) {
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error) {
                drop(c);
                continue;
            }
            c->state = ASKED;
            epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
            ask(c);
        } else if (c->state != DEAD) {
            come(c);
        }
    }
    if (got > 0)
        worked += now() - woke;
}

void reset_counts(long from)
{
    base = from;
    delivered = repeated = gaps = bytes_in = refusals = 0;
    worked = 0;
    for (int i = 0; i < made; i++) {
        conns[i].last = base;
        conns[i].kept = 0;
    }
}
