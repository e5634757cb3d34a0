/* The load generator: opens streams, fires events at a server and reads what arrives.
 *
 * It is told what to do line by line on standard input and answers each line with one line of
 * JSON; client.py speaks to it. It counts every stream's sequence numbers: the digits after a
 * marker in each event. One epoll loop, and per delivery little more than one recv().
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define CARRY 128
#define BUFFER (256 * 1024)
#define PER_SOURCE 16000  /* streams from one source address: an address has 28,000 ports */
#define SPAN 2000000      /* microseconds of latency that are told apart */
#define REQUEST 4096

enum state { CONNECTING, ASKED, LIVE, DEAD };

struct conn {
    int fd, number;
    enum state state;
    unsigned char kept;   /* bytes of a marker that is not whole yet */
    char stalled, small;
    long last;            /* the last sequence number that came */
    long due;             /* bytes of a polled response's body still to come */
    char carry[CARRY];
};

struct shot { long first, count, expected, size; char *bytes; };

static struct conn *conns;
static int made, epoll_fd, trigger_fd = -1, live, failed;
static struct sockaddr_in server;
static char marker[64] = "\"seq\":", ready[64] = "\r\n\r\n", template[REQUEST];
static int marker_size = 6, ready_size = 4, groups = 1, counting, polling, tracks;
static long base, shots_span, delivered, repeated, gaps, bytes_in, refusals, polled, statuses[6];
static double *fired_at;
static unsigned *histogram;
static char space[CARRY + BUFFER];
static double spent;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double used(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void answer(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    vprintf(format, rest);
    va_end(rest);
    putchar('\n');
    fflush(stdout);
}

static void die(const char *why)
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

static void start(int number, int small)
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
    from.sin_addr.s_addr = htonl(0x7f000001u + ((unsigned)(number / PER_SOURCE) << 8));
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

static void step(double wait)
{
    struct epoll_event events[1024];
    int got = epoll_wait(epoll_fd, events, 1024, wait <= 0 ? 0 : wait >= 1 ? 1000 : (int)(wait * 1000) + 1);
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
}

static void do_open(const char *line)
{
    int wanted, flight, small, follow;
    double limit;
    if (sscanf(line, "open %d %d %d %lf %d", &wanted, &flight, &small, &limit, &follow) != 5)
        die("open");
    conns = calloc(wanted, sizeof *conns);
    if (!conns)
        die("memory");
    live = failed = made = 0;
    tracks = counting = follow;
    double began = now(), cpu = used();
    while (live + failed < wanted && now() < began + limit) {
        while (made < wanted && made - live - failed < flight)
            start(made, made < small), made++;
        step(0.1);
    }
    answer("{\"live\": %d, \"failed\": %d, \"seconds\": %.6f, \"cpu\": %.6f}", live,
           failed + wanted - live - failed, now() - began, used() - cpu);
}

static long quantile(double q)
{
    unsigned long total = 0, seen = 0;
    for (long at = 0; at < SPAN; at++)
        total += histogram[at];
    for (long at = 0; at < SPAN; at++)
        if (total && (seen += histogram[at]) >= q * total)
            return at;
    return -1;
}

static void reset_counts(long from)
{
    base = from;
    delivered = repeated = gaps = bytes_in = refusals = 0;
    for (int i = 0; i < made; i++) {
        conns[i].last = base;
        conns[i].kept = 0;
    }
}

static void report(long shots, long expected, double began, double cpu)
{
    answer("{\"fired\": %ld, \"expected\": %ld, \"delivered\": %ld, \"repeated\": %ld, \"gaps\": %ld, "
           "\"bytes\": %ld, \"refusals\": %ld, \"live\": %d, \"seconds\": %.6f, \"cpu\": %.6f, "
           "\"p50\": %ld, \"p99\": %ld, \"p100\": %ld}",
           shots, expected, delivered, repeated, gaps, bytes_in, refusals, live, spent - began,
           used() - cpu, quantile(0.5), quantile(0.99), quantile(1));
}

static void do_fire(const char *line)
{
    long many, from;
    double gap, limit, slack;
    char mode;
    if (sscanf(line, "fire %ld %c %lf %lf %lf %ld", &many, &mode, &gap, &limit, &slack, &from) != 6)
        die("fire");
    struct shot *shots = calloc(many, sizeof *shots);
    shots_span = 0;
    for (long at = 0; at < many; at++) {
        char text[128];
        struct shot *shot = &shots[at];
        if (!fgets(text, sizeof text, stdin) ||
            sscanf(text, "%ld %ld %ld %ld", &shot->first, &shot->count, &shot->expected, &shot->size) != 4)
            die("shot");
        shot->bytes = malloc(shot->size);
        if (fread(shot->bytes, 1, shot->size, stdin) != (size_t)shot->size)
            die("shot");
        if (shot->first + shot->count - 1 - from > shots_span)
            shots_span = shot->first + shot->count - 1 - from;
    }
    fired_at = calloc(shots_span + 1, sizeof *fired_at);
    memset(histogram, 0, SPAN * sizeof *histogram);
    reset_counts(from);
    counting = 1;
    double began = now(), cpu = used(), next = began, last = began;
    long at = 0, expected = 0, seen = 0, given = many;
    while (now() < began + limit + 60) {
        double moment = now();
        if (moment > began + limit && many > at)
            many = at; /* what was fired is awaited, no more is fired */
        int whole = delivered >= expected;
        if (delivered != seen) {
            seen = delivered;
            last = moment;
        }
        if (at == many && (whole || moment > last + slack))
            break;
        if (mode == 'c' && !whole && moment > last + slack)
            break; /* something is lost: it will not come any more */
        if (at < many && moment >= next && (mode == 'o' || whole)) {
            struct shot *shot = &shots[at++];
            moment = now();
            for (long seq = shot->first; seq < shot->first + shot->count; seq++)
                fired_at[seq - from - 1] = moment;
            for (long done = 0; done < shot->size;) {
                ssize_t part = send(trigger_fd, shot->bytes + done, shot->size - done, MSG_NOSIGNAL);
                if (part < 0 && errno != EAGAIN)
                    die("trigger");
                if (part > 0)
                    done += part;
                else
                    step(0.001);
            }
            expected += shot->expected;
            next = mode == 'o' ? next + gap : 0;
            last = now();
            continue;
        }
        if (mode == 'c' && whole && at < many) {
            if (next == 0)
                next = moment + gap;
            step(next - moment);
        } else {
            step(mode == 'o' && at < many ? next - moment : 0.05);
        }
    }
    spent = now();
    report(at, expected, began, cpu);
    for (long i = 0; i < given; i++)
        free(shots[i].bytes);
    free(shots);
    free(fired_at);
    fired_at = NULL;
    shots_span = 0;
}

/* Read on until nothing came for a while. */
static void do_drain(const char *line)
{
    double quiet, limit, began = now(), last = began, cpu = used();
    if (sscanf(line, "drain %lf %lf", &quiet, &limit) != 2)
        die("drain");
    long seen = bytes_in;
    while (now() < began + limit && now() < last + quiet) {
        step(0.02);
        if (bytes_in != seen) {
            seen = bytes_in;
            last = now();
        }
    }
    spent = now();
    report(0, 0, began, cpu);
}

static void do_stall(const char *line)
{
    int from, many, on;
    if (sscanf(line, "stall %d %d %d", &from, &many, &on) != 3)
        die("stall");
    for (int i = from; i < from + many && i < made; i++) {
        struct epoll_event event = {.events = on ? 0 : EPOLLIN, .data.ptr = &conns[i]};
        conns[i].stalled = on;
        if (conns[i].state != DEAD)
            epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conns[i].fd, &event);
    }
    answer("{\"last\": %ld, \"alive\": %d}", conns[from].last, conns[from].state != DEAD);
}

static void do_poll(const char *line)
{
    int wanted;
    long total;
    double limit;
    if (sscanf(line, "poll %d %ld %lf", &wanted, &total, &limit) != 3)
        die("poll");
    conns = calloc(wanted, sizeof *conns);
    live = failed = made = 0;
    polled = 0;
    memset(statuses, 0, sizeof statuses);
    polling = 1;
    double began = now(), cpu = used();
    while (made < wanted)
        start(made, 0), made++;
    while (polled < total && failed < wanted && now() < began + limit)
        step(0.1);
    polling = 0;
    answer("{\"polled\": %ld, \"failed\": %d, \"seconds\": %.6f, \"cpu\": %.6f, \"s2\": %ld, \"s3\": %ld, "
           "\"s4\": %ld, \"s5\": %ld}",
           polled, failed, now() - began, used() - cpu, statuses[2], statuses[3], statuses[4], statuses[5]);
}

static void do_close(void)
{
    for (int i = 0; i < made; i++)
        if (conns[i].state != DEAD)
            close(conns[i].fd);
    free(conns);
    conns = NULL;
    made = live = failed = counting = tracks = 0;
    answer("{}");
}

static void do_trigger(const char *line)
{
    char kind[8], host[64];
    int port, on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (sscanf(line, "trigger %7s %63s %d", kind, host, &port) != 3)
        die("trigger");
    if (trigger_fd >= 0)
        close(trigger_fd);
    to.sin_port = htons(port);
    inet_pton(AF_INET, host, &to.sin_addr);
    trigger_fd = socket(AF_INET, kind[0] == 'u' ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (connect(trigger_fd, (void *)&to, sizeof to) < 0)
        die("trigger");
    if (kind[0] != 'u')
        setsockopt(trigger_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(trigger_fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, trigger_fd, &event);
    answer("{}");
}

/* "marker TEXT" and the like: the rest of the line. */
static int rest(const char *line, char *into, size_t room)
{
    const char *from = strchr(line, ' ');
    snprintf(into, room, "%s", from ? from + 1 : "");
    into[strcspn(into, "\n")] = 0;
    answer("{}");
    return strlen(into);
}

int main(void)
{
    char line[256];
    struct rlimit files;
    signal(SIGPIPE, SIG_IGN);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    epoll_fd = epoll_create1(0);
    histogram = calloc(SPAN, sizeof *histogram);
    server.sin_family = AF_INET;
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "open ", 5)) {
            do_open(line);
        } else if (!strncmp(line, "fire ", 5)) {
            do_fire(line);
        } else if (!strncmp(line, "drain ", 6)) {
            do_drain(line);
        } else if (!strncmp(line, "stall ", 6)) {
            do_stall(line);
        } else if (!strncmp(line, "poll ", 5)) {
            do_poll(line);
        } else if (!strncmp(line, "trigger ", 8)) {
            do_trigger(line);
        } else if (!strncmp(line, "close", 5)) {
            do_close();
        } else if (!strncmp(line, "marker ", 7)) {
            marker_size = rest(line, marker, sizeof marker);
        } else if (!strncmp(line, "ready ", 6)) {
            ready_size = rest(line, ready, sizeof ready);
        } else if (!strncmp(line, "expect ", 7)) {
            reset_counts(atol(line + 7));
            answer("{}");
        } else if (!strncmp(line, "target ", 7)) {
            int port, size;
            char host[64];
            if (sscanf(line, "target %63s %d %d %d", host, &port, &groups, &size) != 4 ||
                size >= REQUEST || fread(template, 1, size, stdin) != (size_t)size)
                die("target");
            template[size] = 0;
            server.sin_port = htons(port);
            inet_pton(AF_INET, host, &server.sin_addr);
            answer("{}");
        } else if (!strncmp(line, "quit", 4)) {
            break;
        } else {
            die(line);
        }
    }
    return 0;
}
