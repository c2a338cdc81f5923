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

const volatile struct hw_fixed fixed SEC(".rodata.fixed") = { .hash_key = 1 };
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

struct who { u64 proc, cgroup, exec_id; u32 tid; };

HOT void current_who(struct who *w)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	w->proc = key_of(task);
	w->cgroup = bpf_get_current_cgroup_id();
	w->exec_id = BPF_CORE_READ(task, self_exec_id);
	w->tid = (u32)bpf_get_current_pid_tgid();
}

HOT bool is_own(void)
{
	return fixed.own_tgid && bpf_get_current_pid_tgid() >> 32 == fixed.own_tgid;
}

/* Vital events wake the reader; bulk ones once for every 64 KiB that wait, not one by one. */
#define BULK_WAKE (64 << 10)

HOT u64 bulk_wake(void)
{
	u64 waiting = bpf_ringbuf_query(&bulk, BPF_RB_AVAIL_DATA);

	return waiting >= BULK_WAKE && waiting % BULK_WAKE < 4 * (sizeof(struct hw_event) + 8) ? BPF_RB_FORCE_WAKEUP
											     : BPF_RB_NO_WAKEUP;
}

HOT void event_fill(struct hw_event *e, const struct who *w, u16 cls, u16 op)
{
	__builtin_memset(e, 0, sizeof(*e));
	e->ts = bpf_ktime_get_boot_ns();
	e->proc = w->proc;
	e->cgroup = w->cgroup;
	e->tid = w->tid;
	e->cls = cls;
	e->op = op;
}

/* Copy out; the copy is cheaper than the reserve/submit pair's bookkeeping in the verifier. */
HOT void send_vital(struct hw_event *e)
{
	if (bpf_ringbuf_output(&vital, e, sizeof(*e), 0))
		lost(HW_L_VITAL, e->cls, e->cgroup);
}

HOT void send_bulk(struct hw_event *e)
{
	if (bpf_ringbuf_output(&bulk, e, sizeof(*e), bulk_wake()))
		lost(HW_L_BULK, e->cls, e->cgroup);
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

/*
 * Level 1 of the governor: what one program image did to one object is sent once a second, and
 * counted under the container in between. Per image, for a rule may ask who did it.
 */
static __noinline int repeated(const struct who *w, u32 obj, u32 obj2, u32 action)
{
	struct hw_verdict_key key = { .obj = obj, .action = action };
	struct hw_verdict_value new = {}, *v;
	u64 now = bpf_ktime_get_boot_ns(), last;

	key.scope = image_scope(w->proc, w->exec_id) ^ obj2 * 0xd6e8feb86659fd93ULL;
	v = bpf_map_lookup_elem(&verdicts, &key);
	if (!v) {
		new.last = now;
		bpf_map_update_elem(&verdicts, &key, &new, BPF_NOEXIST);
		return false;
	}
	last = v->last;
	/* Another CPU may just have sent one and be ahead of us. */
	if (last + REPEAT_NS < now) {
		v->last = now;
		return false;
	}
	key.scope = w->cgroup;
	v = bpf_map_lookup_elem(&verdicts, &key);
	if (v) {
		__sync_fetch_and_add(&v->count, 1);
	} else {
		new.count = 1;
		if (bpf_map_update_elem(&verdicts, &key, &new, BPF_NOEXIST)) {
			v = bpf_map_lookup_elem(&verdicts, &key);
			if (!v)
				return false; /* cannot be counted, so it is sent */
			__sync_fetch_and_add(&v->count, 1);
		}
	}
	return true;
}

/*
 * Is this event to be sent? The answer for (container, action, object) was written by user space
 * from the rules; where it depends on the program, the image's own answer is looked up.
 */
__noinline int wanted(const struct who *w, u32 obj, u32 action)
{
	int v = HW_V_NONE;

	if (!w)
		return true;
	if (!settings.record_mode) {
		v = verdict_of(w->cgroup, obj, action);
		if (v == HW_V_BYPROC)
			v = verdict_of(image_scope(w->proc, w->exec_id), obj, action);
		if (v == HW_V_COUNT)
			return false;
	}
	return !settings.governed || !repeated(w, obj, 0, action);
}

/* Of two names either may be the one a rule is about, so such events are never answered with COUNT. */
__noinline int wanted_pair(const struct who *w, u32 obj, u32 obj2, u32 action)
{
	return !w || !settings.governed || !repeated(w, obj, obj2, action);
}

#endif
