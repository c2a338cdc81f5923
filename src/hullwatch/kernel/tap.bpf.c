/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The tap on system calls: an own program, attached only where the tap is on, as reads and writes are
 * what programs do most. Not seen: io_uring, splice, sendfile, and 32-bit calls.
 */
#include "tap.h"

/* How a call hands over bytes. */
enum { SHAPE_NONE = 0, SHAPE_BUFFER = 1, SHAPE_VECTOR = 2, SHAPE_MESSAGE = 3 };
struct tap_call { u8 shape, received, pad[2]; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NATIVE_CALLS);
	__type(key, u32);
	__type(value, struct tap_call);
} tap_calls SEC(".maps");

/* include/linux/socket.h: struct user_msghdr */
struct user_msghdr { u64 name; u32 name_len, pad; u64 vector, count; };

SEC("tp_btf/sys_exit")
int BPF_PROG(tap_exit, struct pt_regs *regs, long ret)
{
	u32 nr = call_number(regs), tgid, type;
	struct tap_vector first = {};
	struct user_msghdr message;
	struct tap_call *call;
	struct tap_io io = {};
	struct sock *sk = NULL;
	struct file *file;
	u64 *known;

	if (ret < 0 || nr >= NATIVE_CALLS)
		return 0;
	call = bpf_map_lookup_elem(&tap_calls, &nr);
	if (!call || !call->shape || (!ret && !call->received) || is_compat() || is_own())
		return 0;
	io.received = call->received;
	io.total = ret;
	io.base = call_arg(regs, 1, false);
	if (!ret) {
		/* The end of what is listened to, or of anything else. */
	} else if (call->shape == SHAPE_VECTOR) {
		io.vector = io.base;
		io.count = call_arg(regs, 2, false);
	} else if (call->shape == SHAPE_MESSAGE) {
		if (bpf_probe_read_user(&message, sizeof(message), (void *)io.base))
			return 0;
		io.vector = message.vector;
		io.count = message.count;
	}
	if (ret && call->shape != SHAPE_BUFFER) {
		if (!io.count || bpf_probe_read_user(&first, sizeof(first), (void *)io.vector))
			return 0;
		io.base = first.base;
		io.begins = tap_begins(first.base, first.len < ret ? first.len : ret);
	} else if (ret) {
		io.begins = tap_begins(io.base, ret);
	}
	tgid = bpf_get_current_pid_tgid() >> 32;
	known = bpf_map_lookup_elem(&tapped, &tgid);
	if (known ? *known == TAP_LEFT_OUT : !io.begins)
		return 0;
	file = file_of(call_arg(regs, 0, false));
	if (!file)
		return 0;
	type = BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT;
	io.kind = HW_K_PIPE;
	if (type == S_IFSOCK) {
		struct socket *socket = BPF_CORE_READ(file, private_data);

		sk = BPF_CORE_READ(socket, sk);
		if (is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)) || io.begins != BEGINS_LINES)
			io.kind = HW_K_SOCKET;
	} else if (type != S_IFIFO) {
		return 0;
	}
	if (io.kind == HW_K_PIPE && io.begins != BEGINS_LINES)
		io.begins = 0;
	io.stream = BPF_CORE_READ(file, f_inode, i_ino);
	tap_take(&io, sk);
	return 0;
}
