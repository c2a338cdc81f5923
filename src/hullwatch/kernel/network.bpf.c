/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Network. An event's object is the server end (address and port: few of them), its second object
 * the client's address, and the client's ephemeral port a number, so that 50,000 connections to one
 * server are one string. DNS messages and TLS ClientHellos are copied out for user space to parse.
 */
#include "syscall.h"

#define PACKET_ROOM 4096

enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, IPPROTO_TCP = 6, IPPROTO_UDP = 17 };
enum { TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_CLOSE = 7, TCP_LISTEN = 10 };

/* Who opened a socket: packets and closes happen in any context, long after. */
struct owner {
	u64 proc, cgroup, exec_id, bytes_out, bytes_in;
	u32 tid;
	u16 incoming;
	u16 hello; /* a ClientHello was taken from it */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64); /* socket cookie */
	__type(value, struct owner);
} owners SEC(".maps");

__noinline int own_socket(u64 cookie, u32 incoming)
{
	struct owner o = {};
	struct who w;

	if (!cookie)
		return 0;
	current_who(&w);
	o.proc = w.proc;
	o.cgroup = w.cgroup;
	o.exec_id = w.exec_id;
	o.tid = w.tid;
	o.incoming = incoming;
	bpf_map_update_elem(&owners, &cookie, &o, BPF_ANY);
	return 0;
}

/* ---- addresses ---------------------------------------------------------------------------- */

HOT bool is_mapped_v4(const u8 *in6)
{
	return *(u64 *)in6 == 0 && *(u32 *)(in6 + 8) == bpf_htonl(0xffff);
}

/* An IPv4-mapped IPv6 address is the IPv4 address: one destination, one name. Returns bytes used. */
HOT u32 addr_v6(struct hw_addr *addr, const u8 *in6, u16 port)
{
	addr->port = port;
	if (is_mapped_v4(in6)) {
		addr->family = AF_INET;
		__builtin_memcpy(addr->addr, in6 + 12, 4);
		return 8;
	}
	addr->family = AF_INET6;
	__builtin_memcpy(addr->addr, in6, 16);
	return 20;
}

HOT u32 addr_v4(struct hw_addr *addr, u32 ip, u16 port)
{
	addr->family = AF_INET;
	addr->port = port;
	__builtin_memcpy(addr->addr, &ip, 4);
	return 8;
}

/* skc_num is cleared before a socket's last state change; inet_sport is not. */
HOT u16 local_port(struct sock *sk)
{
	u16 port = BPF_CORE_READ(sk, __sk_common.skc_num);

	return port ? port : bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

#define REMOTE 1
#define WITH_PORT 2

/* Id of one end of a socket, as the kernel has it; without WITH_PORT, of the address only. */
__noinline u32 sock_end(u64 sock, u32 what, u32 cls, u64 cgroup)
{
	struct scratch *s = scratch_get(cls, cgroup);
	struct sock *sk = (void *)sock;
	struct hw_addr *addr;
	u16 family = 0, port = 0;
	u32 len = 4, ip = 0, id;
	u8 in6[16];

	if (!s)
		return 0;
	addr = (void *)&s->data[64];
	__builtin_memset(addr, 0, sizeof(*addr));
	bpf_core_read(&family, 2, &sk->__sk_common.skc_family);
	if (what & WITH_PORT) {
		if (what & REMOTE) {
			bpf_core_read(&port, 2, &sk->__sk_common.skc_dport);
			port = bpf_ntohs(port);
		} else {
			port = local_port(sk);
		}
	}
	if (family == AF_INET) {
		if (what & REMOTE)
			bpf_core_read(&ip, 4, &sk->__sk_common.skc_daddr);
		else
			bpf_core_read(&ip, 4, &sk->__sk_common.skc_rcv_saddr);
		len = addr_v4(addr, ip, port);
	} else if (family == AF_INET6) {
		if (what & REMOTE)
			bpf_core_read(in6, 16, &sk->__sk_common.skc_v6_daddr);
		else
			bpf_core_read(in6, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		len = addr_v6(addr, in6, port);
	} else if (family == AF_UNIX) {
		struct unix_address *name = NULL;
		int n = 0;

		addr->family = AF_UNIX;
		bpf_core_read(&name, 8, &((struct unix_sock *)sk)->addr);
		if (name)
			bpf_core_read(&n, 4, &name->len);
		if (n > 2 && n <= 110) {
			bpf_probe_read_kernel(addr->addr, sizeof(addr->addr),
					      (void *)name + bpf_core_field_offset(struct unix_address, name) + 2);
			len = addr->addr[0] ? n + 1 : n + 2; /* the NUL of a path is left out */
		}
	} else {
		addr->family = family;
	}
	id = intern_at(s, 64, len, HW_S_ADDR | BULK_STRING, len);
	scratch_put(s);
	return id;
}

/* Id of a sockaddr of the caller; 0 if it could not be read. */
__noinline u32 user_end(u64 from, u32 len, u32 cls, u64 cgroup)
{
	struct scratch *s;
	struct hw_addr *addr;
	u8 raw[28] = {};
	u16 family = 0;
	u32 used = 4, id;
	long n;

	if (!from || len < 2 || bpf_probe_read_user(&family, 2, (void *)from))
		return 0;
	s = scratch_get(cls, cgroup);
	if (!s)
		return 0;
	addr = (void *)&s->data[64];
	__builtin_memset(addr, 0, sizeof(*addr));
	addr->family = family;
	if (family == AF_INET) {
		bpf_probe_read_user(raw, 16, (void *)from);
		used = addr_v4(addr, *(u32 *)(raw + 4), bpf_ntohs(*(u16 *)(raw + 2)));
	} else if (family == AF_INET6) {
		bpf_probe_read_user(raw, 28, (void *)from);
		used = addr_v6(addr, raw + 8, bpf_ntohs(*(u16 *)(raw + 2)));
	} else if (family == AF_UNIX && len > 2) {
		bpf_probe_read_user(raw, 1, (void *)from + 2);
		if (!raw[0]) { /* abstract: every byte counts */
			len -= 2;
			if (len > sizeof(addr->addr))
				len = sizeof(addr->addr);
			FRESH(len);
			if (len <= sizeof(addr->addr) &&
			    !bpf_probe_read_user(addr->addr, len, (void *)from + 2))
				used = 4 + len;
		} else {
			n = bpf_probe_read_user_str(addr->addr, sizeof(addr->addr), (void *)from + 2);
			if (n > 1 && n <= sizeof(addr->addr))
				used = 4 + n - 1;
		}
	}
	id = intern_at(s, 64, used, HW_S_ADDR | BULK_STRING, used);
	scratch_put(s);
	return id;
}

/* Id of an address that came with a packet or a cgroup hook. */
HOT u32 plain_end(const u8 *ip, bool v6, u16 port, u32 cls, u64 cgroup)
{
	struct scratch *s = scratch_get(cls, cgroup);
	struct hw_addr *addr;
	u32 len, id;

	if (!s)
		return 0;
	addr = (void *)&s->data[64];
	__builtin_memset(addr, 0, sizeof(*addr));
	len = v6 ? addr_v6(addr, ip, port) : addr_v4(addr, *(u32 *)ip, port);
	id = intern_at(s, 64, len, HW_S_ADDR, len);
	scratch_put(s);
	return id;
}

HOT struct sock *sock_of(int fd, u32 *type)
{
	struct file *file = file_of(fd);
	struct socket *socket;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	*type = (u16)BPF_CORE_READ(socket, type);
	return BPF_CORE_READ(socket, sk);
}

HOT u32 sock_flags(struct sock *sk, u32 type)
{
	return (u32)BPF_CORE_READ(sk, __sk_common.skc_family) << 16 | (type & 0xff) << 8 |
	       (BPF_CORE_READ(sk, sk_protocol) & 0xff);
}

HOT u64 cookie_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

HOT bool is_inet(u32 family)
{
	return family == AF_INET || family == AF_INET6;
}

/* ---- system calls ------------------------------------------------------------------------- */

/* connect and bind: an address given by the caller, checked against what the kernel made of it. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_addr, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	u32 type = 0, family;
	struct hw_event e;
	struct sock *sk;
	struct who w;
	bool known;
	u16 cls;

	if (!op)
		return 0;
	cls = op == HW_OP_bind ? HW_BIND : HW_CONNECT;
	sk = sock_of(sock_arg(regs, 0, compat), &type);
	if (!sk)
		return 0;
	current_who(&w);
	event_fill(&e, &w, cls, op);
	e.ret = ret;
	e.marks = marks;
	e.flags = sock_flags(sk, type);
	family = e.flags >> 16;
	known = is_inet(family) && (ret == 0 || ret == -EINPROGRESS) &&
		(cls == HW_BIND ? BPF_CORE_READ(sk, __sk_common.skc_num) : BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (known) {
		e.obj = sock_end((u64)sk, WITH_PORT | (cls == HW_CONNECT ? REMOTE : 0), cls, w.cgroup);
	} else {
		if (is_inet(family))
			e.marks |= HW_M_RAW_PATH;
		e.obj = user_end(sock_arg(regs, 1, compat), sock_arg(regs, 2, compat), cls, w.cgroup);
		if (!e.obj)
			e.marks |= HW_M_UNREADABLE;
	}
	if (cls == HW_CONNECT && is_inet(family)) {
		own_socket(cookie_of(sk), 0);
		e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	}
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, cls))
		return 0;
	if (cls == HW_CONNECT && is_inet(family) && e.obj != SHED)
		e.obj2 = sock_end((u64)sk, 0, cls, w.cgroup);
	report(&e, known);
	return 0;
}

/* listen and accept: both ends are the kernel's. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_sock, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	struct hw_event e;
	struct sock *sk;
	struct who w;
	u32 type = 0;
	u16 cls;

	if (!op)
		return 0;
	cls = op == HW_OP_listen ? HW_LISTEN : HW_ACCEPT;
	if (cls == HW_ACCEPT && ret < 0)
		return 0;
	sk = sock_of(cls == HW_LISTEN ? (int)sock_arg(regs, 0, compat) : (int)ret, &type);
	if (!sk)
		return 0;
	current_who(&w);
	event_fill(&e, &w, cls, op);
	e.ret = ret;
	e.marks = marks;
	e.flags = sock_flags(sk, type);
	if (cls == HW_LISTEN)
		e.num = (u32)sock_arg(regs, 1, compat);
	e.obj = sock_end((u64)sk, WITH_PORT, cls, w.cgroup);
	if (cls == HW_ACCEPT && is_inet(e.flags >> 16)) {
		own_socket(cookie_of(sk), 1);
		e.port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	}
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, cls))
		return 0;
	if (cls == HW_ACCEPT && is_inet(e.flags >> 16) && e.obj != SHED)
		e.obj2 = sock_end((u64)sk, REMOTE, cls, w.cgroup);
	report(&e, true);
	return 0;
}

/* Unusual sockets only (raw, packet, vsock, alg ...): the others show when they are used. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_socket, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	u32 family, type, protocol;
	struct hw_event e;
	struct who w;

	if (!op)
		return 0;
	family = sock_arg(regs, 0, compat);
	type = sock_arg(regs, 1, compat) & 0xff;
	protocol = sock_arg(regs, 2, compat);
	if (!settings.record_mode &&
	    (family == AF_UNIX || family == 16 || (is_inet(family) && type <= SOCK_DGRAM)))
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_SOCKET, op);
	e.ret = ret;
	e.marks = marks;
	e.num = protocol;
	e.flags = family << 16 | type << 8 | (protocol & 0xff);
	report(&e, false);
	return 0;
}

/* One datagram, to `name` of the caller or to where the socket is connected. */
__noinline int sent(u64 sock, u32 op_marks, s32 bytes, u64 name, u32 name_len)
{
	struct sock *sk = (void *)sock;
	struct hw_event e;
	struct who w;

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
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, HW_SEND))
		return 0;
	report(&e, true);
	return 0;
}

/* A stream opened by its first send (TCP Fast Open), without connect. */
__noinline int sent_fast_open(u64 sock, u32 op_marks, s32 ret)
{
	struct sock *sk = (void *)sock;
	struct hw_event e;
	struct who w;

	current_who(&w);
	event_fill(&e, &w, HW_CONNECT, op_marks & 0xffff);
	e.ret = ret < 0 ? ret : 0;
	e.marks = op_marks >> 16;
	e.flags = sock_flags(sk, BPF_CORE_READ(sk, sk_type));
	e.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	own_socket(cookie_of(sk), 0);
	e.obj = sock_end((u64)sk, REMOTE | WITH_PORT, HW_CONNECT, w.cgroup);
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, HW_CONNECT))
		return 0;
	e.obj2 = sock_end((u64)sk, 0, HW_CONNECT, w.cgroup);
	report(&e, true);
	return 0;
}

/* Head of struct user_msghdr, or of its 32-bit form: the address and its length. */
HOT u64 message_name(u64 message, bool compat, u32 *len)
{
	u64 head[2] = {};

	bpf_probe_read_user(head, sizeof(head), (void *)message);
	*len = compat ? head[0] >> 32 : head[1];
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
	u32 name_len = 0, type = 0, op_marks = op | (u32)marks << 16;
	u64 name = 0;
	struct sock *sk;

	if (!op)
		return 0;
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
		name_len = sock_arg(regs, 5, compat);
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

/* ---- flows -------------------------------------------------------------------------------- */

HOT void flow_end(struct sock *sk, u64 cookie, struct owner *o, u32 type, s32 state)
{
	bool incoming = o->incoming;
	struct who w = { .proc = o->proc, .cgroup = o->cgroup, .exec_id = o->exec_id, .tid = o->tid };
	struct hw_event e;

	event_fill(&e, &w, HW_FLOW, 0);
	e.num = o->bytes_out;
	e.num2 = o->bytes_in;
	e.ret = state;
	e.flags = sock_flags(sk, type);
	bpf_map_delete_elem(&owners, &cookie);
	e.obj = sock_end((u64)sk, WITH_PORT | (incoming ? 0 : REMOTE), HW_FLOW, w.cgroup);
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, HW_FLOW))
		return;
	e.port = incoming ? bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport))
			  : local_port(sk);
	e.obj2 = sock_end((u64)sk, incoming ? REMOTE : 0, HW_FLOW, w.cgroup);
	report(&e, true);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int old, int new)
{
	struct tcp_sock *tcp = (void *)sk;
	struct owner *o;
	u64 cookie;

	if (new == TCP_ESTABLISHED)
		bpf_get_socket_cookie(sk); /* gives an accepted socket its cookie, before accept returns it */
	if (new != TCP_CLOSE || old == TCP_LISTEN || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	cookie = cookie_of(sk);
	if (!cookie)
		return 0;
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (!o)
		return 0;
	o->bytes_out = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	/* The peer's FIN counts as a byte; tcp_fin sets SOCK_DONE (bit 1) right after it was counted. */
	o->bytes_in = BPF_CORE_READ(tcp, bytes_received) - (BPF_CORE_READ(sk, __sk_common.skc_flags) >> 1 & 1);
	flow_end((void *)address_of(ctx, 0), cookie, o, SOCK_STREAM, old);
	return 0;
}

/* ---- cgroup hooks ------------------------------------------------------------------------- */

/* Every inet socket gets a cookie and an owner when it is made, in the context of its maker. */
SEC("cgroup/sock_create")
int sock_made(struct bpf_sock *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);

	if (ctx->protocol == IPPROTO_UDP)
		own_socket(cookie, 0);
	return 1;
}

SEC("cgroup/sock_release")
int sock_gone(struct bpf_sock *ctx)
{
	struct hw_event e;
	struct owner *o;
	struct who w;
	u64 cookie;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (!o)
		return 1;
	w.proc = o->proc;
	w.cgroup = o->cgroup;
	w.exec_id = o->exec_id;
	w.tid = o->tid;
	event_fill(&e, &w, HW_FLOW, 0);
	e.num = o->bytes_out;
	e.num2 = o->bytes_in;
	bpf_map_delete_elem(&owners, &cookie);
	if (!e.num && !e.num2)
		return 1;
	e.flags = ctx->family << 16 | SOCK_DGRAM << 8 | IPPROTO_UDP;
	/* An unconnected socket has no one remote end; its sends and the bytes in all are known. */
	if (ctx->dst_port) {
		u32 ip[4] = {}, v4 = ctx->dst_ip4, v6 = ctx->dst_ip6[0];

		FRESH(v4); /* two loads, not one through a chosen pointer into the context */
		FRESH(v6);
		ip[0] = v4;
		if (ctx->family != AF_INET) {
			ip[0] = v6;
			ip[1] = ctx->dst_ip6[1];
			ip[2] = ctx->dst_ip6[2];
			ip[3] = ctx->dst_ip6[3];
		}
		e.obj = plain_end((u8 *)ip, ctx->family != AF_INET, bpf_ntohs(ctx->dst_port), HW_FLOW, w.cgroup);
	}
	if (e.obj && e.obj != SHED && !wanted(&w, e.obj, HW_FLOW))
		return 1;
	report(&e, false);
	return 1;
}

struct layers { u32 payload; u32 len; u16 sport, dport; u8 proto; u8 v6; u8 src[16], dst[16]; };

/* Where the payload of a TCP or UDP packet starts. Extension headers of IPv6 are not followed. */
HOT bool find_layers(struct __sk_buff *skb, struct layers *l)
{
	u8 head[40];
	u32 at;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return false;
	if (head[0] >> 4 == 4) {
		at = (head[0] & 15) * 4;
		l->proto = head[9];
		l->v6 = 0;
		__builtin_memcpy(l->src, head + 12, 4);
		__builtin_memcpy(l->dst, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return false;
		at = 40;
		l->proto = head[6];
		l->v6 = 1;
		__builtin_memcpy(l->src, head + 8, 16);
		__builtin_memcpy(l->dst, head + 24, 16);
	}
	if (l->proto != IPPROTO_TCP && l->proto != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, at, head, 8))
		return false;
	l->sport = bpf_ntohs(*(u16 *)head);
	l->dport = bpf_ntohs(*(u16 *)(head + 2));
	if (l->proto == IPPROTO_UDP) {
		l->payload = at + 8;
	} else {
		if (bpf_skb_load_bytes(skb, at + 12, head, 1))
			return false;
		l->payload = at + (head[0] >> 4) * 4;
	}
	if (skb->len <= l->payload)
		return false;
	l->len = skb->len - l->payload;
	return true;
}

HOT void copy_packet(struct __sk_buff *skb, const struct layers *l, const struct owner *o, u64 cgroup,
		     u16 cls, u16 outgoing)
{
	u32 len = l->len, end = plain_end(outgoing ? l->dst : l->src, l->v6,
					  outgoing ? l->dport : l->sport, cls, cgroup);
	struct scratch *s = scratch_get(cls, cgroup);
	struct hw_packet *p;

	if (!s)
		return;
	p = (void *)s->data;
	__builtin_memset(p, 0, sizeof(*p));
	p->ts = bpf_ktime_get_boot_ns();
	p->cgroup = cgroup;
	p->obj = end;
	p->cls = cls;
	p->outgoing = outgoing;
	if (o) {
		p->proc = o->proc;
		p->tid = o->tid;
	}
	if (len > PACKET_ROOM)
		len = PACKET_ROOM;
	/* never 0 here; written so that every verifier sees 1 .. PACKET_ROOM */
	len = ((len - 1) & (PACKET_ROOM - 1)) + 1;
	p->len = len;
	if (bpf_skb_load_bytes(skb, l->payload, p + 1, len) == 0 &&
	    bpf_ringbuf_output(&packets, p, sizeof(*p) + len, 0))
		lost(HW_L_PACKET, cls, cgroup);
	scratch_put(s);
}

HOT int packet(struct __sk_buff *skb, u16 outgoing)
{
	struct layers l;
	struct owner *o;
	u64 cookie, cgroup;
	u8 head[6];

	if (!find_layers(skb, &l))
		return 1;
	if (l.proto == IPPROTO_TCP) {
		/* Streams are counted by the kernel: only the first bytes of a client matter. */
		if (!outgoing || l.len < 43 || bpf_skb_load_bytes(skb, l.payload, head, 6))
			return 1;
		if (head[0] != 22 || head[1] != 3 || head[5] != 1)
			return 1;
		cookie = bpf_get_socket_cookie(skb);
		o = bpf_map_lookup_elem(&owners, &cookie);
		if (o && o->hello)
			return 1;
		if (o)
			o->hello = 1;
		copy_packet(skb, &l, o, o ? o->cgroup : bpf_skb_cgroup_id(skb), HW_TLS, 1);
		return 1;
	}
	cookie = bpf_get_socket_cookie(skb);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (o)
		__sync_fetch_and_add(outgoing ? &o->bytes_out : &o->bytes_in, l.len);
	if ((outgoing ? l.dport : l.sport) != 53 || l.len < 12)
		return 1;
	cgroup = o ? o->cgroup : bpf_skb_cgroup_id(skb);
	copy_packet(skb, &l, o, cgroup, HW_DNS, outgoing);
	return 1;
}

SEC("cgroup_skb/egress")
int packet_out(struct __sk_buff *skb)
{
	return packet(skb, 1);
}

SEC("cgroup_skb/ingress")
int packet_in(struct __sk_buff *skb)
{
	return packet(skb, 0);
}
