/*
 * The floor of `make bench-relay`: what splicing alone costs, done as kferry does it and with nothing around it. It knows nothing of Kafka, has
 * one thread, serves one connection at a time, and hands bytes from one socket to the other through a pipe without ever seeing them
 * (splice(2)): per portion one poll, one splice in, one splice out. What kferry costs more than this is its own.
 *
 *     splice PORT BROKER_PORT      both on 127.0.0.1; runs until it is killed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* As much as an ordinary user may have (fs.pipe-max-size), and as kferry's. */
enum { PIPE_SIZE = 1024 * 1024 };

/* One direction of a connection. */
struct way {
    int from, to;
    int in, out;     /* Ends of the pipe between the two. */
    ssize_t holds;   /* Bytes in the pipe. */
};

static void check(int result, const char *what)
{
    if (result < 0)
        err(1, "%s", what);
}

static struct sockaddr_in address(const char *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* A socket that sends at once what it is given. */
static int without_delay(int fd)
{
    check(fd, "socket");
    check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)), "TCP_NODELAY");
    return fd;
}

static struct way open_way(int from, int to)
{
    int ends[2];
    check(pipe2(ends, O_NONBLOCK), "pipe");
    check(fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE), "F_SETPIPE_SZ");
    return (struct way){ .from = from, .to = to, .in = ends[1], .out = ends[0] };
}

/* Fills the pipe if it is empty, and empties it. Returns 0 when the connection has ended. */
static int move(struct way *way)
{
    if (way->holds == 0) {
        ssize_t got = splice(way->from, NULL, way->in, NULL, PIPE_SIZE, SPLICE_F_NONBLOCK);
        if (got <= 0)
            return got < 0 && errno == EAGAIN;
        way->holds = got;
    }
    ssize_t taken = splice(way->out, NULL, way->to, NULL, way->holds, SPLICE_F_NONBLOCK);
    if (taken < 0)
        return errno == EAGAIN;
    way->holds -= taken;
    return 1;
}

/* Serves one connection until either side ends it. Whoever waits for room does not read. */
static void serve(int client, int broker)
{
    struct way ways[2] = { open_way(client, broker), open_way(broker, client) };
    int open = 1;
    while (open) {
        struct pollfd waits[2];
        for (int i = 0; i < 2; i++)
            waits[i] = ways[i].holds ? (struct pollfd){ ways[i].to, POLLOUT, 0 } : (struct pollfd){ ways[i].from, POLLIN, 0 };
        check(poll(waits, 2, -1), "poll");
        for (int i = 0; i < 2; i++)
            if (waits[i].revents)
                open = open && move(&ways[i]);
    }
    for (int i = 0; i < 2; i++) {
        close(ways[i].in);
        close(ways[i].out);
    }
}

int main(int count, char **arguments)
{
    if (count != 3)
        errx(2, "usage: splice PORT BROKER_PORT");
    struct sockaddr_in here = address(arguments[1]), there = address(arguments[2]);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(listener, "socket");
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)), "SO_REUSEADDR");
    check(bind(listener, (struct sockaddr *)&here, sizeof(here)), "bind");
    check(listen(listener, 16), "listen");
    for (;;) {
        int client = without_delay(accept(listener, NULL, NULL));
        int broker = without_delay(socket(AF_INET, SOCK_STREAM, 0));
        check(connect(broker, (struct sockaddr *)&there, sizeof(there)), "connect");
        serve(client, broker);
        close(client);
        close(broker);
    }
}
