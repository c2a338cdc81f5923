/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Maps, settings, losses, who is acting, and how an event leaves the kernel. */
#ifndef HULLWATCH_COMMON_H
#define HULLWATCH_COMMON_H

#include "types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>
#include "wire.h"

#define PATH_ROOM 4096
#define ARGV_ROOM 16384
#define SLOTS_PER_CPU 4

const volatile struct hw_fixed fixed SEC(".rodata.fixed") = { .hash_key = { 1 } };
struct hw_settings settings SEC(".data.settings") = {
	.generation = 1, .epoch = 1, .next_id = 2, .path_generation = 1,
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} vital SEC(".maps"), bulk SEC(".maps"), strings SEC(".maps"), procs SEC(".maps"), packets SEC(".maps");

struct seen { u32 id; u32 epoch; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072); /* an epoch of strings and some (sensor.py) */
	__type(key, u64);
	__type(value, struct seen);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct hw_verdict_key);
	__type(value, struct hw_verdict_value);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct hw_loss_key);
	__type(value, u64);
} losses SEC(".maps");

/* Where a loss is counted when `losses` itself is full: index = stage. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, u64);
} losses_total SEC(".maps");

struct scratch {
	u32 busy;
	u32 pad;
	u64 lanes[4]; /* of a hash */
	struct hw_proc proc;
	u8 data[2 * ARGV_ROOM + 64];
	/* Headers that are put before data of many lengths: named here so that BTF has their layout. */
	struct hw_string string_header[0];
	struct hw_packet packet_header[0];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS_PER_CPU); /* times CPUs: set by the loader */
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

#define HOT static __always_inline
/* Non-static functions are verified once, by themselves, whoever calls them: keeps loading fast. */

/* Hide a value's history from the compiler, so that the check which follows is the one it emits. */
#define FRESH(x) asm volatile("" : "+r"(x))

__noinline int lost(u32 stage, u32 cls, u64 cgroup)
{
	struct hw_loss_key key = { .cgroup = cgroup, .cls = cls, .stage = stage };
	u64 one = 1, *n = bpf_map_lookup_elem(&losses, &key);

	if (!n) {
		if (!bpf_map_update_elem(&losses, &key, &one, BPF_NOEXIST))
			return 0;
		n = bpf_map_lookup_elem(&losses, &key);
	}
	if (!n)
		n = bpf_map_lookup_elem(&losses_total, &stage);
	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

/*
 * Work space for strings. A program of ours may be interrupted on its CPU by another (a packet in
 * softirq; preemption under an LSM hook), so each CPU has several and takes one with cmpxchg.
 */
static __noinline struct scratch *scratch_get(u32 cls, u64 cgroup)
{
	u32 first = bpf_get_smp_processor_id() * SLOTS_PER_CPU;

	for (u32 i = 0; i < SLOTS_PER_CPU; i++) {
		u32 slot = first + i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &slot);

		if (s && __sync_val_compare_and_swap(&s->busy, 0, 1) == 0)
			return s;
	}
	lost(HW_L_SCRATCH, cls, cgroup);
	return NULL;
}

HOT void scratch_put(struct scratch *s)
{
	__sync_lock_test_and_set(&s->busy, 0);
}

/* Argument n of a hook as a plain number: global functions do not take the typed pointer. */
HOT u64 address_of(void *ctx, int n)
{
	u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), (u64 *)ctx + n);
	return address;
}

/* 65 us of start time and the pid: unique for nine years of uptime, and reversible. */
HOT u64 make_key(u64 start_boottime, u32 tgid)
{
	return (start_boottime >> 16) << 22 | (tgid & 0x3fffff);
}

HOT u64 key_of(struct task_struct *task)
{
	return make_key(BPF_CORE_READ(task, group_leader, start_boottime), BPF_CORE_READ(task, tgid));
}

HOT u64 cgroup_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

HOT u64 image_scope(u64 proc, u64 exec_id)
{
	return proc ^ (exec_id + 1) * 0x9e3779b97f4a7c15ULL;
}

/* same: what else must agree for two events to be one and the same (repeated, below). */
struct who { u64 proc, cgroup, exec_id, span; u32 tid, same, labels; };

__noinline u64 span_of(u64 pid_tgid); /* span.h */

HOT u64 current_span(void)
{
	return settings.calls ? span_of(bpf_get_current_pid_tgid()) : 0;
}

__noinline u32 labels_of(u64 proc); /* label.h */

HOT u32 current_labels(u64 proc)
{
	return settings.labels & HW_CARRIED ? labels_of(proc) : 0;
}

HOT void current_who(struct who *w)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	w->proc = key_of(task);
	w->cgroup = bpf_get_current_cgroup_id();
	w->exec_id = BPF_CORE_READ(task, self_exec_id);
	w->span = current_span();
	w->tid = (u32)bpf_get_current_pid_tgid();
	w->same = 0;
	w->labels = current_labels(w->proc);
}

HOT bool is_own(void)
{
	return fixed.own_tgid && bpf_get_current_pid_tgid() >> 32 == fixed.own_tgid;
}

#define BULK_WAKE (64 << 10)

HOT void event_fill(struct hw_event *e, const struct who *w, u16 cls, u16 op)
{
	__builtin_memset(e, 0, sizeof(*e));
	e->ts = bpf_ktime_get_boot_ns();
	e->proc = w->proc;
	e->cgroup = w->cgroup;
	e->span = w->span;
	e->tid = w->tid;
	e->labels = w->labels;
	e->cls = cls;
	e->op = op;
}

/* Copy out; the copy is cheaper than the reserve/submit pair's bookkeeping in the verifier. */
HOT void send_vital(struct hw_event *e)
{
	if (bpf_ringbuf_output(&vital, e, sizeof(*e), 0))
		lost(HW_L_VITAL, e->cls, e->cgroup);
}

HOT u64 ring_used(void *ring)
{
	return bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
}

HOT u64 ring_size(void *ring)
{
	return bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);
}

/*
 * A ring that is nearly full takes only so much a second (1/SHARES of its size) of one kind of thing
 * from one cgroup, so that whoever makes a storm, on the host or in a container, hides nobody else,
 * and of itself nothing of another kind.
 */
#define SHARES 32

struct share_key { u64 cgroup; u32 what, of_strings; };
struct share { u64 second, used; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct share_key);
	__type(value, struct share);
} shares SEC(".maps");

/* what: the event's class, or the string's kind. */
__noinline int within_share(u64 cgroup, u32 what, u32 of_strings, u32 bytes, u64 room)
{
	struct share_key key = { .cgroup = cgroup, .what = what, .of_strings = of_strings };
	u64 second = bpf_ktime_get_boot_ns() >> 30;
	struct share *share = bpf_map_lookup_elem(&shares, &key), new = { .second = second };

	if (!share) {
		bpf_map_update_elem(&shares, &key, &new, BPF_NOEXIST);
		share = bpf_map_lookup_elem(&shares, &key);
		if (!share)
			return false;
	}
	if (share->second != second) {
		share->second = second;
		share->used = 0;
	}
	return __sync_fetch_and_add(&share->used, bytes) + bytes <= room;
}

HOT void send_bulk(struct hw_event *e)
{
	u64 used = ring_used(&bulk), size = ring_size(&bulk), step = sizeof(*e) + 8;
	/* Bulk events wake the reader once for every 64 KiB that wait, not one by one. */
	bool wake = used >= BULK_WAKE && used % BULK_WAKE < 4 * step;

	if ((used > size / 4 * 3 && !within_share(e->cgroup, e->cls, false, step, size / SHARES)) ||
	    bpf_ringbuf_output(&bulk, e, sizeof(*e), wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
		lost(HW_L_BULK, e->cls, e->cgroup);
}

/* What a rule may be about comes first, unless it is so much that it would crowd out processes. */
HOT void send_first(struct hw_event *e)
{
	if (ring_used(&vital) < ring_size(&vital) / 2)
		send_vital(e);
	else
		send_bulk(e);
}

HOT int verdict_of(u64 scope, u32 obj, u32 action)
{
	struct hw_verdict_key key = { .scope = scope, .obj = obj, .action = action };
	struct hw_verdict_value *v = bpf_map_lookup_elem(&verdicts, &key);

	if (!v || v->generation != settings.generation)
		return HW_V_NONE;
	if (v->verdict == HW_V_COUNT)
		__sync_fetch_and_add(&v->count, 1);
	return v->verdict;
}

#define REPEAT_NS 1000000000ULL

/* When a program image last had an event sent. Only times: what is evicted is sent again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct hw_verdict_key);
	__type(value, u64);
} repeats SEC(".maps");

/* Repeats are counted where the governor says so, and where they would soon be lost. */
HOT bool spare_repeats(void)
{
	return settings.governed || (!settings.record_mode && ring_used(&bulk) > ring_size(&bulk) / 4);
}

/*
 * What one program image does again within a second, to the same object, in the same way, with the
 * same result: counted, for the container, where repeats are spared. Per image, for a rule may ask
 * who did it. Remembered before that, too: a burst fills the ring within its first round.
 */
static __noinline int repeated(const struct who *w, u32 obj, u32 obj2, u32 action, u32 spared)
{
	struct hw_verdict_key key = { .obj = obj, .action = action };
	struct hw_verdict_value *v;
	u64 now = bpf_ktime_get_boot_ns(), *last;

	key.scope = image_scope(w->proc, w->exec_id) ^ ((u64)w->same << 32 | obj2) * 0xd6e8feb86659fd93ULL;
	key.scope ^= w->labels * 0xa0761d6478bd642fULL;
	last = bpf_map_lookup_elem(&repeats, &key);
	if (!last) {
		bpf_map_update_elem(&repeats, &key, &now, BPF_ANY);
		return false;
	}
	/* Another CPU may just have sent one and be ahead of us. */
	if (!spared || *last + REPEAT_NS < now) {
		*last = now;
		return false;
	}
	/* By object only where the entry stands: user space replaces the others, count and all. */
	key.scope = w->cgroup;
	v = bpf_map_lookup_elem(&verdicts, &key);
	if (v && v->verdict && v->generation == settings.generation)
		__sync_fetch_and_add(&v->count, 1);
	else
		lost(HW_L_REPEATED, action & 0xff, w->cgroup);
	return true;
}

/* Of what is done for a call, the first of each kind is told: no call is without its files. */
static __noinline int first_in_call(const struct who *w, u32 obj, u32 action)
{
	struct hw_verdict_key key = { .obj = obj, .action = action };
	u64 now = 0;

	key.scope = image_scope(w->proc, w->exec_id) ^ (w->span | 1) * 0xd6e8feb86659fd93ULL;
	return bpf_map_update_elem(&repeats, &key, &now, BPF_NOEXIST) == 0;
}

/* Answers of `wanted`; 0: not to be sent. Together with HAS_OBJECT: what `report` is told. */
#define HAS_OBJECT 1
#define AS_BULK 2
#define AS_VITAL 4

/*
 * Is this event to be sent? The answer for (container, action, object) was written by user space
 * from the rules; where it depends on the program, the image's own answer is looked up.
 */
__noinline int wanted(const struct who *w, u32 obj, u32 action)
{
	int v = HW_V_NONE;

	if (!w)
		return AS_BULK;
	if (!settings.record_mode) {
		v = verdict_of(w->cgroup, obj, action);
		if (v == HW_V_BYPROC)
			v = verdict_of(image_scope(w->proc, w->exec_id), obj, action);
		if (v == HW_V_COUNT && !(w->span && first_in_call(w, obj, action)))
			return 0;
	}
	if ((settings.governed || !settings.record_mode) && repeated(w, obj, 0, action, spare_repeats()))
		return 0;
	return v == HW_V_REPORT ? AS_VITAL : AS_BULK;
}

/* Of two names either may be the one a rule is about, so such events are never answered with COUNT. */
__noinline int wanted_pair(const struct who *w, u32 obj, u32 obj2, u32 action)
{
	return w && spare_repeats() && repeated(w, obj, obj2, action, true) ? 0 : AS_BULK;
}

#define SHED (~0u) /* instead of an id: a new string that the governor refused (strings.h) */

/* The same for an event that is filled in already: its flags, failure and numbers belong to it. */
HOT int asked(struct who *w, const struct hw_event *e, u32 action)
{
	u64 same = (u64)e->flags << 32 | (u32)(e->ret < 0 ? e->ret : 0);

	same ^= w->span * 0x9fb21c651e98df25ULL;
	if (!e->obj || e->obj == SHED)
		return AS_BULK;
	if (e->cls != HW_FLOW && e->cls != HW_SEND) /* theirs are bytes */
		same ^= e->num * 0x9e3779b97f4a7c15ULL ^ e->num2 * 0xc2b2ae3d27d4eb4fULL;
	same *= 0xff51afd7ed558ccdULL;
	w->same = same >> 32;
	return wanted(w, e->obj, action);
}

#endif
