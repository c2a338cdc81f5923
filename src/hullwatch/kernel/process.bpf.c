/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes: fork, exec, exit, and those that were there before. */
#include "label.h"
#include "guard.h"
#include "span.h"
#include "tap.h"

#define ENV_ROOM 8192

HOT s64 inode_ctime(struct inode *inode)
{
	/* Since 6.13 the top bit of the ns says that the time was asked for (I_CTIME_QUERIED). */
	if (bpf_core_field_exists(inode->i_ctime_sec))
		return BPF_CORE_READ(inode, i_ctime_sec) * 1000000000LL +
		       (BPF_CORE_READ(inode, i_ctime_nsec) & 0x7fffffff);
	if (bpf_core_field_exists(((struct inode___mid *)inode)->__i_ctime))
		return BPF_CORE_READ((struct inode___mid *)inode, __i_ctime.tv_sec) * 1000000000LL +
		       BPF_CORE_READ((struct inode___mid *)inode, __i_ctime.tv_nsec);
	return BPF_CORE_READ((struct inode___old *)inode, i_ctime.tv_sec) * 1000000000LL +
	       BPF_CORE_READ((struct inode___old *)inode, i_ctime.tv_nsec);
}

HOT s64 inode_mtime(struct inode *inode)
{
	if (bpf_core_field_exists(inode->i_mtime_sec))
		return BPF_CORE_READ(inode, i_mtime_sec) * 1000000000LL + BPF_CORE_READ(inode, i_mtime_nsec);
	if (bpf_core_field_exists(((struct inode___old *)inode)->i_mtime))
		return BPF_CORE_READ((struct inode___old *)inode, i_mtime.tv_sec) * 1000000000LL +
		       BPF_CORE_READ((struct inode___old *)inode, i_mtime.tv_nsec);
	return BPF_CORE_READ((struct inode___mid *)inode, __i_mtime.tv_sec) * 1000000000LL +
	       BPF_CORE_READ((struct inode___mid *)inode, __i_mtime.tv_nsec);
}

HOT bool unlinked(struct dentry *dentry)
{
	return BPF_CORE_READ(dentry, d_hash.pprev) == NULL &&
	       BPF_CORE_READ(dentry, d_parent) != dentry;
}

__noinline int fill_exe(struct hw_proc *p, u64 file_address)
{
	struct file *file = (void *)file_address;
	if (!p || !file)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	u32 magic = BPF_CORE_READ(inode, i_sb, s_magic);
	u16 mode = BPF_CORE_READ(inode, i_mode);

	p->exe_ino = BPF_CORE_READ(inode, i_ino);
	p->exe_dev = BPF_CORE_READ(inode, i_sb, s_dev);
	p->exe_ctime = inode_ctime(inode);
	p->exe_mtime = inode_mtime(inode);
	p->exe_mode = mode;
	p->exe_uid = BPF_CORE_READ(inode, i_uid.val);
	if (mode & S_ISUID || (mode & S_ISGID && mode & 010))
		p->marks |= HW_P_SETID;
	if (on_upper_layer(inode))
		p->marks |= HW_P_UPPER;
	if (unlinked(dentry)) {
		char name[8] = {};
		const unsigned char *from = BPF_CORE_READ(dentry, d_name.name);

		bpf_probe_read_kernel_str(name, sizeof(name), from);
		/* A memfd lives on an internal tmpfs mount and never had a name in a directory. */
		if (magic == TMPFS_MAGIC && name[0] == 'm' && name[1] == 'e' && name[2] == 'm' &&
		    name[3] == 'f' && name[4] == 'd' && name[5] == ':')
			p->marks |= HW_P_MEMFD;
		else
			p->marks |= HW_P_DELETED;
	} else if (magic == TMPFS_MAGIC && BPF_CORE_READ(dentry, d_parent) == dentry) {
		p->marks |= HW_P_MEMFD;
	}
	if (BPF_CORE_READ(inode, i_nlink) == 0 && !(p->marks & HW_P_MEMFD))
		p->marks |= HW_P_DELETED;
	return 0;
}

__noinline u32 intern_argv(struct scratch *s, u64 from, u64 to, u32 *marks)
{
	u32 len, m = 0;
	u64 whole;

	if (!s || !marks || to <= from)
		return 0;
	whole = to - from;
	len = whole > ARGV_ROOM ? ARGV_ROOM : whole;
	if (whole > ARGV_ROOM) {
		*marks |= HW_P_ARGV_CUT;
		m = HW_M_TRUNCATED;
	}
	FRESH(len);
	if (len > ARGV_ROOM)
		return 0;
	if (bpf_probe_read_user(&s->data[64], len, (void *)from)) {
		*marks |= HW_P_ARGV_UNREADABLE;
		return 0;
	}
	return intern_at(s, 64, len, HW_S_ARGV | m << 16, whole > ~0u ? ~0u : (u32)whole);
}

struct env_walk {
	u8 *data;
	u64 at, end;
	u32 out;
	u32 inside; /* the last read ended within a variable: what follows is the rest of its value */
};

#define ENV_COUNT 4096
#define ENV_NAME 128
#define ENV_LOOK 1024 /* a variable whose '=' is not among its first bytes is left out */
#define ENV_WORK (64 + ENV_ROOM + 1024) /* one variable is read here; only its name is kept */

struct name_walk { u8 *data; u32 out, n, found; };

static long name_step(u32 i, struct name_walk *w)
{
	u8 c = w->data[(ENV_WORK + i) & (2 * ARGV_ROOM - 1)];

	if (c == 0)
		return 1;
	if (c == '=') {
		w->found = 1;
		return 1;
	}
	if (i < ENV_NAME) {
		w->data[(w->out + i) & (ARGV_ROOM - 1)] = c;
		w->n = i + 1;
	}
	return 0;
}

static long env_step(u32 i, struct env_walk *w)
{
	struct name_walk name = { .data = w->data, .out = w->out };
	u32 inside = w->inside;
	long n;

	if (w->at >= w->end)
		return 1;
	/* The value passes through the kernel's scratch memory and is never handed on. */
	n = bpf_probe_read_user_str(&w->data[ENV_WORK], ARGV_ROOM, (void *)w->at);
	if (n < 0)
		return 1;
	if (n == 0) /* what an empty string gives before 6.13 */
		n = 1;
	/* A full buffer: its NUL is the helper's, and the variable goes on after the byte before it. */
	w->inside = n == ARGV_ROOM;
	w->at += w->inside ? ARGV_ROOM - 1 : n;
	if (inside)
		return 0;
	if (w->out > 64 + ENV_ROOM - ENV_NAME - 1) {
		w->at = 0; /* not the end: cut */
		return 1;
	}
	bpf_loop(ENV_LOOK, name_step, &name, 0);
	if (!name.found || !name.n)
		return 0;
	w->data[(w->out + name.n) & (ARGV_ROOM - 1)] = 0;
	w->out += name.n + 1;
	return 0;
}

__noinline u32 intern_env(struct scratch *s, u64 from, u64 to, u32 *marks)
{
	struct env_walk w = { .at = from, .end = to, .out = 64 };
	u32 len;

	if (!s || !marks || to <= from)
		return 0;
	w.data = s->data;
	bpf_loop(ENV_COUNT, env_step, &w, 0);
	if (w.at < w.end)
		*marks |= HW_P_ENV_CUT;
	len = w.out - 64;
	if (len > ENV_ROOM)
		return 0;
	return intern_at(s, 64, len, HW_S_ENV, len);
}

__noinline int fill_ids(struct hw_proc *p, u64 task_address)
{
	struct task_struct *task = (void *)task_address;
	if (!p || !task)
		return 0;
	const struct cred *cred = BPF_CORE_READ(task, real_cred);
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct nsproxy *ns = BPF_CORE_READ(task, nsproxy);
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	u32 level = BPF_CORE_READ(pid, level);
	struct pid *group = BPF_CORE_READ(signal, pids[2]), *session = BPF_CORE_READ(signal, pids[3]);
	struct upid upid = {};
	struct tty_struct *tty = BPF_CORE_READ(signal, tty);

	p->proc = key_of(task);
	p->cgroup = cgroup_of(task);
	p->labels = current_labels(p->proc);
	p->span = settings.calls ? span_of((u64)BPF_CORE_READ(task, tgid) << 32 | (u32)BPF_CORE_READ(task, pid)) : 0;
	p->parent = parent ? key_of(parent) : 0;
	p->ppid = BPF_CORE_READ(parent, tgid);
	p->start = BPF_CORE_READ(task, group_leader, start_boottime);
	p->exec_id = BPF_CORE_READ(task, self_exec_id);
	p->pid = BPF_CORE_READ(task, tgid);
	p->tid = BPF_CORE_READ(task, pid);
	if (level > 32)
		level = 0;
	/* numbers[] holds the pid as seen from each namespace, the innermost last. */
	bpf_probe_read_kernel(&upid, bpf_core_type_size(struct upid) > sizeof(upid) ? sizeof(upid) :
			      bpf_core_type_size(struct upid),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid));
	p->vpid = upid.nr;
	p->ns_pid = BPF_CORE_READ(upid.ns, ns.inum);
	p->pgid = BPF_CORE_READ(group, numbers[0].nr);
	p->sid = BPF_CORE_READ(session, numbers[0].nr);
	bpf_probe_read_kernel(&p->vpgid, 4, (void *)group + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid));
	bpf_probe_read_kernel(&p->vsid, 4, (void *)session + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid));
	p->uid = BPF_CORE_READ(cred, uid.val);
	p->gid = BPF_CORE_READ(cred, gid.val);
	p->euid = BPF_CORE_READ(cred, euid.val);
	p->egid = BPF_CORE_READ(cred, egid.val);
	bpf_core_read(&p->cap_effective, 8, &cred->cap_effective);
	bpf_core_read(&p->cap_permitted, 8, &cred->cap_permitted);
	bpf_core_read(&p->cap_inheritable, 8, &cred->cap_inheritable);
	p->ns_user = BPF_CORE_READ(cred, user_ns, ns.inum);
	p->loginuid = ~0u;
	if (bpf_core_field_exists(task->loginuid))
		p->loginuid = BPF_CORE_READ(task, loginuid.val);
	if (tty)
		p->tty = (u32)BPF_CORE_READ(tty, driver, major) << 20 |
			 ((u32)BPF_CORE_READ(tty, driver, minor_start) + (u32)BPF_CORE_READ(tty, index));
	p->ns_mnt = BPF_CORE_READ(ns, mnt_ns, ns.inum);
	p->ns_net = BPF_CORE_READ(ns, net_ns, ns.inum);
	p->ns_uts = BPF_CORE_READ(ns, uts_ns, ns.inum);
	p->ns_ipc = BPF_CORE_READ(ns, ipc_ns, ns.inum);
	p->ns_cgroup = BPF_CORE_READ(ns, cgroup_ns, ns.inum);
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		p->marks |= HW_P_KTHREAD;
	bpf_probe_read_kernel(p->comm, sizeof(p->comm), (void *)task + bpf_core_field_offset(struct task_struct, comm));
	return 0;
}

/* Everything about a task that is a number, then its paths. Split, for each has a stack of its own. */
HOT void fill(struct hw_proc *p, struct task_struct *task, struct file *exe)
{
	fill_ids(p, (u64)task);
	if (exe) {
		fill_exe(p, (u64)exe);
		p->exe = path_id((u64)BPF_CORE_READ(exe, f_path.mnt), (u64)BPF_CORE_READ(exe, f_path.dentry), 0,
				 HW_EXEC, p->cgroup);
	}
	p->cwd = path_id((u64)BPF_CORE_READ(task, fs, pwd.mnt), (u64)BPF_CORE_READ(task, fs, pwd.dentry), 0,
			 HW_EXEC, p->cgroup);
	if ((exe && !p->exe) || !p->cwd)
		p->marks |= HW_P_STR_LOST;
}

HOT bool starts_differently(const char *a, const char *b)
{
	char x[64] = {}, y[64] = {};

	bpf_probe_read_kernel_str(x, sizeof(x), a);
	bpf_probe_read_kernel_str(y, sizeof(y), b);
	for (int i = 0; i < 8; i++)
		if (((u64 *)x)[i] != ((u64 *)y)[i])
			return true;
	return false;
}

/* execve or execveat: the call's number outlives the old program's registers. */
HOT u16 exec_op(void)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	bool compat = is_compat();
	struct call *call;
	u32 nr;

#if defined(__TARGET_ARCH_x86)
	nr = (u32)BPF_CORE_READ(regs, orig_ax) & ~0x40000000u;
#else
	nr = BPF_CORE_READ(regs, syscallno);
#endif
	if (nr >= NATIVE_CALLS)
		return 0;
	nr += compat ? NATIVE_CALLS : 0;
	call = bpf_map_lookup_elem(&calls, &nr);
	return call ? call->op : 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct mm_struct *mm = task->mm;
	const char *filename = BPF_CORE_READ(bprm, filename), *interp = BPF_CORE_READ(bprm, interp);
	u64 cgroup = bpf_get_current_cgroup_id();
	struct scratch *s = scratch_get(HW_EXEC, cgroup);
	struct hw_proc *p;

	if (!s) {
		lost(HW_L_PROC, HW_EXEC, cgroup);
		return 0;
	}
	p = &s->proc;
	__builtin_memset(p, 0, sizeof(*p));
	p->ts = bpf_ktime_get_boot_ns();
	p->cls = HW_EXEC;
	p->op = exec_op();
	if (settings.labels)
		took((u64)BPF_CORE_READ(bprm, file), 0);
	guard_exec();
	fill(p, (void *)bpf_get_current_task(), BPF_CORE_READ(bprm, file));
	p->argv = intern_argv(s, mm->arg_start, mm->arg_end, &p->marks);
	p->env = intern_env(s, mm->env_start, mm->env_end, &p->marks);
	if (filename != interp && starts_differently(filename, interp)) {
		p->marks |= HW_P_SCRIPT;
		p->script = intern_kernel_text(s, (u64)filename, HW_S_RAW);
	}
	if ((!p->argv && mm->arg_end > mm->arg_start && !(p->marks & HW_P_ARGV_UNREADABLE)) ||
	    (!p->env && mm->env_end > mm->env_start) || (!p->script && p->marks & HW_P_SCRIPT))
		p->marks |= HW_P_STR_LOST;
	if (bpf_ringbuf_output(&procs, p, sizeof(*p), 0))
		lost(HW_L_PROC, HW_EXEC, cgroup);
	scratch_put(s);
	return 0;
}

#define AT_EMPTY_PATH 0x1000
#define ERESTARTSYS 512 /* this and above never reach the caller: the call is made once more */

/* An exec that failed; one that succeeded has been told above. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_exec, struct pt_regs *regs, long ret)
{
	struct file *file = NULL;
	int dfd = AT_FDCWD;
	struct hw_event e;
	u16 marks, op;
	struct who w;
	int how;
	bool compat, readable;
	u8 first = 0;
	u64 text;

	if (ret >= 0 || ret <= -ERESTARTSYS)
		return 0;
	op = call_start(regs, &compat, &marks);
	if (!op)
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_EXEC_FAILED, op);
	e.ret = ret;
	e.marks = marks;
	text = call_arg(regs, 0, compat);
	if (op == HW_OP_execveat) {
		dfd = text;
		text = call_arg(regs, 1, compat);
		e.flags = call_arg(regs, 4, compat);
	}
	/* Where the new program's memory was in place already, the text is gone with the old one's. */
	readable = !bpf_probe_read_user(&first, 1, (void *)text);
	if (!readable)
		e.marks |= HW_M_UNREADABLE;
	else if (!first && e.flags & AT_EMPTY_PATH)
		file = file_of(dfd); /* the program is the fd itself */
	if (file) {
		e.obj = path_of_file(file, BULK_STRING, HW_EXEC_FAILED, w.cgroup);
	} else {
		e.marks |= HW_M_RAW_PATH;
		e.obj = joined_path(dfd, text, 0, HW_EXEC_FAILED, w.cgroup);
	}
	how = asked(&w, &e, HW_EXEC_FAILED);
	if (!how)
		return 0;
	if (!file && e.obj != SHED)
		e.obj2 = user_text(text, HW_S_RAW | BULK_STRING, HW_EXEC_FAILED, w.cgroup);
	report(&e, (readable ? HAS_OBJECT : 0) | how);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct hw_event e;
	struct who w;

	if (child->pid != child->tgid)
		return 0;
	w.proc = make_key(parent->group_leader->start_boottime, parent->tgid);
	w.cgroup = bpf_get_current_cgroup_id();
	w.span = current_span();
	w.tid = parent->pid;
	w.labels = current_labels(w.proc);
	if (settings.calls)
		span_inherit(parent->tgid, child->tgid, w.span, w.cgroup);
	if (settings.labels)
		label_inherit(address_of(ctx, 0), address_of(ctx, 1));
	guard_fork(child->tgid, make_key(child->start_boottime, child->tgid));
	event_fill(&e, &w, HW_FORK, 0);
	e.num = make_key(child->start_boottime, child->tgid);
	e.num2 = child->pid;
	e.flags = child->tgid;
	send_vital(&e);
	return 0;
}

HOT int process_ended(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct hw_event e;
	struct who w;
	int code;

	w.proc = make_key(task->group_leader->start_boottime, task->tgid);
	w.cgroup = bpf_get_current_cgroup_id();
	w.span = current_span();
	w.tid = task->pid;
	w.labels = current_labels(w.proc);
	if (settings.calls)
		span_forget(task->tgid);
	if (settings.tap)
		tap_forget(task->tgid);
	if (settings.labels)
		label_forget(task->tgid);
	guard_exit(task->tgid);
	event_fill(&e, &w, HW_EXIT, 0);
	code = signal->group_exit_code;
	e.flags = code ? code : task->exit_code;
	e.ret = e.flags >> 8 & 0xff;
	e.num = e.ts - task->group_leader->start_boottime;
	send_vital(&e);
	return 0;
}

SEC("tp_btf/sched_process_exit") /* task, group_dead: 6.16 and later */
int BPF_PROG(process_exit_2, struct task_struct *task, bool group_dead)
{
	if (group_dead)
		process_ended(task);
	if (settings.calls)
		thread_forget(task->pid);
	return 0;
}

/*
 * Before, the tracepoint does not say which thread is the last, and two that end at once may both
 * see nobody left: the first to put its process here tells.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, u8);
} ended SEC(".maps");

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit_1, struct task_struct *task)
{
	u64 key = make_key(task->group_leader->start_boottime, task->tgid);
	u8 one = 1;

	if (task->signal->live.counter == 0 && !bpf_map_update_elem(&ended, &key, &one, BPF_NOEXIST))
		process_ended(task);
	if (settings.calls)
		thread_forget(task->pid);
	return 0;
}

/* Run once at start over every task: what was there before. Env and argv of others are not
 * readable from here, so user space completes those two from /proc. */
SEC("iter/task")
int snapshot(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct scratch *s;
	struct hw_proc *p;

	if (!task || task->pid != task->tgid)
		return 0;
	if (task->tgid == fixed.own_tgid)
		settings.host_level = BPF_CORE_READ(task, thread_pid, level);
	s = scratch_get(HW_TASK, 0);
	if (!s) {
		lost(HW_L_PROC, HW_TASK, 0);
		return 0;
	}
	p = &s->proc;
	__builtin_memset(p, 0, sizeof(*p));
	p->ts = bpf_ktime_get_boot_ns();
	p->cls = HW_TASK;
	task = BPF_CORE_READ(task, group_leader); /* itself, as a plain address */
	fill(p, task, BPF_CORE_READ(task, mm, exe_file));
	guard_found(task, BPF_CORE_READ(task, tgid), key_of(task));
	if (bpf_ringbuf_output(&procs, p, sizeof(*p), BPF_RB_NO_WAKEUP))
		lost(HW_L_PROC, HW_TASK, p->cgroup);
	scratch_put(s);
	return 0;
}
