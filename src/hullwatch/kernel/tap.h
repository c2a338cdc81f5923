/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is read of TLS connections, for trying tls.bpf.c: the first bytes of each call. */
#ifndef HULLWATCH_TAP_H
#define HULLWATCH_TAP_H

#include "common.h"

#define TAP_DATA 256

struct tap_record { u64 ts, conn; u32 tgid, tid, len, received; u8 data[TAP_DATA]; };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} tap_ring SEC(".maps");

__noinline int tap_tls(u64 conn, u64 buf, u64 len, u32 received)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct tap_record *r = bpf_ringbuf_reserve(&tap_ring, sizeof(*r), 0);

	if (!r)
		return 0;
	r->ts = bpf_ktime_get_boot_ns();
	r->conn = conn;
	r->tgid = pid_tgid >> 32;
	r->tid = (u32)pid_tgid;
	r->len = len;
	r->received = received;
	__builtin_memset(r->data, 0, sizeof(r->data));
	if (len > TAP_DATA)
		len = TAP_DATA;
	FRESH(len);
	if (len <= TAP_DATA)
		bpf_probe_read_user(r->data, len, (void *)buf);
	bpf_ringbuf_submit(r, 0);
	return 0;
}

#endif
