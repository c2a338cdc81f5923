/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A container begins as a cgroup: its path is known before its first process runs. */
#include "syscall.h"

HOT void cgroup_event(u16 cls, struct cgroup *cgrp, const char *path)
{
	struct scratch *s;
	struct hw_event e;
	struct who w;

	if (BPF_CORE_READ(cgrp, root, hierarchy_id) != 0) /* the v2 tree is 0 */
		return;
	current_who(&w);
	event_fill(&e, &w, cls, 0);
	e.num = BPF_CORE_READ(cgrp, kn, id);
	s = scratch_get(cls, w.cgroup);
	if (s) {
		e.obj = intern_kernel_text(s, (u64)path, HW_S_CGROUP);
		scratch_put(s);
	}
	if (!e.obj)
		e.marks |= HW_M_STR_LOST;
	send_vital(&e);
}

SEC("tp_btf/cgroup_mkdir")
int cgroup_made(u64 *ctx)
{
	cgroup_event(HW_CGROUP_MKDIR, (void *)ctx[0], (void *)ctx[1]);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int cgroup_gone(u64 *ctx)
{
	cgroup_event(HW_CGROUP_RMDIR, (void *)ctx[0], (void *)ctx[1]);
	return 0;
}
