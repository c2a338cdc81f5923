/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * io_uring runs file and socket operations without system calls. Opens, connects and accepts are
 * taken at their completion, where the fd is known; operations on names at their submission. Where
 * a request asks for no completion, its submission is all there is, and is reported as an attempt.
 * The tracepoints changed shape over time: the loader picks the program that fits.
 */
#include "syscall.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct io_open { int dfd; u32 file_slot; struct filename *filename; };
struct io_rename { int old_dfd, new_dfd; struct filename *oldpath, *newpath; int flags; };
struct io_unlink { int dfd, flags; struct filename *filename; };
struct io_mkdir { int dfd; u16 mode; struct filename *filename; };
struct io_sr_msg { void *umsg; int msg_flags; };
struct io_link { int old_dfd, new_dfd; struct filename *oldpath, *newpath; int flags; };
#pragma clang attribute pop

/* include/uapi/linux/io_uring.h, enum io_uring_op: values are ABI. */
enum { IO_SENDMSG = 9, IO_SENDMSG_ZC = 48, IO_ACCEPT = 13, IO_CONNECT = 16, IO_OPENAT = 18, IO_OPENAT2 = 28, IO_RENAMEAT = 35, IO_UNLINKAT = 36,
       IO_MKDIRAT = 37, IO_SYMLINKAT = 38, IO_LINKAT = 39 };

HOT u32 name_path(int dfd, struct filename *name, u32 cls, u64 cgroup)
{
	return joined_path(dfd, (u64)BPF_CORE_READ(name, name), 1, cls, cgroup);
}

/*
 * A message with an address: a datagram, or a stream opened by its first send. The socket is not yet
 * looked up here, so of it only the address family is told.
 */
__noinline int submitted_message(u64 req_address)
{
	struct io_sr_msg *m = (void *)req_address;
	u32 len = 0, flags = BPF_CORE_READ(m, msg_flags);
	struct hw_event e;
	u64 name, at;
	u16 family = 0;
	struct who w;
	int how;

	at = (u64)BPF_CORE_READ(m, umsg);
	name = message_name(at, false, &len);
	if (!name || len < 2 || bpf_probe_read_user(&family, sizeof(family), (void *)name) || !is_inet(family))
		return 0;
	current_who(&w);
	if (flags & MSG_FASTOPEN)
		event_fill(&e, &w, HW_CONNECT, HW_OP_sendmsg);
	else
		event_fill(&e, &w, HW_SEND, HW_OP_sendmsg);
	e.marks = HW_M_IO_URING | HW_M_ATTEMPT | HW_M_RAW_PATH;
	e.flags = (u32)family << 16;
	e.obj = user_end(name, len, e.cls, w.cgroup);
	how = asked(&w, &e, e.cls);
	if (how)
		report(&e, HAS_OBJECT | how);
	return 0;
}

HOT void submitted(u64 req_address)
{
	struct io_kiocb *req = (void *)req_address;
	u8 opcode = BPF_CORE_READ(req, opcode);
	struct hw_event e;
	struct who w;

	if (opcode == IO_SENDMSG || opcode == IO_SENDMSG_ZC) {
		if (!is_own())
			submitted_message(req_address);
		return;
	}
	if (opcode != IO_OPENAT && opcode != IO_OPENAT2 && (opcode < IO_RENAMEAT || opcode > IO_LINKAT))
		return;
	if (is_own())
		return;
	current_who(&w);
	event_fill(&e, &w, HW_IO_URING, 0);
	e.marks = HW_M_IO_URING | HW_M_ATTEMPT | HW_M_RAW_PATH;
	e.num = opcode;
	if (opcode == IO_OPENAT || opcode == IO_OPENAT2) {
		struct io_open *o = (void *)req;

		e.obj = name_path(BPF_CORE_READ(o, dfd), BPF_CORE_READ(o, filename), HW_IO_URING, w.cgroup);
		send_vital(&e);
		return;
	}
	if (fixed.lsm_tier) /* the path hooks see the rest */
		return;
	if (opcode == IO_RENAMEAT) {
		struct io_rename *r = (void *)req;

		e.cls = HW_RENAME;
		e.op = HW_OP_renameat2;
		directories_moved();
		e.obj = name_path(BPF_CORE_READ(r, old_dfd), BPF_CORE_READ(r, oldpath), e.cls, w.cgroup);
		e.obj2 = name_path(BPF_CORE_READ(r, new_dfd), BPF_CORE_READ(r, newpath), e.cls, w.cgroup);
	} else if (opcode == IO_UNLINKAT) {
		struct io_unlink *u = (void *)req;

		e.flags = BPF_CORE_READ(u, flags);
		e.cls = e.flags & 0x200 ? HW_RMDIR : HW_UNLINK;
		e.op = HW_OP_unlinkat;
		e.obj = name_path(BPF_CORE_READ(u, dfd), BPF_CORE_READ(u, filename), e.cls, w.cgroup);
	} else if (opcode == IO_MKDIRAT) {
		struct io_mkdir *m = (void *)req;

		e.cls = HW_MKDIR;
		e.op = HW_OP_mkdirat;
		e.obj = name_path(BPF_CORE_READ(m, dfd), BPF_CORE_READ(m, filename), e.cls, w.cgroup);
	} else {
		struct io_link *l = (void *)req;
		struct filename *from = BPF_CORE_READ(l, oldpath);

		e.cls = opcode == IO_SYMLINKAT ? HW_SYMLINK : HW_LINK;
		e.op = opcode == IO_SYMLINKAT ? HW_OP_symlinkat : HW_OP_linkat;
		if (e.cls == HW_LINK) {
			e.obj = name_path(BPF_CORE_READ(l, old_dfd), from, e.cls, w.cgroup);
		} else {
			struct scratch *s = scratch_get(e.cls, w.cgroup);

			if (s) {
				e.obj = intern_kernel_text(s, (u64)BPF_CORE_READ(from, name), HW_S_RAW);
				scratch_put(s);
			}
		}
		e.obj2 = name_path(BPF_CORE_READ(l, new_dfd), BPF_CORE_READ(l, newpath), e.cls, w.cgroup);
	}
	report(&e, HAS_OBJECT | AS_BULK);
}

__noinline int completed_socket(u64 file_address, u32 accept, s32 res)
{
	struct file *file = (void *)file_address;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct hw_event e;
	struct who w;
	int how;

	if (!sk || !is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)))
		return 0;
	current_who(&w);
	event_fill(&e, &w, accept ? HW_ACCEPT : HW_CONNECT, accept ? HW_OP_accept4 : HW_OP_connect);
	e.marks = HW_M_IO_URING;
	e.ret = res;
	e.flags = sock_flags(sk, (u16)BPF_CORE_READ(socket, type));
	own_socket(cookie_of(sk), accept);
	e.port = accept ? bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport))
			: BPF_CORE_READ(sk, __sk_common.skc_num);
	e.obj = sock_end((u64)sk, WITH_PORT | (accept ? 0 : REMOTE), e.cls, w.cgroup);
	how = asked(&w, &e, e.cls);
	if (!how)
		return 0;
	e.obj2 = sock_end((u64)sk, accept ? REMOTE : 0, e.cls, w.cgroup);
	report(&e, HAS_OBJECT | how);
	return 0;
}

HOT void completed(u64 req_address, s32 res)
{
	struct io_kiocb *req = (void *)req_address;
	struct file *file;
	u8 opcode;

	if (!req)
		return;
	opcode = BPF_CORE_READ(req, opcode);
	if (opcode == IO_RENAMEAT)
		directories_moved();
	if (opcode != IO_OPENAT && opcode != IO_OPENAT2 && opcode != IO_CONNECT && opcode != IO_ACCEPT)
		return;
	if (is_own())
		return;
	if (opcode == IO_CONNECT || opcode == IO_ACCEPT) {
		file = opcode == IO_ACCEPT ? file_of(res) : BPF_CORE_READ(req, file);
		if (file && (opcode == IO_CONNECT || res >= 0))
			completed_socket((u64)file, opcode == IO_ACCEPT, res);
		return;
	}
	if (res < 0 || fixed.lsm_tier)
		return;
	file = file_of(res);
	if (file)
		opened((u64)file, (opcode == IO_OPENAT ? HW_OP_openat : HW_OP_openat2) | HW_M_IO_URING << 16, res,
		       BPF_CORE_READ(file, f_flags), 0);
}

SEC("tp_btf/io_uring_submit_req") /* 6.4 and later */
int BPF_PROG(uring_submit_req, struct io_kiocb *req)
{
	submitted(address_of(ctx, 0));
	return 0;
}

SEC("tp_btf/io_uring_submit_sqe") /* until 6.3 */
int BPF_PROG(uring_submit_sqe, struct io_kiocb *req)
{
	submitted(address_of(ctx, 0));
	return 0;
}

SEC("tp_btf/io_uring_complete") /* ctx, req, cqe */
int uring_complete_3(u64 *ctx)
{
	struct io_uring_cqe *cqe = (void *)ctx[2];

	completed(ctx[1], BPF_CORE_READ(cqe, res));
	return 0;
}

SEC("tp_btf/io_uring_complete") /* ctx, req, user_data, res, cflags, extra1, extra2 */
int uring_complete_7(u64 *ctx)
{
	completed(ctx[1], (s32)ctx[3]);
	return 0;
}
