/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* System calls that change what a process may do, or that reach into others. All vital. */
#include "syscall.h"

HOT void send_sensitive(struct hw_event *e, s32 ret, u16 marks)
{
	e->ret = ret;
	e->marks |= marks;
	send_vital(e);
}

/* Of ptrace, what changes or takes over another process; a debugger's peeks are left out. */
HOT bool ptrace_matters(u64 request)
{
	switch (request) {
	case 0: /* TRACEME */
	case 4: /* POKETEXT */
	case 5: /* POKEDATA */
	case 6: /* POKEUSER */
	case 13: /* SETREGS */
	case 16: /* ATTACH */
	case 0x4205: /* SETREGSET */
	case 0x4206: /* SEIZE */
		return true;
	}
	return false;
}

/* Of bpf, what makes or attaches; look-ups and walks over maps are left out. */
HOT bool bpf_matters(u64 command)
{
	switch (command) {
	case 0: /* MAP_CREATE */
	case 5: /* PROG_LOAD */
	case 6: /* OBJ_PIN */
	case 7: /* OBJ_GET */
	case 8: /* PROG_ATTACH */
	case 9: /* PROG_DETACH */
	case 13: /* PROG_GET_FD_BY_ID */
	case 14: /* MAP_GET_FD_BY_ID */
	case 17: /* RAW_TRACEPOINT_OPEN */
	case 28: /* LINK_CREATE */
	case 29: /* LINK_UPDATE */
	case 34: /* LINK_DETACH */
		return true;
	}
	return false;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_sensitive, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	u64 a0, a1;
	struct hw_event e;
	struct who w;

	if (!op)
		return 0;
	a0 = call_arg(regs, 0, compat);
	a1 = call_arg(regs, 1, compat);
	if (op == HW_OP_ptrace && !ptrace_matters(a0))
		return 0;
	if (op == HW_OP_bpf && !bpf_matters(a0))
		return 0;
	current_who(&w);
	/* A debugger or profiler does these by the thousand: repeats within a second are counted. */
	if (op == HW_OP_ptrace && repeated(&w, a1, a0, HW_PTRACE, true))
		return 0;
	if ((op == HW_OP_process_vm_readv || op == HW_OP_process_vm_writev) &&
	    repeated(&w, a0, op, HW_VM_ACCESS, true))
		return 0;
	event_fill(&e, &w, HW_NONE, op);
	switch (op) {
	case HW_OP_ptrace:
		e.cls = HW_PTRACE;
		e.num = a0;
		e.num2 = a1;
		break;
	case HW_OP_process_vm_readv:
	case HW_OP_process_vm_writev:
		e.cls = HW_VM_ACCESS;
		e.num2 = a0;
		break;
	case HW_OP_unshare:
		e.cls = HW_UNSHARE;
		e.flags = a0;
		break;
	case HW_OP_setns:
		e.cls = HW_SETNS;
		e.num = a0;
		e.flags = a1;
		break;
	case HW_OP_bpf:
		e.cls = HW_BPF;
		e.num = a0;
		break;
	case HW_OP_perf_event_open:
		e.cls = HW_PERF;
		e.num2 = a1;
		e.flags = call_arg(regs, 4, compat);
		break;
	case HW_OP_init_module:
		e.cls = HW_MODULE;
		e.num = a1;
		break;
	case HW_OP_userfaultfd:
		e.cls = HW_USERFAULTFD;
		e.flags = a0;
		break;
	case HW_OP_memfd_secret:
		e.cls = HW_MEMFD;
		e.flags = a0;
		break;
	case HW_OP_keyctl:
		e.cls = HW_KEYCTL;
		e.num = a0;
		break;
	case HW_OP_add_key:
	case HW_OP_request_key:
		e.cls = HW_KEYCTL;
		break;
	case HW_OP_kexec_load:
		e.cls = HW_KEXEC;
		e.flags = call_arg(regs, 3, compat);
		break;
	case HW_OP_kexec_file_load:
		e.cls = HW_KEXEC;
		e.flags = call_arg(regs, 4, compat);
		break;
	case HW_OP_io_uring_setup:
		e.cls = HW_IO_URING;
		e.num = a0;
		break;
	default:
		return 0;
	}
	send_sensitive(&e, ret, marks);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_mount, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	struct hw_event e;
	struct who w;
	u64 target = 0, source = 0;
	int dfd = AT_FDCWD;

	if (!op)
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_MOUNT, op);
	e.marks = HW_M_RAW_PATH;
	switch (op) {
	case HW_OP_mount:
		source = call_arg(regs, 0, compat);
		target = call_arg(regs, 1, compat);
		e.flags = call_arg(regs, 3, compat);
		break;
	case HW_OP_umount2:
		e.cls = HW_UMOUNT;
		target = call_arg(regs, 0, compat);
		e.flags = call_arg(regs, 1, compat);
		break;
	case HW_OP_pivot_root:
		e.cls = HW_PIVOT_ROOT;
		target = call_arg(regs, 0, compat);
		source = call_arg(regs, 1, compat);
		break;
	case HW_OP_chroot:
		e.cls = HW_PIVOT_ROOT;
		target = call_arg(regs, 0, compat);
		break;
	case HW_OP_move_mount:
		source = call_arg(regs, 1, compat);
		dfd = call_arg(regs, 2, compat);
		target = call_arg(regs, 3, compat);
		e.flags = call_arg(regs, 4, compat);
		break;
	case HW_OP_fsopen:
		source = call_arg(regs, 0, compat);
		e.flags = call_arg(regs, 1, compat);
		break;
	default: /* open_tree, mount_setattr */
		dfd = call_arg(regs, 0, compat);
		target = call_arg(regs, 1, compat);
		e.flags = call_arg(regs, 2, compat);
	}
	if (ret >= 0)
		directories_moved();
	if (target)
		e.obj = joined_path(dfd, target, 0, e.cls, w.cgroup);
	if (source)
		e.obj2 = user_text(source, HW_S_RAW, e.cls, w.cgroup);
	if (e.obj == SHED)
		e.obj = 0;
	if (target && !e.obj)
		e.marks |= HW_M_STR_LOST;
	send_sensitive(&e, ret, marks);
	return 0;
}

/* Changes of user, group and capabilities: what the kernel has now, with what was asked for. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_setid, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	const struct cred *cred;
	struct task_struct *task;
	struct hw_event e;
	struct who w;

	if (!op)
		return 0;
	current_who(&w);
	task = (void *)bpf_get_current_task();
	cred = BPF_CORE_READ(task, real_cred);
	event_fill(&e, &w, op == HW_OP_capset ? HW_CAPSET : HW_SETID, op);
	if (op == HW_OP_capset) {
		bpf_core_read(&e.num, 8, &cred->cap_effective);
		bpf_core_read(&e.num2, 8, &cred->cap_permitted);
	} else {
		e.num = call_arg(regs, 0, compat);
		e.num2 = (u64)BPF_CORE_READ(cred, uid.val) << 32 | BPF_CORE_READ(cred, gid.val);
		e.flags = BPF_CORE_READ(cred, euid.val);
	}
	send_sensitive(&e, ret, marks);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_module, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	struct hw_event e;
	struct file *file;
	struct who w;

	if (!op)
		return 0;
	current_who(&w);
	event_fill(&e, &w, op == HW_OP_memfd_create ? HW_MEMFD : HW_MODULE, op);
	if (op == HW_OP_finit_module) {
		e.flags = call_arg(regs, 2, compat);
		file = file_of(call_arg(regs, 0, compat));
		if (file)
			e.obj = path_of_file(file, 0, HW_MODULE, w.cgroup);
	} else {
		e.flags = call_arg(regs, 1, compat);
		e.obj = user_text(call_arg(regs, 0, compat), HW_S_TEXT, e.cls, w.cgroup);
	}
	send_sensitive(&e, ret, marks);
	return 0;
}
