/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Network, as programs ask for it: socket, connect, bind, listen, accept, datagrams, dup. */
#include "socket.h"

/* What connect, bind, listen and accept have in common. */
struct use {
	u64 sock;
	u64 name; /* the address that the caller gave to connect or bind */
	u32 name_len;
	u32 type, num;
	s32 ret;
	u16 cls, op, marks, pad;
};

__noinline int used(struct use *u)
{
	bool inet, known = true;
	struct hw_event e;
	struct sock *sk;
	struct who w;
	int how;

	if (!u)
		return 0;
	sk = (void *)u->sock;
	current_who(&w);
	event_fill(&e, &w, u->cls, u->op);
	e.ret = u->ret;
	e.marks = u->marks;
	e.num = u->num;
	e.flags = sock_flags(sk, u->type);
	inet = is_inet(e.flags >> 16);
	/* What the caller gave is believed only where the kernel has made nothing of it. */
	if (e.cls == HW_CONNECT || e.cls == HW_BIND)
		known = (e.ret == 0 || e.ret == -EINPROGRESS) &&
			(!inet		    ? !u->name
			 : e.cls == HW_BIND ? BPF_CORE_READ(sk, __sk_common.skc_num) != 0
					    : BPF_CORE_READ(sk, __sk_common.skc_dport) != 0);
	if (known) {
		e.obj = sock_end(u->sock, WITH_PORT | (e.cls == HW_CONNECT ? REMOTE : 0), e.cls, w.cgroup);
	} else {
		if (inet && u->name)
			e.marks |= HW_M_RAW_PATH;
		e.obj = user_end(u->name, u->name_len, e.cls, w.cgroup);
		if (!e.obj)
			e.marks |= HW_M_UNREADABLE;
	}
	inet = inet && (e.cls == HW_CONNECT || e.cls == HW_ACCEPT);
	if (inet) {
		own_socket(cookie_of(sk), e.cls == HW_ACCEPT, w.span, w.labels);
		e.port = e.cls == HW_ACCEPT ? bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport))
					    : BPF_CORE_READ(sk, __sk_common.skc_num);
	}
	how = asked(&w, &e, e.cls);
	if (!how)
		return 0;
	if (inet && e.obj != SHED)
		e.obj2 = sock_end(u->sock, e.cls == HW_ACCEPT ? REMOTE : 0, e.cls, w.cgroup);
	report(&e, (known ? HAS_OBJECT : 0) | how);
	return 0;
}

/* connect and bind: an address given by the caller, checked against what the kernel made of it. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_addr, struct pt_regs *regs, long ret)
{
	struct use u = { .ret = ret };
	bool compat;

	u.op = call_start(regs, &compat, &u.marks);
	if (!u.op)
		return 0;
	u.cls = u.op == HW_OP_bind ? HW_BIND : HW_CONNECT;
	u.marks |= held_mark();
	u.sock = (u64)sock_of(sock_arg(regs, 0, compat), &u.type);
	u.name = sock_arg(regs, 1, compat);
	u.name_len = sock_arg(regs, 2, compat) & ~IN_KERNEL;
	if (u.sock)
		used(&u);
	if (u.sock && u.cls == HW_CONNECT && (ret == 0 || ret == -EINPROGRESS))
		label_met(u.sock, HW_CONNECT);
	return 0;
}

/* listen and accept: both ends are the kernel's. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_sock, struct pt_regs *regs, long ret)
{
	struct use u = { .ret = ret };
	bool compat;

	u.op = call_start(regs, &compat, &u.marks);
	if (!u.op)
		return 0;
	u.cls = u.op == HW_OP_listen ? HW_LISTEN : HW_ACCEPT;
	if (u.cls == HW_ACCEPT && ret < 0)
		return 0;
	u.sock = (u64)sock_of(u.cls == HW_LISTEN ? (int)sock_arg(regs, 0, compat) : (int)ret, &u.type);
	if (u.cls == HW_LISTEN)
		u.num = sock_arg(regs, 1, compat);
	if (u.sock)
		used(&u);
	if (u.sock && u.cls == HW_ACCEPT)
		label_met(u.sock, HW_ACCEPT);
	return 0;
}

/* Unusual sockets only (raw, packet, vsock, alg ...): the others show when they are used. */
__noinline int made_socket(u32 op_marks, s32 ret, u32 family, u32 type, u32 protocol)
{
	struct hw_event e;
	struct who w;

	type &= 0xff;
	if (!settings.record_mode &&
	    (family == AF_UNIX || family == 16 || (is_inet(family) && type <= SOCK_DGRAM)))
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_SOCKET, op_marks & 0xffff);
	e.ret = ret;
	e.marks = op_marks >> 16;
	e.num = protocol;
	e.flags = family << 16 | type << 8 | (protocol & 0xff);
	report(&e, AS_BULK);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_socket, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);

	if (op)
		made_socket(op | (u32)marks << 16, ret, sock_arg(regs, 0, compat), sock_arg(regs, 1, compat),
			    sock_arg(regs, 2, compat));
	return 0;
}

/* One datagram, to `name` of the caller or to where the socket is connected. */
__noinline int sent(u64 sock, u32 op_marks, s32 bytes, u64 name, u32 name_len)
{
	struct sock *sk = (void *)sock;
	struct hw_event e;
	struct who w;
	int how;

	current_who(&w);
	event_fill(&e, &w, HW_SEND, op_marks & 0xffff);
	e.ret = bytes;
	e.marks = op_marks >> 16;
	e.num = bytes > 0 ? bytes : 0;
	e.flags = sock_flags(sk, BPF_CORE_READ(sk, sk_type));
	e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (name)
		e.obj = user_end(name, name_len, HW_SEND, w.cgroup);
	else
		e.obj = sock_end((u64)sk, REMOTE | WITH_PORT, HW_SEND, w.cgroup);
	if (!e.obj)
		e.marks |= HW_M_UNREADABLE;
	how = asked(&w, &e, HW_SEND);
	if (!how)
		return 0;
	report(&e, HAS_OBJECT | how);
	return 0;
}

/* A stream opened by its first send (TCP Fast Open), without connect. */
__noinline int sent_fast_open(u64 sock, u32 op_marks, s32 ret)
{
	struct sock *sk = (void *)sock;
	struct hw_event e;
	struct who w;
	int how;

	current_who(&w);
	event_fill(&e, &w, HW_CONNECT, op_marks & 0xffff);
	e.ret = ret < 0 ? ret : 0;
	e.marks = op_marks >> 16;
	e.flags = sock_flags(sk, BPF_CORE_READ(sk, sk_type));
	e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	own_socket(cookie_of(sk), 0, w.span, w.labels);
	e.obj = sock_end((u64)sk, REMOTE | WITH_PORT, HW_CONNECT, w.cgroup);
	how = asked(&w, &e, HW_CONNECT);
	if (!how)
		return 0;
	e.obj2 = sock_end((u64)sk, 0, HW_CONNECT, w.cgroup);
	report(&e, HAS_OBJECT | how);
	return 0;
}

/* Head of struct user_msghdr, or of its 32-bit form: the address and its length. */
HOT u64 message_name(u64 message, bool compat, u32 *len)
{
	u64 head[2] = {};

	bpf_probe_read_user(head, sizeof(head), (void *)message);
	*len = (compat ? head[0] >> 32 : head[1]) & ~IN_KERNEL;
	return compat ? (u32)head[0] : head[0];
}

struct many { u64 sock, messages; u32 op_marks; bool compat; };

/* struct mmsghdr: a message and how much of it was sent. */
static long sent_step(u32 i, struct many *m)
{
	u64 at = m->messages + (u64)i * (m->compat ? 32 : 64), name;
	u32 len, bytes = 0;

	name = message_name(at, m->compat, &len);
	bpf_probe_read_user(&bytes, sizeof(bytes), (void *)at + (m->compat ? 28 : 56));
	sent(m->sock, m->op_marks, bytes, name, len);
	return 0;
}

#define MSG_FASTOPEN 0x20000000

/* Datagrams; a stream's bytes are counted when it closes. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_send, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	u32 name_len = 0, type = 0, op_marks = op;
	u64 name = 0;
	struct sock *sk;

	if (!op)
		return 0;
	op_marks |= (u32)(marks | held_mark()) << 16;
	if (settings.labels && ret > 0)
		gave_fd(sock_arg(regs, 0, compat));
	sk = sock_of(sock_arg(regs, 0, compat), &type);
	if (!sk || !is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)))
		return 0;
	if (type == SOCK_STREAM) {
		if (sock_arg(regs, op == HW_OP_sendmsg ? 2 : 3, compat) & MSG_FASTOPEN)
			sent_fast_open((u64)sk, op_marks, ret);
		return 0;
	}
	if (op == HW_OP_sendmmsg && ret > 0) {
		struct many m = {
			.sock = (u64)sk, .messages = sock_arg(regs, 1, compat), .op_marks = op_marks, .compat = compat,
		};

		bpf_loop(ret > 1024 ? 1024 : ret, sent_step, &m, 0); /* UIO_MAXIOV */
		return 0;
	}
	if (is_socketcall(regs, compat) && socketcall_number(regs) == 9) {
		/* send(2): no address, and no argument where it would be */
	} else if (op == HW_OP_sendto) {
		name = sock_arg(regs, 4, compat);
		name_len = sock_arg(regs, 5, compat) & ~IN_KERNEL;
	} else {
		name = message_name(sock_arg(regs, 1, compat), compat, &name_len);
	}
	sent((u64)sk, op_marks, ret, name, name_len);
	return 0;
}

/* A socket becomes stdin, stdout or stderr: the mark of a reverse shell. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_dup, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op;
	struct hw_event e;
	struct sock *sk;
	struct who w;
	u32 type = 0;

	if (ret < 0 || ret > 2)
		return 0;
	op = call_start(regs, &compat, &marks);
	if (!op)
		return 0;
	sk = sock_of(ret, &type);
	if (!sk || !is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)))
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_DUP, op);
	e.ret = ret;
	e.marks = marks;
	e.num = (u32)call_arg(regs, 0, compat);
	e.flags = sock_flags(sk, type);
	e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	e.obj = sock_end((u64)sk, REMOTE | WITH_PORT, HW_DUP, w.cgroup);
	e.obj2 = sock_end((u64)sk, 0, HW_DUP, w.cgroup);
	send_vital(&e);
	return 0;
}
