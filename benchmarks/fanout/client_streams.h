/* The streams of the load generator: what client.c, which is told what to do, is made of. */
#ifndef CLIENT_STREAMS_H
#define CLIENT_STREAMS_H

#include <netinet/in.h>

#define CARRY 128
#define SPAN 2000000 /* microseconds of latency that are told apart */
#define REQUEST 4096

enum state { CONNECTING, ASKED, LIVE, DEAD };

struct conn {
    int fd, number;
    enum state state;
    unsigned char kept; /* bytes of a marker that is not whole yet */
    char stalled, small;
    long last; /* the last sequence number that came */
    long due;  /* bytes of a polled response's body still to come */
    char carry[CARRY];
};

extern struct conn *conns;
extern int made, live, failed, epoll_fd, trigger_fd;
extern struct sockaddr_in server;
extern unsigned source; /* the second byte of this process's addresses */
extern char marker[64], ready[64], template[REQUEST];
extern int marker_size, ready_size, groups;
/* Whether sequence numbers are counted, from the first byte on, or responses of polls. */
extern int counting, tracks, polling;
extern long base, shots_span, delivered, repeated, gaps, bytes_in, refusals, polled, statuses[6];
extern double *fired_at, worked;
extern unsigned *histogram;

double now(void);
double used(void);
void die(const char *why);
void start(int number, int small);
void step(double wait);
void reset_counts(long from);

#endif
