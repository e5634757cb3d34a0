/* The load generator: opens streams, fires events at a server and reads what arrives.
 *
 * It is told what to do line by line on standard input and answers each line with one line of
 * JSON; load.py speaks to it. It counts every stream's sequence numbers: the digits after a
 * marker in each event.
 */
#define _GNU_SOURCE
#include "client_streams.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct shot {
    long first, count, expected, size;
    char *bytes;
};

static double spent;

static void answer(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    vprintf(format, rest);
    va_end(rest);
    putchar('\n');
    fflush(stdout);
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

static void report(long shots, long expected, double began)
{
    answer("{\"fired\": %ld, \"expected\": %ld, \"delivered\": %ld, \"repeated\": %ld, \"gaps\": %ld, "
           "\"bytes\": %ld, \"refusals\": %ld, \"live\": %d, \"seconds\": %.6f, \"worked\": %.6f, "
           "\"p50\": %ld, \"p99\": %ld, \"p100\": %ld}",
           shots, expected, delivered, repeated, gaps, bytes_in, refusals, live, spent - began,
           worked, quantile(0.5), quantile(0.99), quantile(1));
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
    double began = now(), next = began, last = began;
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
            /* Never asleep while something is due: to wake this process would cost the server,
             * and a slow server more often than a fast one. */
            step(whole && mode == 'o' && at < many ? next - moment : whole ? 0.05 : 0);
        }
    }
    spent = now();
    report(at, expected, began);
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
    double quiet, limit, began = now(), last = began;
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
    report(0, 0, began);
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

int main(int count, char **words)
{
    char line[256];
    struct rlimit files;
    signal(SIGPIPE, SIG_IGN);
    if (count > 1)
        source = atoi(words[1]);
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
