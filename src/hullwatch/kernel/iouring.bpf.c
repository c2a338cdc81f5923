/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * io_uring runs file and socket operations without system calls. Opens, connects, binds, listens,
 * accepts and new sockets are taken at their completion, where the result is known; messages and
 * operations on names at their submission, as attempts: their address or name is let go of before
 * they complete. Where a request asks for no completion, its submission is all there is.
 * The tracepoints changed shape over time: the loader picks the program that fits.
 */
#include "syscall.h"

/* What a request carries (io_uring/net.c, openclose.c, fs.c) lies at the start of struct io_kiocb. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct open_how { u64 flags; };
struct io_open { int dfd; u32 file_slot; struct filename *filename; struct open_how how; };
struct io_rename { int old_dfd, new_dfd; struct filename *oldpath, *newpath; int flags; };
struct io_unlink { int dfd, flags; struct filename *filename; };
struct io_mkdir { int dfd; u16 mode; struct filename *filename; };
struct io_link { int old_dfd, new_dfd; struct filename *oldpath, *newpath; int flags; };
struct io_connect { void *addr; int addr_len; };
struct io_socket { int domain, type, protocol; };		       /* 5.19 */
struct io_listen { int backlog; };				       /* 6.11 */
struct io_sr_msg { void *umsg; int msg_flags; u16 addr_len; void *addr; }; /* addr: 6.1 to 6.14 */
struct msghdr { void *msg_name; int msg_namelen; };
struct io_async_msghdr { struct msghdr msg; };
#pragma clang attribute pop

/* include/uapi/linux/io_uring.h, enum io_uring_op: values are ABI. */
enum { IO_READV = 1, IO_WRITEV = 2, IO_READ_FIXED = 4, IO_WRITE_FIXED = 5, IO_RECVMSG = 10, IO_READ = 22,
       IO_WRITE = 23, IO_RECV = 27 };
enum { IO_SENDMSG = 9, IO_ACCEPT = 13, IO_CONNECT = 16, IO_OPENAT = 18, IO_SEND = 26, IO_OPENAT2 = 28,
       IO_RENAMEAT = 35, IO_UNLINKAT = 36, IO_MKDIRAT = 37, IO_SYMLINKAT = 38, IO_LINKAT = 39,
       IO_SOCKET = 45, IO_SEND_ZC = 47, IO_SENDMSG_ZC = 48, IO_BIND = 56, IO_LISTEN = 57 };
enum io_uring_op { IORING_OP_BIND = IO_BIND }; /* 6.11 */

HOT u32 name_path(int dfd, struct filename *name, u32 cls, u64 cgroup)
{
	return joined_path(dfd, (u64)BPF_CORE_READ(name, name), 1, cls, cgroup);
}

/*
 * Where a message is to go. Since 6.10 the kernel has its copy when a request is submitted, of which
 * the caller's can no longer differ; 6.11 is the first that can be told by its types.
 */
HOT u64 destination(struct io_kiocb *req, bool single, u32 *len)
{
	struct io_sr_msg *m = (void *)req;

	if (bpf_core_enum_value_exists(enum io_uring_op, IORING_OP_BIND) &&
	    bpf_core_field_exists(struct io_async_msghdr, msg)) {
		struct io_async_msghdr *copy = BPF_CORE_READ(req, async_data);

		*len = (u32)BPF_CORE_READ(copy, msg.msg_namelen) | IN_KERNEL;
		return (u64)BPF_CORE_READ(copy, msg.msg_name);
	}
	if (!single)
		return message_name((u64)BPF_CORE_READ(m, umsg), false, len);
	if (!bpf_core_field_exists(m->addr))
		return 0;
	*len = BPF_CORE_READ(m, addr_len);
	return (u64)BPF_CORE_READ(m, addr);
}

/* The socket of a request that is not yet running; NULL where it is a registered file. */
HOT struct sock *sock_asked(struct io_kiocb *req, u32 *type)
{
	if (!bpf_core_field_exists(req->cqe) || BPF_CORE_READ(req, flags) & 1) /* REQ_F_FIXED_FILE */
		return NULL;
	return sock_of(BPF_CORE_READ(req, cqe.fd), type);
}

/*
 * A datagram, or a stream opened by its first send. Of a registered file, which is not looked up
 * yet, only the address family is told, and nothing where the message has no address.
 */
__noinline int submitted_message(u64 req_address, u32 single)
{
	struct io_kiocb *req = (void *)req_address;
	u32 len = 0, type = 0, fast_open = BPF_CORE_READ((struct io_sr_msg *)req, msg_flags) & MSG_FASTOPEN;
	u64 name = destination(req, single, &len);
	struct sock *sk = sock_asked(req, &type);
	struct hw_event e;
	u16 family = 0;
	struct who w;
	int how;

	if (name && read_given(&family, sizeof(family), name, len & IN_KERNEL))
		return 0;
	if (sk)
		family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (!is_inet(family) || (type == SOCK_STREAM && !fast_open))
		return 0;
	current_who(&w);
	event_fill(&e, &w, fast_open ? HW_CONNECT : HW_SEND, single ? HW_OP_sendto : HW_OP_sendmsg);
	e.marks = HW_M_IO_URING | HW_M_ATTEMPT;
	e.flags = (u32)family << 16;
	if (sk) {
		e.flags = sock_flags(sk, type);
		e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
		if (fast_open)
			own_socket(cookie_of(sk), 0, w.span, w.labels);
	}
	if (name) {
		e.marks |= HW_M_RAW_PATH;
		e.obj = user_end(name, len, e.cls, w.cgroup);
	} else {
		e.obj = sock_end((u64)sk, REMOTE | WITH_PORT, e.cls, w.cgroup);
	}
	how = asked(&w, &e, e.cls);
	if (!how)
		return 0;
	report(&e, HAS_OBJECT | how);
	return 0;
}

/* Opens under way, by request: one that fails has let go of its name before it completes. */
struct opening { u32 obj, flags; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct opening);
} openings SEC(".maps");

__noinline int submitted_open(u64 req_address)
{
	struct io_open *o = (void *)req_address;
	struct opening opening = {};
	struct hw_event e;
	struct who w;

	current_who(&w);
	event_fill(&e, &w, HW_IO_URING, 0);
	e.marks = HW_M_IO_URING | HW_M_ATTEMPT | HW_M_RAW_PATH;
	e.num = BPF_CORE_READ((struct io_kiocb *)o, opcode);
	opening.obj = name_path(BPF_CORE_READ(o, dfd), BPF_CORE_READ(o, filename), HW_IO_URING, w.cgroup);
	opening.flags = BPF_CORE_READ(o, how.flags);
	bpf_map_update_elem(&openings, &req_address, &opening, BPF_ANY);
	if (opening.obj != SHED)
		e.obj = opening.obj;
	if (!e.obj)
		e.marks |= HW_M_STR_LOST;
	send_vital(&e);
	return 0;
}

/* A function of its own, so that its stack is not below that of the others. */
__noinline int submitted_change(u64 req_address, u32 opcode)
{
	struct io_kiocb *req = (void *)req_address;
	struct hw_event e;
	struct who w;

	current_who(&w);
	event_fill(&e, &w, HW_NONE, 0);
	e.marks = HW_M_IO_URING | HW_M_ATTEMPT | HW_M_RAW_PATH;
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
	return 0;
}

HOT void submitted(u64 req_address)
{
	struct io_kiocb *req = (void *)req_address;
	u8 opcode = BPF_CORE_READ(req, opcode);

	if (is_own())
		return;
	switch (opcode) {
	case IO_SEND:
	case IO_SEND_ZC:
	case IO_SENDMSG:
	case IO_SENDMSG_ZC:
		submitted_message(req_address, opcode == IO_SEND || opcode == IO_SEND_ZC);
		return;
	case IO_OPENAT:
	case IO_OPENAT2:
		submitted_open(req_address);
		return;
	}
	/* The path hooks see these. */
	if (opcode >= IO_RENAMEAT && opcode <= IO_LINKAT && !fixed.lsm_tier)
		submitted_change(req_address, opcode);
}

__noinline int completed_use(u64 req_address, u64 file_address, u32 opcode, s32 res)
{
	struct io_kiocb *req = (void *)req_address;
	struct file *file = (void *)file_address;
	struct use u = { .ret = res, .marks = HW_M_IO_URING };
	struct socket *socket;

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	u.sock = (u64)BPF_CORE_READ(socket, sk);
	u.type = (u16)BPF_CORE_READ(socket, type);
	if (!u.sock)
		return 0;
	if (opcode == IO_CONNECT) {
		u.cls = HW_CONNECT;
		u.op = HW_OP_connect;
		u.name = (u64)BPF_CORE_READ((struct io_connect *)req, addr);
		u.name_len = (u32)BPF_CORE_READ((struct io_connect *)req, addr_len) & ~IN_KERNEL;
	} else if (opcode == IO_ACCEPT) {
		u.cls = HW_ACCEPT;
		u.op = HW_OP_accept4;
	} else if (opcode == IO_BIND) {
		u.cls = HW_BIND;
		u.op = HW_OP_bind;
		/* No name: where the kernel copies it to differs between kernels of one type. */
	} else if (opcode == IO_LISTEN && bpf_core_type_exists(struct io_listen)) {
		u.cls = HW_LISTEN;
		u.op = HW_OP_listen;
		u.num = BPF_CORE_READ((struct io_listen *)req, backlog);
	} else {
		return 0;
	}
	used(&u);
	if (opcode <= IO_CONNECT && (res >= 0 || res == -EINPROGRESS)) /* accept, connect */
		label_met(u.sock, u.cls);
	return 0;
}

/* Apart from opened(): the verifier adds up the stacks of what calls each other, to 512 bytes. */
__noinline int open_ended(u64 req_address, u32 op, s32 res)
{
	struct opening *known = bpf_map_lookup_elem(&openings, &req_address), opening;
	struct hw_event e;
	struct who w;
	int how;

	if (!known)
		return 0;
	opening = *known;
	bpf_map_delete_elem(&openings, &req_address);
	if (res >= 0)
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_OPEN, op);
	e.ret = res;
	e.flags = opening.flags;
	e.marks = HW_M_IO_URING | HW_M_RAW_PATH;
	e.obj = opening.obj;
	how = asked(&w, &e, HW_OPEN | (e.flags & O_ACCMODE ? HW_ACTION_WRITE : 0));
	if (!how)
		return 0;
	report(&e, HAS_OBJECT | how);
	return 0;
}

/* Data has moved: labels go with it (label.h). */
HOT void transferred(u64 file, u32 opcode)
{
	u64 reads = 1ULL << IO_READV | 1ULL << IO_READ_FIXED | 1ULL << IO_RECVMSG | 1ULL << IO_READ | 1ULL << IO_RECV;
	u64 writes = 1ULL << IO_WRITEV | 1ULL << IO_WRITE_FIXED | 1ULL << IO_SENDMSG | 1ULL << IO_WRITE |
		     1ULL << IO_SEND | 1ULL << IO_SEND_ZC | 1ULL << IO_SENDMSG_ZC;

	if (!file || opcode > 63)
		return;
	if (reads >> opcode & 1)
		took_file(file);
	if (writes >> opcode & 1)
		gave_file(file);
}

HOT void completed(u64 req_address, s32 res)
{
	struct io_kiocb *req = (void *)req_address;
	struct io_socket *made = (void *)req;
	struct file *file;
	u8 opcode;

	if (!req)
		return;
	opcode = BPF_CORE_READ(req, opcode);
	if (opcode == IO_RENAMEAT)
		directories_moved();
	if (settings.labels && res > 0 && !is_own())
		transferred((u64)BPF_CORE_READ(req, file), opcode);
	if (settings.labels && res >= 0 && opcode == IO_RECVMSG && !is_own())
		took_fds((u64)BPF_CORE_READ(req, file));
	switch (opcode) {
	case IO_ACCEPT:
	case IO_CONNECT:
	case IO_BIND:
	case IO_LISTEN:
		if (is_own() || (opcode == IO_ACCEPT && res < 0))
			return;
		file = opcode == IO_ACCEPT ? file_of(res) : BPF_CORE_READ(req, file);
		if (file)
			completed_use(req_address, (u64)file, opcode, res);
		return;
	case IO_SOCKET:
		if (!is_own() && bpf_core_type_exists(struct io_socket))
			made_socket(HW_OP_socket | HW_M_IO_URING << 16, res, BPF_CORE_READ(made, domain),
				    BPF_CORE_READ(made, type), BPF_CORE_READ(made, protocol));
		return;
	case IO_OPENAT:
	case IO_OPENAT2:
		if (is_own())
			return;
		open_ended(req_address, opcode == IO_OPENAT ? HW_OP_openat : HW_OP_openat2, res);
		file = res < 0 || fixed.lsm_tier ? NULL : file_of(res);
		if (file)
			opened((u64)file, (opcode == IO_OPENAT ? HW_OP_openat : HW_OP_openat2) | HW_M_IO_URING << 16,
			       res, BPF_CORE_READ(file, f_flags), 0);
		if (file && settings.labels)
			label_opened((u64)file);
	}
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
