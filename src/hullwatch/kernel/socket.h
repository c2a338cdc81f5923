/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sockets: their ends as dictionary ids, and who owns them. An event's object is the server end
 * (address and port: few of them), its second object the client's address, and the client's
 * ephemeral port a number, so that 50,000 connections to one server are one string.
 */
#ifndef HULLWATCH_SOCKET_H
#define HULLWATCH_SOCKET_H

#include "label.h"

enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, IPPROTO_TCP = 6, IPPROTO_UDP = 17 };

/* Who opened a socket: packets and closes happen in any context, long after. */
struct owner {
	u64 proc, cgroup, exec_id, span, bytes_out, bytes_in;
	u32 tid, labels;
	u16 incoming;
	u16 hello; /* a ClientHello was taken from it */
	u32 held;  /* labels of all who have had it in hand; only policy asks for these */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64); /* socket cookie */
	__type(value, struct owner);
} owners SEC(".maps");

/* span and labels: given by the caller, who knows it; asked for here, it would stand on too deep a stack. */
__noinline int own_socket(u64 cookie, u32 incoming, u64 span, u32 labels)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct owner o = { .span = span, .labels = labels, .incoming = incoming };

	if (!cookie)
		return 0;
	o.proc = key_of(task);
	o.cgroup = bpf_get_current_cgroup_id();
	o.exec_id = BPF_CORE_READ(task, self_exec_id);
	o.tid = (u32)bpf_get_current_pid_tgid();
	bpf_map_update_elem(&owners, &cookie, &o, BPF_ANY);
	return 0;
}

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

#define IN_KERNEL (1u << 31) /* in the length of a sockaddr: the kernel's copy of it */

HOT long read_given(void *to, u32 size, u64 from, bool in_kernel)
{
	return in_kernel ? bpf_probe_read_kernel(to, size, (void *)from) : bpf_probe_read_user(to, size, (void *)from);
}

/* Id of a sockaddr of the caller; 0 if it could not be read. */
__noinline u32 user_end(u64 from, u32 len, u32 cls, u64 cgroup)
{
	bool in_kernel = len & IN_KERNEL;
	struct scratch *s;
	struct hw_addr *addr;
	u8 raw[28] = {};
	u16 family = 0;
	u32 used = 4, id;
	long n;

	len &= ~IN_KERNEL;
	if (!from || len < 2 || read_given(&family, 2, from, in_kernel))
		return 0;
	s = scratch_get(cls, cgroup);
	if (!s)
		return 0;
	addr = (void *)&s->data[64];
	__builtin_memset(addr, 0, sizeof(*addr));
	addr->family = family;
	if (family == AF_INET) {
		read_given(raw, 16, from, in_kernel);
		used = addr_v4(addr, *(u32 *)(raw + 4), bpf_ntohs(*(u16 *)(raw + 2)));
	} else if (family == AF_INET6) {
		read_given(raw, 28, from, in_kernel);
		used = addr_v6(addr, raw + 8, bpf_ntohs(*(u16 *)(raw + 2)));
	} else if (family == AF_UNIX && len > 2) {
		read_given(raw, 1, from + 2, in_kernel);
		if (!raw[0]) { /* abstract: every byte counts */
			len -= 2;
			if (len > sizeof(addr->addr))
				len = sizeof(addr->addr);
			FRESH(len);
			if (len <= sizeof(addr->addr) &&
			    !read_given(addr->addr, len, from + 2, in_kernel))
				used = 4 + len;
		} else {
			n = in_kernel ? bpf_probe_read_kernel_str(addr->addr, sizeof(addr->addr), (void *)from + 2)
				      : bpf_probe_read_user_str(addr->addr, sizeof(addr->addr), (void *)from + 2);
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

#endif
