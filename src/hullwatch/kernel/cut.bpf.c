/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who is cut off is told so at once (EPERM); flow.bpf.c drops the packets of open connections. */
#include "cut.h"

SEC("cgroup/connect4")
int cut_connect4(struct bpf_sock_addr *ctx)
{
	return !current_is_cut();
}

SEC("cgroup/connect6")
int cut_connect6(struct bpf_sock_addr *ctx)
{
	return !current_is_cut();
}

SEC("cgroup/sendmsg4")
int cut_sendmsg4(struct bpf_sock_addr *ctx)
{
	return !current_is_cut();
}

SEC("cgroup/sendmsg6")
int cut_sendmsg6(struct bpf_sock_addr *ctx)
{
	return !current_is_cut();
}
