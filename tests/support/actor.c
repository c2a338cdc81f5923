/* Does harmless deeds under any name: what tests put where a rule looks for a program.
 *
 * $ACT holds a deed a line, its words set apart by tabs:
 *   as UID              become this user and group
 *   in FOLDER           change into it
 *   exec IMAGE WORD...  run IMAGE (another copy of this program) with the words as its arguments,
 *                       the first of them its own name; it does the deeds that are left
 *   open PATH           create it
 *   connect IP PORT     over TCP
 * Exit status: 0, or that of what was run; 1 if a deed failed.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORDS = 256 };

static int run(char **words, const char *rest)
{
	int status = 0;
	pid_t child;

	setenv("ACT", rest ? rest : "", 1);
	child = fork();
	if (child == 0) {
		execv(words[0], words + 1);
		_exit(1);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int become(const char *number)
{
	unsigned int id = (unsigned int)atoi(number);

	return setgroups(0, NULL) || setgid(id) || setuid(id) ? -1 : 0;
}

static int reach(const char *ip, const char *port)
{
	struct sockaddr_in there = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	there.sin_port = htons((unsigned short)atoi(port));
	if (fd < 0 || inet_pton(AF_INET, ip, &there.sin_addr) != 1)
		return -1;
	return connect(fd, (struct sockaddr *)&there, sizeof(there));
}

int main(void)
{
	const char *given = getenv("ACT");
	char *deeds = strdup(given ? given : "");

	while (deeds && *deeds) {
		char *line = strsep(&deeds, "\n"), *words[MAX_WORDS + 1] = { 0 };
		int count = 0, failed;

		while (line && count < MAX_WORDS)
			words[count++] = strsep(&line, "\t");
		if (count < 2)
			return 1;
		if (!strcmp(words[0], "exec"))
			return run(words + 1, deeds) ? 1 : 0;
		if (!strcmp(words[0], "as"))
			failed = become(words[1]);
		else if (!strcmp(words[0], "in"))
			failed = chdir(words[1]);
		else if (!strcmp(words[0], "open"))
			failed = open(words[1], O_WRONLY | O_CREAT, 0644) < 0;
		else if (!strcmp(words[0], "connect") && count == 3)
			failed = reach(words[1], words[2]);
		else
			failed = 1;
		if (failed) {
			perror(words[0]);
			return 1;
		}
	}
	return 0;
}
