/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which tool call is this for? A process started in a call acts for it to its end, and so do its
 * children. A server acts for the calls that it serves at the moment: one, or a set that is named
 * whole, since nobody can tell which of them it is. A thread may say so itself.
 *
 * Plain maps by tgid, not task storage: that is out of reach for programs on sockets and packets,
 * and user space can only write it for a thread that it holds a pidfd of.
 */
#ifndef HULLWATCH_SPAN_H
#define HULLWATCH_SPAN_H

#include "strings.h"

/* As many as a host can have, or else whoever forks enough acts for no call. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32); /* tgid */
	__type(value, struct hw_acting);
} acting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* actor: a server's id, or HW_OF_THREAD | tid */
	__type(value, struct hw_calls);
} running SEC(".maps");

/* On the stack, which is scarce: seven functions deep it has 512 bytes before Linux 6.13. The rest of
 * the walk is in the scratch: how many at CALLS_COUNT, the set's text from CALLS_SET on. */
struct calls_walk { struct hw_calls *from; struct scratch *s; };
#define CALLS_SET 64
#define CALLS_COUNT 1024

static long calls_step(u32 i, struct calls_walk *w)
{
	u64 *count = (u64 *)&w->s->data[CALLS_COUNT], call;

	if (i >= HW_CALLS_AT_ONCE)
		return 1;
	call = w->from->calls[i];
	if (!call)
		return 0;
	*(u64 *)&w->s->data[(CALLS_SET + 8 + *count * 8) & (ARGV_ROOM - 1)] = call;
	*count += 1;
	return 0;
}

/* The call that an actor serves; of several, the set. */
static __noinline u64 served(struct hw_calls *c)
{
	struct calls_walk w = { .from = c };
	u64 ours = HW_AMBIGUOUS | (u64)fixed.run << 32;
	/* A set's id is of an epoch of the dictionary, so the next one has it made anew. */
	u32 state = c->changed ^ settings.epoch * 0x9e3779b1u, set;
	u64 cached = c->cached, span = 0, count;

	if (cached && cached >> 32 == state)
		return ours | (u32)cached;
	w.s = scratch_get(HW_NONE, 0);
	if (!w.s)
		return 0;
	*(u64 *)&w.s->data[CALLS_COUNT] = 0;
	bpf_loop(HW_CALLS_AT_ONCE, calls_step, &w, 0);
	count = *(u64 *)&w.s->data[CALLS_COUNT];
	if (count == 1)
		span = *(u64 *)&w.s->data[CALLS_SET + 8];
	if (count > 1 && count <= HW_CALLS_AT_ONCE) {
		*(u64 *)&w.s->data[CALLS_SET] = ours;
		set = intern_at(w.s, CALLS_SET, 8 + count * 8, HW_S_CALLS | BULK_STRING, 8 + count * 8);
		if (set == SHED)
			set = 0;
		span = ours | set;
		/* In one store, as another CPU may be at it; if calls changed meanwhile, it is of no use. */
		if (set)
			c->cached = (u64)state << 32 | set;
	}
	scratch_put(w.s);
	return span;
}

__noinline u64 span_of(u64 pid_tgid)
{
	u64 actor = HW_OF_THREAD | (u32)pid_tgid, span;
	u32 tgid = pid_tgid >> 32;
	struct hw_acting *a;
	struct hw_calls *c;

	c = bpf_map_lookup_elem(&running, &actor);
	if (c) {
		span = served(c);
		if (span)
			return span;
	}
	a = bpf_map_lookup_elem(&acting, &tgid);
	if (!a)
		return 0;
	actor = a->server;
	if (actor) {
		c = bpf_map_lookup_elem(&running, &actor);
		span = c ? served(c) : 0;
		if (span)
			return span;
	}
	return a->span;
}

/* A child acts for the call it is made in; made outside of any, it is of the server like its parent. */
__noinline int span_inherit(u32 parent, u32 child, u64 span, u64 cgroup)
{
	struct hw_acting *a, new = { .span = span };

	if (!span) {
		a = bpf_map_lookup_elem(&acting, &parent);
		if (!a) {
			/* Whoever had this number before is nobody's parent any more. */
			bpf_map_delete_elem(&acting, &child);
			return 0;
		}
		new.server = a->server;
	}
	if (bpf_map_update_elem(&acting, &child, &new, BPF_ANY))
		lost(HW_L_SPAN, HW_FORK, cgroup);
	return 0;
}

__noinline int span_forget(u32 tgid)
{
	bpf_map_delete_elem(&acting, &tgid);
	return 0;
}

/* A thread that ends speaks for itself no more, and another may get its number. */
__noinline int thread_forget(u32 tid)
{
	u64 actor = HW_OF_THREAD | tid;

	bpf_map_delete_elem(&running, &actor);
	return 0;
}

/*
 * The calls of an actor are changed by several at once, so only here.
 * Returns 0; -ENOENT: no such actor, or call; -ENOSPC: too many calls at once; -EEXIST: it runs.
 */
__noinline int call_changed(u64 actor, u64 call, u32 begins)
{
	u64 from = begins ? 0 : call, to = begins ? call : 0;
	struct hw_calls *c = bpf_map_lookup_elem(&running, &actor);

	if (!c || !call)
		return -ENOENT;
	if (begins)
		for (int i = 0; i < HW_CALLS_AT_ONCE; i++)
			if (c->calls[i] == call)
				return -EEXIST;
	for (int i = 0; i < HW_CALLS_AT_ONCE; i++)
		if (__sync_val_compare_and_swap(&c->calls[i], from, to) == from) {
			__sync_fetch_and_add(&c->changed, 1);
			return 0;
		}
	return begins ? -ENOSPC : -ENOENT;
}

/* The same for user space. */
SEC("syscall")
int call_change(struct hw_call_change *change)
{
	return call_changed(change->actor, change->call, change->begins);
}

#endif
