/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * TLS in plain: probes on the functions with which programs write to and read from a TLS library.
 * What was really passed is known when they return, of writes too: a write that has to be tried
 * again fails first. Which function of which file has which program is data (sensor/tlsfiles.py).
 */
#include "tap.h"

#if defined(__TARGET_ARCH_x86)
#define ARG(ctx, n) ((n) == 0 ? ctx->di : (n) == 1 ? ctx->si : (n) == 2 ? ctx->dx : ctx->cx)
#define RESULT(ctx) (ctx->ax)
#define GO_ARG(ctx, n) ((n) == 0 ? ctx->ax : (n) == 1 ? ctx->bx : ctx->cx)
#define GOROUTINE(ctx) (ctx->r14)
#define RETURN_ADDRESS 8 /* on the stack when a function begins, gone when it has returned */
#else
#define ARG(ctx, n) (ctx->regs[n])
#define RESULT(ctx) (ctx->regs[0])
#define GO_ARG(ctx, n) (ctx->regs[n])
#define GOROUTINE(ctx) (ctx->regs[28])
#define RETURN_ADDRESS 0
#endif

/* frame: the stack pointer that the caller gets back. done: where the count is put; 0: it is the result. */
struct tls_call { u64 frame, conn, buf, done, received; };

/*
 * The calls under way in a thread: a TLS connection through another one's (a proxy reached by
 * https) is a call within a call.
 */
#define TLS_DEEP 4
struct tls_thread { struct tls_call calls[TLS_DEEP]; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64); /* pid_tgid */
	__type(value, struct tls_thread);
} tls_threads SEC(".maps");

static const struct tls_thread no_thread_calls; /* not on the stack, which is scarce */

HOT int call_begins(struct pt_regs *ctx, u64 done, u32 received)
{
	u64 thread = bpf_get_current_pid_tgid(), frame = ctx->sp + RETURN_ADDRESS, conn = ARG(ctx, 0);
	struct tls_thread *t = bpf_map_lookup_elem(&tls_threads, &thread);
	struct tls_call *free = NULL;

	if (is_own())
		return 0;
	if (!t) {
		bpf_map_update_elem(&tls_threads, &thread, &no_thread_calls, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&tls_threads, &thread);
		if (!t)
			return 0;
	}
	for (int i = 0; i < TLS_DEEP; i++) {
		struct tls_call *c = &t->calls[i];

		/*
		 * The stack grows down: what is not above this frame has ended, unseen (longjmp), or is
		 * this same call, when a file is probed twice (two overlays of one lower file).
		 */
		if (c->frame <= frame) {
			c->frame = 0;
			free = c;
		} else if (c->conn == conn && c->received == received) {
			return 0; /* a function of the library uses another one: the outer one counts */
		}
	}
	if (!free)
		free = &t->calls[0]; /* nothing is that deep: they ended unseen, and another stack goes on */
	free->frame = frame;
	free->conn = conn;
	free->buf = ARG(ctx, 1);
	free->done = done;
	free->received = received;
	return 0;
}

SEC("uprobe")
int tls_write(struct pt_regs *ctx)
{
	return call_begins(ctx, 0, false);
}

SEC("uprobe")
int tls_write_ex(struct pt_regs *ctx)
{
	return call_begins(ctx, ARG(ctx, 3), false);
}

SEC("uprobe")
int tls_read(struct pt_regs *ctx)
{
	return call_begins(ctx, 0, true);
}

SEC("uprobe")
int tls_read_ex(struct pt_regs *ctx)
{
	return call_begins(ctx, ARG(ctx, 3), true);
}

SEC("uretprobe")
int tls_return(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), frame = ctx->sp, len = 0;
	struct tls_thread *t = bpf_map_lookup_elem(&tls_threads, &thread);
	s32 result = RESULT(ctx);

	if (!t)
		return 0;
	for (int i = 0; i < TLS_DEEP; i++) {
		struct tls_call *c = &t->calls[i];

		if (c->frame != frame)
			continue;
		c->frame = 0;
		if (result <= 0)
			return 0;
		if (!c->done)
			len = result;
		else
			bpf_probe_read_user(&len, sizeof(len), (void *)c->done);
		if (len)
			tap_tls(c->conn, c->buf, len, c->received);
		return 0;
	}
	return 0;
}

/* The address of a connection that is freed is soon another's. */
SEC("uprobe")
int tls_free(struct pt_regs *ctx)
{
	return tap_tls_ended(ARG(ctx, 0));
}

/*
 * Go. A goroutine changes threads, and its stack moves: a call is known by how deep below the top of
 * the goroutine's stack it is. Returns are probed where the function's RETs are: a return probe puts
 * an address on the stack that Go's runtime does not know, and dies of.
 */
struct go_key { u64 goroutine, depth, tgid; };
struct go_call { u64 conn, buf, len; u32 received; u32 on_stack; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct go_key);
	__type(value, struct go_call);
} go_calls SEC(".maps");

struct go_stack { u64 low, high; }; /* what runtime.g begins with */

HOT bool go_here(struct pt_regs *ctx, struct go_key *key, struct go_stack *stack)
{
	key->goroutine = GOROUTINE(ctx);
	if (is_own() || bpf_probe_read_user(stack, sizeof(*stack), (void *)key->goroutine))
		return false;
	key->depth = stack->high - ctx->sp;
	key->tgid = bpf_get_current_pid_tgid() >> 32;
	return true;
}

HOT int go_begins(struct pt_regs *ctx, u32 received)
{
	struct go_call call = { .received = received };
	struct go_stack stack;
	struct go_key key;

	if (!go_here(ctx, &key, &stack))
		return 0;
	call.conn = GO_ARG(ctx, 0);
	call.buf = GO_ARG(ctx, 1);
	call.len = GO_ARG(ctx, 2);
	call.on_stack = call.buf >= stack.low && call.buf < stack.high;
	if (call.on_stack)
		call.buf -= stack.high;
	bpf_map_update_elem(&go_calls, &key, &call, BPF_ANY);
	return 0;
}

SEC("uprobe")
int go_write(struct pt_regs *ctx)
{
	return go_begins(ctx, false);
}

SEC("uprobe")
int go_read(struct pt_regs *ctx)
{
	return go_begins(ctx, true);
}

SEC("uprobe")
int go_return(struct pt_regs *ctx)
{
	s64 count = RESULT(ctx);
	struct go_stack stack;
	struct go_call *call;
	struct go_key key;

	if (!go_here(ctx, &key, &stack))
		return 0;
	call = bpf_map_lookup_elem(&go_calls, &key);
	if (!call)
		return 0;
	if (count > 0 && count <= call->len)
		tap_tls(call->conn, call->on_stack ? call->buf + stack.high : call->buf, count, call->received);
	bpf_map_delete_elem(&go_calls, &key);
	return 0;
}

SEC("uprobe")
int go_close(struct pt_regs *ctx)
{
	return tap_tls_ended(GO_ARG(ctx, 0));
}
