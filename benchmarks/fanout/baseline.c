/* The baseline: Server-Sent Events over HTTP/1.1 with one epoll loop and one write() per delivery.
 *
 *     cc -O2 -o baseline baseline.c && ./baseline PORT
 *
 * GET /N opens a stream of group N. A datagram "EV first_group groups first_seq count" to the same
 * port gives each of the groups the events first_seq ... first_seq+count-1. No authentication, no
 * replay, no heartbeat: what a client does not take at once is lost to it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FDS 65536
#define MAX_GROUPS 65536
#define DATA 200

static const char head[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
    "b\r\nretry: 20\n\n\r\n";

static struct group { int *fds; int used, room; } groups[MAX_GROUPS];
static struct stream { int group, at; char open; } streams[MAX_FDS];
static int epoll_fd;

static void leave(int fd)
{
    if (streams[fd].open) {
        struct group *group = &groups[streams[fd].group];
        int last = group->fds[--group->used];
        group->fds[streams[fd].at] = last;
        streams[last].at = streams[fd].at;
        streams[fd].open = 0;
    }
    close(fd);
}

static void join(int fd, int number)
{
    struct group *group = &groups[number];
    if (group->used == group->room) {
        group->room = group->room ? group->room * 2 : 4;
        group->fds = realloc(group->fds, group->room * sizeof *group->fds);
        if (!group->fds)
            exit(1);
    }
    streams[fd] = (struct stream){number, group->used, 1};
    group->fds[group->used++] = fd;
}

static void request(int fd)
{
    char text[4096];
    ssize_t size = recv(fd, text, sizeof text - 1, 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN)
            leave(fd);
        return;
    }
    text[size] = 0;
    if (streams[fd].open)
        return;
    int number = strncmp(text, "GET /", 5) ? -1 : atoi(text + 5);
    if (number < 0 || number >= MAX_GROUPS || send(fd, head, sizeof head - 1, MSG_NOSIGNAL) < 0)
        leave(fd);
    else
        join(fd, number);
}

static void deliver(const struct group *group, long seq)
{
    char data[DATA + 1], frame[DATA + 128], chunk[DATA + 160];
    int size = snprintf(data, sizeof data, "{\"seq\":%ld,\"pad\":\"", seq);
    memset(data + size, 'x', DATA - size);
    memcpy(data + DATA - 2, "\"}", 3);
    size = snprintf(frame, sizeof frame, "event: log\nid: %ld\ndata: %s\n\n", seq, data);
    size = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", size, frame);
    for (int at = 0; at < group->used; at++)
        (void)!write(group->fds[at], chunk, size);
}

static void trigger(int udp)
{
    char text[128];
    ssize_t size;
    while ((size = recv(udp, text, sizeof text - 1, 0)) > 0) {
        int from, many;
        long first, count;
        text[size] = 0;
        if (sscanf(text, "EV %d %d %ld %ld", &from, &many, &first, &count) != 4)
            continue;
        for (int group = from; group < from + many && group < MAX_GROUPS; group++)
            for (long seq = first; seq < first + count; seq++)
                deliver(&groups[group], seq);
    }
}

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&address, sizeof address) < 0 || listen(listener, 4096) < 0 ||
        bind(udp, (void *)&address, sizeof address) < 0) {
        perror("baseline");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    watch(listener);
    watch(udp);
    for (;;) {
        struct epoll_event events[512];
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    if (fd >= MAX_FDS)
                        close(fd);
                    else
                        watch(fd);
                }
            } else if (fd == udp) {
                trigger(udp);
            } else {
                request(fd);
            }
        }
    }
}
