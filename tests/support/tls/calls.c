/* Functions with OpenSSL's names that do nothing but be called in all the ways that matter. */
#include <setjmp.h>
#include <string.h>

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

int main(void)
{
	SSL plain = { "answer" }, outer = { "never", 0, &plain }, retried = { "x", 2 };
	char buf[64] = {};
	unsigned long done = 12345;
	jmp_buf out;
	SSL jumps = { "x", 0, 0, &out };

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
