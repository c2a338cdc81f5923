/* Functions with OpenSSL's names that do nothing but be called in all the ways that matter. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>

typedef struct { const char *next; int fails; void *through; jmp_buf *out; } SSL;

#define API __attribute__((noinline, noipa))
/* As every library does: what was never touched is not in memory, where it could be read. */
static char record[64];

API int SSL_read(SSL *ssl, void *buf, int size)
{
	if (ssl->out)
		longjmp(*ssl->out, 1);
	if (ssl->through)
		return SSL_read(ssl->through, buf, size);
	strncpy(buf, ssl->next, size);
	return strlen(ssl->next);
}

/* As LibreSSL's does. */
API int SSL_read_ex(SSL *ssl, void *buf, unsigned long size, unsigned long *done)
{
	int got = SSL_read(ssl, buf, size);

	*done = got > 0 ? got : 0;
	return got > 0;
}

API int SSL_write(SSL *ssl, const void *buf, int size)
{
	char copy[64] = "tunnel:";

	memcpy(record, buf, size);
	if (ssl->fails-- > 0)
		return -1;
	if (ssl->through)
		SSL_write(ssl->through, strncat(copy, buf, 32), 7 + size);
	return size > 20 ? 20 : size;
}

API int SSL_write_ex(SSL *ssl, const void *buf, unsigned long size, unsigned long *done)
{
	memcpy(record, buf, size);
	if (ssl->fails-- > 0)
		return 0;
	*done = size;
	return 1;
}

/* As container runtimes do it: what is not on the list is refused, such as the calls of the kernel's
 * own return probes, uretprobe and uprobe. */
static int filtered(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ, 335, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ, 336, 0, 1),
		BPF_STMT(BPF_RET, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(rules) / sizeof(rules[0]), rules };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program);
}

int main(void)
{
	SSL plain = { "answer" }, outer = { "never", 0, &plain }, retried = { "x", 2 };
	char buf[64] = {};
	unsigned long done = 12345;
	jmp_buf out;
	SSL jumps = { "x", 0, 0, &out };

	if (filtered())
		return 1;
	SSL_write(&plain, "whole", 5);
	SSL_write(&plain, "only twenty of these bytes", 26);
	while (SSL_write(&retried, "retried", 7) < 0)
		;
	SSL_write_ex(&plain, "written", 7, &done);
	retried.fails = 1;
	while (!SSL_write_ex(&retried, "again", 5, &done))
		;
	SSL_read(&plain, buf, sizeof(buf));
	SSL_read_ex(&plain, buf, sizeof(buf), &done);
	SSL_write(&outer, "inner", 5);
	SSL_read(&outer, buf, sizeof(buf));
	for (int i = 0; i < 20; i++)
		if (!setjmp(out))
			SSL_read(&jumps, buf, sizeof(buf));
	SSL_write(&plain, "last", 4);
	return 0;
}
