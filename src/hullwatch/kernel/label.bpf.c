/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Labels over what is open already: reads, writes, messages, connections. The calls' exits are
 * looked at only while something carries a label (WHILE_LABELS).
 */
#include "socket.h"

HOT u32 end_of_socket(struct sock *sk, u32 what)
{
	return sock_end((u64)sk, what, HW_LABEL, bpf_get_current_cgroup_id());
}

/* A Unix socket whose other side was labelled: named by its address. */
__noinline int took_of_socket(u64 file_address)
{
	struct file *file = (void *)file_address;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct hw_inode_key key;
	u32 labels;

	inode_key(&key, BPF_CORE_READ(file, f_inode));
	labels = untaken(&key, true);
	labels = labels ? gained(labels) : 0;
	if (labels)
		tell_label(labels, end_of_socket(BPF_CORE_READ(socket, sk), 0), key.ino, AF_UNIX << 16 | HW_LABEL_TOOK);
	return 0;
}

/* A socket that has no inode yet, as nobody has accepted it: by its address, until it has one. */
HOT void waiting_key(struct hw_inode_key *key, struct sock *sk)
{
	key->ino = (u64)sk;
	key->dev = ~0u;
	key->generation = ~0u;
}

__noinline int gave_to_peer(u64 sock, u32 labels)
{
	struct sock *peer = BPF_CORE_READ((struct unix_sock *)sock, peer);
	struct socket *socket;
	struct hw_inode_key key;
	struct inode *inode;

	if (!peer)
		return 0;
	socket = BPF_CORE_READ(peer, sk_socket);
	inode = socket ? BPF_CORE_READ(socket, file, f_inode) : NULL;
	if (inode)
		inode_key(&key, inode);
	else
		waiting_key(&key, peer);
	labels = put_inode(&key, true, labels, false);
	if (labels)
		tell_label(labels, end_of_socket(peer, 0), inode ? key.ino : 0, AF_UNIX << 16 | HW_LABEL_GAVE);
	return 0;
}

/* A connection that was made before its process was labelled: what it now carries away is told. */
__noinline int gave_to_connection(u64 sock, u32 labels)
{
	struct sock *sk = (void *)sock;
	u64 cookie = cookie_of(sk);
	struct owner *o = bpf_map_lookup_elem(&owners, &cookie);
	u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (!o) {
		/* From before the sensor; or closed by the answer to what was sent, as its flow has told. */
		if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
			return 0;
		own_socket(cookie, 0, 0, labels);
	} else {
		if (!(labels & ~o->labels))
			return 0;
		labels &= ~__sync_fetch_and_or(&o->labels, labels);
	}
	if (labels && BPF_CORE_READ(sk, __sk_common.skc_dport))
		tell_label(labels, end_of_socket(sk, REMOTE | WITH_PORT), 0, family << 16 | HW_LABEL_GAVE);
	return 0;
}

HOT bool is_socket(struct file *file)
{
	return (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK;
}

__noinline int took_file(u64 file_address)
{
	return is_socket((void *)file_address) ? took_of_socket(file_address) : took(file_address, 0);
}

__noinline int gave_file(u64 file_address)
{
	struct file *file = (void *)file_address;
	struct socket *socket;
	struct sock *sk;
	u32 labels = own_labels(), family;

	if (!labels)
		return 0;
	if (!is_socket(file))
		return gave(file_address, 0);
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_UNIX)
		return gave_to_peer((u64)sk, labels);
	return is_inet(family) ? gave_to_connection((u64)sk, labels) : 0;
}

/* ---- connections in hand ------------------------------------------------------------------ */

#define MAX_FDS (1 << 20) /* sysctl fs.nr_open */

HOT void hold_file(struct file *file, u32 labels)
{
	struct socket *socket;
	struct owner *o;
	struct sock *sk;
	u64 cookie;

	if (!is_socket(file))
		return;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk || !is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)))
		return;
	cookie = cookie_of(sk);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (o)
		__sync_fetch_and_or(&o->held, labels);
}

static long hold_connection(u32 fd, u32 *labels)
{
	struct file *file = file_of(fd);

	if (file)
		hold_file(file, *labels);
	return 0;
}

/* It is about to be the process in hand's, too. */
__noinline int hold_received(u64 file_address)
{
	u32 labels = own_labels();

	if (labels)
		hold_file((void *)file_address, labels);
	return 0;
}

/*
 * A parent may have opened it, or another process have handed it over. Told when it is written to;
 * policy cannot wait for that, as then the first bytes are on their way.
 */
__noinline int hold_connections(u32 labels)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 count = BPF_CORE_READ(task, files, fdt, max_fds);

	if (!settings.policy || !labels)
		return 0;
	bpf_loop(count < MAX_FDS ? count : MAX_FDS, hold_connection, &labels, 0);
	return 0;
}

/* A message may have brought some. */
__noinline int took_fds(u64 file_address)
{
	struct file *file = (void *)file_address;
	u32 labels = own_labels();
	struct socket *socket;
	struct sock *sk;

	if (!labels || !file || !is_socket(file))
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (sk && BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX)
		hold_connections(labels);
	return 0;
}

/* Families of calls that move data, by which argument is the fd it comes from or goes to. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_data, struct pt_regs *regs, long ret)
{
	int from = -1, to = -1;
	u16 marks, op;
	bool compat;

	if (ret < 0)
		return 0;
	op = call_start(regs, &compat, &marks);
	if (op == HW_OP_recvmsg || op == HW_OP_recvmmsg)
		took_fds((u64)file_of(sock_arg(regs, 0, compat)));
	if (op == HW_OP_pidfd_getfd) {
		hold_connections(own_labels());
		return 0;
	}
	if (!op || !ret)
		return 0;
	switch (op) {
	case HW_OP_write:
	case HW_OP_writev:
	case HW_OP_pwrite64:
	case HW_OP_pwritev:
	case HW_OP_pwritev2:
	case HW_OP_vmsplice:
		to = call_arg(regs, 0, compat);
		break;
	case HW_OP_sendfile:
		to = call_arg(regs, 0, compat);
		from = call_arg(regs, 1, compat);
		break;
	case HW_OP_tee:
		from = call_arg(regs, 0, compat);
		to = call_arg(regs, 1, compat);
		break;
	case HW_OP_splice:
	case HW_OP_copy_file_range:
		from = call_arg(regs, 0, compat);
		to = call_arg(regs, 2, compat);
		break;
	default:
		from = sock_arg(regs, 0, compat);
	}
	took_fd(from);
	gave_fd(to);
	return 0;
}

/* ---- who is outside ----------------------------------------------------------------------- */

struct network { u32 prefix; u8 address[16]; };
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, 1); /* BPF_F_NO_PREALLOC */
	__type(key, struct network); /* IPv4 as ::ffff:a.b.c.d */
	__type(value, u8);
} trusted SEC(".maps");

/* Of private use, local, or no address of one: RFC 1918, 6598, 3927, 4193, 4291. */
HOT bool is_local_v4(u32 net_order)
{
	u32 ip = bpf_ntohl(net_order), top = ip >> 24;

	return top == 0 || top == 10 || top == 127 || top >= 224 || ip >> 20 == 0xac1 || ip >> 16 == 0xc0a8 ||
	       ip >> 16 == 0xa9fe || ip >> 22 == 0x191;
}

HOT bool is_local_v6(const u8 *a)
{
	return a[0] >> 1 == 0x7e || a[0] == 0xff || (a[0] == 0xfe && a[1] >> 6 == 2) ||
	       (*(u64 *)a == 0 && *(u32 *)(a + 8) == 0 && bpf_ntohl(*(u32 *)(a + 12)) <= 1);
}

__noinline int is_outsider(u64 sock)
{
	struct network net = { .prefix = 128 };
	struct sock *sk = (void *)sock;
	u64 words[2] = {};
	u8 *address = (void *)words;
	u32 *ip = (void *)(address + 12);

	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		bpf_core_read(words, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		address[10] = address[11] = 0xff;
		bpf_core_read(ip, 4, &sk->__sk_common.skc_daddr);
	}
	if (is_mapped_v4(address) ? is_local_v4(*ip) : is_local_v6(address))
		return false;
	__builtin_memcpy(net.address, words, sizeof(net.address));
	return !bpf_map_lookup_elem(&trusted, &net);
}

/* Two sockets have met. Whoever talks to somebody outside may be told anything; names are asked of
 * servers that are told nothing but names, so that those do not count. */
__noinline int label_met(u64 sock, u32 cls)
{
	struct sock *sk = (void *)sock;
	u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct hw_inode_key key, now;
	struct hw_inode_labels *l;

	if (family == AF_UNIX && settings.labels) {
		struct sock *waiting = cls == HW_ACCEPT ? sk : BPF_CORE_READ((struct unix_sock *)sk, peer);
		struct inode *inode = BPF_CORE_READ(sk, sk_socket, file, f_inode);

		waiting_key(&key, waiting);
		l = bpf_map_lookup_elem(&labelled_streams, &key);
		if (l && cls == HW_ACCEPT && inode) {
			struct hw_inode_labels labels = *l;

			inode_key(&now, inode);
			bpf_map_update_elem(&labelled_streams, &now, &labels, BPF_ANY);
		}
		if (l) /* or of a socket that was there before, at the same address */
			bpf_map_delete_elem(&labelled_streams, &key);
	}
	if (settings.untrusted && is_inet(family) && is_outsider(sock) &&
	    !(BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP &&
	      BPF_CORE_READ(sk, __sk_common.skc_dport) == bpf_htons(53)) && gained(HW_LABEL_UNTRUSTED))
		tell_label(HW_LABEL_UNTRUSTED, end_of_socket(sk, REMOTE | WITH_PORT), 0,
			   family << 16 | HW_LABEL_TOOK);
	return 0;
}
