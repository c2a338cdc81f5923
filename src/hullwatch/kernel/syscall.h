/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * System calls are seen at their exit, where the result and the kernel's own objects are known.
 * One dispatcher looks the number up and tail-calls the family's handler; which number goes where
 * is data (sensor/syscalls.py), written into these maps by the loader.
 */
#ifndef HULLWATCH_SYSCALL_H
#define HULLWATCH_SYSCALL_H

#include "strings.h"
#include "ops.h"

#define NATIVE_CALLS 512
#define SOCKETCALLS 32

struct call { u16 op; u16 handler; };
#define WHILE_LABELS 0x8000 /* in handler: of no use while nothing carries a label */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/* The second part: 32-bit calls; the third: what socketcall(2) multiplexes. */
	__uint(max_entries, 2 * NATIVE_CALLS + SOCKETCALLS);
	__type(key, u32);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 32);
	__type(key, u32);
	__type(value, u32);
} handlers SEC(".maps");

#if defined(__TARGET_ARCH_x86)
#define TS_COMPAT 2
HOT bool is_compat(void)
{
	return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
}
HOT u32 call_number(struct pt_regs *regs)
{
	return (u32)regs->orig_ax & ~0x40000000u; /* the x32 bit */
}
HOT u64 call_arg(struct pt_regs *regs, int n, bool compat)
{
	if (compat)
		return (u32)(n == 0 ? regs->bx : n == 1 ? regs->cx : n == 2 ? regs->dx :
			     n == 3 ? regs->si : n == 4 ? regs->di : regs->bp);
	return n == 0 ? regs->di : n == 1 ? regs->si : n == 2 ? regs->dx :
	       n == 3 ? regs->r10 : n == 4 ? regs->r8 : regs->r9;
}
/* socketcall(number, arguments): how 32-bit programs reached sockets before they had calls of their own. */
HOT bool is_socketcall(struct pt_regs *regs, bool compat)
{
	return compat && (u32)regs->orig_ax == 102;
}
HOT u64 sock_arg(struct pt_regs *regs, int n, bool compat)
{
	u32 value = 0;

	if (!is_socketcall(regs, compat))
		return call_arg(regs, n, compat);
	bpf_probe_read_user(&value, sizeof(value), (void *)(u64)(u32)regs->cx + 4 * n);
	return value;
}
HOT u32 socketcall_number(struct pt_regs *regs)
{
	return (u32)regs->bx;
}
#else
HOT bool is_compat(void)
{
	return false;
}
HOT bool is_socketcall(struct pt_regs *regs, bool compat)
{
	return false;
}
HOT u32 socketcall_number(struct pt_regs *regs)
{
	return 0;
}
#define sock_arg call_arg
HOT u32 call_number(struct pt_regs *regs)
{
	return regs->syscallno;
}
HOT u64 call_arg(struct pt_regs *regs, int n, bool compat)
{
	return n == 0 ? regs->orig_x0 : regs->regs[n];
}
#endif

HOT struct call *call_of(struct pt_regs *regs, bool compat)
{
	u32 nr = call_number(regs);

	if (nr >= NATIVE_CALLS)
		return NULL;
	if (compat)
		nr += NATIVE_CALLS;
	if (is_socketcall(regs, compat)) {
		nr = socketcall_number(regs);
		if (nr >= SOCKETCALLS)
			return NULL;
		nr += 2 * NATIVE_CALLS;
	}
	return bpf_map_lookup_elem(&calls, &nr);
}

/* What every handler starts with: op (0: not for us) and the marks of this call. */
HOT u16 call_start(struct pt_regs *regs, bool *compat, u16 *marks)
{
	struct call *call;

	*compat = is_compat();
	*marks = *compat ? HW_M_COMPAT : 0;
	call = call_of(regs, *compat);
	if (!call || is_own())
		return 0;
	return call->op;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct call *call = call_of(regs, is_compat());

	if (!call || !call->op || (call->handler & WHILE_LABELS && !(settings.labels & HW_CARRIED)))
		return 0;
	bpf_tail_call(ctx, &handlers, call->handler & ~WHILE_LABELS);
	return 0;
}

HOT struct file *file_of(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **fds, *file = NULL;

	if (fd < 0 || (u32)fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	fds = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), fds + fd);
	return file;
}

/* Text of the caller, taken in one go. */
HOT u32 user_text(u64 text, u32 kind, u32 cls, u64 cgroup)
{
	struct scratch *s = scratch_get(cls, cgroup);
	u32 id;

	if (!s)
		return 0;
	id = intern_text(s, text, kind);
	scratch_put(s);
	return id;
}

HOT u32 joined_path(int dfd, u64 text, u32 from_kernel, u32 cls, u64 cgroup)
{
	struct scratch *s = scratch_get(cls, cgroup);
	u32 id;

	if (!s)
		return 0;
	id = intern_joined(s, dfd, text, from_kernel);
	scratch_put(s);
	return id;
}

HOT u32 path_of_file(struct file *file, u32 bulk_string, u32 cls, u64 cgroup)
{
	return path_id((u64)BPF_CORE_READ(file, f_path.mnt), (u64)BPF_CORE_READ(file, f_path.dentry),
		       bulk_string, cls, cgroup);
}

/*
 * Send a bulk event. how: what `wanted` said, and HAS_OBJECT. An id of SHED means that the governor
 * refused a new string; an id of 0 where there should be one, that the string was lost: then it is
 * always sent.
 */
__noinline int report(struct hw_event *e, u32 how)
{
	if (!e)
		return 0;
	if (e->obj == SHED || e->obj2 == SHED) {
		lost(HW_L_GOVERNED, e->cls, e->cgroup);
		return 0;
	}
	if (how & HAS_OBJECT && !e->obj)
		e->marks |= e->ret == -EFAULT ? HW_M_UNREADABLE : HW_M_STR_LOST;
	if (how & AS_VITAL)
		send_first(e);
	else
		send_bulk(e);
	return 0;
}

#endif
