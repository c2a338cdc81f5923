/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where policy stops things. On every tier: connections, datagrams and binds in cgroup hooks, open
 * connections packet by packet (flow.bpf.c), and programs, which end before their first instruction
 * where there is no BPF LSM. With it: programs, files, and what gives power over others.
 */
#include "guard.h"

/* ---- network, on every tier --------------------------------------------------------------- */

enum { GOES, STOPS, HELD };

__noinline int guard_end(const struct guard_end *end, u32 action)
{
	struct guard g;
	int says;

	if (!end || !guard_begin(&g, action))
		return GOES;
	says = guard_net(&g, end);
	if (says == PASSES)
		return GOES;
	if (says == STOPPED && action == HW_A_CONNECT &&
	    guard_hold(end, g.key.scope, g.key.facts))
		return HELD;
	guard_tell(action | (says == STOPPED ? HW_DONE_DENIED : HW_DONE_TOLD) << 16,
		   plain_end(end->addr, true, end->port, HW_POLICY, bpf_get_current_cgroup_id()), 0,
		   g.key.facts & HW_FACT_NEW ? HW_M_NEW : 0);
	return says == STOPPED ? STOPS : GOES;
}

#define SOL_TCP 6
#define TCP_SYNCNT 7

/* One that is held is tried twice, a second apart: what stays forbidden does not hang for minutes. */
HOT int guard_answers_to(struct bpf_sock_addr *ctx, const struct guard_end *end, u32 action)
{
	int once = 1, how = guard_end(end, action);

	if (how == HELD && ctx->type == SOCK_STREAM)
		bpf_setsockopt(ctx, SOL_TCP, TCP_SYNCNT, &once, sizeof(once));
	return how != STOPS;
}

HOT int guard_v4(struct bpf_sock_addr *ctx, u32 action)
{
	struct guard_end end = {};

	if (!settings.policy || is_living_agent())
		return 1;
	end_v4(&end, ctx->user_ip4, bpf_ntohs(ctx->user_port));
	return guard_answers_to(ctx, &end, action);
}

HOT int guard_v6(struct bpf_sock_addr *ctx, u32 action)
{
	struct guard_end end = {};

	if (!settings.policy || is_living_agent())
		return 1;
	((u32 *)end.addr)[0] = ctx->user_ip6[0];
	((u32 *)end.addr)[1] = ctx->user_ip6[1];
	((u32 *)end.addr)[2] = ctx->user_ip6[2];
	((u32 *)end.addr)[3] = ctx->user_ip6[3];
	end.port = bpf_ntohs(ctx->user_port);
	return guard_answers_to(ctx, &end, action);
}

SEC("cgroup/connect4")
int guard_connect4(struct bpf_sock_addr *ctx)
{
	return guard_v4(ctx, HW_A_CONNECT);
}

SEC("cgroup/connect6")
int guard_connect6(struct bpf_sock_addr *ctx)
{
	return guard_v6(ctx, HW_A_CONNECT);
}

SEC("cgroup/sendmsg4")
int guard_sendmsg4(struct bpf_sock_addr *ctx)
{
	return guard_v4(ctx, HW_A_CONNECT);
}

SEC("cgroup/sendmsg6")
int guard_sendmsg6(struct bpf_sock_addr *ctx)
{
	return guard_v6(ctx, HW_A_CONNECT);
}

SEC("cgroup/bind4")
int guard_bind4(struct bpf_sock_addr *ctx)
{
	return guard_v4(ctx, HW_A_LISTEN);
}

SEC("cgroup/bind6")
int guard_bind6(struct bpf_sock_addr *ctx)
{
	return guard_v6(ctx, HW_A_LISTEN);
}

enum { IPPROTO_MPTCP = 262 };

/* Raw sockets, SCTP, ICMP: no hook sees where they send to. */
SEC("cgroup/sock_create")
int guard_made(struct bpf_sock *ctx)
{
	u32 type = ctx->type, protocol = ctx->protocol;

	if (!settings.policy || is_living_agent())
		return 1;
	if ((type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)) ||
	    (type == SOCK_DGRAM && protocol == IPPROTO_UDP))
		return 1;
	return !guard_socket(ctx->family, type, protocol);
}

/* ---- programs, where there is no BPF LSM -------------------------------------------------- */

/* The program is in place and has not run: the signal is taken before its first instruction. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(guard_program, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct file *file;

	if (!settings.policy || fixed.lsm_tier || is_living_agent() || is_of_host())
		return 0;
	file = BPF_CORE_READ(bprm, file);
	if (file && guard_asks(HW_A_EXEC | HW_DONE_KILLED << 16, (u64)BPF_CORE_READ(file, f_path.mnt),
			       (u64)BPF_CORE_READ(file, f_path.dentry), (u64)BPF_CORE_READ(file, f_inode), 0))
		bpf_send_signal(9);
	return 0;
}

/* ---- LSM tier ----------------------------------------------------------------------------- */

/*
 * What a hook returns must be seen to be within bounds. None is asked after another has refused.
 * Scripts come by twice: as they are, and with what interprets them.
 */
SEC("lsm/bprm_check_security")
int BPF_PROG(guard_bprm, struct linux_binprm *bprm)
{
	if (!settings.policy || is_living_agent() || is_of_host())
		return 0;
	return guard_file(HW_A_EXEC, bprm->file, 0) ? -EPERM : 0;
}

HOT bool is_guarded(void)
{
	return settings.policy && !is_living_agent() && is_inside();
}

/* What is asked of an open file, as bits by action. Apart, as its callers stand on deep stacks. */
__noinline u32 open_actions(u64 address)
{
	struct file *file = (void *)address;
	u32 f_mode = BPF_CORE_READ(file, f_mode), actions = 0;

	if (f_mode & (0x20 | 0x20000000)) /* FMODE_EXEC: the hook above; FMODE_NOACCOUNT: overlayfs's own */
		return 0;
	if (f_mode & FMODE_READ)
		actions |= 1 << HW_A_OPEN_READ;
	if (f_mode & FMODE_READ && speaks_of_secrets() &&
	    (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFDIR)
		actions |= 1 << HW_A_USE_SECRET;
	if (f_mode & FMODE_WRITE)
		actions |= 1 << HW_A_OPEN_WRITE;
	return actions;
}

/* how: HW_OPENED, or 0. */
HOT int guard_opens(u64 address, u64 how)
{
	struct file *file = (void *)address;
	u32 actions = open_actions(address);
	int ret = 0;

	if (actions & 1 << HW_A_OPEN_READ)
		ret = guard_file(HW_A_OPEN_READ, file, how);
	if (!ret && actions & 1 << HW_A_USE_SECRET)
		ret = guard_file(HW_A_USE_SECRET, file, how);
	if (!ret && actions & 1 << HW_A_OPEN_WRITE)
		ret = guard_file(HW_A_OPEN_WRITE, file, how);
	return ret;
}

SEC("lsm/file_open")
int BPF_PROG(guard_open, struct file *file)
{
	if (!is_guarded())
		return 0;
	return guard_opens(address_of(ctx, 0), HW_OPENED) ? -EPERM : 0;
}

/* An open file that another process hands over. Here a connection is held before any thread has it. */
SEC("lsm/file_receive")
int BPF_PROG(guard_receive, struct file *file)
{
	if (!is_guarded())
		return 0;
	hold_received(address_of(ctx, 0));
	return guard_opens(address_of(ctx, 0), 0) ? -EPERM : 0;
}

/* Code that is mapped: a program that ld.so is told to run. What no list of programs has a library
 * of need not be in it, so only what is forbidden counts. */
SEC("lsm/mmap_file")
int BPF_PROG(guard_mmap, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	if (!file || !(prot & PROT_EXEC) || !is_guarded())
		return 0;
	return guard_file(HW_A_EXEC, (void *)address_of(ctx, 0), HW_MAPPED) ? -EPERM : 0;
}

HOT int guard_at(u32 action, const struct path *dir, u64 dentry)
{
	u64 mnt = (u64)BPF_CORE_READ(dir, mnt);

	return guard_asks(action | HW_DONE_DENIED << 16, mnt, dentry, (u64)BPF_CORE_READ((struct dentry *)dentry, d_inode), 0);
}

SEC("lsm/path_unlink")
int BPF_PROG(guard_unlink, const struct path *dir, struct dentry *dentry)
{
	if (!is_guarded())
		return 0;
	return guard_at(HW_A_OPEN_WRITE, dir, address_of(ctx, 1)) ? -EPERM : 0;
}

SEC("lsm/path_truncate")
int BPF_PROG(guard_truncate, const struct path *path)
{
	if (!is_guarded())
		return 0;
	return guard_at(HW_A_OPEN_WRITE, path, (u64)BPF_CORE_READ(path, dentry)) ? -EPERM : 0;
}

/* Under another name policy would not know it: who may not read it may not name it either. */
__noinline int guard_renames(u64 old_dir, u64 old, u64 new_dir, u64 new)
{
	int ret = guard_at(HW_A_OPEN_READ, (void *)old_dir, old);

	if (!ret && speaks_of_secrets())
		ret = guard_at(HW_A_USE_SECRET, (void *)old_dir, old);
	if (!ret)
		ret = guard_at(HW_A_OPEN_WRITE, (void *)old_dir, old);
	return ret ? ret : guard_at(HW_A_OPEN_WRITE, (void *)new_dir, new);
}

SEC("lsm/path_rename")
int BPF_PROG(guard_rename, const struct path *old_dir, struct dentry *old, const struct path *new_dir,
	     struct dentry *new)
{
	if (!is_guarded())
		return 0;
	return guard_renames(address_of(ctx, 0), address_of(ctx, 1), address_of(ctx, 2), address_of(ctx, 3)) ? -EPERM : 0;
}

SEC("lsm/path_link")
int BPF_PROG(guard_link, struct dentry *old, const struct path *new_dir, struct dentry *new)
{
	if (!is_guarded())
		return 0;
	/* Both are on one mount. */
	return guard_renames(address_of(ctx, 1), address_of(ctx, 0), address_of(ctx, 1), address_of(ctx, 2)) ? -EPERM : 0;
}

/* Who acts is what is asked about: its program. */
__noinline int guard_power(u32 privilege)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);

	if (!exe)
		return 0;
	return guard_file(HW_A_PRIVILEGE, exe, privilege);
}

/* ---- the agent itself --------------------------------------------------------------------- */

/* Its programs, maps and links, by the command of bpf(2) that asks for one. */
enum { PROG_BY_ID = 13, MAP_BY_ID = 14, LINK_BY_ID = 30 };
struct guard_own { u32 command, id; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct guard_own);
	__type(value, u8);
} guard_own SEC(".maps");

/* Nobody out of a container, whatever its rights, whether there are policies or not. */
__noinline int guard_own_said(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	u64 cgroup = bpf_get_current_cgroup_id();

	guard_tell(HW_A_PRIVILEGE | HW_DONE_DENIED << 16, exe ? path_of_file(exe, 0, HW_POLICY, cgroup) : 0,
		   HW_PRIVILEGE_OWN, 0);
	return 0;
}

HOT bool is_agent(struct task_struct *task)
{
	return fixed.own_tgid && BPF_CORE_READ(task, tgid) == fixed.own_tgid;
}

SEC("lsm/task_kill")
int BPF_PROG(guard_kill, struct task_struct *target, void *info, int number, const struct cred *cred)
{
	if (!number || !is_agent((void *)address_of(ctx, 0)) || is_own() || !is_inside())
		return 0;
	guard_own_said();
	return -EPERM;
}

SEC("lsm/bpf")
int BPF_PROG(guard_own_bpf, int command, void *attr, unsigned int size)
{
	struct guard_own key = { .command = command };

	if (command != PROG_BY_ID && command != MAP_BY_ID && command != LINK_BY_ID)
		return 0;
	if (is_own() || !is_inside())
		return 0;
	bpf_probe_read_kernel(&key.id, sizeof(key.id), (void *)address_of(ctx, 1));
	if (!bpf_map_lookup_elem(&guard_own, &key))
		return 0;
	guard_own_said();
	return -EPERM;
}

/* Reading tells a debugger its memory, but also ps how it is called: that is refused unsaid. */
SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_own_ptrace, struct task_struct *child, unsigned int mode)
{
	if (!is_agent((void *)address_of(ctx, 0)) || is_own() || !is_inside())
		return 0;
	if (mode & 2) /* PTRACE_MODE_ATTACH */
		guard_own_said();
	return -EPERM;
}

/* ---- power over others -------------------------------------------------------------------- */

SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_ptrace, struct task_struct *child, unsigned int mode)
{
	if (!(mode & 2) || !is_guarded()) /* PTRACE_MODE_ATTACH */
		return 0;
	return guard_power(HW_PRIVILEGE_PTRACE) ? -EPERM : 0;
}

#define POWER(name, hook, privilege)                                                    \
	SEC("lsm/" #hook)                                                               \
	int guard_##name(void *ctx)                                                     \
	{                                                                               \
		return is_guarded() && guard_power(HW_PRIVILEGE_##privilege) ? -EPERM : 0; \
	}

POWER(mount, sb_mount, MOUNT)
POWER(move_mount, move_mount, MOUNT)
POWER(umount, sb_umount, MOUNT)
POWER(pivot, sb_pivotroot, MOUNT)
POWER(bpf, bpf, BPF)
POWER(load, kernel_load_data, MODULE)
POWER(read_file, kernel_read_file, MODULE)
POWER(setuid, task_fix_setuid, SETUID)
POWER(setgid, task_fix_setgid, SETUID)
POWER(setgroups, task_fix_setgroups, SETUID) /* 6.0 */
POWER(capset, capset, CAPABILITY)

/* Rights that come with a program's file; the program itself is what is asked about. */
__noinline int guard_rights(u64 bprm_address, u64 file)
{
	const struct cred *new = BPF_CORE_READ((struct linux_binprm *)bprm_address, cred);
	const struct cred *old = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), cred);
	u64 had = 0, has = 0;
	int ret = 0;

	if (BPF_CORE_READ(new, euid.val) != BPF_CORE_READ(old, euid.val) ||
	    BPF_CORE_READ(new, egid.val) != BPF_CORE_READ(old, egid.val))
		ret = guard_file(HW_A_PRIVILEGE, (void *)file, HW_PRIVILEGE_SETUID);
	bpf_core_read(&had, 8, &old->cap_permitted);
	bpf_core_read(&has, 8, &new->cap_permitted);
	if (!ret && has & ~had)
		ret = guard_file(HW_A_PRIVILEGE, (void *)file, HW_PRIVILEGE_CAPABILITY);
	return ret;
}

SEC("lsm/bprm_creds_from_file")
int BPF_PROG(guard_gains, struct linux_binprm *bprm, struct file *file)
{
	if (!is_guarded())
		return 0;
	return guard_rights(address_of(ctx, 0), address_of(ctx, 1)) ? -EPERM : 0;
}

/* ---- sockets ------------------------------------------------------------------------------ */

SEC("lsm/unix_stream_connect")
int BPF_PROG(guard_unix_connect, struct sock *sock, struct sock *other, struct sock *newsk)
{
	if (!is_guarded())
		return 0;
	return guard_unix(address_of(ctx, 1)) ? -EPERM : 0;
}

/* Each datagram, and connect. */
SEC("lsm/unix_may_send")
int BPF_PROG(guard_unix_send, struct socket *sock, struct socket *other)
{
	if (!is_guarded())
		return 0;
	return guard_unix((u64)BPF_CORE_READ((struct socket *)address_of(ctx, 1), sk)) ? -EPERM : 0;
}

/* Families that no cgroup hook is for. */
SEC("lsm/socket_create")
int BPF_PROG(guard_family, int family, int type, int protocol, int kern)
{
	if (kern || !is_guarded())
		return 0;
	switch (family) {
	case 17: /* AF_PACKET */
	case 30: /* AF_TIPC */
	case 31: /* AF_BLUETOOTH */
	case 40: /* AF_VSOCK */
	case 42: /* AF_QIPCRTR */
	case 44: /* AF_XDP */
		return guard_socket(family, type, protocol) ? -EPERM : 0;
	}
	return 0;
}
