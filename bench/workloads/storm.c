/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One storm of system calls: storm KIND COUNT [PROCS_FILE [FOLDER FILES]]
 *
 *   exec     posix_spawn of /bin/true, and wait
 *   fork     fork, _exit in the child, and wait
 *   open     openat + close over FILES files in FOLDER, which are made first
 *   connect  connect + accept on loopback; both ends close with a reset (SO_LINGER 0)
 *
 * PROCS_FILE is a cgroup.procs to join before the first call, so that what the storm did can be told
 * from the rest of the host; "-" for none. Prints the storm's wall and CPU time in ns. Nothing that a
 * sensor would count happens between joining the cgroup and the end, except the storm.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long used(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}

static void await(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
}

static void run_exec(long count)
{
	char *argv[] = { "true", NULL };

	while (count--) {
		pid_t pid;
		int problem = posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);

		if (problem) {
			errno = problem;
			die("posix_spawn");
		}
		await(pid);
	}
}

static void run_fork(long count)
{
	while (count--) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid)
			_exit(0);
		await(pid);
	}
}

static int folder;
static char (*names)[32];
static long files;

static void make_files(const char *path, long count)
{
	names = calloc(count, sizeof(*names));
	files = count;
	mkdir(path, 0755);
	folder = open(path, O_RDONLY | O_DIRECTORY);
	if (folder < 0)
		die(path);
	for (long i = 0; i < count; i++) {
		int fd;

		snprintf(names[i], sizeof(*names), "file%ld", i);
		fd = openat(folder, names[i], O_CREAT | O_RDONLY, 0644);
		if (fd < 0)
			die(names[i]);
		close(fd);
	}
}

static void run_open(long count)
{
	for (long i = 0, at = 0; i < count; i++) {
		int fd = openat(folder, names[at], O_RDONLY);

		if (fd < 0)
			die("openat");
		close(fd);
		if (++at == files)
			at = 0;
	}
}

static int listener;
static struct sockaddr_in server = { .sin_family = AF_INET };

static void make_listener(void)
{
	socklen_t len = sizeof(server);

	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (void *)&server, sizeof(server)) || listen(listener, 128) ||
	    getsockname(listener, (void *)&server, &len))
		die("listen");
}

static void run_connect(long count)
{
	struct linger reset = { 1, 0 };

	while (count--) {
		int client = socket(AF_INET, SOCK_STREAM, 0), peer;

		if (client < 0 || connect(client, (void *)&server, sizeof(server)))
			die("connect");
		peer = accept(listener, NULL, NULL);
		if (peer < 0)
			die("accept");
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		setsockopt(peer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(client);
		close(peer);
	}
}

static void join(const char *procs)
{
	char text[32];
	int fd, len;

	if (!strcmp(procs, "-"))
		return;
	fd = open(procs, O_WRONLY);
	len = snprintf(text, sizeof(text), "%d", getpid());
	if (fd < 0 || write(fd, text, len) != len)
		die(procs);
	close(fd);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;
	void (*run)(long) = !strcmp(kind, "exec")    ? run_exec :
			    !strcmp(kind, "fork")    ? run_fork :
			    !strcmp(kind, "open")    ? run_open :
			    !strcmp(kind, "connect") ? run_connect : NULL;
	long long wall, cpu, children;

	if (!run || count < 1 || (run == run_open && argc < 6)) {
		fprintf(stderr, "storm exec|fork|open|connect COUNT [PROCS_FILE [FOLDER FILES]]\n");
		return 2;
	}
	if (run == run_open)
		make_files(argv[4], atol(argv[5]));
	if (run == run_connect)
		make_listener();
	join(argc > 3 ? argv[3] : "-");
	wall = now();
	cpu = used(RUSAGE_SELF);
	children = used(RUSAGE_CHILDREN);
	run(count);
	printf("{\"wall_ns\": %lld, \"cpu_ns\": %lld}\n", now() - wall,
	       used(RUSAGE_SELF) - cpu + used(RUSAGE_CHILDREN) - children);
	return 0;
}
