/* Calls that no library makes: 32-bit ones from a 64-bit program, and io_uring operations.
 *
 *   raw_calls int80 NUMBER ARG...     each ARG a number or a string; prints the result
 *   raw_calls connect32 PORT 0|1 [IP]  1: through socketcall(2); to IP: prints the result
 *   raw_calls uring open PATH | rename OLD NEW | unlink PATH | mkdir PATH | rmdir PATH
 *                   | symlink TEXT PATH | link OLD NEW | connect PORT [IP] | sendmsg PORT | accept - | quiet-open PATH
 *                   | open-old PATH | connect-unix PATH | send PORT | send-zc PORT | send-connected PORT
 *                   | send-registered PORT | bind PORT | bind-unix PATH | listen BACKLOG | socket FAMILY TYPE
 *                   | take PATH         of a Unix socket: the fd that comes is sent to or, where it is no
 *                                       socket, read
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { OP_BIND = 56, OP_LISTEN = 57 }; /* 6.11: later than many a header */

#if defined(__x86_64__)
static long call32(long number, long a, long b, long c)
{
	long ret;

	asm volatile("int $0x80" : "=a"(ret) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0), "D"(0)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}
#endif

static int int80(int argc, char **argv)
{
#if defined(__x86_64__)
	/* 32-bit registers cannot hold a pointer of ours, so strings are put below 4 GiB. */
	char *low = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	uint32_t a[6] = {0};

	for (int i = 1; i < argc && i < 6; i++) {
		char *end;
		long n = strtol(argv[i], &end, 0);

		if (!*end && *argv[i]) {
			a[i - 1] = n;
		} else {
			a[i - 1] = (uint32_t)(uintptr_t)low;
			low = stpcpy(low, argv[i]) + 1;
		}
	}
	printf("%ld\n", call32(atoi(argv[0]), a[0], a[1], a[2]));
	return 0;
#else
	return 77;
#endif
}

/* Connect to PORT of loopback or ip, with connect(2) or through socketcall(2). */
static int connect32(const char *port, int by_socketcall, const char *ip)
{
#if defined(__x86_64__)
	uint32_t *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct sockaddr_in *to = (void *)(low + 100);
	uint32_t at = (uint32_t)(uintptr_t)low;
	long fd, ret;

	to->sin_family = AF_INET;
	to->sin_port = htons(atoi(port));
	to->sin_addr.s_addr = ip ? inet_addr(ip) : htonl(INADDR_LOOPBACK);
	if (!by_socketcall) {
		fd = call32(359, AF_INET, SOCK_STREAM, 0);
		return call32(362, fd, at + 400, sizeof(*to)) != 0;
	}
	low[0] = AF_INET;
	low[1] = SOCK_STREAM;
	fd = call32(102, 1, at, 0);
	low[0] = fd;
	low[1] = at + 400;
	low[2] = sizeof(*to);
	ret = call32(102, 3, at, 0);
	if (ip)
		printf("%ld\n", ret);
	return ret != 0;
#else
	return 77;
#endif
}

static struct { unsigned *tail, *mask, *array, *head, *cq_head, *cq_tail, *cq_mask; struct io_uring_sqe *sqes; struct io_uring_cqe *cqes; int fd; } ring;

static int ring_setup(void)
{
	struct io_uring_params p = {0};
	char *sq, *cq;

	ring.fd = syscall(SYS_io_uring_setup, 8, &p);
	if (ring.fd < 0)
		return -errno;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	ring.tail = (void *)(sq + p.sq_off.tail);
	ring.mask = (void *)(sq + p.sq_off.ring_mask);
	ring.array = (void *)(sq + p.sq_off.array);
	ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail);
	ring.cq_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
	return 0;
}

static int ring_do(struct io_uring_sqe *wanted)
{
	unsigned at = *ring.tail & *ring.mask;
	unsigned quiet = wanted->flags & IOSQE_CQE_SKIP_SUCCESS;

	ring.sqes[at] = *wanted;
	ring.array[at] = at;
	__atomic_store_n(ring.tail, *ring.tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, quiet ? 0 : 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	if (quiet)
		return 0;
	return ring.cqes[*ring.cq_head & *ring.cq_mask].res;
}

static int uring(int argc, char **argv)
{
	struct io_uring_sqe e = {.fd = AT_FDCWD};
	const char *what = argv[0];
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	int error = ring_setup(), ret;

	if (error) {
		printf("setup %d\n", error);
		return 77;
	}
	if (!strcmp(what, "open") || !strcmp(what, "quiet-open")) {
		e.opcode = IORING_OP_OPENAT;
		e.addr = (uintptr_t)argv[1];
		e.open_flags = O_RDWR | O_CREAT;
		e.len = 0600;
		if (*what == 'q')
			e.flags = IOSQE_CQE_SKIP_SUCCESS;
	} else if (!strcmp(what, "open-old")) {
		e.opcode = IORING_OP_OPENAT;
		e.addr = (uintptr_t)argv[1];
		e.open_flags = O_WRONLY;
	} else if (!strcmp(what, "rename") || !strcmp(what, "link")) {
		e.opcode = *what == 'r' ? IORING_OP_RENAMEAT : IORING_OP_LINKAT;
		e.addr = (uintptr_t)argv[1];
		e.len = AT_FDCWD;
		e.addr2 = (uintptr_t)argv[2];
	} else if (!strcmp(what, "symlink")) {
		e.opcode = IORING_OP_SYMLINKAT;
		e.addr = (uintptr_t)argv[1];
		e.addr2 = (uintptr_t)argv[2];
	} else if (!strcmp(what, "unlink") || !strcmp(what, "rmdir")) {
		e.opcode = IORING_OP_UNLINKAT;
		e.addr = (uintptr_t)argv[1];
		e.unlink_flags = *what == 'r' ? AT_REMOVEDIR : 0;
	} else if (!strcmp(what, "mkdir")) {
		e.opcode = IORING_OP_MKDIRAT;
		e.addr = (uintptr_t)argv[1];
		e.len = 0755;
	} else if (!strcmp(what, "connect")) {
		e.opcode = IORING_OP_CONNECT;
		e.fd = socket(AF_INET, SOCK_STREAM, 0);
		to.sin_port = htons(atoi(argv[1]));
		to.sin_addr.s_addr = argc > 2 ? inet_addr(argv[2]) : htonl(INADDR_LOOPBACK);
		e.addr = (uintptr_t)&to;
		e.off = sizeof(to);
	} else if (!strcmp(what, "sendmsg")) {
		static char text[] = "twelve bytes";
		static struct iovec part = {text, 12};
		static struct msghdr message;

		to.sin_port = htons(atoi(argv[1]));
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		message = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &part, .msg_iovlen = 1};
		e.opcode = IORING_OP_SENDMSG;
		e.fd = socket(AF_INET, SOCK_DGRAM, 0);
		e.addr = (uintptr_t)&message;
	} else if (!strncmp(what, "send", 4)) {
		static char text[] = "twelve bytes";
		int fd = socket(AF_INET, SOCK_DGRAM, 0);

		to.sin_port = htons(atoi(argv[1]));
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		e.opcode = !strcmp(what, "send-zc") ? IORING_OP_SEND_ZC : IORING_OP_SEND;
		e.fd = fd;
		e.addr = (uintptr_t)text;
		e.len = 12;
		if (!strcmp(what, "send-registered")) {
			if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &fd, 1))
				return 1;
			e.fd = 0;
			e.flags = IOSQE_FIXED_FILE;
		}
		if (!strcmp(what, "send-connected")) {
			if (connect(fd, (void *)&to, sizeof(to)))
				return 1;
		} else {
			e.addr2 = (uintptr_t)&to;
			e.addr_len = sizeof(to);
		}
	} else if (!strcmp(what, "connect-unix") || !strcmp(what, "bind-unix")) {
		strncpy(local.sun_path, argv[1], sizeof(local.sun_path) - 1);
		e.opcode = *what == 'c' ? IORING_OP_CONNECT : OP_BIND;
		e.fd = socket(AF_UNIX, SOCK_STREAM, 0);
		e.addr = (uintptr_t)&local;
		e.off = sizeof(local);
	} else if (!strcmp(what, "take")) {
		static char text[16], room[CMSG_SPACE(sizeof(int))];
		static struct iovec part = {text, 16};
		static struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
		int taken;

		strncpy(local.sun_path, argv[1], sizeof(local.sun_path) - 1);
		e.opcode = IORING_OP_RECVMSG;
		e.fd = socket(AF_UNIX, SOCK_STREAM, 0);
		if (connect(e.fd, (void *)&local, sizeof(local)))
			return 1;
		e.addr = (uintptr_t)&message;
		ret = ring_do(&e);
		if (ret < 0 || !CMSG_FIRSTHDR(&message)) {
			printf("-%d\n", EPERM);
			return 0;
		}
		memcpy(&taken, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(taken));
		ret = send(taken, "secret", 6, MSG_DONTWAIT);
		if (ret < 0)
			ret = read(taken, text, sizeof(text));
		printf("%d\n", ret < 0 ? -errno : ret);
		return 0;
	} else if (!strcmp(what, "bind")) {
		to.sin_port = htons(atoi(argv[1]));
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		e.opcode = OP_BIND;
		e.fd = socket(AF_INET, SOCK_STREAM, 0);
		e.addr = (uintptr_t)&to;
		e.off = sizeof(to);
	} else if (!strcmp(what, "listen")) {
		socklen_t len = sizeof(to);

		e.opcode = OP_LISTEN;
		e.fd = socket(AF_INET, SOCK_STREAM, 0);
		e.len = atoi(argv[1]);
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		bind(e.fd, (void *)&to, sizeof(to));
		getsockname(e.fd, (void *)&to, &len);
		printf("%d ", ntohs(to.sin_port));
	} else if (!strcmp(what, "socket") && argc > 2) {
		e.opcode = IORING_OP_SOCKET;
		e.fd = atoi(argv[1]);
		e.off = atoi(argv[2]);
	} else if (!strcmp(what, "accept")) {
		socklen_t len = sizeof(to);
		int client = socket(AF_INET, SOCK_STREAM, 0);

		e.opcode = IORING_OP_ACCEPT;
		e.fd = socket(AF_INET, SOCK_STREAM, 0);
		listen(e.fd, 1);
		getsockname(e.fd, (void *)&to, &len);
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		connect(client, (void *)&to, sizeof(to));
		printf("%d ", ntohs(to.sin_port));
	} else {
		return 2;
	}
	ret = ring_do(&e);
	printf("%d\n", ret);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "int80"))
		return int80(argc - 2, argv + 2);
	if (argc > 3 && !strcmp(argv[1], "connect32"))
		return connect32(argv[2], atoi(argv[3]), argc > 4 ? argv[4] : NULL);
	if (argc > 2 && !strcmp(argv[1], "uring"))
		return uring(argc - 2, argv + 2);
	return 2;
}
